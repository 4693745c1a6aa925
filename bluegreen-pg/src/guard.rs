//! The guard: idle sessions at the old writer are ended after the pause and not in it, by the old writer's server itself.
//!
//! Ending a session costs its server milliseconds, and eight of them cost more than all the rest of a pause. So, where
//! every client has been silent since the fence, the session that holds the table lock is given a block to run: it waits
//! for an advisory lock that another session of ours holds, ends every client that began before, sees that they are gone,
//! and only then lets go of the tables. The advisory lock is released by the promotion, or by our death, and not waited
//! for without end, because a death is not always heard of: in any case the server goes on by itself, and nobody who could
//! still write ever finds the tables unlocked.

use crate::armed::{Armed, FENCE_AT_MOST};
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::{application_name, guard_application_name, literal};
use crate::writers::{STARTING, is_client, ours};
use bluegreen_core::{Kind, Result};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};

/// How long the block may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);

/// How long the block tries to lock a catalogue, in milliseconds. Not had, a table that is made in the pause's last
/// milliseconds would stay behind.
const CATALOGUE_MS: u32 = 20;

/// How long somebody's open transaction that began before the catalogue was locked is waited for.
const OTHERS_WITHIN: Duration = Duration::from_millis(500);

/// What undoes the inner block.
const RELEASE: &str = "BG001";

/// How many times more it ends those who queue at the tables when nobody else is left: they know that the database is
/// read-only, and who comes again and again must not keep it at work for ever.
const LATE: u32 = 40;

/// A block that runs at the server, on the session that holds the table lock.
#[derive(Debug)]
pub(crate) struct Guard {
    running: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Guard {
    /// Whether it no longer runs.
    pub(crate) fn is_over(&self) -> bool {
        self.running.is_finished()
    }

    /// Waits until its work is done.
    pub(crate) async fn done(self) -> Result<()> {
        let doing = "end the old writer's silent clients";
        match tokio::time::timeout(FENCE_AT_MOST, self.running).await {
            Ok(Ok(ended)) => ended.doing(doing),
            Ok(Err(e)) => Err(fault(Kind::Unexpected, doing, e.to_string())),
            Err(_) => Err(fault(Kind::Timeout, doing, format!("no end after {FENCE_AT_MOST:?}"))),
        }
    }
}

/// The advisory lock's key: of the session that holds it, so that two cut-overs never share one.
pub(crate) const KEY: &str = "hashtextextended('bluegreen guard ' || $1, 0)";

/// Clients that did something since `$2`, or cannot be ended by the guard. `$1`: our application names.
const NOT_SILENT: &str = concat!(
    "SELECT count(*), count(*) FILTER (WHERE state IS DISTINCT FROM 'idle' OR state_change > $2::timestamptz) \
     FROM pg_stat_activity WHERE datname = current_database() AND ",
    is_client!(),
    " \
     AND pid <> pg_backend_pid() AND application_name <> ALL ($1)"
);

/// Who has a transaction id here, and does not wait for `$2`, which holds the tables and the catalogue. `$1`: our application name.
const STILL_WRITES: &str = concat!(
    "SELECT format('pid %s of %s since %s', pid, coalesce(usename, '?'), coalesce(xact_start::text, '?')) \
     FROM pg_stat_activity WHERE datname = current_database() AND ",
    is_client!(),
    " \
     AND backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND application_name <> $1 AND pid <> $2 \
     AND CASE WHEN wait_event_type = 'Lock' THEN $2 <> ALL (pg_blocking_pids(pid)) ELSE true END"
);

impl Armed {
    /// Whether the guard can be left to end the clients: there are some, and none did anything since the fence. A client
    /// that breaks its silence afterwards can take a number of a sequence, but can write nothing; once the guard is set it can make
    /// neither a table nor a large object, and what it made just before is looked for ([`nobody_else_writes`](Self::nobody_else_writes)).
    pub(crate) async fn can_be_guarded(&self, migration: &str) -> Result<bool> {
        if !self.may_guard {
            return Ok(false);
        }
        let rows = self
            .from_reads
            .query_prepared(
                NOT_SILENT,
                &[
                    (&ours(migration).as_slice(), Type::TEXT_ARRAY),
                    (&self.fenced_at, Type::TEXT),
                ],
            )
            .await
            .doing("look whether clients are silent")?;
        Ok(rows
            .iter()
            .any(|row| row.get::<_, i64>(0) > 0 && row.get::<_, i64>(1) == 0))
    }

    /// Gives the block to the session that holds the table lock. Running, it holds the lock, whatever happens to us.
    pub(crate) fn set_guard(&mut self, migration: &str) {
        let sql = block(migration, self.from_pid);
        let lock = self.lock.clone();
        self.guard = Some(Guard {
            running: tokio::spawn(async move { lock.batch_execute(&sql).await }),
        });
    }

    /// Returns when the guard runs.
    pub(crate) async fn guard_is_set(&self) -> Result<()> {
        let doing = "set the guard";
        let until = Instant::now() + BEGINS_WITHIN;
        loop {
            if self.guard_waits().await.doing(doing)? {
                return Ok(());
            }
            let ended = self.guard.as_ref().is_some_and(|g| g.running.is_finished());
            if ended || Instant::now() > until {
                return Err(fault(Kind::Unexpected, doing, "the server did not begin to run it"));
            }
            tokio::task::yield_now().await;
        }
    }

    /// Whether the guard is at work and waits for us.
    pub(crate) async fn guard_waits(&self) -> Result<bool, tokio_postgres::Error> {
        let waiting = "SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted";
        let rows = self
            .from_reads
            .query_prepared(waiting, &[(&self.lock_pid, Type::INT4)])
            .await?;
        Ok(!rows.is_empty())
    }

    /// Whether what holds the tables still does: without a guard the session does, for as long as it is there.
    pub(crate) async fn still_guards(&self) -> Result<bool> {
        match &self.guard {
            None => Ok(true),
            Some(guard) => {
                Ok(!guard.is_over() && self.guard_waits().await.doing("look whether the guard still waits")?)
            }
        }
    }

    /// Refuses where somebody has a transaction that may have made something, now that the catalogue is locked: a lock on a catalogue
    /// is held for a statement only, so who made a table before ours has none, and nobody else sees that table before he commits.
    /// Who waits for us is ended by the guard.
    pub(crate) async fn nobody_else_writes(&self, migration: &str) -> Result<()> {
        let until = Instant::now() + OTHERS_WITHIN;
        loop {
            let who = self.still_writing(migration).await?;
            if who.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                let why = format!("they did not end within {OTHERS_WITHIN:?}: {}", who.join("; "));
                return Err(fault(Kind::Timeout, "look for other writers once more", why));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Who has a transaction that wrote, and does not wait for the guard.
    pub(crate) async fn still_writing(&self, migration: &str) -> Result<Vec<String>> {
        let ours = application_name(migration);
        let params: [(&(dyn ToSql + Sync), Type); 2] = [(&ours, Type::TEXT), (&self.lock_pid, Type::INT4)];
        let rows = self.from_reads.query_prepared(STILL_WRITES, &params).await;
        let rows = rows.doing("look for other writers once more")?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Lets the guard do its work; it no longer needs us.
    pub(crate) async fn release_guard(&self) -> Result<()> {
        self.from
            .query_typed(
                &format!("SELECT pg_advisory_unlock({KEY})"),
                &[(&self.from_pid.to_string(), Type::TEXT)],
            )
            .await
            .doing("let the guard do its work")?;
        Ok(())
    }

    /// Calls the guard off: nobody is ended. The lock's transaction is over then, but for its rollback.
    pub(crate) async fn call_guard_off(&mut self) -> Result<()> {
        let Some(guard) = self.guard.take() else { return Ok(()) };
        self.from
            .query_typed("SELECT pg_cancel_backend($1)", &[(&self.lock_pid, Type::INT4)])
            .await
            .doing("call the guard off")?;
        match guard.running.await {
            // It ends with the cancellation, which is what was asked for.
            Ok(_) => Ok(()),
            Err(e) => Err(fault(Kind::Unexpected, "call the guard off", e.to_string())),
        }
    }
}

fn block(migration: &str, key: i32) -> String {
    let names: Vec<String> = ours(migration).iter().map(|n| literal(n)).collect();
    let clients = format!(
        "datname = current_database() AND {} AND pid <> pg_backend_pid() \
         AND application_name NOT IN ({}) AND (backend_start < begun OR pid = ANY (starting) OR wait_event_type = 'Lock')",
        is_client!(),
        names.join(", ")
    );
    let at_most = FENCE_AT_MOST.as_millis();
    // The catalogues are locked for as long as it waits: no lock on the tables that are there keeps a client that breaks its silence
    // from making another, or a large object, and nobody would look at that again. They are let go by undoing the inner block, once
    // everybody has been told to end: who has temporary tables needs the catalogue to go.
    let catalogues: String = ["pg_class", "pg_largeobject_metadata, pg_catalog.pg_largeobject"]
        .iter()
        .map(|tables| {
            format!(
                "BEGIN
               PERFORM set_config('lock_timeout', '{CATALOGUE_MS}', true);
               LOCK TABLE pg_catalog.{tables} IN SHARE MODE;
             EXCEPTION WHEN lock_not_available THEN
               RAISE LOG 'bluegreen: {tables}: in use, and not locked';
             END;
             "
            )
        })
        .collect();
    let body = format!(
        "DECLARE begun timestamptz := clock_timestamp(); starting int[]; seen bigint; old bigint; late int := 0;
         BEGIN
           PERFORM set_config('client_connection_check_interval', '0', true);
           starting := array(SELECT pid FROM ({STARTING}) AS s (pid));
           BEGIN
             {catalogues}PERFORM set_config('lock_timeout', '{at_most}', true);
             PERFORM pg_advisory_xact_lock({});
             PERFORM pg_stat_clear_snapshot();
             PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE {clients};
             RAISE SQLSTATE '{RELEASE}';
           EXCEPTION
             WHEN lock_not_available THEN RAISE LOG 'bluegreen: the process that set the guard is not heard of';
             WHEN SQLSTATE '{RELEASE}' THEN NULL;
           END;
           LOOP
             PERFORM pg_stat_clear_snapshot();
             SELECT count(pg_terminate_backend(pid)), count(*) FILTER (WHERE backend_start < begun OR pid = ANY (starting))
               INTO seen, old FROM pg_stat_activity WHERE {clients};
             SELECT old + count(*) INTO old FROM ({STARTING}) AS s (pid) WHERE s.pid = ANY (starting);
             late := CASE WHEN old = 0 THEN late + 1 ELSE 0 END;
             EXIT WHEN old = 0 AND (seen = 0 OR late > {LATE});
             PERFORM pg_sleep(0.005);
           END LOOP;
         END",
        KEY.replace("$1", &literal(&key.to_string()))
    );
    format!("DO {}; ROLLBACK", literal(&body))
}

/// Waits until no guard is at work at this server any more.
pub(crate) async fn wait_for_guard(session: &Session, migration: &str, within: Duration) -> Result<()> {
    let doing = "wait for the guard to end the old writer's clients";
    let until = Instant::now() + within;
    loop {
        let row = session
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 \
                 AND state = 'active'",
                &[&guard_application_name(migration)],
            )
            .await
            .doing(doing)?;
        if row.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(fault(
                Kind::Timeout,
                doing,
                format!("after {within:?} a client's session is still there"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
