//! What comes after the rows: which statement of the dump's last section is run when. Pure.
//!
//! An index or key of a copied table is made as soon as that table is in, several at a time. A primary key or unique
//! constraint is made as its index first, for which nothing is locked that another index of the table needs, and then
//! becomes the constraint. A foreign key is added unchecked and then validated: the same check, but without a lock on the
//! other table that would make all foreign keys wait for one another; it ends as valid as if it had been checked at once.

use super::lexer::Statement;
use super::script::{self, Entry};
use crate::ident::{Relation, ident};
use std::collections::{HashMap, HashSet};

/// The last section, sorted.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Settings every session needs that runs a part of it.
    pub(super) settings: String,
    /// Made before any row is there: what `ANALYZE` must know of.
    pub(super) before: Vec<String>,
    tables: HashMap<Relation, TableRest>,
    /// All that is left, in the dump's order.
    pub(super) after: Vec<String>,
    /// Constraints to validate, by table.
    pub(super) validate: Vec<(Relation, String)>,
}

/// What a table needs once its rows are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TableRest {
    /// Indexes, which can be made at the same time.
    pub(super) builds: Vec<Build>,
    /// What follows when they are there.
    pub(super) then: Vec<String>,
    /// The same in the dump's words and order, to be run one after the other.
    pub(super) whole: Vec<String>,
}

/// An index to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Build {
    pub(super) index: Relation,
    pub(super) sql: String,
}

impl Rest {
    /// Sorts the section for tables whose rows we copy. Indexes that run a function of the application's are made when all rows are
    /// in: it may read another table.
    pub(super) fn sort(section: &str, loaded: &HashSet<Relation>, computed: &HashSet<Relation>) -> Self {
        let mut rest = Self::default();
        let mut sorter = Sorter {
            rest: &mut rest,
            loaded,
            computed,
            place: String::new(),
            late: false,
        };
        for (i, entry) in script::read(section).into_iter().enumerate() {
            sorter.entry(i == 0, entry);
        }
        rest
    }

    /// What the table needs.
    pub(super) fn of(&self, table: &Relation) -> TableRest {
        self.tables.get(table).cloned().unwrap_or_default()
    }
}

struct Sorter<'a> {
    rest: &'a mut Rest,
    loaded: &'a HashSet<Relation>,
    computed: &'a HashSet<Relation>,
    /// The tablespace that the dump is at, as a statement.
    place: String,
    /// A function or view came: an index may need it, so from here on the dump's order is kept.
    late: bool,
}

impl Sorter<'_> {
    fn entry(&mut self, first: bool, entry: Entry) {
        let place = self.place.clone();
        let mut statements = Vec::new();
        for statement in entry.statements {
            if statement.has(0, &["set", "default_tablespace"]) {
                self.place = format!("{}; ", statement.text);
            } else if first {
                self.rest.settings.push_str(&statement.text);
                self.rest.settings.push_str("; ");
            } else {
                statements.push(statement);
            }
        }
        let here = |text: &str| format!("{place}{text}");
        match entry.kind.as_str() {
            // Of what comes later itself (a view that needs a key), they come after it.
            "STATISTICS" if statements.first().is_some_and(|s| self.is_of_loaded(s)) => {
                self.rest.before.extend(statements.iter().map(|s| here(&s.text)));
            }
            "INDEX" | "CONSTRAINT" if !self.late => self.table(&place, statements),
            "TRIGGER" if statements.first().is_some_and(shuts) => {}
            "FK CONSTRAINT" => self.foreign_key(&place, &statements),
            kind => {
                self.late |= matches!(
                    kind,
                    "FUNCTION"
                        | "PROCEDURE"
                        | "AGGREGATE"
                        | "VIEW"
                        | "MATERIALIZED VIEW"
                        | "TYPE"
                        | "TABLE"
                        | "OPERATOR"
                );
                self.rest.after.extend(statements.iter().map(|s| here(&s.text)));
            }
        }
    }

    fn table(&mut self, place: &str, statements: Vec<Statement>) {
        let first = statements.first();
        let of = first.and_then(indexed).filter(|t| self.loaded.contains(t));
        let Some(table) = of else {
            let all = statements.iter().map(|s| format!("{place}{}", s.text));
            return self.rest.after.extend(all);
        };
        let index = first
            .and_then(index_name)
            .map(|name| Relation::new(table.schema.clone(), name));
        if index.is_some_and(|index| self.computed.contains(&index)) {
            self.rest
                .after
                .extend(statements.iter().map(|s| format!("{place}{}", s.text)));
            // What it computes has statistics too.
            return self.rest.after.push(format!("ANALYZE {table}"));
        }
        let rest = self.rest.tables.entry(table.clone()).or_default();
        for (i, statement) in statements.iter().enumerate() {
            let text = format!("{place}{}", statement.text);
            rest.whole.push(text.clone());
            match build(&table, statement).filter(|_| i == 0) {
                Some((index, sql, then)) => {
                    rest.builds.push(Build {
                        index,
                        sql: format!("{place}{sql}"),
                    });
                    rest.then.extend(then);
                }
                None => rest.then.push(text),
            }
        }
    }

    /// Whether `CREATE STATISTICS .. FROM table` is of a table whose rows we copy.
    fn is_of_loaded(&self, statement: &Statement) -> bool {
        let from = statement.find(0, &["from"]);
        let table = from.and_then(|from| statement.relation(from + 1));
        table.is_some_and(|(table, _)| self.loaded.contains(&table))
    }

    fn foreign_key(&mut self, place: &str, statements: &[Statement]) {
        for statement in statements {
            let text = format!("{place}{}", statement.text);
            let found = added(statement).filter(|(table, _)| self.loaded.contains(table));
            let unchecked =
                statement.find(0, &["not", "valid"]).is_some() || statement.find(0, &["not", "enforced"]).is_some();
            match found {
                Some((table, at)) if !unchecked && statement.has(at + 1, &["foreign", "key"]) => {
                    let name = ident(statement.name(at).unwrap_or_default());
                    self.rest.after.push(format!("{text} NOT VALID"));
                    let validate = format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}");
                    self.rest.validate.push((table, validate));
                }
                _ => self.rest.after.push(text),
            }
        }
    }
}

/// Whether it makes a trigger that shuts a table, with which another migration may have left the origin. It is that one's, and what it
/// runs is not in the dump.
fn shuts(statement: &Statement) -> bool {
    let runs = statement.find(0, &["execute", "function"]);
    let function = runs.and_then(|at| statement.relation(at + 2));
    statement.has(0, &["create", "trigger"])
        && function.is_some_and(|(function, _)| function == Relation::new("bluegreen", "refuse"))
}

/// The table of `CREATE INDEX` or `ALTER TABLE .. ADD CONSTRAINT`.
fn indexed(statement: &Statement) -> Option<Relation> {
    match created(statement) {
        Some((_, on)) => statement.relation(on).map(|(table, _)| table),
        None => added(statement).map(|(table, _)| table),
    }
}

/// The name of the index that `CREATE INDEX` or `ALTER TABLE .. ADD CONSTRAINT` makes, in its table's schema.
fn index_name(statement: &Statement) -> Option<&str> {
    let at = match created(statement) {
        Some((name, _)) => name,
        None => added(statement)?.1,
    };
    statement.name(at)
}

/// Of `CREATE [UNIQUE] INDEX name ON table`, the places of the name and of the table. `ON ONLY` is another thing: the
/// index of a partitioned table.
fn created(statement: &Statement) -> Option<(usize, usize)> {
    let name = match () {
        () if statement.has(0, &["create", "index"]) => 2,
        () if statement.has(0, &["create", "unique", "index"]) => 3,
        () => return None,
    };
    (statement.has(name + 1, &["on"]) && !statement.has(name + 2, &["only"])).then_some((name, name + 2))
}

/// Of `ALTER TABLE [ONLY] table ADD CONSTRAINT name`, the table and the place of the name.
fn added(statement: &Statement) -> Option<(Relation, usize)> {
    statement.has(0, &["alter", "table"]).then_some(())?;
    let at = if statement.has(2, &["only"]) { 3 } else { 2 };
    let (table, next) = statement.relation(at)?;
    statement.has(next, &["add", "constraint"]).then_some((table, next + 2))
}

/// The index that the statement makes, how it is made alone, and what makes it the constraint.
fn build(table: &Relation, statement: &Statement) -> Option<(Relation, String, Option<String>)> {
    if let Some((name, _)) = created(statement) {
        let index = Relation::new(table.schema.clone(), statement.name(name)?);
        return Some((index, statement.text.clone(), None));
    }
    let (_, at) = added(statement)?;
    let name = statement.name(at)?;
    let (kind, open) = match () {
        () if statement.has(at + 1, &["primary", "key", "("]) => ("PRIMARY KEY", at + 3),
        () if statement.has(at + 1, &["unique", "("]) => ("UNIQUE", at + 2),
        () => return None,
    };
    // Only the plain form; what has more to it (a deferred check, a period) is made as it stands.
    let close = statement.find(open + 1, &[")"])?;
    let plain = close + 1 == statement.words.len();
    let columns = statement.between(open, close + 1);
    let named = statement.words[open + 1..close].iter().enumerate().all(|(i, word)| {
        use super::lexer::WordKind::{Bare, Quoted, Symbol};
        match word.kind {
            Bare(_) | Quoted(_) => i % 2 == 0,
            Symbol(',') => i % 2 == 1,
            _ => false,
        }
    });
    (plain && named).then_some(())?;
    let index = Relation::new(table.schema.clone(), name);
    let name = ident(name);
    Some((
        index,
        format!("CREATE UNIQUE INDEX {name} ON {table} {columns}"),
        Some(format!(
            "ALTER TABLE ONLY {table} ADD CONSTRAINT {name} {kind} USING INDEX {name}"
        )),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECTION: &str = "SET row_security = off;\nSET default_tablespace = '';\n
-- Name: big big_pkey; Type: CONSTRAINT; Schema: public; Owner: o
ALTER TABLE ONLY public.big
    ADD CONSTRAINT big_pkey PRIMARY KEY (id, \"B\");
ALTER TABLE ONLY public.big REPLICA IDENTITY USING INDEX big_pkey;
SET default_tablespace = fast;
-- Name: big_u; Type: CONSTRAINT; Schema: public; Owner: o
ALTER TABLE ONLY public.big ADD CONSTRAINT big_u UNIQUE (a) DEFERRABLE;
-- Name: big_i; Type: INDEX; Schema: public; Owner: o
CREATE INDEX big_i ON public.big USING btree (lower(a));
SET default_tablespace = '';
-- Name: parted_pkey; Type: INDEX; Schema: public; Owner: o
CREATE UNIQUE INDEX parted_i ON ONLY public.parted USING btree (id);
-- Name: big_f; Type: INDEX; Schema: public; Owner: o
CREATE INDEX big_f ON public.big USING btree (public.region(a));
-- Name: big_e; Type: CONSTRAINT; Schema: public; Owner: o
ALTER TABLE ONLY public.big ADD CONSTRAINT big_e EXCLUDE USING gist (public.region(a) WITH =);
-- Name: s; Type: STATISTICS; Schema: public; Owner: o
CREATE STATISTICS public.s ON a, b FROM public.big;
-- Name: t; Type: STATISTICS; Schema: public; Owner: o
CREATE STATISTICS public.t ON a, b FROM public.view;
-- Name: big f; Type: FK CONSTRAINT; Schema: public; Owner: o
ALTER TABLE ONLY public.big ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.t(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.big ADD CONSTRAINT g FOREIGN KEY (a) REFERENCES public.t(id) NOT VALID;
ALTER TABLE public.parted ADD CONSTRAINT h FOREIGN KEY (a) REFERENCES public.t(id);
-- Name: f; Type: FUNCTION; Schema: public; Owner: o
CREATE FUNCTION public.f() RETURNS int LANGUAGE sql RETURN 1;
-- Name: late; Type: INDEX; Schema: public; Owner: o
CREATE INDEX late ON public.big USING btree (public.f());
";

    #[test]
    fn a_trigger_that_shuts_a_table_is_left_out_with_its_state_and_no_other() {
        let section = "SET row_security = off;
-- Name: t bluegreen_a_shut; Type: TRIGGER; Schema: public; Owner: o
CREATE TRIGGER bluegreen_a_shut BEFORE INSERT OR DELETE ON public.t FOR EACH STATEMENT EXECUTE FUNCTION bluegreen.refuse('a');
ALTER TABLE public.t DISABLE TRIGGER bluegreen_a_shut;
-- Name: t a; Type: TRIGGER; Schema: public; Owner: o
CREATE TRIGGER a BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f('EXECUTE FUNCTION bluegreen.refuse()');
-- Name: t b; Type: TRIGGER; Schema: public; Owner: o
CREATE TRIGGER b AFTER INSERT ON bluegreen.refuse FOR EACH ROW EXECUTE FUNCTION bluegreen.log('bluegreen.refuse');
-- Name: t c; Type: TRIGGER; Schema: public; Owner: o
CREATE TRIGGER c BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION \"Bluegreen\".refuse();
";
        let rest = Rest::sort(section, &HashSet::new(), &HashSet::new());
        let made: Vec<_> = rest.after.iter().map(|s| &s[..17]).collect();
        assert_eq!(made, ["CREATE TRIGGER a ", "CREATE TRIGGER b ", "CREATE TRIGGER c "]);
    }

    #[test]
    fn each_statement_has_its_time() {
        let big = Relation::new("public", "big");
        let computed = ["big_f", "big_e"].map(|name| Relation::new("public", name));
        let rest = Rest::sort(SECTION, &HashSet::from([big.clone()]), &HashSet::from(computed));
        assert_eq!(rest.settings, "SET row_security = off; ");
        let of = rest.of(&big);
        let builds: Vec<_> = of.builds.iter().map(|b| b.sql.as_str()).collect();
        assert_eq!(
            builds,
            [
                "SET default_tablespace = ''; CREATE UNIQUE INDEX \"big_pkey\" ON \"public\".\"big\" (id, \"B\")",
                "SET default_tablespace = fast; CREATE INDEX big_i ON public.big USING btree (lower(a))",
            ]
        );
        assert_eq!(
            of.then,
            [
                "ALTER TABLE ONLY \"public\".\"big\" ADD CONSTRAINT \"big_pkey\" PRIMARY KEY USING INDEX \"big_pkey\"",
                "SET default_tablespace = ''; ALTER TABLE ONLY public.big REPLICA IDENTITY USING INDEX big_pkey",
                "SET default_tablespace = fast; ALTER TABLE ONLY public.big ADD CONSTRAINT big_u UNIQUE (a) DEFERRABLE",
            ]
        );
        assert_eq!(of.whole.len(), 4);
        assert_eq!(rest.before.len(), 1);
        let after: Vec<_> = rest
            .after
            .iter()
            .map(|s| s.trim_start_matches("SET default_tablespace = ''; "))
            .collect();
        assert!(after[0].contains("ON ONLY public.parted"));
        assert!(after[1].contains("INDEX big_f ") && after[3].contains("big_e EXCLUDE"));
        assert_eq!([after[2], after[4]], ["ANALYZE \"public\".\"big\""; 2]);
        assert!(after[5].starts_with("CREATE STATISTICS public.t"));
        let after = &after[5..];
        assert!(after[1].ends_with("ON DELETE CASCADE NOT VALID"));
        assert!(after[2].ends_with("(id) NOT VALID"));
        assert!(after[3].starts_with("ALTER TABLE public.parted") && after[3].ends_with("(id)"));
        assert!(after[4].starts_with("CREATE FUNCTION") && after[5].starts_with("CREATE INDEX late"));
        assert_eq!(
            rest.validate,
            [(
                big,
                "ALTER TABLE \"public\".\"big\" VALIDATE CONSTRAINT \"f\"".to_owned()
            )]
        );
    }
}
