//! Whether a column is the same one at both sides. A mirror brings rows by the names of their columns: where two of one type exchange
//! theirs at one side, or one is dropped and made anew, all definitions are alike and the values are not. So the numbers behind
//! the names are recorded when the first copy is made, at each side in its `bluegreen.columns`: they serve both directions.

use crate::catalog::{APPLICATION, RELATIONS, TABLES};
use crate::connect::Session;
use crate::error::Doing;
use bluegreen_core::Result;
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
    let delete = "DELETE FROM bluegreen.columns WHERE migration = $1";
    client.execute(delete, &[&migration]).await.doing(RECORDING)?;
    add(client, migration, columns).await
}

const RECORDING: &str = "record the columns";

async fn add(client: &impl GenericClient, migration: &str, columns: &Columns) -> Result<()> {
    let insert = "INSERT INTO bluegreen.columns (migration, relation, number, name) \
                  SELECT $1, c.* FROM unnest($2::oid[], $3::int2[], $4::text[]) AS c ON CONFLICT DO NOTHING";
    let Columns {
        relations,
        numbers,
        names,
    } = columns;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&migration, relations, numbers, names];
    client.execute(insert, &params).await.doing(RECORDING)?;
    Ok(())
}

/// Columns of recorded tables that have a name which another one had, of which none is left or which is called otherwise now; and those
/// that are not recorded: with no name that was there, they were made since.
const CHANGED: &str = "WITH was AS MATERIALIZED (SELECT relation, number, name FROM bluegreen.columns WHERE migration = $1), \
     changed AS (SELECT a.attrelid, a.attnum, a.attname::text AS name, w.name AS was, \
         (a.attrelid, a.attname::text) IN (SELECT relation, name FROM was) AS taken \
         FROM pg_attribute a LEFT JOIN was w ON w.relation = a.attrelid AND w.number = a.attnum \
         WHERE a.attrelid IN (SELECT relation FROM was) AND a.attnum > 0 AND NOT a.attisdropped \
         AND w.name IS DISTINCT FROM a.attname::text) \
     SELECT k.attrelid, k.attnum, k.name, k.was, k.taken, n.nspname || '.' || c.relname || '.' || k.name \
     FROM changed k JOIN pg_class c ON c.oid = k.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE k.taken OR k.was IS NULL ORDER BY 6";

/// What a look at one side found.
#[derive(Debug)]
struct Changed {
    /// In words.
    taken: Vec<String>,
    new: Columns,
}

async fn changed(session: &Session, migration: &str, side: &str) -> Result<Changed> {
    let mut found = Changed {
        taken: Vec::new(),
        new: Columns {
            relations: Vec::new(),
            numbers: Vec::new(),
            names: Vec::new(),
        },
    };
    for row in super::rows_of_ours(session, CHANGED, migration).await? {
        if row.get("taken") {
            let (was, column): (Option<&str>, &str) = (row.get("was"), row.get(5));
            let what = was.map_or_else(|| "made anew".to_owned(), |was| format!("what was {was}"));
            found.taken.push(format!("column {column} is {what} at the {side}"));
        } else {
            found.new.relations.push(row.get(0));
            found.new.numbers.push(row.get(1));
            found.new.names.push(row.get(2));
        }
    }
    Ok(found)
}

/// The columns that have a name of another one, in words; where both sides say the same, too: it was not done at both in the same
/// moment, and rows of meanwhile went by the names. Asked where all definitions are alike: where there are none, what was made at both
/// since then is recorded.
pub(super) async fn mistaken(writer: &Session, follower: &Session, migration: &str) -> Result<Vec<String>> {
    let (ours, theirs) = tokio::try_join!(
        changed(writer, migration, "writer"),
        changed(follower, migration, "follower")
    )?;
    let taken: Vec<String> = ours.taken.into_iter().chain(theirs.taken).collect();
    if taken.is_empty() {
        for (session, new) in [(writer, &ours.new), (follower, &theirs.new)] {
            if !new.names.is_empty() {
                add(&**session, migration, new).await?;
            }
        }
    }
    Ok(taken)
}
