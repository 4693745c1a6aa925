//! What identifies a row of blue's tables: an UPDATE or DELETE fails at blue where nothing does, and stops the mirror where green
//! cannot go by it.

use super::{Look, commands, listed, texts};
use crate::catalog::{self, APPLICATION, NO_IDENTITY};
use crate::connect::Session;
use crate::error::{PgError, fault};
use bluegreen_core::{Kind, Result};
use std::collections::HashSet;
use tokio_postgres::error::SqlState;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    // Green publishes too, after the cut-over.
    let newest = catalog::version(look.blue)
        .await?
        .max(catalog::version(look.green).await?);
    let strict = newest >= 180_000;
    let tables = read(look.blue).await?;
    nothing(look, &tables, strict);
    generated(look, &tables, strict);
    whole_row(look, &tables, strict);
    Ok(())
}

/// A table, as far as its identity matters.
#[derive(Debug, Default)]
struct Table {
    /// Quoted, with its schema.
    name: String,
    oid: String,
    /// What is wrong with its identity, or empty.
    wrong: String,
    /// Whether `REPLICA IDENTITY FULL` is set.
    full: bool,
    /// Whether it has a primary key at all, and one that green finds rows by, whatever the identity.
    has_key: bool,
    key: bool,
    /// An index that could be its identity, quoted, or empty.
    index: String,
    /// Its generated columns; and those in the identity, or in the key where that is the whole row.
    generated: String,
    generated_identity: String,
    /// Columns without equality, with their types.
    uncomparable: Vec<String>,
    large: bool,
    partition: bool,
}

impl Table {
    /// What gives it an identity that works.
    fn mend(&self, strict: bool) -> String {
        let Self { name, index, oid, .. } = self;
        if !index.is_empty() {
            return format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index};");
        }
        // Green goes by a primary key even where blue sends the whole row, and generated columns are not sent.
        let by_key = self.key && !self.generated_identity.is_empty();
        let refused = strict && !self.generated.is_empty();
        if self.uncomparable.is_empty() && !by_key && !refused {
            return format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        }
        if self.partition {
            return format!(
                "/* {name}: give the partitioned table it belongs to a primary key of columns that are not generated */"
            );
        }
        let new = "ADD COLUMN bluegreen_row bigint GENERATED ALWAYS AS IDENTITY";
        if self.has_key {
            let unique = format!("bluegreen_row_{oid}");
            return format!(
                "ALTER TABLE {name} {new} CONSTRAINT {unique} UNIQUE, REPLICA IDENTITY USING INDEX {unique};"
            );
        }
        format!("ALTER TABLE {name} {new} PRIMARY KEY, REPLICA IDENTITY DEFAULT;")
    }
}

/// Says of what the new column of [`Table::mend`] costs.
const COSTS: &str = "at blue, or better give it a primary key of its own columns (a new column writes the table anew, and nobody reads or \
     writes it meanwhile)";

async fn read(blue: &Session) -> Result<Vec<Table>> {
    let rows = texts::<12>(
        blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname), c.oid::text, {NO_IDENTITY}, (c.relreplident = 'f')::text, \
             (k.indexrelid IS NOT NULL)::text, (k.indimmediate AND k.indisvalid)::text, \
             (SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid \
              AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
              AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
               AND (NOT a.attnotnull OR a.attgenerated <> '')) ORDER BY i.indisprimary DESC, i.indnatts, x.relname LIMIT 1), \
             g.all_, g.identity, t.types, (c.reltuples > 10000)::text, c.relispartition::text \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_index k ON k.indrelid = c.oid AND k.indisprimary \
             LEFT JOIN pg_index r ON r.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN r.indisreplident \
              WHEN 'n' THEN false ELSE r.indisprimary AND r.indimmediate END \
             CROSS JOIN LATERAL (SELECT string_agg(quote_ident(a.attname), ', ') AS all_, \
              string_agg(quote_ident(a.attname), ', ') FILTER (WHERE a.attnum = ANY (r.indkey)) AS identity \
              FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated <> '') AS g \
             CROSS JOIN LATERAL (SELECT string_agg(quote_ident(a.attname) || E'\\x01' || format_type(a.atttypid, NULL), E'\\x02') AS types \
              FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
              AND NOT coalesce(k.indimmediate AND k.indisvalid, false)) AS t \
             WHERE {APPLICATION} AND c.relkind = 'r' AND c.relpersistence = 'p' \
             AND (c.relreplident = 'f' OR {NO_IDENTITY} IS NOT NULL OR g.identity IS NOT NULL) ORDER BY 1"
        ),
    )
    .await?;
    let mut tables = Vec::with_capacity(rows.len());
    let mut judged = Judged::default();
    for [
        name,
        oid,
        wrong,
        full,
        has_key,
        key,
        index,
        generated,
        generated_identity,
        types,
        large,
        partition,
    ] in rows
    {
        let mut uncomparable = Vec::new();
        for (column, of) in types.split('\x02').filter_map(|pair| pair.split_once('\x01')) {
            if !judged.has_equality(blue, of).await? {
                uncomparable.push(format!("{column} {of}"));
            }
        }
        let is = |text: String| text == "true";
        tables.push(Table {
            name,
            oid,
            wrong,
            full: is(full),
            has_key: is(has_key),
            key: is(key),
            index,
            generated,
            generated_identity,
            uncomparable,
            large: is(large),
            partition: is(partition),
        });
    }
    Ok(tables)
}

/// The types of which the server said whether it can compare them: arrays, domains and composites are as good as what is in them.
#[derive(Debug, Default)]
struct Judged {
    with: HashSet<String>,
    without: HashSet<String>,
}

impl Judged {
    /// The apply looks for the same operator as DISTINCT does, which is refused before anything runs.
    async fn has_equality(&mut self, session: &Session, of: &str) -> Result<bool> {
        if self.with.contains(of) || self.without.contains(of) {
            return Ok(self.with.contains(of));
        }
        match session.prepare(&format!("SELECT DISTINCT NULL::{of}")).await {
            Ok(_) => self.with.insert(of.to_owned()),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => self.without.insert(of.to_owned()),
            Err(error) => {
                let error = PgError::from(error);
                return Err(fault(
                    Kind::Unexpected,
                    "ask whether a type can be compared",
                    format!("{of}: {error}"),
                ));
            }
        };
        Ok(self.with.contains(of))
    }
}

/// DEFAULT without a primary key, with a deferrable one, NOTHING, and an index that is gone.
fn nothing(look: &mut Look<'_>, tables: &[Table], strict: bool) {
    let without: Vec<&Table> = tables.iter().filter(|table| !table.wrong.is_empty()).collect();
    if without.is_empty() {
        return;
    }
    let seen: Vec<String> = without
        .iter()
        .map(|table| format!("{} ({})", table.name, table.wrong))
        .collect();
    look.blocks(
        "no-replica-identity",
        format!("nothing identifies a row of {}", listed("table", &seen)),
        "UPDATE and DELETE on it fail on blue as soon as it is published",
        format!("{COSTS}: {}", commands(without.iter().map(|table| table.mend(strict)))),
    );
}

/// Generated columns are computed by the follower and not sent: as a part of what identifies a row they are missed. From 18 on a
/// publisher refuses such an UPDATE, and there the whole row is no identity either.
fn generated(look: &mut Look<'_>, tables: &[Table], strict: bool) {
    let missed: Vec<(&Table, &String)> = tables
        .iter()
        .filter(|table| table.wrong.is_empty())
        .filter_map(|table| {
            let whole = table.full && strict;
            let columns = if whole {
                &table.generated
            } else {
                &table.generated_identity
            };
            (!columns.is_empty()).then_some((table, columns))
        })
        .collect();
    if missed.is_empty() {
        return;
    }
    let seen: Vec<String> = missed
        .iter()
        .map(|(table, columns)| format!("{} ({columns})", table.name))
        .collect();
    look.blocks(
        "generated-identity",
        format!("a generated column is part of what identifies a row of {}", listed("table", &seen)),
        "generated columns are not sent: green cannot find the row that an UPDATE or DELETE means, and the mirror stops; from \
         PostgreSQL 18 on UPDATE and DELETE fail where they are made",
        format!("{COSTS}: {}", commands(missed.iter().map(|(table, _)| table.mend(strict)))),
    );
}

/// Tables identified by the whole row, but for those with a primary key: green finds their rows by it.
fn whole_row(look: &mut Look<'_>, tables: &[Table], strict: bool) {
    // What a generated column blocks already is mended there.
    let whole = || {
        tables
            .iter()
            .filter(|table| table.full && !table.key && (!strict || table.generated.is_empty()))
    };
    let uncomparable: Vec<&Table> = whole().filter(|table| !table.uncomparable.is_empty()).collect();
    if !uncomparable.is_empty() {
        let seen: Vec<String> = uncomparable
            .iter()
            .map(|table| format!("{} ({})", table.name, table.uncomparable.join(", ")))
            .collect();
        look.blocks(
            "full-without-equality",
            format!(
                "identified by the whole row, with columns that cannot be compared: {}",
                listed("table", &seen)
            ),
            "green cannot find the row that an UPDATE or DELETE means, and the mirror stops",
            format!(
                "{COSTS}: {}",
                commands(uncomparable.iter().map(|table| table.mend(strict)))
            ),
        );
    }
    let large: Vec<&String> = whole()
        .filter(|table| table.uncomparable.is_empty() && table.large)
        .map(|table| &table.name)
        .collect();
    if !large.is_empty() {
        look.warns(
            "full-identity-on-large-table",
            format!("identified by the whole row: {}", listed("large table", &large)),
            "for every UPDATE or DELETE green may read the whole table: the mirror falls behind",
            "give it a primary key, or a unique index on columns that are not null and REPLICA IDENTITY USING INDEX",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            name: "s.\"T\"".into(),
            oid: "4711".into(),
            ..Table::default()
        }
    }

    #[test]
    fn the_mend_is_the_cheapest_that_works() {
        let by_index = Table {
            index: "\"I\"".into(),
            uncomparable: vec!["j json".into()],
            ..table()
        };
        assert_eq!(
            by_index.mend(true),
            "ALTER TABLE s.\"T\" REPLICA IDENTITY USING INDEX \"I\";"
        );
        assert_eq!(table().mend(true), "ALTER TABLE s.\"T\" REPLICA IDENTITY FULL;");
        let shapeless = Table {
            uncomparable: vec!["j json".into()],
            ..table()
        };
        assert!(shapeless.mend(false).contains("PRIMARY KEY, REPLICA IDENTITY DEFAULT;"));
        let keyed = Table {
            has_key: true,
            ..shapeless
        };
        assert!(
            keyed
                .mend(false)
                .contains("CONSTRAINT bluegreen_row_4711 UNIQUE, REPLICA IDENTITY USING INDEX bluegreen_row_4711;")
        );
        let partition = Table {
            partition: true,
            ..keyed
        };
        assert!(partition.mend(false).starts_with("/* s.\"T\":"));
    }

    #[test]
    fn the_whole_row_is_no_way_out_with_generated_columns() {
        let beside = Table {
            generated: "g".into(),
            ..table()
        };
        assert!(beside.mend(false).contains("REPLICA IDENTITY FULL"));
        assert!(!beside.mend(true).contains("REPLICA IDENTITY FULL"), "18 refuses it");
        let in_key = Table {
            has_key: true,
            key: true,
            generated_identity: "g".into(),
            ..beside
        };
        assert!(
            !in_key.mend(false).contains("REPLICA IDENTITY FULL"),
            "green goes by the key"
        );
    }
}
