//! Reading what `pg_restore` prints: statements, and to which entry of the dump each belongs. Pure.

use super::lexer::{Reader, Statement, Token, Word, WordKind};
use std::borrow::Cow;

/// One entry of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    /// `INDEX`, `CONSTRAINT`, `FK CONSTRAINT`, `TRIGGER` ...; empty for the settings at the top.
    pub(super) kind: String,
    pub(super) statements: Vec<Statement>,
}

/// Reads a script. Comments between statements that name an entry begin it.
pub(super) fn read(script: &str) -> Vec<Entry> {
    let mut entries = vec![Entry::default()];
    let mut words: Vec<Word> = Vec::new();
    let (mut parens, mut blocks) = (0_i32, 0_i32);
    for token in Reader::new(script) {
        match token {
            Token::Comment(comment) => {
                if let (true, Some(kind)) = (words.is_empty(), entry_kind(comment)) {
                    entries.push(Entry {
                        kind,
                        ..Entry::default()
                    });
                }
            }
            Token::Word(word) => {
                match &word.kind {
                    WordKind::Symbol('(') => parens += 1,
                    WordKind::Symbol(')') => parens -= 1,
                    // The body of a function in SQL has statements of its own. `begin` alone may be a column's name.
                    WordKind::Bare(b) if makes_function(&words) => match b.as_str() {
                        "atomic" if words.last().is_some_and(|w| w.kind == WordKind::Bare("begin".into())) => {
                            blocks += 1
                        }
                        "case" => blocks += 1,
                        "end" if blocks > 0 => blocks -= 1,
                        _ => {}
                    },
                    _ => {}
                }
                if word.kind == WordKind::Symbol(';') && parens <= 0 && blocks == 0 {
                    close(script, &mut words, &mut entries);
                    parens = 0;
                } else {
                    words.push(word);
                }
            }
        }
    }
    close(script, &mut words, &mut entries);
    entries
}

/// The statements of a script, in order; and apart from them those that change rights on the server's own objects, by entry. The comment
/// on an extension is its owner's to write, who may be a superuser that made it for us.
pub(super) fn statements(script: &str) -> (Vec<Statement>, Vec<String>) {
    let (mut all, mut system) = (Vec::new(), Vec::new());
    for entry in read(script) {
        let of_extension = |s: &Statement| s.has(0, &["comment", "on", "extension"]);
        let of_system = entry.kind == "ACL" && entry.statements.iter().any(on_system)
            || entry.kind == "COMMENT" && entry.statements.iter().any(of_extension);
        if of_system {
            let texts: Vec<String> = entry.statements.into_iter().map(|s| s.text).collect();
            system.push(texts.join(";\n"));
        } else {
            all.extend(entry.statements);
        }
    }
    (all, system)
}

/// Whether it is about something in one of the server's own schemas, or such a schema itself, or a language of the server's.
fn on_system(statement: &Statement) -> bool {
    let Some(on) = statement.find(0, &["on"]) else {
        return false;
    };
    let named = |at| matches!(statement.name(at), Some("pg_catalog" | "information_schema"));
    let kind = |word| statement.has(on + 1, &[word]);
    let of_server = |at| matches!(statement.name(at), Some("internal" | "c" | "sql" | "plpgsql"));
    named(on + 2) && (kind("schema") || statement.has(on + 3, &["."])) || kind("language") && of_server(on + 2)
}

fn close(script: &str, words: &mut Vec<Word>, entries: &mut [Entry]) {
    let (Some(first), Some(last)) = (words.first(), words.last()) else {
        return;
    };
    let (start, end) = (first.start, last.end);
    let words = words.drain(..).map(|w| Word {
        kind: w.kind,
        start: w.start - start,
        end: w.end - start,
    });
    let mut words: Vec<Word> = words.collect();
    let Some(text) = for_follower(&script[start..end]) else {
        return;
    };
    words.retain(|w| w.end <= text.len());
    if let Some(entry) = entries.last_mut() {
        entry.statements.push(Statement {
            text: text.into_owned(),
            words,
        });
    }
}

/// A statement as the follower is given it, if at all. Some minor versions note a number of their own with every column, and dump
/// it as an option that no other knows.
fn for_follower(statement: &str) -> Option<Cow<'_, str>> {
    let options = statement
        .split_once(" ALTER COLUMN ")
        .and_then(|(_, column)| column.rsplit_once(" SET (")?.1.strip_suffix(')'));
    let Some(options) = options.filter(|o| statement.starts_with("ALTER ") && o.contains("pg_attver=")) else {
        return Some(statement.into());
    };
    let kept: Vec<&str> = options.split(", ").filter(|o| !o.starts_with("pg_attver=")).collect();
    (!kept.is_empty()).then(|| statement.replace(options, &kept.join(", ")).into())
}

fn makes_function(words: &[Word]) -> bool {
    let bare = |i: usize| match words.get(i).map(|w| &w.kind) {
        Some(WordKind::Bare(b)) => b.as_str(),
        _ => "",
    };
    let at = if bare(1) == "or" { 3 } else { 1 };
    bare(0) == "create" && matches!(bare(at), "function" | "procedure")
}

/// The type in `-- Name: a b; Type: INDEX; Schema: public; Owner: o`. Names have no line ends there; a name that looks
/// like the rest of such a line is read from its end.
fn entry_kind(comment: &str) -> Option<String> {
    let rest = comment
        .strip_prefix("-- Name: ")
        .or_else(|| comment.strip_prefix("-- Data for Name: "))?;
    let (before, _) = rest.rsplit_once("; Schema: ")?;
    let (_, kind) = before.rsplit_once("; Type: ")?;
    Some(kind.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ident::Relation;

    const SCRIPT: &str = r#"--
-- PostgreSQL database dump
--
SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);
--
-- Name: t "t; Type: x; Schema: y"; Type: CONSTRAINT; Schema: public; Owner: postgres
--
ALTER TABLE ONLY "pu b".t
    ADD CONSTRAINT "k;""2" PRIMARY KEY (a);
--
-- Name: r; Type: RULE; Schema: public; Owner: postgres
--
CREATE RULE r AS ON INSERT TO t DO (DELETE FROM t WHERE x = 'it''s;'; NOTIFY a);
COMMENT ON RULE r ON t IS E'one\';\n--\n-- Name: a; Type: INDEX; Schema: s; Owner: o';
--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: postgres
--
CREATE FUNCTION public.f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN r.begin END FROM r; SELECT 2; END;
CREATE FUNCTION public.g() RETURNS int LANGUAGE plpgsql AS $_$ begin; -- x
 select '; end $_$;
"#;

    #[test]
    fn a_script_is_read_as_its_statements() {
        let entries = read(SCRIPT);
        let kinds: Vec<_> = entries.iter().map(|e| (e.kind.as_str(), e.statements.len())).collect();
        assert_eq!(kinds, [("", 2), ("CONSTRAINT", 1), ("RULE", 2), ("FUNCTION", 2)]);
        let constraint = &entries[1].statements[0];
        assert!(constraint.has(0, &["alter", "table", "only"]));
        let (table, next) = constraint.relation(3).unwrap();
        assert_eq!(table, Relation::new("pu b", "t"));
        assert!(constraint.has(next, &["add", "constraint"]));
        assert_eq!(constraint.name(next + 2), Some("k;\"2"));
        assert_eq!(constraint.between(next + 3, next + 8), "PRIMARY KEY (a)");
        assert_eq!(constraint.find(0, &["primary", "key"]), Some(next + 3));
        assert_eq!(constraint.find(0, &["a"]), None, "it is in parentheses");
        assert!(entries[3].statements[1].text.ends_with("end $_$"));
    }

    #[test]
    fn a_dump_keeps_what_the_follower_understands() {
        let of = |line: &str| for_follower(line).map(|l| l.into_owned());
        for (statement, kept) in [
            ("CREATE TABLE a (pg_attver int)", Some("CREATE TABLE a (pg_attver int)")),
            ("ALTER TABLE ONLY s.g ALTER COLUMN id SET (pg_attver=22260408)", None),
            (
                "ALTER TABLE ONLY s.\"new\nline\" ALTER COLUMN id SET (pg_attver=22260408)",
                None,
            ),
            (
                "ALTER TABLE ONLY s.g ALTER COLUMN \" SET (\" SET (n_distinct=5, pg_attver=7)",
                Some("ALTER TABLE ONLY s.g ALTER COLUMN \" SET (\" SET (n_distinct=5)"),
            ),
            (
                "ALTER TABLE ONLY s.g ALTER COLUMN id SET (n_distinct=5)",
                Some("ALTER TABLE ONLY s.g ALTER COLUMN id SET (n_distinct=5)"),
            ),
        ] {
            assert_eq!(of(statement).as_deref(), kept);
        }
        // In a script, with names of every kind.
        let script =
            "CREATE TABLE a (b int);\nALTER TABLE ONLY s.\"new\nline\" ALTER COLUMN b SET (pg_attver=1);\nSELECT 1;";
        let texts: Vec<String> = statements(script).0.into_iter().map(|s| s.text).collect();
        assert_eq!(texts, ["CREATE TABLE a (b int)", "SELECT 1"]);
    }

    #[test]
    fn rights_on_what_is_the_servers_own_are_apart() {
        let script = "SET a = b;
-- Name: FUNCTION pg_control_system(OUT a integer); Type: ACL; Schema: pg_catalog; Owner: postgres
REVOKE ALL ON FUNCTION pg_catalog.pg_control_system(OUT a integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_control_system(OUT a integer) TO app;
-- Name: COLUMN pg_authid.rolname; Type: ACL; Schema: pg_catalog; Owner: postgres
GRANT SELECT(rolname) ON TABLE pg_catalog.pg_authid TO app;
-- Name: TABLE pg_catalog; Type: ACL; Schema: public; Owner: postgres
GRANT SELECT ON TABLE public.pg_catalog TO app;
-- Name: SCHEMA information_schema; Type: ACL; Schema: -; Owner: postgres
REVOKE USAGE ON SCHEMA information_schema FROM PUBLIC;
-- Name: LANGUAGE sql; Type: ACL; Schema: -; Owner: postgres
REVOKE ALL ON LANGUAGE sql FROM PUBLIC;
-- Name: EXTENSION hstore; Type: COMMENT; Schema: -; Owner:
COMMENT ON EXTENSION hstore IS 'pairs';
-- Name: TABLE extension; Type: COMMENT; Schema: public; Owner: postgres
COMMENT ON TABLE public.extension IS 'kept';
-- Name: LANGUAGE ours; Type: ACL; Schema: -; Owner: postgres
GRANT ALL ON LANGUAGE ours TO app;";
        let (all, system) = statements(script);
        let kept = [
            "SET a = b",
            "GRANT SELECT ON TABLE public.pg_catalog TO app",
            "COMMENT ON TABLE public.extension IS 'kept'",
            "GRANT ALL ON LANGUAGE ours TO app",
        ];
        assert_eq!(all.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), kept);
        assert_eq!(system.len(), 5, "{system:?}");
        assert!(system[0].contains("FROM PUBLIC;\nGRANT ALL"), "{system:?}");
    }

    #[test]
    fn a_script_that_ends_anywhere_is_no_reason_to_panic() {
        for end in (0..SCRIPT.len()).filter(|i| SCRIPT.is_char_boundary(*i)) {
            read(&SCRIPT[..end]);
        }
        read("'ä\\' \"ü $é$ ö /* /* */ ß");
    }
}
