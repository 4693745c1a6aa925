//! Which differences of two schemas are drift. Pure.

use super::{Known, Objects};
use std::collections::BTreeSet;

/// Stands for the definition of what one of the sides does not have.
pub(super) const ABSENT: &str = "(not there)";

/// A definition that is shown; of a longer one it is said that it differs.
const SHOWN: usize = 120;

/// What the writer has and the follower lacks, or has defined otherwise; and what guards rows and was dropped at the writer only: the
/// follower would refuse, once it is the writer, what was good. What else only the follower has, an index more for instance, breaks
/// nothing. `known` differences are those of the beginning: a server prints an expression that went through a dump in
/// other words than before, and another version in its own. They stand until one of the two changes.
pub(super) fn missing(writer: &Objects, follower: &Objects, known: &Known, majors_differ: bool) -> Vec<String> {
    let mut all = Vec::new();
    let in_schemas = in_schemas(writer.keys().chain(follower.keys()));
    for (object, ours) in writer {
        let was = known.get(object).map(|(one, other)| (one.as_str(), other.as_str()));
        if was == Some((ours.as_str(), ABSENT)) && !follower.contains_key(object) {
            continue;
        }
        let Some(theirs) = defined(follower, object) else {
            all.push(object.clone());
            continue;
        };
        let view = object.starts_with("view ") || object.starts_with("materialized view ");
        let alike = ours == theirs
            || known.get(object).is_some_and(|was| as_it_was(ours, theirs, was))
            || majors_differ && view && unqualified(ours, &in_schemas) == unqualified(theirs, &in_schemas);
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
        let dropped = !writer.contains_key(*object) && follower.contains_key(*object);
        dropped && guards(object) && both_had(object, known) && stands(object, writer)
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

/// What only the follower has, to be known when it is the writer.
pub(super) fn extra(writer: &Objects, follower: &Objects) -> Known {
    let pairs = follower.iter().filter_map(|(object, theirs)| {
        let alone = !writer.contains_key(object);
        alone.then(|| (object.clone(), (theirs.clone(), ABSENT.to_owned())))
    });
    pairs.collect()
}

/// What has columns.
const WITH_COLUMNS: [&str; 5] = ["table ", "view ", "materialized view ", "foreign table ", "type "];

/// Of those, what a mirror of the follower's rows would stop at: tables whose rows travel, and columns of tables that both have.
pub(super) fn in_the_way(extra: &Known) -> Vec<String> {
    let names = || extra.keys().map(String::as_str);
    let of_those: Vec<String> = names()
        .filter_map(|object| WITH_COLUMNS.iter().find_map(|kind| object.strip_prefix(kind)))
        .map(|name| format!("column {name}."))
        .collect();
    let column = |object: &str| {
        object.starts_with("column ") && !of_those.iter().any(|columns| object.starts_with(columns.as_str()))
    };
    let travels = |object: &str| {
        let unlogged = |definition: &String| definition.split('\t').any(|part| part == "unlogged");
        object.starts_with("table ") && !extra.get(object).is_some_and(|(definition, _)| unlogged(definition))
    };
    names()
        .filter(|object| travels(object) || column(object))
        .map(str::to_owned)
        .collect()
}

/// Whether what a guard stands on is still there: what was dropped as a whole breaks nothing.
fn stands(guard: &str, objects: &Objects) -> bool {
    let kinds = ["sequence ", "function ", "column ", "domain "];
    let kinds = || WITH_COLUMNS.iter().chain(&kinds);
    let is_there = |on: &str| {
        let name = kinds().find_map(|kind| on.strip_prefix(kind)).unwrap_or(on);
        on.starts_with("schema ") || kinds().any(|kind| objects.contains_key(&format!("{kind}{name}")))
    };
    // Names may have the word in them.
    let mut ons = guard
        .match_indices(" on ")
        .map(|(at, on)| &guard[at + on.len()..])
        .peekable();
    ons.peek().is_none() || ons.any(is_there)
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
    known
        .get(object)
        .is_some_and(|(one, other)| other != ABSENT && (!is_right(object) || one.is_empty() == other.is_empty()))
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

/// What a schema stands before: relations, types and functions.
fn in_schemas<'a>(objects: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    let kinds = ["function ", "domain ", "range "];
    let kinds: Vec<&str> = WITH_COLUMNS.into_iter().chain(kinds).collect();
    let of = |object: &'a String| {
        let label = object
            .strip_prefix("label ")
            .and_then(|label| label.rsplit_once(" of "));
        let name = label
            .map(|(_, name)| name)
            .or_else(|| kinds.iter().find_map(|kind| object.strip_prefix(kind)))?;
        let schema = word(name)?.len();
        let named = word(name.get(schema + 1..)?)?.len();
        Some(&name[..schema + 1 + named])
    };
    objects.filter_map(of).collect()
}

/// The name at the beginning, quoted or not.
fn word(text: &str) -> Option<&str> {
    let end = match text.strip_prefix('"') {
        Some(mut rest) => {
            while let Some(at) = rest.find('"') {
                rest = &rest[at + 1..];
                let Some(doubled) = rest.strip_prefix('"') else { break };
                rest = doubled;
            }
            text.len() - rest.len()
        }
        None => text
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
            .unwrap_or(text.len()),
    };
    (end > 0 && !text.starts_with(|c: char| c.is_ascii_digit())).then(|| &text[..end])
}

/// A view's text without the table before a column: from 16 on servers leave it out where there is one table only. A schema before what
/// is in it, a number and what is in a literal stay.
fn unqualified(definition: &str, in_schemas: &BTreeSet<&str>) -> String {
    let mut kept = String::new();
    let mut rest = definition;
    while let Some(first) = rest.chars().next() {
        if let Some(name) = word(rest) {
            let after = &rest[name.len()..];
            let named = after
                .strip_prefix('.')
                .and_then(|after| Some(name.len() + 1 + word(after)?.len()));
            let ours =
                |end: usize| ["pg_catalog", "information_schema"].contains(&name) || in_schemas.contains(&rest[..end]);
            match named {
                Some(end) if ours(end) => {
                    kept.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
                Some(_) => rest = &after[1..],
                None => {
                    kept.push_str(name);
                    rest = after;
                }
            }
            continue;
        }
        let end = match first {
            // A doubled quote is the end of one and the beginning of the next.
            '\'' => rest[1..].find('\'').map_or(rest.len(), |at| at + 2),
            _ if first.is_ascii_digit() => rest
                .find(|c: char| !(c.is_alphanumeric() || c == '.'))
                .unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        kept.push_str(&rest[..end]);
        rest = &rest[end..];
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
            ("table a.b", ""),
        ]);
        let (alike, table) = (otherwise(&kept, &kept), of(&[("table a.b", "")]));
        assert_eq!(missing(&table, &kept, &alike, false).len(), 2);
        let dropped = ["constraint k on a.b (dropped at the writer only)"];
        assert_eq!(missing(&table, &kept, &known, false), dropped);
        // With all of its table.
        assert_eq!(missing(&of(&[]), &kept, &alike, false), Vec::<String>::new());
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
    fn a_name_may_have_the_word_in_it_that_a_guard_stands_with() {
        let guards = of(&[
            ("trigger \"on it\" on a.\"b on c\"", "new"),
            ("policy \"seen on a.gone\" on a.b", "USING true"),
        ]);
        let tables = of(&[("table a.\"b on c\"", ""), ("table a.b", "")]);
        let both: Objects = guards.into_iter().chain(tables.clone()).collect();
        let known = otherwise(&both, &both);
        assert_eq!(missing(&tables, &both, &known, false).len(), 2);
        assert_eq!(missing(&of(&[]), &both, &known, false), Vec::<String>::new());
        assert_eq!(
            missing(&of(&[("table a.\"b on c\"", "")]), &both, &known, false).len(),
            1
        );
    }

    #[test]
    fn a_right_may_be_of_a_role_that_is_not_there() {
        let right = |what: &str| of(&[("right of app on table a.b", what), ("view a.b", "")]);
        let (one, none) = (right("SELECT"), of(&[("view a.b", "")]));
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
    fn views_are_compared_without_the_table_before_a_column() {
        let view = |text: &str| {
            of(&[
                ("view a.v", text),
                ("table public.\"T a\"", ""),
                ("table v1.orders", ""),
                ("table v2.orders", ""),
                ("table audit.audit", ""),
                ("function v1.f(integer)", ""),
                ("function v2.f(integer)", ""),
            ])
        };
        let alike = |one: &str, other: &str| missing(&view(one), &view(other), &Known::new(), true).is_empty();
        let (older, newer) = (
            "SELECT \"T a\".id,\n \"T a\".\"Käse x\" FROM public.\"T a\"",
            "SELECT id,\n \"Käse x\" FROM public.\"T a\"",
        );
        assert!(alike(older, newer));
        assert_eq!(missing(&view(older), &view(newer), &Known::new(), false).len(), 1);
        let tax = |number: &str, schema: &str| format!("SELECT orders.total * {number} FROM {schema}.orders");
        assert!(alike(&tax("1.19", "v1"), "SELECT total * 1.19 FROM v1.orders"));
        assert!(!alike(&tax("1.19", "v1"), &tax("0.19", "v1")), "another number");
        assert!(!alike(&tax("1.19", "v1"), &tax("1.19", "v2")), "another table");
        // A table that is called as its schema.
        assert!(alike("SELECT audit.id FROM audit.audit", "SELECT id FROM audit.audit"));
        let text = |text: &str| format!("SELECT 'it''s {text}' FROM v1.orders");
        assert!(!alike(&text("a.b"), &text("c.b")), "another text");
        let call = |schema: &str| format!("SELECT {schema}.f(o.a) FROM v1.orders o");
        assert!(!alike(&call("v1"), &call("v2")), "another function");
    }

    #[test]
    fn what_only_the_follower_had_is_known_when_it_is_the_writer() {
        let blue = of(&[("table a.t", "")]);
        let green = of(&[
            ("table a.t", ""),
            ("index a.more", "on a.t"),
            ("column a.t.c", "int"),
            ("table a.u", ""),
            ("column a.u.c", "int"),
            ("right of app on table a.t", "SELECT"),
        ]);
        let known = extra(&blue, &green);
        assert!(known.values().all(|(_, other)| other == ABSENT), "{known:?}");
        assert_eq!(in_the_way(&known), ["column a.t.c", "table a.u"]);
        assert_eq!(missing(&green, &blue, &known, false), Vec::<String>::new());
        let changed = of(&[("table a.t", ""), ("index a.more", "on a.u")]);
        assert_eq!(missing(&changed, &blue, &known, false), ["index a.more"]);
        assert_eq!(missing(&blue, &green, &known, false), Vec::<String>::new());
    }
}
