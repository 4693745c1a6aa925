//! Who may write: the read-only default of a database, which outlives us, and the sessions that do not know of it yet.

use crate::connect::Session;
use crate::error::{Doing, describe, fault};
use crate::ident::{application_name, copy_application_name, guard_application_name, ident, literal};
use bluegreen_core::{Kind, Result};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

/// How long terminated sessions may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Whether a session of `pg_stat_activity` is a client's: jobs that an extension runs in the background are clients too.
macro_rules! is_client {
    () => {
        "backend_type !~ '^(autovacuum|logical replication|parallel|wal|background writer|checkpointer|startup|archiver|slotsync|io )'"
    };
}
pub(crate) use is_client;

/// Roles that managed services keep for themselves: superusers, of whom nothing can be changed there.
macro_rules! services_own {
    () => {
        "('rdsadmin', 'cloudsqladmin', 'cloudsqlagent', 'alloydbadmin', 'azuresu')"
    };
}
pub(crate) use services_own;

/// Clients of this database that are not ours, and processes still starting up in it; those of the clients that `$3`
/// lists (all, when it is null) are told to end. A session that is starting holds a lock on its database until it has
/// read the database's settings and shows itself: without looking there, one that read the old settings could appear
/// after we looked. The last column: a superuser's, which only a superuser may end; a managed service's own are no
/// application's. `$1`: our application names; `$2`: only clients older than that.
const PRESENT: &str = concat!(
    "SELECT a.pid, false, a.state IS DISTINCT FROM 'idle', \
     CASE WHEN r.rolsuper AND NOT me.rolsuper THEN false \
      WHEN $3 IS NULL OR a.pid = ANY ($3) THEN pg_terminate_backend(a.pid) ELSE false END, \
     r.rolsuper AND NOT me.rolsuper \
     FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid JOIN pg_roles me ON me.rolname = current_user \
     WHERE a.datname = current_database() AND ",
    is_client!(),
    " AND a.pid <> pg_backend_pid() \
     AND a.application_name <> ALL ($1) AND ($2 IS NULL OR a.backend_start < $2::timestamptz) \
     AND (me.rolsuper OR r.rolname NOT IN ",
    services_own!(),
    ") UNION ALL SELECT l.pid, true, true, false, false \
     FROM pg_locks l JOIN pg_database d ON d.oid = l.objid AND d.datname = current_database() \
     WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted \
     AND l.pid <> pg_backend_pid()"
);

/// The processes that are starting up in this database.
pub(crate) const STARTING: &str = "SELECT l.pid \
     FROM pg_locks l JOIN pg_database d ON d.oid = l.objid AND d.datname = current_database() \
     WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted \
     AND l.pid <> pg_backend_pid()";

/// The application names that are never ended.
pub(crate) fn ours(migration: &str) -> [String; 3] {
    [
        application_name(migration),
        copy_application_name(migration),
        guard_application_name(migration),
    ]
}

/// Whether the database is read-only by default, as a condition.
pub(crate) const CLOSED: &str = "EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
     WHERE d.datname = current_database() AND s.setrole = 0 \
     AND 'default_transaction_read_only=on' = ANY (s.setconfig))";

/// Whether the database is read-only by default.
pub(crate) async fn is_closed(session: &Session) -> Result<bool> {
    let row = session
        .query_typed_one(&format!("SELECT {CLOSED}"), &[])
        .await
        .doing("read whether the database is read-only")?;
    Ok(row.get(0))
}

/// Ends the session that holds the table lock, whoever began it: a process that hangs, or that the network cut off, would
/// keep the tables locked. Nobody calls it whose own fence is to hold.
pub(crate) async fn end_fence(session: &Session, migration: &str) -> Result<()> {
    let doing = "end the fence that another process left";
    let until = Instant::now() + GONE_WITHIN;
    let name = guard_application_name(migration);
    loop {
        let rows = session
            .query_typed(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = $1",
                &[(&name, Type::TEXT)],
            )
            .await
            .doing(doing)?;
        if rows.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(fault(
                Kind::Timeout,
                doing,
                format!("it is still there after {GONE_WITHIN:?}"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Makes the database read-only for good, and ends every client that does not know it.
pub(crate) async fn close(session: &Session, migration: &str, dbname: &str) -> Result<()> {
    close_by_default(session, dbname).await?;
    sweep(session, migration, None).await
}

/// Only the first half of it: sessions that begin from now on are read-only.
pub(crate) async fn close_by_default(session: &Session, dbname: &str) -> Result<()> {
    session
        .batch_execute(&closing(dbname))
        .await
        .doing("make the database read-only")
}

fn closing(dbname: &str) -> String {
    format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        ident(dbname)
    )
}

fn opening(migration: &str, dbname: &str) -> String {
    format!(
        "ALTER DATABASE {} RESET default_transaction_read_only; UPDATE bluegreen.state \
         SET opened_at = clock_timestamp(), shut = false WHERE migration = {} RETURNING opened_at::text",
        ident(dbname),
        literal(migration)
    )
}

/// Makes a database that is closed writable, and ends every client that still has the read-only default.
pub(crate) async fn open(session: &Session, migration: &str, dbname: &str) -> Result<()> {
    let doing = "make the database writable";
    // The time after the commit: who logged in while it was made durable still has the old settings.
    let sql = format!(
        "BEGIN; {}; COMMIT; SELECT clock_timestamp()::text",
        opening(migration, dbname)
    );
    let said = match session.simple_query(&sql).await {
        Ok(said) => said,
        Err(e) => {
            if let Err(e) = session.batch_execute("ROLLBACK").await {
                tracing::debug!(error = %describe(&e), "a session is not used again");
            }
            return Err(e).doing(doing);
        }
    };
    let rows: Vec<_> = said
        .iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect();
    let [_, opened] = <[String; 2]>::try_from(rows).map_err(|_| {
        fault(
            Kind::Diverged,
            doing,
            "the schema bluegreen does not know this migration there",
        )
    })?;
    sweep(session, migration, Some(opened)).await
}

/// [`open`], and [`open_again`] the second time.
pub(crate) async fn open_once(session: &Session, migration: &str, dbname: &str, again: bool) -> Result<()> {
    if again {
        open_again(session, migration, dbname).await
    } else {
        open(session, migration, dbname).await
    }
}

/// [`open`], or what a crash left undone of it: only clients that are older than the opening are ended.
pub(crate) async fn open_again(session: &Session, migration: &str, dbname: &str) -> Result<()> {
    if is_closed(session).await? {
        return open(session, migration, dbname).await;
    }
    let row = session
        .query_opt(
            "SELECT opened_at::text FROM bluegreen.state WHERE migration = $1",
            &[&migration],
        )
        .await
        .doing("make the database writable")?;
    match row.and_then(|r| r.get::<_, Option<String>>(0)) {
        Some(opened) => sweep(session, migration, Some(opened)).await,
        None => Ok(()),
    }
}

/// Runs what the pause will run, without any effect: a session's first look at a catalogue is slow.
pub(crate) async fn rehearse(session: &Session, migration: &str, dbname: &str) -> Result<()> {
    let doing = "rehearse the pause";
    for sql in [closing(dbname), opening(migration, dbname)] {
        session
            .batch_execute(&format!("BEGIN; {sql}; ROLLBACK"))
            .await
            .doing(doing)?;
    }
    rehearse_ending(session, migration).await
}

/// The same for a session that only ends clients.
pub(crate) async fn rehearse_ending(session: &Session, migration: &str) -> Result<()> {
    let seen = look(session, migration, &None, Some(&[])).await?;
    if is_closed(session).await? {
        // A mirror: it is opened, and who comes there is not ended.
        return Ok(());
    }
    all_can_be_ended(&seen.beyond)
}

/// The clients that we may not end.
pub(crate) async fn beyond_us(session: &Session, migration: &str) -> Result<Vec<i32>> {
    let mut pids = look(session, migration, &None, Some(&[])).await?.beyond;
    pids.sort_unstable();
    Ok(pids)
}

/// A session that cannot be ended could write at the old writer after the new one was opened.
fn all_can_be_ended(beyond: &[i32]) -> Result<()> {
    if beyond.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = beyond.iter().map(ToString::to_string).collect();
    Err(fault(
        Kind::Conflict,
        "end the clients' sessions",
        format!(
            "superusers are connected, whom we may not end: pid {}. Let them disconnect, or a superuser end them: SELECT \
             pg_terminate_backend({})",
            pids.join(", "),
            pids[0]
        ),
    ))
}

/// What one look saw.
struct Seen {
    /// Clients, and whether they are doing something.
    clients: HashMap<i32, bool>,
    starting: HashSet<i32>,
    /// Clients that we may not end.
    beyond: Vec<i32>,
}

async fn look(session: &Session, migration: &str, before: &Option<String>, only: Option<&[i32]>) -> Result<Seen> {
    let rows = session
        .query_prepared(
            PRESENT,
            &[
                (&ours(migration).as_slice(), Type::TEXT_ARRAY),
                (before, Type::TEXT),
                (&only, Type::INT4_ARRAY),
            ],
        )
        .await
        .doing("end the clients' sessions")?;
    let mut seen = Seen {
        clients: HashMap::new(),
        starting: HashSet::new(),
        beyond: Vec::new(),
    };
    for row in rows {
        if row.get(1) {
            seen.starting.insert(row.get(0));
        } else if row.get(4) {
            seen.beyond.push(row.get(0));
        } else {
            seen.clients.insert(row.get(0), row.get(2));
        }
    }
    Ok(seen)
}

/// Ends every client of this database but ours (those older than `before`, if given). Returns when none of them can do
/// anything any more: an idle session that has its signal runs no further statement, a busy one is waited for.
pub(crate) async fn sweep(session: &Session, migration: &str, before: Option<String>) -> Result<()> {
    let told = signal(session, migration, before).await?;
    settle(session, migration, told).await
}

/// Who was told to end.
#[derive(Debug)]
pub(crate) struct Told {
    ended: HashSet<i32>,
    /// Who comes later reads the new settings; who was starting may not have: they are ended when they show themselves.
    starting: HashSet<i32>,
    before: Option<String>,
    beyond: Vec<i32>,
}

impl Told {
    /// Whether there was nobody, and nobody was about to come.
    pub(crate) fn nobody(&self) -> bool {
        self.ended.is_empty() && self.starting.is_empty() && self.beyond.is_empty()
    }

    /// Refuses to go on where there is somebody who could not be told.
    pub(crate) fn everybody(&self) -> Result<()> {
        all_can_be_ended(&self.beyond)
    }
}

/// The first half of [`sweep`]: everybody is told.
pub(crate) async fn signal(session: &Session, migration: &str, before: Option<String>) -> Result<Told> {
    let first = look(session, migration, &before, None).await?;
    Ok(Told {
        ended: first.clients.into_keys().collect(),
        starting: first.starting,
        before,
        beyond: first.beyond,
    })
}

/// The second half: returns when none of them can do anything any more.
pub(crate) async fn settle(session: &Session, migration: &str, told: Told) -> Result<()> {
    let started = Instant::now();
    let until = started + GONE_WITHIN;
    let Told {
        mut ended,
        mut starting,
        before,
        beyond,
    } = told;
    if !beyond.is_empty() {
        tracing::warn!(?beyond, "superusers' sessions go on: we may not end them");
    }
    // A client that is ended because it cannot write does no harm while it goes.
    if starting.is_empty() && (ended.is_empty() || before.is_some()) {
        return Ok(());
    }
    loop {
        let suspects: Vec<i32> = starting.iter().copied().collect();
        let seen = look(session, migration, &before, Some(&suspects)).await?;
        ended.extend(suspects.iter().filter(|pid| seen.clients.contains_key(pid)));
        let waited_for = starting.len();
        starting.retain(|pid| !seen.clients.contains_key(pid) && seen.starting.contains(pid));
        let busy = ended.iter().filter(|pid| seen.clients.get(pid) == Some(&true)).count();
        // Those who have just shown themselves and got their signal are looked at once more.
        if busy == 0 && waited_for == 0 {
            tracing::debug!(elapsed = ?started.elapsed(), ended = ended.len(), "nobody can write any more");
            return Ok(());
        }
        if Instant::now() > until {
            return Err(fault(
                Kind::Timeout,
                "end the clients' sessions",
                format!("{busy} sessions are still at work after {GONE_WITHIN:?}"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
