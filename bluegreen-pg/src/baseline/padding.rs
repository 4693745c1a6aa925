//! Columns of `char(n)` that are blanks for the most part. Those need not travel: who stores the value pads it again, to
//! the same bytes; and who reads it counts every character that came.

use crate::connect::Session;
use crate::error::Doing;
use crate::ident::{Relation, ident};
use bluegreen_core::Result;
use std::collections::HashSet;

/// Columns whose values are read without their padding.
pub(super) struct Padded(HashSet<(Relation, String)>);

/// To take so many blanks away costs the origin about what the other server saves (measured on 15).
const WORTH_IT: i32 = 16;

/// Tables below this many pages share their pieces; nothing is to be won there.
const LARGE_PAGES: i32 = 512;

/// Rights on the server's own things can be taken away; without these the padding travels.
const ALLOWED: &str = "SELECT has_table_privilege('pg_catalog.pg_stats', 'SELECT') \
     AND has_function_privilege('pg_catalog.bpcharsend(bpchar)', 'EXECUTE') \
     AND has_function_privilege('pg_catalog.rtrim(bytea, bytea)', 'EXECUTE')";

/// By the values that the last `ANALYZE` kept. A domain's length is the domain's, and an array's values are inside: not these.
const PADDED: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text FROM pg_attribute a \
     JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited \
     CROSS JOIN LATERAL (SELECT avg(octet_length(v) - octet_length(rtrim(v, ' '))) AS blanks FROM unnest( \
         coalesce(s.most_common_vals::text::text[], '{}') || coalesce(s.histogram_bounds::text::text[], '{}')) AS v) AS known \
     WHERE c.relkind = 'r' AND c.relpages >= $1 AND a.attnum > 0 AND NOT a.attisdropped \
     AND a.atttypid = 'bpchar'::regtype AND a.atttypmod > $2 AND known.blanks >= $2";

impl Padded {
    pub(super) async fn read(origin: &Session) -> Result<Self> {
        let doing = "look which columns are padded";
        let allowed: bool = origin.query_one(ALLOWED, &[]).await.doing(doing)?.get(0);
        if !allowed {
            return Ok(Self(HashSet::new()));
        }
        let rows = origin.query(PADDED, &[&LARGE_PAGES, &WORTH_IT]).await.doing(doing)?;
        let column = |r: &tokio_postgres::Row| (Relation::new(r.get::<_, &str>(0), r.get::<_, &str>(1)), r.get(2));
        Ok(Self(rows.iter().map(column).collect()))
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
