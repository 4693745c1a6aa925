//! Who may write: the read-only default of a database, which outlives us, and the sessions that do not know of it yet.

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::{application_name, copy_application_name, ident};
use bluegreen_core::{Kind, Result};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio_postgres::types::Type;

/// How long terminated sessions may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Clients of this database that are not ours, and processes still starting up in it. A session that is starting
/// holds a lock on its database until it has read the database's settings and shows itself: without looking there, one
/// that read the old settings could appear after we looked. `$1`: our application names; `$2`: only clients older than.
const PRESENT: &str = "SELECT pid, false FROM pg_stat_activity \
     WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() \
     AND application_name <> ALL ($1) AND ($2::text IS NULL OR backend_start < $2::text::timestamptz) \
     UNION ALL SELECT l.pid, true FROM pg_locks l JOIN pg_database d ON d.oid = l.objid AND d.datname = current_database() \
     WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted \
     AND l.pid <> pg_backend_pid()";

/// Whether the database is read-only by default.
pub(crate) async fn is_closed(session: &Session) -> Result<bool> {
    let row = session
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
             WHERE d.datname = current_database() AND s.setrole = 0 \
             AND 'default_transaction_read_only=on' = ANY (s.setconfig))",
            &[],
        )
        .await
        .doing("read whether the database is read-only")?;
    Ok(row.get(0))
}

/// Makes the database read-only for good, and ends every client that does not know it.
pub(crate) async fn close(session: &Session, migration: &str, dbname: &str) -> Result<()> {
    session
        .batch_execute(&format!(
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            ident(dbname)
        ))
        .await
        .doing("make the database read-only")?;
    sweep(session, migration, None).await
}

/// Makes the database writable, and ends every client that still has the read-only default. Repeated after a crash, it
/// ends only those that are older than the opening.
pub(crate) async fn open(session: &Session, migration: &str, dbname: &str) -> Result<()> {
    let doing = "make the database writable";
    if is_closed(session).await? {
        session
            .batch_execute(&format!(
                "BEGIN; ALTER DATABASE {} RESET default_transaction_read_only; \
                 UPDATE bluegreen.state SET opened_at = clock_timestamp() WHERE migration = {}; COMMIT",
                ident(dbname),
                crate::ident::literal(migration)
            ))
            .await
            .doing(doing)?;
    }
    let row = session
        .query_typed_opt(
            "SELECT opened_at::text FROM bluegreen.state WHERE migration = $1",
            &[(&migration, Type::TEXT)],
        )
        .await
        .doing(doing)?;
    match row.and_then(|r| r.get::<_, Option<String>>(0)) {
        Some(opened) => sweep(session, migration, Some(opened)).await,
        None => Ok(()),
    }
}

/// Ends every client of this database but ours (those older than `before`, if given) and returns when they are gone.
pub(crate) async fn sweep(session: &Session, migration: &str, before: Option<String>) -> Result<()> {
    let doing = "end the clients' sessions";
    let ours = [application_name(migration), copy_application_name(migration)];
    let until = Instant::now() + GONE_WITHIN;
    let (mut ended, mut starting): (HashSet<i32>, Option<HashSet<i32>>) = (HashSet::new(), None);
    loop {
        let rows = session
            .query_typed(PRESENT, &[(&ours.as_slice(), Type::TEXT_ARRAY), (&before, Type::TEXT)])
            .await
            .doing(doing)?;
        let now = |start: bool| -> HashSet<i32> {
            rows.iter()
                .filter(|r| r.get::<_, bool>(1) == start)
                .map(|r| r.get(0))
                .collect()
        };
        let (clients, starting_now) = (now(false), now(true));
        let first = starting.is_none();
        let were_starting = starting.get_or_insert_with(|| starting_now.clone());
        // Who came later read the new settings; who was starting when we looked may not have.
        let victims: Vec<i32> = clients
            .iter()
            .filter(|pid| (first || were_starting.contains(pid)) && !ended.contains(pid))
            .copied()
            .collect();
        if !victims.is_empty() {
            session
                .query_typed(
                    "SELECT pg_terminate_backend(pid) FROM unnest($1) AS pid",
                    &[(&victims, Type::INT4_ARRAY)],
                )
                .await
                .doing(doing)?;
            ended.extend(&victims);
        }
        let still = ended.iter().filter(|pid| clients.contains(pid)).count()
            + were_starting.iter().filter(|pid| starting_now.contains(pid)).count();
        if victims.is_empty() && still == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(fault(
                Kind::Timeout,
                doing,
                format!("{still} sessions are still there after {GONE_WITHIN:?}"),
            ));
        }
        tokio::task::yield_now().await;
    }
}
