//! Columns of `char(n)` that are blanks for the most part. Those need not travel: who stores the value pads it again, to
//! the same bytes; and who reads it counts every character that came.

use crate::connect::Session;
use crate::error::Doing;
use crate::ident::{Relation, ident};
use bluegreen_core::Result;
use std::collections::HashSet;
use tokio_postgres::error::SqlState;

/// Columns whose values are read without their padding.
pub(super) struct Padded(HashSet<(Relation, String)>);

/// To take so many blanks away costs the origin about what the other server saves (measured on 15).
const WORTH_IT: i32 = 16;

/// Tables below this many pages share their pieces; nothing is to be won there.
const LARGE_PAGES: i32 = 512;

/// A domain's length is the domain's, and an array's values are inside: not these. Rights on the server's own things can be
/// taken away; without them the padding travels.
const COLUMNS: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text FROM pg_attribute a \
     JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.relpages >= $1 AND a.attnum > 0 AND NOT a.attisdropped \
     AND a.atttypid = 'bpchar'::regtype AND a.atttypmod > $2 AND has_table_privilege('pg_catalog.pg_stats', 'SELECT') \
     AND has_function_privilege('pg_catalog.bpcharsend(bpchar)', 'EXECUTE') \
     AND has_function_privilege('pg_catalog.rtrim(bytea, bytea)', 'EXECUTE')";

/// By the values that the last `ANALYZE` kept. One column at a time: all at once the view is as slow as all statistics are many.
const BLANKS: &str = "SELECT coalesce(avg(octet_length(v) - octet_length(rtrim(v, ' ')))::bigint, 0) \
     FROM pg_stats s, unnest(coalesce(s.most_common_vals::text::text[], '{}') \
         || coalesce(s.histogram_bounds::text::text[], '{}')) AS v \
     WHERE s.schemaname = $1 AND s.tablename = $2 AND s.attname = $3 AND NOT s.inherited";

impl Padded {
    /// In a transaction, which goes on whatever may not be looked at.
    pub(super) async fn read(origin: &Session) -> Result<Self> {
        let doing = "look which columns are padded";
        let mut padded = HashSet::new();
        let columns = origin.query(COLUMNS, &[&LARGE_PAGES, &WORTH_IT]).await.doing(doing)?;
        origin.batch_execute("SAVEPOINT columns_known").await.doing(doing)?;
        for row in columns {
            let (schema, table, column): (&str, &str, String) = (row.get(0), row.get(1), row.get(2));
            let blanks = match origin.query_one(BLANKS, &[&schema, &table, &column]).await {
                Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                    let back = "ROLLBACK TO SAVEPOINT columns_known";
                    origin.batch_execute(back).await.doing(doing)?;
                    break;
                }
                blanks => blanks.doing(doing)?,
            };
            if blanks.get::<_, i64>(0) >= i64::from(WORTH_IT) {
                padded.insert((Relation::new(schema, table), column));
            }
        }
        Ok(Self(padded))
    }

    /// What is read for each column in binary, where that is not all columns as they are.
    pub(super) fn values(&self, relation: &Relation, columns: &[String]) -> Option<Vec<String>> {
        let padded = |column: &String| self.0.contains(&(relation.clone(), column.clone()));
        columns.iter().any(padded).then(|| {
            let value = |column: &String| {
                let name = ident(column);
                if padded(column) {
                    format!("pg_catalog.rtrim(pg_catalog.bpcharsend({name}), ' '::bytea)")
                } else {
                    name
                }
            };
            columns.iter().map(value).collect()
        })
    }
}
