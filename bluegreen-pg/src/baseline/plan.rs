//! What is copied in which pieces: whole tables, and large ones in ranges of their pages. Pure but for the reading.

use crate::connect::Session;
use crate::error::Doing;
use crate::ident::{Relation, ident};
use bluegreen_core::Result;
use std::collections::{BTreeMap, HashMap};

/// A piece of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    table: Relation,
    columns: Vec<String>,
    /// First page, and the page after the last; without an end it takes what came since the planning.
    pages: Option<(u64, Option<u64>)>,
    binary: bool,
    /// How large it is, about.
    pub(super) bytes: u64,
}

impl Chunk {
    /// The statement that reads it.
    pub(super) fn read(&self) -> String {
        let columns = self.columns();
        let what = match self.pages {
            _ if self.columns.is_empty() => self.table.to_string(),
            None => format!("{} ({columns})", self.table),
            Some((from, to)) => {
                let end = to.map(|to| format!(" AND ctid < '({to},0)'")).unwrap_or_default();
                format!(
                    "(SELECT {columns} FROM ONLY {} WHERE ctid >= '({from},0)'{end})",
                    self.table
                )
            }
        };
        format!("COPY {what} TO STDOUT (FORMAT {})", self.format())
    }

    /// The statement that writes it.
    pub(super) fn write(&self) -> String {
        let columns = if self.columns.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.columns())
        };
        format!("COPY {}{columns} FROM STDIN (FORMAT {})", self.table, self.format())
    }

    /// What it is called in messages.
    pub(super) fn table(&self) -> &Relation {
        &self.table
    }

    fn columns(&self) -> String {
        self.columns.iter().map(|c| ident(c)).collect::<Vec<_>>().join(", ")
    }

    fn format(&self) -> &'static str {
        if self.binary && !self.columns.is_empty() {
            "binary"
        } else {
            "text"
        }
    }
}

/// A table as the planning sees it.
#[derive(Debug, Clone)]
struct Table {
    relation: Relation,
    columns: Vec<(String, u32)>,
    pages: u64,
}

/// All pieces, largest first, and how many rows there are, about.
pub(super) async fn plan(origin: &Session, chunk_bytes: u64) -> Result<(Vec<Chunk>, u64)> {
    let doing = "plan the copy";
    let rows = origin
        .query(
            "SELECT n.nspname::text, c.relname::text, (pg_relation_size(c.oid) / current_setting('block_size')::int)::bigint, \
             greatest(c.reltuples, 0)::bigint, \
             array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
                   AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum), \
             array(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
                   AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum), \
             current_setting('block_size')::int \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' \
             AND n.nspname NOT IN ('information_schema', 'bluegreen') AND NOT EXISTS (SELECT FROM pg_depend d \
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')",
            &[],
        )
        .await
        .doing(doing)?;
    let types = Types::read(origin).await?;
    let mut estimate = 0;
    let mut chunks = Vec::new();
    for row in rows {
        let names: Vec<String> = row.get(4);
        let oids: Vec<u32> = row.get(5);
        estimate += unsigned(row.get(3));
        let table = Table {
            relation: Relation::new(row.get::<_, &str>(0), row.get::<_, &str>(1)),
            columns: names.into_iter().zip(oids).collect(),
            pages: unsigned(row.get(2)),
        };
        let page = unsigned(i64::from(row.get::<_, i32>(6)));
        chunks.extend(cut(&table, types.all_binary(&table.columns), page, chunk_bytes));
    }
    chunks.sort_by_key(|c| std::cmp::Reverse(c.bytes));
    Ok((chunks, estimate))
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Cuts a table into pieces of about `chunk_bytes`.
fn cut(table: &Table, binary: bool, page: u64, chunk_bytes: u64) -> Vec<Chunk> {
    let chunk = |pages, bytes| Chunk {
        table: table.relation.clone(),
        columns: table.columns.iter().map(|(name, _)| name.clone()).collect(),
        pages,
        binary,
        bytes,
    };
    let each = (chunk_bytes / page.max(1)).max(1);
    let count = table.pages.div_ceil(each);
    if count <= 1 || table.columns.is_empty() {
        return vec![chunk(None, table.pages * page)];
    }
    (0..count)
        .map(|i| {
            let (from, to) = (i * each, (i + 1) * each);
            let last = i + 1 == count;
            let size = if last { table.pages - from } else { each };
            chunk(Some((from, (!last).then_some(to))), size * page)
        })
        .collect()
}

/// Which types have one binary form at both servers.
struct Types(HashMap<u32, TypeRow>);

struct TypeRow {
    kind: char,
    base: u32,
    element: u32,
    sends: bool,
}

/// The first oid that a server gives to what users make.
const FIRST_USER_OID: u32 = 16_384;

/// Types whose binary form is an oid of this server's catalogue.
const OID_ALIASES: &[u32] = &[24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

impl Types {
    async fn read(session: &Session) -> Result<Self> {
        let rows = session
            .query(
                "SELECT oid, typtype::text, typbasetype, CASE WHEN typlen = -1 AND typcategory = 'A' THEN typelem ELSE 0 END, \
                 typsend::oid <> 0 FROM pg_type WHERE typtype <> 'c' OR oid < 16384",
                &[],
            )
            .await
            .doing("read the types")?;
        Ok(Self(
            rows.iter()
                .map(|r| {
                    let row = TypeRow {
                        kind: r.get::<_, &str>(1).chars().next().unwrap_or('?'),
                        base: r.get(2),
                        element: r.get(3),
                        sends: r.get(4),
                    };
                    (r.get(0), row)
                })
                .collect(),
        ))
    }

    fn all_binary(&self, columns: &[(String, u32)]) -> bool {
        columns.iter().all(|(_, oid)| self.binary(*oid))
    }

    fn binary(&self, oid: u32) -> bool {
        let Some(row) = self.0.get(&oid) else { return false };
        if !row.sends || OID_ALIASES.contains(&oid) {
            return false;
        }
        match row.kind {
            'd' => self.binary(row.base),
            // Labels travel, not oids.
            'e' => true,
            // An array names its element's oid, which differs between servers for what users made.
            'b' if row.element != 0 => row.element < FIRST_USER_OID && self.binary(row.element),
            'b' | 'r' | 'm' => oid < FIRST_USER_OID,
            _ => false,
        }
    }
}

/// How many pieces each table was cut into; for the log.
pub(super) fn pieces(chunks: &[Chunk]) -> BTreeMap<&Relation, usize> {
    let mut count = BTreeMap::new();
    for chunk in chunks {
        *count.entry(&chunk.table).or_default() += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn table(pages: u64) -> Table {
        Table {
            relation: Relation::new("S", "t"),
            columns: vec![("a".into(), 23), ("B".into(), 25)],
            pages,
        }
    }

    #[test]
    fn reads_and_writes_the_same_columns() {
        let whole = &cut(&table(1), true, 8192, 1 << 20)[0];
        assert_eq!(
            whole.read(),
            "COPY \"S\".\"t\" (\"a\", \"B\") TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            whole.write(),
            "COPY \"S\".\"t\" (\"a\", \"B\") FROM STDIN (FORMAT binary)"
        );
        let parts = cut(&table(200), false, 8192, 128 * 8192);
        assert_eq!(parts.len(), 2);
        assert_eq!(
            parts[0].read(),
            "COPY (SELECT \"a\", \"B\" FROM ONLY \"S\".\"t\" WHERE ctid >= '(0,0)' AND ctid < '(128,0)') TO STDOUT (FORMAT text)"
        );
        assert!(parts[1].read().contains("ctid >= '(128,0)')"));
    }

    proptest! {
        #[test]
        fn every_page_is_in_exactly_one_piece(pages in 0_u64..5_000, each in 1_u64..600) {
            let parts = cut(&table(pages), true, 8192, each * 8192);
            let mut next = 0;
            for (i, part) in parts.iter().enumerate() {
                match part.pages {
                    None => prop_assert_eq!(parts.len(), 1),
                    Some((from, to)) => {
                        prop_assert_eq!(from, next);
                        prop_assert_eq!(to.is_none(), i + 1 == parts.len());
                        next = to.unwrap_or(pages);
                    }
                }
            }
            prop_assert_eq!(parts.iter().map(|p| p.bytes).sum::<u64>(), pages * 8192);
        }
    }
}
