//! Which statements of a schema may run at the same time: of two thousand tables, to make them is half of the copy. Pure.

use super::lexer::{Reader, Statement, Token, WordKind};
use crate::ident::Relation;
use std::collections::HashMap;

/// Fewer in a lane are not worth its session.
const WORTH_IT: usize = 200;

/// What comes after all that was before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    InOrder(Vec<String>),
    Apart {
        /// What the script has set so far, for the session of each lane.
        settings: String,
        /// Statements, each with its place in the script; those of different lanes have nothing to do with each other.
        lanes: Vec<Vec<(usize, String)>>,
    },
}

/// Divides a script: statements about tables, views and sequences between two others, where they are many, go into so many lanes.
/// Two are in one lane if either names a relation that the other makes or changes, wherever it names it. Who runs them need not trust
/// in that: what a lane failed at can be done in the order of the script when all lanes are through.
pub(super) fn divide(statements: Vec<Statement>, lanes: usize) -> Vec<Part> {
    let (mut parts, mut settings) = (Vec::new(), String::new());
    let mut run = Vec::new();
    for statement in statements {
        if kind(&statement).is_some() {
            run.push(statement);
            continue;
        }
        close(&mut run, lanes, &settings, &mut parts);
        if sets(&statement) {
            settings.push_str(&statement.text);
            settings.push_str(";\n");
        }
        in_order(&mut parts, [statement.text]);
    }
    close(&mut run, lanes, &settings, &mut parts);
    parts
}

fn in_order(parts: &mut Vec<Part>, more: impl IntoIterator<Item = String>) {
    match parts.last_mut() {
        Some(Part::InOrder(all)) => all.extend(more),
        _ => parts.push(Part::InOrder(more.into_iter().collect())),
    }
}

/// `SET a = b`, and `SELECT pg_catalog.set_config(..)`.
fn sets(statement: &Statement) -> bool {
    statement.has(0, &["set"]) || statement.has(0, &["select"]) && statement.name(3) == Some("set_config")
}

/// In bytes.
const LONGEST_NAME: usize = 63;

const KINDS: [&[&str]; 12] = [
    &["create", "table"],
    &["create", "unlogged", "table"],
    &["create", "sequence"],
    &["create", "view"],
    &["alter", "table", "only"],
    &["alter", "table"],
    &["alter", "sequence"],
    &["alter", "view"],
    &["comment", "on", "table"],
    &["comment", "on", "column"],
    &["comment", "on", "sequence"],
    &["comment", "on", "view"],
];

fn kind(statement: &Statement) -> Option<&'static [&'static str]> {
    KINDS.into_iter().find(|kind| statement.has(0, kind))
}

/// What it makes or changes: what it begins with, and what it inherits from; of a change, whatever it names.
fn subjects(statement: &Statement, named: &[Relation]) -> Vec<Relation> {
    let Some(kind) = kind(statement) else {
        return Vec::new();
    };
    if kind[0] == "alter" {
        return named.to_vec();
    }
    let mut all = Vec::new();
    if let Some((made, _)) = statement.relation(kind.len()) {
        if kind[0] == "create" {
            // Its array type, which has another's name if a relation is called so: whichever comes second gives way.
            let mut array = format!("_{}", made.name);
            while array.len() > LONGEST_NAME {
                array.pop();
            }
            all.push(Relation::new(&made.schema, array));
        }
        all.push(made);
    }
    if let Some(at) = statement.find(0, &["inherits"]) {
        all.extend((at..statement.words.len()).filter_map(|at| statement.relation(at).map(|(parent, _)| parent)));
    }
    all
}

/// Whatever may be a relation's name in it, in literals too.
fn named(statement: &Statement) -> Vec<Relation> {
    // Not the relation and column of three.
    let begins = |at: &usize| *at == 0 || !statement.has(at - 1, &["."]);
    let mut all: Vec<Relation> = (0..statement.words.len())
        .filter(begins)
        .filter_map(|at| Some(statement.relation(at)?.0))
        .collect();
    for word in statement.words.iter().filter(|word| word.kind == WordKind::Literal) {
        let inner = unquoted(&statement.text[word.start..word.end]);
        if inner.contains('.') {
            let words = Reader::new(&inner)
                .filter_map(|token| match token {
                    Token::Word(word) if word.kind != WordKind::Literal => Some(word),
                    _ => None,
                })
                .collect();
            all.extend(named(&Statement {
                text: String::new(),
                words,
            }));
        }
    }
    all
}

/// What a literal says.
fn unquoted(literal: &str) -> String {
    let escaped = literal.strip_prefix(['E', 'e']);
    let inner = escaped
        .unwrap_or(literal)
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
        .unwrap_or(literal)
        .replace("''", "'");
    if escaped.is_some() {
        inner.replace("\\\\", "\\")
    } else {
        inner
    }
}

/// Which of them must be in one lane.
fn together(run: &[Statement]) -> Groups {
    let named: Vec<Vec<Relation>> = run.iter().map(named).collect();
    let mut groups = Groups::of(run.len());
    let mut about: HashMap<Relation, usize> = HashMap::new();
    for (i, statement) in run.iter().enumerate() {
        for subject in subjects(statement, &named[i]) {
            let first = *about.entry(subject).or_insert(i);
            groups.join(first, i);
        }
    }
    for (i, names) in named.iter().enumerate() {
        for first in names.iter().filter_map(|name| about.get(name)) {
            groups.join(*first, i);
        }
    }
    groups
}

/// The statements between two others, in lanes if there are enough of them.
fn close(run: &mut Vec<Statement>, lanes: usize, settings: &str, parts: &mut Vec<Part>) {
    let run = std::mem::take(run);
    let lanes = lanes.min(run.len() / WORTH_IT);
    if lanes < 2 {
        if !run.is_empty() {
            in_order(parts, run.into_iter().map(|s| s.text));
        }
        return;
    }
    let mut groups = together(&run);
    let mut sizes: HashMap<usize, usize> = HashMap::new();
    for i in 0..run.len() {
        *sizes.entry(groups.first(i)).or_default() += 1;
    }
    let mut by_size: Vec<(usize, usize)> = sizes.into_iter().collect();
    by_size.sort_unstable_by_key(|(first, size)| (std::cmp::Reverse(*size), *first));
    let (mut lane_of, mut loads) = (HashMap::new(), vec![0; lanes]);
    for (first, size) in by_size {
        let least = (0..lanes).min_by_key(|lane| loads[*lane]).unwrap_or(0);
        loads[least] += size;
        lane_of.insert(first, least);
    }
    let mut all = vec![Vec::new(); lanes];
    for (i, statement) in run.into_iter().enumerate() {
        all[lane_of[&groups.first(i)]].push((i, statement.text));
    }
    all.retain(|lane| !lane.is_empty());
    match <[Vec<(usize, String)>; 1]>::try_from(all) {
        Ok([one]) => in_order(parts, one.into_iter().map(|(_, sql)| sql)),
        Err(lanes) => parts.push(Part::Apart {
            settings: settings.to_owned(),
            lanes,
        }),
    }
}

/// Disjoint groups of numbers, each known by its first.
struct Groups(Vec<usize>);

impl Groups {
    fn of(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn first(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first(one), self.first(other));
        self.0[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::script;
    use super::*;
    use std::fmt::Write;

    /// Tables with what `pg_dump` has for each, and what `more` adds to the one with that number.
    fn tables(count: usize, more: impl Fn(usize) -> String) -> String {
        let mut sql = "SET check_function_bodies = false;\nSELECT pg_catalog.set_config('search_path', '', false);\nSET default_tablespace = '';\n".to_owned();
        for i in 0..count {
            write!(
                sql,
                "CREATE TABLE \"public\".\"t{i}\" (\"id\" integer NOT NULL);\nALTER TABLE public.t{i} OWNER TO app;\n\
                 CREATE SEQUENCE \"public\".\"t{i}_id_seq\" START WITH 1;\n\
                 ALTER SEQUENCE \"public\".\"t{i}_id_seq\" OWNED BY \"public\".\"t{i}\".\"id\";\n{}",
                more(i)
            )
            .unwrap();
        }
        sql
    }

    fn divided(sql: &str, lanes: usize) -> Vec<Part> {
        divide(script::statements(sql).0, lanes)
    }

    fn lanes(parts: &[Part]) -> Vec<&Vec<(usize, String)>> {
        parts
            .iter()
            .filter_map(|part| match part {
                Part::Apart { lanes, .. } => Some(lanes),
                Part::InOrder(_) => None,
            })
            .flatten()
            .collect()
    }

    #[test]
    fn many_tables_are_made_in_lanes_each_with_what_is_its_own() {
        let parts = divided(&tables(200, |_| String::new()), 3);
        let [Part::InOrder(before), Part::Apart { settings, lanes }] = parts.as_slice() else {
            panic!("{parts:?}");
        };
        assert_eq!(before.len(), 3);
        assert_eq!(settings.matches(";\n").count(), 3);
        assert_eq!(lanes.iter().map(Vec::len).collect::<Vec<_>>(), [268, 268, 264]);
        for lane in lanes {
            for four in lane.chunks(4) {
                let name = four[0].1.split('"').nth(3).unwrap();
                assert!(
                    four[0].1.starts_with("CREATE TABLE") && four.iter().all(|s| s.1.contains(name)),
                    "{four:?}"
                );
            }
        }
        // All of them, and each once.
        let mut all: Vec<usize> = lanes.iter().flatten().map(|(i, _)| *i).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..800));
    }

    #[test]
    fn few_tables_or_one_job_go_in_order() {
        for (count, jobs) in [(99, 4), (500, 1)] {
            let parts = divided(&tables(count, |_| String::new()), jobs);
            assert!(matches!(parts.as_slice(), [Part::InOrder(_)]), "{count} {jobs}");
        }
    }

    #[test]
    fn what_names_another_is_in_its_lane() {
        for (word, more) in [
            // An inherited table, which no statement of the part makes.
            ("INHERITS", "CREATE TABLE \"s\".\"kid #\" () INHERITS (\"s\".\"old\");"),
            (
                "ATTACH",
                "ALTER TABLE ONLY \"public\".\"parts\" ATTACH PARTITION \"public\".\"t#\" FOR VALUES IN (#);",
            ),
            (
                "VIEW",
                "CREATE VIEW \"public\".\"v#\" AS SELECT \"t0\".\"id\" FROM \"public\".\"t0\", \"public\".\"t#\";",
            ),
            (
                "DEFAULT",
                "ALTER TABLE ONLY \"public\".\"t#\" ALTER \"id\" SET DEFAULT \"nextval\"('public.t0_id_seq'::\"regclass\");",
            ),
            (
                "nextval",
                "CREATE TABLE \"public\".\"u#\" (\"id\" int DEFAULT \"nextval\"(E'public.\"t\\\\0\"'::\"regclass\"));",
            ),
            // `_t7` is the array type of `t7` as well.
            (
                "t7\"",
                "CREATE TABLE \"public\".\"_t#\" (); COMMENT ON TABLE \"public\".\"t#\" IS 'e.g. _t7';",
            ),
            (
                "\"r\"",
                "CREATE TABLE \"public\".\"u#\" (\"r\" \"public\".\"t0\", \"s\" \"public\".\"t#\"[]);",
            ),
        ] {
            let sql = tables(200, |i| match i {
                0 => "CREATE SEQUENCE \"public\".\"t\\0\";".to_owned(),
                i => more.replace('#', &i.to_string()),
            });
            let parts = divided(&sql, 2);
            let with = |lane: &&Vec<(usize, String)>| lane.iter().any(|(_, sql)| sql.contains(word));
            let all = lanes(&parts);
            assert!(all.iter().filter(|lane| with(lane)).count() < 2, "{more}");
            assert_eq!(all.len(), 2, "{more}");
            let count = all.iter().map(|lane| lane.len()).sum::<usize>();
            assert_eq!(count, script::statements(&sql).0.len() - 3, "{more}");
        }
    }

    #[test]
    fn what_is_no_table_waits_for_all_before_it_and_a_setting_is_for_all_after_it() {
        let more = |i: usize| match i {
            150 => "CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql RETURN 1;\n".to_owned(),
            300 => "SET default_table_access_method = heap;\n".to_owned(),
            _ => String::new(),
        };
        let parts = divided(&tables(450, more), 2);
        assert_eq!(parts.len(), 6, "{parts:?}");
        let set = |part: &Part| match part {
            Part::Apart { settings, .. } => settings.matches("SET default_").count(),
            Part::InOrder(_) => 0,
        };
        assert_eq!(parts.iter().map(set).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 2]);
    }
}
