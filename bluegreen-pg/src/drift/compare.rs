//! Which differences of two schemas are drift. Pure.

use super::{Known, Objects};

/// A definition that is shown; of a longer one it is said that it differs.
const SHOWN: usize = 120;

/// What the writer has and the follower lacks, or has defined otherwise. What only the follower has, an index more for instance,
/// breaks nothing. `known` differences are those of the beginning: a server prints an expression that went through a dump in
/// other words than before, and another version in its own. They stand until one of the two changes.
pub(super) fn missing(writer: &Objects, follower: &Objects, known: &Known, majors_differ: bool) -> Vec<String> {
    let mut all = Vec::new();
    for (object, ours) in writer {
        let Some(theirs) = follower.get(object) else {
            all.push(object.clone());
            continue;
        };
        let view = object.starts_with("view ") || object.starts_with("materialized view ");
        let alike = ours == theirs
            || known.get(object).is_some_and(|was| as_it_was(ours, theirs, was))
            || majors_differ && view && unqualified(ours) == unqualified(theirs);
        if !alike {
            all.push(if ours.len().max(theirs.len()) <= SHOWN {
                format!(
                    "{object} ({}, where the follower has {})",
                    or_nothing(ours),
                    or_nothing(theirs)
                )
            } else {
                format!("{object} (defined otherwise)")
            });
        }
    }
    all
}

/// What both sides define otherwise, to be known later.
pub(super) fn otherwise(one: &Objects, other: &Objects) -> Known {
    let pairs = one.iter().filter_map(|(object, ours)| {
        let theirs = other.get(object).filter(|theirs| *theirs != ours)?;
        Some((object.clone(), (ours.clone(), theirs.clone())))
    });
    pairs.collect()
}

/// Whether each part is alike, or as unlike as it was.
fn as_it_was(ours: &str, theirs: &str, (one, other): &(String, String)) -> bool {
    let part = |text: &str| text.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let [ours, theirs, one, other] = [ours, theirs, one, other].map(part);
    ours.len() == theirs.len()
        && ours.iter().zip(&theirs).enumerate().all(|(i, (here, there))| {
            let was = (one.get(i), other.get(i));
            here == there || was == (Some(here), Some(there)) || was == (Some(there), Some(here))
        })
}

fn or_nothing(definition: &str) -> String {
    let parts: Vec<&str> = definition.split('\t').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(" ")
    }
}

/// A view's text without what stands before a dot: from 16 on servers leave it out where there is one table only.
fn unqualified(definition: &str) -> String {
    let mut kept = String::new();
    for piece in definition.split_inclusive('.') {
        let before = piece.strip_suffix('.').unwrap_or(piece);
        let name = |c: char| c.is_alphanumeric() || c == '_';
        let rest = match before.strip_suffix('"') {
            Some(quoted) => quoted.rsplit_once('"').map_or(before, |(rest, _)| rest),
            None => before.trim_end_matches(name),
        };
        kept.push_str(if piece.ends_with('.') { rest } else { piece });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[(&str, &str)]) -> Objects {
        all.iter().map(|(o, d)| ((*o).to_owned(), (*d).to_owned())).collect()
    }

    #[test]
    fn what_differs_is_said_unless_it_always_did() {
        let writer = of(&[
            ("column a.b.c", "int DEFAULT 7"),
            ("index a.i", ""),
            ("constraint k on a.b", "CHECK long"),
        ]);
        assert_eq!(missing(&writer, &writer, &Known::new(), false), Vec::<String>::new());
        assert_eq!(missing(&of(&[]), &writer, &Known::new(), false), Vec::<String>::new());
        let follower = of(&[("column a.b.c", "int"), ("constraint k on a.b", "CHECK lang")]);
        let known = otherwise(&of(&[("constraint k on a.b", "CHECK long")]), &follower);
        assert_eq!(known.len(), 1);
        let drift = ["column a.b.c (int DEFAULT 7, where the follower has int)", "index a.i"];
        assert_eq!(missing(&writer, &follower, &known, false), drift);
        // The same where the follower is the writer, and not when one of them changed since.
        assert_eq!(
            missing(
                &follower,
                &of(&[("column a.b.c", "int"), ("constraint k on a.b", "CHECK long")]),
                &known,
                false
            ),
            Vec::<String>::new()
        );
        let changed = of(&[("constraint k on a.b", "CHECK more")]);
        assert_eq!(missing(&changed, &follower, &known, false).len(), 1);
        let flag = (
            of(&[("trigger t", "printed\toff")]),
            of(&[("trigger t", "written\toff")]),
        );
        let known = otherwise(
            &of(&[("trigger t", "printed\ton")]),
            &of(&[("trigger t", "written\ton")]),
        );
        assert_eq!(missing(&flag.0, &flag.1, &known, false), Vec::<String>::new());
        let on = of(&[("trigger t", "written\ton")]);
        assert_eq!(
            missing(&flag.0, &on, &known, false),
            ["trigger t (printed off, where the follower has written on)"]
        );
        let long = "x".repeat(SHOWN + 1);
        let functions = (of(&[("function f", &long)]), of(&[("function f", "")]));
        assert_eq!(
            missing(&functions.0, &functions.1, &known, true),
            ["function f (defined otherwise)"]
        );
    }

    #[test]
    fn views_are_compared_without_what_stands_before_a_dot() {
        let (older, newer) = (
            "SELECT t.id,\n \"T a\".\"Käse x\" FROM public.t",
            "SELECT id,\n \"Käse x\" FROM t",
        );
        assert_eq!(unqualified(older), newer);
        let (older, newer) = (of(&[("view a.v", older)]), of(&[("view a.v", newer)]));
        assert_eq!(missing(&older, &newer, &Known::new(), true), Vec::<String>::new());
        assert_eq!(missing(&older, &newer, &Known::new(), false).len(), 1);
    }
}
