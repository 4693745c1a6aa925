//! Which tables are compared: read from both catalogues, which must say the same.

use super::plan::{Column, Table};
use crate::catalog;
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::{Relation, ident};
use bluegreen_core::{Color, Kind, Result};

/// Their columns, key and size, and which of an extension's own table's rows are the user's: as the first copy sees it.
const COLUMNS_AND_KEY: &str = "SELECT n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::bigint, pg_table_size(c.oid), \
     (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_attribute a \
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
     coalesce((SELECT array_agg(a.attname::text ORDER BY k.n) FROM pg_index i, \
      unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n) JOIN pg_attribute a ON a.attnum = k.attnum \
      WHERE a.attrelid = c.oid AND k.n <= i.indnkeyatts AND i.indexrelid = \
       (SELECT x.indexrelid FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate \
        AND (x.indisprimary OR x.indisreplident) ORDER BY x.indisprimary DESC LIMIT 1)), '{}'), \
     coalesce((SELECT t.condition FROM pg_extension x, unnest(x.extconfig, x.extcondition) AS t (id, condition) \
      WHERE t.id = c.oid LIMIT 1), '')";

/// The tables that are mirrored, and no others.
fn tables() -> String {
    let (relations, application, kind) = (catalog::RELATIONS, catalog::APPLICATION, catalog::TABLES);
    format!("{COLUMNS_AND_KEY} {relations} WHERE {application} AND {kind} ORDER BY pg_table_size(c.oid) DESC, 1, 2")
}

/// The types of all columns. `to_jsonb` reads a catalogue's column that older versions do not have.
const COLUMNS: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text, \
     format_type(a.atttypid, a.atttypmod), coalesce(nullif(t.typbasetype, 0), t.oid), a.attcollation <> 0, \
     CASE WHEN a.attcollation = 0 THEN '' \
      WHEN l.collname IN ('C', 'POSIX') OR l.collprovider = 'd' AND d.datcollate IN ('C', 'POSIX') \
       AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' THEN 'C' \
      ELSE coalesce(l.collname || ' ' || CASE WHEN l.collprovider = 'd' THEN d.datcollate \
       || coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', '') ELSE '' END \
       || ' ' || pg_collation_actual_version(l.oid), '') END, \
     'xml'::regtype IN (WITH RECURSIVE base (id, of) AS (SELECT t.oid, t.typbasetype \
      UNION ALL SELECT b.oid, b.typbasetype FROM base JOIN pg_type b ON b.oid = base.of) SELECT id FROM base) \
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation \
     JOIN pg_database d ON d.datname = current_database() \
     WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'bluegreen')";

type Columns = std::collections::HashMap<(String, String), Vec<Column>>;

async fn columns(session: &Session) -> Result<Columns> {
    let mut all = Columns::new();
    for row in session.query(COLUMNS, &[]).await.doing("read the columns")? {
        let column = Column {
            name: row.get(2),
            type_name: row.get(3),
            base: row.get(4),
            collatable: row.get(5),
            collation: row.get::<_, Option<String>>(6).unwrap_or_default(),
            xml: row.get(7),
        };
        all.entry((row.get(0), row.get(1))).or_default().push(column);
    }
    Ok(all)
}

/// Every table of the application, largest first. A table or a column that only one side has is an error: what is to be
/// compared is not alike.
pub(super) async fn plan(blue: &Session, green: &Session) -> Result<Vec<Table>> {
    let doing = "plan the comparison";
    let encoding = "SELECT current_setting('server_encoding')";
    let tables = tables();
    let (here, there, at_blue, at_green, blue_columns, green_columns) = tokio::try_join!(
        async { blue.query_one(encoding, &[]).await.doing(doing) },
        async { green.query_one(encoding, &[]).await.doing(doing) },
        async { blue.query(&tables, &[]).await.doing(doing) },
        async { green.query(&tables, &[]).await.doing(doing) },
        columns(blue),
        columns(green),
    )?;
    let (here, there): (String, String) = (here.get(0), there.get(0));
    if here != there {
        let message = format!("blue's encoding is {here}, green's is {there}: their digests would not be alike");
        return Err(fault(Kind::Unsupported, doing, message));
    }
    let relation = |row: &tokio_postgres::Row| Relation::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
    let names = |rows: &[tokio_postgres::Row]| rows.iter().map(relation).collect::<std::collections::BTreeSet<_>>();
    let (ours, theirs) = (names(&at_blue), names(&at_green));
    let lonely = ours.symmetric_difference(&theirs).next();
    if let Some(table) = lonely {
        let side = if ours.contains(table) {
            Color::Blue
        } else {
            Color::Green
        };
        return Err(unlike(format!("{table} is only at {side}")));
    }
    let mut tables = Vec::new();
    for row in &at_blue {
        let relation = relation(row);
        let place = (relation.schema.clone(), relation.name.clone());
        let of = |all: &Columns, names: &[String]| {
            let known = all.get(&place).cloned().unwrap_or_default();
            let find = |name: &String| known.iter().find(|c| c.name == *name).cloned();
            names.iter().map(find).collect::<Option<Vec<Column>>>()
        };
        let (all, key): (Vec<String>, Vec<String>) = (row.get(4), row.get(5));
        let (Some(columns), Some(others), Some(key), Some(their_key)) = (
            of(&blue_columns, &all),
            of(&green_columns, &all),
            of(&blue_columns, &key),
            of(&green_columns, &key),
        ) else {
            return Err(unlike(format!(
                "{relation} does not have the columns {} at both sides",
                all.join(", ")
            )));
        };
        let extra = green_columns.get(&place).map_or(0, Vec::len);
        if extra != all.len() {
            return Err(unlike(format!(
                "{relation} has {} columns at blue and {extra} at green",
                all.len()
            )));
        }
        let typed = columns.iter().zip(&others).find(|(c, o)| c.type_name != o.type_name);
        if let Some((column, other)) = typed {
            return Err(unlike(format!(
                "{relation}.{} is {} at blue and {} at green",
                ident(&column.name),
                column.type_name,
                other.type_name
            )));
        }
        let rows = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
        tables.push(Table {
            ordered: !key.is_empty() && key.iter().zip(&their_key).all(|(k, o)| k.ordered_like(o)),
            relation,
            only: row.get(6),
            columns,
            key,
            rows,
            bytes: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
        });
    }
    Ok(tables)
}

fn unlike(what: String) -> bluegreen_core::Error {
    let message =
        format!("the two databases do not have the same tables: {what}; a change of the schema came after the copy");
    fault(Kind::Diverged, "plan the comparison", message)
}
