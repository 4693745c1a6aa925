//! Whether a column is the same one at both sides. A mirror brings rows by the names of their columns: where two of one type exchange
//! theirs at one side, or one is dropped and made anew, all definitions are alike and the values are not. So the numbers behind
//! the names are recorded when the first copy is made, at each side in its `bluegreen.columns`: they serve both directions.

use crate::catalog::{APPLICATION, RELATIONS, TABLES};
use crate::connect::Session;
use crate::error::Doing;
use bluegreen_core::Result;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::GenericClient;

/// The tables' columns: of each its table's oid, its number and its name.
#[derive(Debug)]
pub(crate) struct Columns {
    relations: Vec<u32>,
    numbers: Vec<i16>,
    names: Vec<String>,
}

/// The columns as this session sees them, in a snapshot or now.
pub(crate) async fn read(client: &impl GenericClient) -> Result<Columns> {
    let sql = format!(
        "SELECT coalesce(array_agg(a.attrelid), '{{}}'), coalesce(array_agg(a.attnum), '{{}}'), \
         coalesce(array_agg(a.attname::text), '{{}}') \
         {RELATIONS} JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped WHERE {APPLICATION} AND {TABLES}"
    );
    let row = client.query_one(&sql, &[]).await.doing("read the columns")?;
    Ok(Columns {
        relations: row.get(0),
        numbers: row.get(1),
        names: row.get(2),
    })
}

/// Keeps them in the place of what an earlier try kept.
pub(crate) async fn record(client: &impl GenericClient, migration: &str, columns: &Columns) -> Result<()> {
    let sql = "WITH gone AS (DELETE FROM bluegreen.columns WHERE migration = $1) \
               INSERT INTO bluegreen.columns (migration, relation, number, name) \
               SELECT $1, c.* FROM unnest($2::oid[], $3::int2[], $4::text[]) AS c";
    let Columns {
        relations,
        numbers,
        names,
    } = columns;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&migration, relations, numbers, names];
    client.execute(sql, &params).await.doing("record the columns")?;
    Ok(())
}

/// Columns that have the name of another one of the beginning, of which none is left or which is called otherwise now. A column that
/// has a new name and was not there is none of them: it is an object as others.
const MOVED: &str = "WITH was AS MATERIALIZED (SELECT relation, number, name FROM bluegreen.columns WHERE migration = $1) \
     SELECT n.nspname::text, c.relname::text, a.attname::text, w.name \
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN was w ON w.relation = a.attrelid AND w.number = a.attnum \
     WHERE a.attrelid IN (SELECT relation FROM was) AND a.attnum > 0 AND NOT a.attisdropped \
     AND (w.name <> a.attname::text \
         OR w.name IS NULL AND (a.attrelid, a.attname::text) IN (SELECT relation, name FROM was))";

/// What a column of that name was called at the beginning; none where it was made since.
type Moved = BTreeMap<[String; 3], Option<String>>;

async fn moved(session: &Session, migration: &str) -> Result<Moved> {
    let rows = super::rows_of_ours(session, MOVED, migration).await?;
    Ok(rows
        .iter()
        .map(|r| ([r.get(0), r.get(1), r.get(2)], r.get(3)))
        .collect())
}

/// The columns that are not the same ones at both sides, in words.
pub(super) async fn differing(writer: &Session, follower: &Session, migration: &str) -> Result<Vec<String>> {
    let (ours, theirs) = tokio::try_join!(moved(writer, migration), moved(follower, migration))?;
    Ok(compare(&ours, &theirs))
}

fn compare(ours: &Moved, theirs: &Moved) -> Vec<String> {
    let all: BTreeSet<&[String; 3]> = ours.keys().chain(theirs.keys()).collect();
    let differing = all.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
    let words = |side: &Moved, name: &[String; 3]| match side.get(name) {
        None => "what it was".to_owned(),
        Some(None) => "made anew".to_owned(),
        Some(Some(was)) => format!("what was {was}"),
    };
    differing
        .map(|name| {
            format!(
                "column {} is {} at the writer, and {} at the follower",
                name.join("."),
                words(ours, name),
                words(theirs, name)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moved_at_one_side_differs() {
        let side = |moved: &[(&str, Option<&str>)]| -> Moved {
            let name = |column: &str| ["public", "t", column].map(str::to_owned);
            moved
                .iter()
                .map(|(column, was)| (name(column), was.map(str::to_owned)))
                .collect()
        };
        let swapped = side(&[("a", Some("b")), ("b", Some("a"))]);
        assert_eq!(compare(&swapped, &swapped), [""; 0]);
        assert_eq!(
            compare(&swapped, &side(&[])),
            [
                "column public.t.a is what was b at the writer, and what it was at the follower",
                "column public.t.b is what was a at the writer, and what it was at the follower"
            ]
        );
        assert_eq!(
            compare(&side(&[("a", Some("b"))]), &side(&[("a", None)])),
            ["column public.t.a is what was b at the writer, and made anew at the follower"]
        );
    }
}
