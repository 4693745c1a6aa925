//! Reading a server's catalogue: its version, the tables that are to be mirrored, our rights.

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::Relation;
use bluegreen_core::{Color, Kind, Result};
use tokio_postgres::GenericClient;

/// Which relations belong to the application, in a query over `pg_class c` and `pg_namespace n`: not the system's, not an
/// extension's unless it says that it holds the user's rows or numbers, not ours. (By its reference, of which
/// there is an index: else all of `pg_depend` is read.)
pub(crate) const APPLICATION: &str = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') \
     AND (NOT EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass \
     AND d.objid = c.oid AND d.deptype = 'e') OR c.oid = ANY (SELECT unnest(x.extconfig) FROM pg_extension x) AND c.relkind IN ('r', 'S'))";

pub(crate) const RELATIONS: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace";

/// Tables with rows in the log.
pub(crate) const TABLES: &str = "c.relkind = 'r' AND c.relpersistence = 'p'";

/// Sequences; those of unlogged tables are unlogged too, and their numbers count as much.
pub(crate) const SEQUENCES: &str = "c.relkind = 'S' AND c.relpersistence <> 't'";

/// The server's version as it counts: 150018 is 15.18.
pub(crate) async fn version(session: &Session) -> Result<u32> {
    let row = session
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .doing("read the server's version")?;
    u32::try_from(row.get::<_, i32>(0))
        .map_err(|_| fault(Kind::Unexpected, "read the server's version", "it is negative"))
}

/// The tables with rows that are mirrored, leaves of partitions among them, in one order everywhere.
pub(crate) async fn tables(session: &Session) -> Result<Vec<Relation>> {
    relations(session, TABLES).await
}

/// The tables and the roots of partitioned ones: what the fence locks.
pub(crate) async fn lockable(session: &Session) -> Result<Vec<Relation>> {
    relations(session, "c.relkind IN ('r', 'p') AND c.relpersistence = 'p'").await
}

/// The tables that somebody made, of which an empty database has none.
pub(crate) async fn made_by_somebody(session: &Session) -> Result<Vec<Relation>> {
    relations(
        session,
        "c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid <> ALL (SELECT unnest(coalesce(x.extconfig, '{}')) FROM pg_extension x)",
    )
    .await
}

/// All sequences, free-standing ones too.
pub(crate) async fn sequences(session: &Session) -> Result<Vec<Relation>> {
    relations(session, SEQUENCES).await
}

async fn relations(session: &Session, condition: &str) -> Result<Vec<Relation>> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text {RELATIONS} WHERE {APPLICATION} AND {condition} \
         ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\""
    );
    let rows = session.query(&sql, &[]).await.doing("list the tables")?;
    Ok(rows
        .iter()
        .map(|r| Relation::new(r.get::<_, &str>(0), r.get::<_, &str>(1)))
        .collect())
}

/// What is wrong with what identifies a row of table `c`, so that `UPDATE` and `DELETE` fail the moment it is published; null
/// where nothing is.
pub(crate) const NO_IDENTITY: &str = "CASE \
     WHEN c.relreplident = 'n' THEN 'REPLICA IDENTITY NOTHING' \
     WHEN c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident) \
      THEN 'the index of its REPLICA IDENTITY is gone' \
     WHEN c.relreplident = 'd' THEN (SELECT CASE WHEN count(*) = 0 THEN 'no primary key' \
      WHEN NOT bool_or(i.indimmediate) THEN 'its primary key is deferrable' END \
      FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) END";

/// Refuses where a table of `side` would refuse `UPDATE` and `DELETE` as soon as it is published.
pub(crate) async fn all_identified(session: &Session, side: Color, kind: Kind, doing: &'static str) -> Result<()> {
    let without = relations(session, &format!("{TABLES} AND {NO_IDENTITY} IS NOT NULL")).await?;
    let Some(first) = without.first() else {
        return Ok(());
    };
    Err(fault(
        kind,
        doing,
        format!(
            "{} tables of {side} have nothing that identifies a row, so UPDATE and DELETE on them would fail as soon as they are \
             mirrored; first: {first}. Give it a primary key, or at {side} (where it is read-only, between BEGIN READ WRITE and \
             COMMIT): ALTER TABLE {first} REPLICA IDENTITY FULL;",
            without.len()
        ),
    ))
}

/// Whether we may call the function.
pub(crate) async fn may_execute(client: &impl GenericClient, function: &str) -> Result<bool> {
    let row = client
        .query_one("SELECT has_function_privilege($1::text, 'execute')", &[&function])
        .await
        .doing("look at our rights")?;
    Ok(row.get(0))
}

/// Whether we were given the right to change a setting that only superusers may by default; there is none before 15.
pub(crate) async fn may_set(client: &impl GenericClient, setting: &str) -> Result<bool> {
    let doing = "look at our rights";
    let known = client
        .query_one(
            "SELECT to_regprocedure('pg_catalog.has_parameter_privilege(text, text)') IS NOT NULL",
            &[],
        )
        .await
        .doing(doing)?;
    if !known.get::<_, bool>(0) {
        return Ok(false);
    }
    let row = client
        .query_one("SELECT has_parameter_privilege($1::text, 'SET')", &[&setting])
        .await
        .doing(doing)?;
    Ok(row.get(0))
}

/// Whether we may do everything.
pub(crate) async fn is_superuser(client: &impl GenericClient) -> Result<bool> {
    let row = client
        .query_one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[])
        .await
        .doing("look at our rights")?;
    Ok(row.get(0))
}

/// What makes the server end an autovacuum at once that is in the way of a lock, where we may say so: it looks only after
/// `deadlock_timeout`, and who gives up sooner never gets the lock.
pub(crate) async fn hurry(client: &impl GenericClient) -> Result<&'static str> {
    let may = is_superuser(client).await? || may_set(client, "deadlock_timeout").await?;
    Ok(if may {
        "SET LOCAL deadlock_timeout = '5ms'; "
    } else {
        ""
    })
}
