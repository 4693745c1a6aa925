//! Which differences of two schemas are drift. Pure.

use super::{Known, Objects};

/// A definition that is shown; of a longer one it is said that it differs.
const SHOWN: usize = 120;

/// What the writer has and the follower lacks, or has defined otherwise; and what guards rows and was dropped at the writer only: the
/// follower would refuse, once it is the writer, what was good. What else only the follower has, an index more for instance, breaks
/// nothing. `known` differences are those of the beginning: a server prints an expression that went through a dump in
/// other words than before, and another version in its own. They stand until one of the two changes.
pub(super) fn missing(writer: &Objects, follower: &Objects, known: &Known, majors_differ: bool) -> Vec<String> {
    let mut all = Vec::new();
    for (object, ours) in writer {
        let Some(theirs) = defined(follower, object) else {
            all.push(object.clone());
            continue;
        };
        let view = object.starts_with("view ") || object.starts_with("materialized view ");
        let alike = ours == theirs
            || known.get(object).is_some_and(|was| as_it_was(ours, theirs, was))
            || majors_differ && view && unqualified(ours) == unqualified(theirs);
        if !alike {
            let (ours, theirs) = without_one_owner(ours, theirs);
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
    let dropped = known.keys().filter(|object| {
        guards(object) && both_had(object, known) && !writer.contains_key(*object) && follower.contains_key(*object)
    });
    all.extend(dropped.map(|object| format!("{object} (dropped at the writer only)")));
    all
}

/// What both sides define otherwise, to be known later; and, with nothing said of it, what guards rows at both.
pub(super) fn otherwise(one: &Objects, other: &Objects) -> Known {
    let pairs = one.iter().filter_map(|(object, ours)| {
        let theirs = defined(other, object)?;
        let known = match (ours == theirs, guards(object)) {
            (false, _) => (ours.clone(), theirs.to_owned()),
            (true, true) => (String::new(), String::new()),
            (true, false) => return None,
        };
        Some((object.clone(), known))
    });
    pairs.collect()
}

/// A right that is not given, be it that its role is not there, is one over nothing.
fn defined<'a>(of: &'a Objects, object: &str) -> Option<&'a str> {
    let given = of.get(object).map(String::as_str);
    given.or_else(|| is_right(object).then_some(""))
}

fn is_right(object: &str) -> bool {
    object.starts_with("right of ")
}

/// What may refuse, or change, what an application does.
fn guards(object: &str) -> bool {
    [
        "constraint ",
        "trigger ",
        "rule ",
        "policy ",
        "event trigger ",
        "right of ",
    ]
    .iter()
    .any(|kind| object.starts_with(kind))
}

/// Whether both sides had it at the beginning.
fn both_had(object: &str, known: &Known) -> bool {
    !is_right(object)
        || known
            .get(object)
            .is_some_and(|(one, other)| one.is_empty() == other.is_empty())
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

/// An owner that is the same is not worth a word.
fn without_one_owner<'a>(ours: &'a str, theirs: &'a str) -> (&'a str, &'a str) {
    match (ours.split_once('\t'), theirs.split_once('\t')) {
        (Some((one, ours)), Some((other, theirs))) if one == other && one.starts_with("owner ") => (ours, theirs),
        _ => (ours, theirs),
    }
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
        // What was dropped at one of them only, and is no index more.
        let kept = of(&[
            ("constraint k on a.b", "CHECK lang"),
            ("index i", "on a.b"),
            ("trigger t on a.b", "new"),
        ]);
        let alike = otherwise(&kept, &kept);
        assert_eq!(missing(&of(&[]), &kept, &alike, false).len(), 2);
        let dropped = ["constraint k on a.b (dropped at the writer only)"];
        assert_eq!(missing(&of(&[]), &kept, &known, false), dropped);
        assert_eq!(missing(&of(&[]), &of(&[]), &alike, false), Vec::<String>::new());
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
    fn a_right_may_be_of_a_role_that_is_not_there() {
        let right = |what: &str| of(&[("right of app on table a.b", what)]);
        let (one, none) = (right("SELECT"), of(&[]));
        let known = otherwise(&one, &none);
        assert_eq!(missing(&one, &none, &known, false), Vec::<String>::new());
        // Given or taken since, at one side only.
        let more = ["right of app on table a.b (INSERT, SELECT, where the follower has nothing)"];
        assert_eq!(missing(&right("INSERT, SELECT"), &none, &known, false), more);
        assert_eq!(missing(&one, &none, &Known::new(), false).len(), 1);
        let known = otherwise(&one, &one);
        let taken = ["right of app on table a.b (dropped at the writer only)"];
        assert_eq!(missing(&none, &one, &known, false), taken);
        assert_eq!(missing(&none, &none, &known, false), Vec::<String>::new());
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
