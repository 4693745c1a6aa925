//! What is copied in which pieces: small tables many at a time, large ones in ranges of their pages. Pure but for the
//! reading.

use super::padding::Padded;
use super::types::Types;
use super::unchanged::guarded;
use crate::connect::Session;
use crate::error::Doing;
use crate::ident::{Relation, ident};
use bluegreen_core::Result;

/// A piece of this size is about a second's work: what is repeated when a connection is lost.
pub(super) const CHUNK_BYTES: u64 = 64 << 20;

/// A table up to this size is one piece all the same where there is other work for the other streams: it is read without a
/// condition, and written already frozen, which only the transaction that emptied a table may do.
const WHOLE_BYTES: u64 = 1 << 30;

/// To make a byte of an index takes about as long as to copy so many of a table.
const INDEX_BYTE: u64 = 3;

/// Small tables share a piece up to this size and number: one round trip for all, and not too many locks.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_TABLES: usize = 64;

/// What one stream does in one go, and one transaction of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which one it is, for the target's own record of what it has.
    pub(super) step: i32,
    /// The statements that read it: as many of `COPY` as write it.
    pub(super) read: String,
    /// The statements that write it, in the same order.
    pub(super) write: String,
    /// How large it is, about.
    pub(super) bytes: u64,
    /// What it is called in messages.
    pub(super) name: String,
}

/// Tables that are complete at the same time: a large one, or a batch of small ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) tables: Vec<Relation>,
    pub(super) pieces: Vec<Piece>,
}

impl Load {
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|p| p.bytes).sum()
    }
}

/// A table as the planning sees it.
#[derive(Debug, Clone)]
struct Table {
    relation: Relation,
    columns: Vec<String>,
    /// What is read for the columns, where that is not they themselves.
    values: Option<Vec<String>>,
    binary: bool,
    /// Pages, where ranges of them can be read.
    pages: Option<u64>,
    /// With what is stored out of line.
    bytes: u64,
    /// All its indexes.
    indexes: u64,
    /// An extension's table: which of its rows are the user's.
    only: Option<String>,
}

/// What the division depends on beside the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// What a piece of a table that is divided has, about.
    pub(super) chunk: u64,
    /// How many streams there are.
    pub(super) streams: u64,
}

/// All loads, largest first, and how many rows there are, about. The origin's session is in a transaction that sees what the copy will.
pub(super) async fn plan(origin: &Session, follower: &Session, sizes: Sizes) -> Result<(Vec<Load>, u64)> {
    let doing = "plan the copy";
    let types = Types::read(origin, follower).await?;
    let padded = Padded::read(origin).await?;
    let rows = origin.query(TABLES, &[]).await.doing(doing)?;
    let mut estimate = 0;
    let mut tables = Vec::new();
    for row in rows {
        let columns: Vec<String> = row.get(3);
        let oids: Vec<u32> = row.get(4);
        estimate += unsigned(row.get(2));
        let relation = Relation::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        let binary = !columns.is_empty() && types.all_binary(&oids);
        tables.push(Table {
            values: padded.values(&relation, &columns).filter(|_| binary),
            binary,
            relation,
            columns,
            pages: row.get::<_, Option<i64>>(5).map(unsigned),
            bytes: unsigned(row.get(6)),
            indexes: unsigned(row.get(7)),
            only: row.get(8),
        });
    }
    Ok((divide(tables, sizes), estimate))
}

/// The application's tables with rows, and those tables of extensions of which the extension says that they hold the
/// user's rows. Ranges of pages are for the heap only.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::bigint, \
     coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid \
         AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}'), \
     coalesce((SELECT array_agg(a.atttypid ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid \
         AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{}'), \
     CASE WHEN m.amname = 'heap' THEN (pg_relation_size(c.oid) / current_setting('block_size')::int)::bigint END, \
     coalesce(pg_table_size(c.oid), 0)::bigint, coalesce(pg_indexes_size(c.oid), 0)::bigint, e.condition \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am m ON m.oid = c.relam \
     LEFT JOIN (SELECT t.id, t.condition FROM pg_extension x, unnest(x.extconfig, x.extcondition) AS t (id, condition)) e \
         ON e.id = c.oid \
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'bluegreen') AND (e.id IS NOT NULL OR NOT EXISTS (SELECT FROM pg_depend d \
         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) \
     ORDER BY 1, 2";

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Divides the tables into loads, largest first.
fn divide(tables: Vec<Table>, sizes: Sizes) -> Vec<Load> {
    let all: u64 = tables.iter().map(|t| t.bytes + t.indexes * INDEX_BYTE).sum();
    let whole = |table: &Table| {
        // What there is to do beside its own indexes, which come after it. A quarter more than a stream's share: streams that
        // end a little apart cost less than a table in parts.
        let share = (all - table.indexes * INDEX_BYTE) / sizes.streams.max(1) / 4 * 5;
        table.bytes <= share.min(WHOLE_BYTES)
    };
    let mut step = 0;
    let mut loads = Vec::new();
    let (large, small): (Vec<_>, Vec<_>) = tables.into_iter().partition(|t| t.bytes > BATCH_BYTES / 2);
    for table in large {
        let pieces = table
            .ranges(if whole(&table) { u64::MAX } else { sizes.chunk })
            .into_iter()
            .map(|(range, bytes)| piece(&mut step, &[&table], range, bytes))
            .collect();
        loads.push(Load {
            tables: vec![table.relation],
            pieces,
        });
    }
    let mut batch: Vec<&Table> = Vec::new();
    let mut flush = |batch: &mut Vec<&Table>| {
        if !batch.is_empty() {
            let bytes = batch.iter().map(|t| t.bytes).sum();
            loads.push(Load {
                tables: batch.iter().map(|t| t.relation.clone()).collect(),
                pieces: vec![piece(&mut step, batch, None, bytes)],
            });
            batch.clear();
        }
    };
    for table in &small {
        let full = batch.iter().map(|t| t.bytes).sum::<u64>() + table.bytes > BATCH_BYTES;
        if full || batch.len() == BATCH_TABLES {
            flush(&mut batch);
        }
        batch.push(table);
    }
    flush(&mut batch);
    loads.sort_by_key(|l| std::cmp::Reverse(l.bytes()));
    loads
}

/// `i` of `count` parts of it; the product alone may be beyond 64 bits.
fn share(all: u64, i: u64, count: u64) -> u64 {
    let part = u128::from(all) * u128::from(i) / u128::from(count);
    u64::try_from(part).unwrap_or(all)
}

/// First page, and the page after the last; without an end it takes what came since the planning.
type Range = Option<(u64, Option<u64>)>;

fn piece(step: &mut i32, tables: &[&Table], range: Range, bytes: u64) -> Piece {
    *step += 1;
    let all = |f: &dyn Fn(&Table) -> String| tables.iter().map(|t| f(t)).collect::<Vec<_>>().join("; ");
    let relations: Vec<&Relation> = tables.iter().map(|t| &t.relation).collect();
    Piece {
        step: *step,
        read: guarded(&relations, &all(&|t| t.read(range))),
        write: all(&|t| t.write(t.bytes > BATCH_BYTES / 2 && range.is_none() && t.pages.is_some())),
        bytes,
        name: match tables {
            [one] => one.relation.to_string(),
            [first, rest @ ..] => format!("{} and {} other tables", first.relation, rest.len()),
            [] => String::new(),
        },
    }
}

impl Table {
    /// Ranges of about `chunk_bytes`, and the bytes of each.
    fn ranges(&self, chunk_bytes: u64) -> Vec<(Range, u64)> {
        let count = self.bytes.div_ceil(chunk_bytes.max(1)).max(1);
        let (Some(pages), None, false) = (self.pages, &self.only, self.columns.is_empty()) else {
            return vec![(None, self.bytes)];
        };
        let count = count.min(pages);
        if count <= 1 {
            return vec![(None, self.bytes)];
        }
        let (page_at, byte_at) = (|i| share(pages, i, count), |i| share(self.bytes, i, count));
        (0..count)
            .map(|i| {
                let to = (i + 1 < count).then(|| page_at(i + 1));
                (Some((page_at(i), to)), byte_at(i + 1) - byte_at(i))
            })
            .collect()
    }

    fn read(&self, range: Range) -> String {
        let (table, columns) = (&self.relation, self.columns());
        let values = self.values.as_ref().map(|v| v.join(", "));
        let select = |which: &str| {
            let values = values.as_ref().unwrap_or(&columns);
            format!("(SELECT {values} FROM ONLY {table}{which})")
        };
        let what = match (range, &self.only) {
            _ if self.columns.is_empty() => table.to_string(),
            (Some((from, to)), _) => {
                let end = to.map(|to| format!(" AND ctid < '({to},0)'")).unwrap_or_default();
                select(&format!(" WHERE ctid >= '({from},0)'{end}"))
            }
            (None, Some(only)) if !only.is_empty() => select(&format!(" {only}")),
            (None, _) if values.is_some() => select(""),
            (None, _) => format!("{table} ({columns})"),
        };
        format!("COPY {what} TO STDOUT (FORMAT {})", self.format())
    }

    /// `frozen`: as if it had always been there, for all of it at once; nobody is to look at green before the copy is complete.
    fn write(&self, frozen: bool) -> String {
        let (table, columns) = (&self.relation, self.columns());
        let columns = if columns.is_empty() {
            columns
        } else {
            format!(" ({columns})")
        };
        let frozen = frozen && self.only.is_none();
        let (empty, freeze) = if frozen {
            (format!("TRUNCATE ONLY {table}; "), ", FREEZE")
        } else {
            (String::new(), "")
        };
        let copy = format!(
            "{empty}COPY {table}{columns} FROM STDIN (FORMAT {}{freeze})",
            self.format()
        );
        match &self.only {
            // An extension that was there before us has rows of its own making, or of an earlier try.
            Some(only) => format!("DELETE FROM ONLY {table} {only}; {copy}"),
            None => copy,
        }
    }

    fn columns(&self) -> String {
        self.columns.iter().map(|c| ident(c)).collect::<Vec<_>>().join(", ")
    }

    fn format(&self) -> &'static str {
        if self.binary { "binary" } else { "text" }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const SIZES: Sizes = Sizes {
        chunk: 64 << 20,
        streams: 2,
    };

    fn table(name: &str, pages: u64, bytes: u64) -> Table {
        Table {
            relation: Relation::new("S", name),
            columns: vec!["a".into(), "B".into()],
            values: None,
            binary: true,
            pages: Some(pages),
            bytes,
            indexes: 0,
            only: None,
        }
    }

    #[test]
    fn reads_and_writes_the_same_columns() {
        let whole = table("t", 1, 8192);
        assert_eq!(
            whole.read(None),
            "COPY \"S\".\"t\" (\"a\", \"B\") TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            whole.write(false),
            "COPY \"S\".\"t\" (\"a\", \"B\") FROM STDIN (FORMAT binary)"
        );
        assert_eq!(
            whole.write(true),
            "TRUNCATE ONLY \"S\".\"t\"; COPY \"S\".\"t\" (\"a\", \"B\") FROM STDIN (FORMAT binary, FREEZE)"
        );
        let text = Table {
            binary: false,
            ..table("t", 200, 1)
        };
        assert_eq!(
            text.read(Some((3, Some(128)))),
            "COPY (SELECT \"a\", \"B\" FROM ONLY \"S\".\"t\" WHERE ctid >= '(3,0)' AND ctid < '(128,0)') TO STDOUT (FORMAT text)"
        );
        assert!(text.read(Some((128, None))).contains("ctid >= '(128,0)')"));
        let padded = Table {
            values: Some(vec!["\"a\"".into(), "f(\"B\")".into()]),
            ..table("t", 200, 1)
        };
        assert_eq!(
            padded.read(None),
            "COPY (SELECT \"a\", f(\"B\") FROM ONLY \"S\".\"t\") TO STDOUT (FORMAT binary)"
        );
        assert!(
            padded
                .read(Some((3, None)))
                .contains("SELECT \"a\", f(\"B\") FROM ONLY")
        );
        assert_eq!(padded.write(true), whole.write(true));
        let bare = Table {
            columns: Vec::new(),
            binary: false,
            ..table("t", 1, 1)
        };
        assert_eq!(bare.read(None), "COPY \"S\".\"t\" TO STDOUT (FORMAT text)");
        assert_eq!(bare.write(false), "COPY \"S\".\"t\" FROM STDIN (FORMAT text)");
    }

    #[test]
    fn of_an_extensions_table_only_the_users_rows_are_copied() {
        let theirs = Table {
            only: Some("WHERE NOT standard".into()),
            ..table("t", 100_000, 1 << 30)
        };
        let loads = divide(vec![theirs], SIZES);
        assert_eq!(loads.len(), 1);
        let piece = &loads[0].pieces[0];
        assert!(piece.read.contains(
            "; COPY (SELECT \"a\", \"B\" FROM ONLY \"S\".\"t\" WHERE NOT standard) TO STDOUT (FORMAT binary);"
        ));
        assert!(
            piece
                .write
                .starts_with("DELETE FROM ONLY \"S\".\"t\" WHERE NOT standard; COPY")
        );
    }

    #[test]
    fn a_table_that_is_a_streams_share_is_one_frozen_piece_and_a_larger_one_is_divided() {
        let half = |name| table(name, 60_000, 500 << 20);
        let loads = divide(vec![half("a"), half("b")], SIZES);
        assert_eq!(loads.iter().map(|l| l.pieces.len()).collect::<Vec<_>>(), [1, 1]);
        assert!(loads[0].pieces[0].write.contains("TRUNCATE ONLY") && loads[0].pieces[0].write.contains("FREEZE"));
        let alone = divide(vec![half("a")], SIZES);
        assert_eq!(alone[0].pieces.len(), 8);
        assert!(
            alone[0]
                .pieces
                .iter()
                .all(|p| !p.write.contains("TRUNCATE") && !p.write.contains("FREEZE"))
        );
        let beside = |indexes| {
            let smaller = Table {
                indexes,
                ..table("b", 40_000, 300 << 20)
            };
            divide(vec![table("a", 70_000, 560 << 20), smaller], SIZES)[0]
                .pieces
                .len()
        };
        assert_eq!(beside(0), 9, "the other stream would be idle");
        assert_eq!(beside(40 << 20), 1, "the other's indexes are work too");
        let large: Vec<Table> = (0..8).map(|i| table(&format!("t{i}"), 200_000, 2 << 30)).collect();
        assert!(divide(large, SIZES).iter().all(|l| l.pieces.len() == 32));
    }

    #[test]
    fn small_tables_share_a_piece_and_large_ones_come_first() {
        let mut tables: Vec<Table> = (0..200).map(|i| table(&format!("t{i}"), 5, 40_000)).collect();
        tables.push(table("huge", 100_000, 100_000 * 8192));
        let loads = divide(tables, SIZES);
        assert_eq!(loads[0].tables, [Relation::new("S", "huge")]);
        assert!(loads[0].pieces.len() > 10);
        assert!(loads.len() <= 5);
        assert_eq!(loads[1..].iter().map(|l| l.tables.len()).sum::<usize>(), 200);
        assert_eq!(loads[1].pieces[0].read.matches("COPY").count(), loads[1].tables.len());
        let mut steps: Vec<i32> = loads.iter().flat_map(|l| &l.pieces).map(|p| p.step).collect();
        steps.sort_unstable();
        assert!(steps.windows(2).all(|w| w[0] + 1 == w[1]));
    }

    #[test]
    fn the_largest_table_there_can_be_is_divided() {
        // 32 TiB of pages, and as much again out of line.
        let (pages, bytes) = (1_u64 << 32, 1_u64 << 46);
        let ranges = table("t", pages, bytes).ranges(64 << 20);
        assert_eq!(ranges.len(), 1 << 20);
        assert_eq!(ranges.iter().map(|r| r.1).sum::<u64>(), bytes);
        assert!(ranges.iter().all(|(_, each)| *each == 64 << 20));
    }

    proptest! {
        #[test]
        fn every_page_is_in_exactly_one_range(pages in 0_u64..5_000, toast in 0_u64..1 << 32, each in 1_u64..1 << 24) {
            let bytes = pages * 8192 + toast;
            let ranges = table("t", pages, bytes).ranges(each);
            let mut next = 0;
            for (i, (range, _)) in ranges.iter().enumerate() {
                match range {
                    None => prop_assert_eq!(ranges.len(), 1),
                    Some((from, to)) => {
                        prop_assert_eq!(*from, next);
                        prop_assert_eq!(to.is_none(), i + 1 == ranges.len());
                        prop_assert!(to.is_none_or(|to| to > *from));
                        next = to.unwrap_or(pages);
                    }
                }
            }
            prop_assert_eq!(ranges.iter().map(|r| r.1).sum::<u64>(), bytes);
        }
    }
}
