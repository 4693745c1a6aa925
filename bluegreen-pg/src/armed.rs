//! What a cut-over needs and can have before its pause: sessions that are open, statements that are prepared.

use crate::catalog;
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::guard::{Guard, KEY};
use crate::ident::mirror_name;
use crate::keeper::Pause;
use crate::marker;
use crate::replicator::Context;
use crate::sequences::Sequences;
use crate::writers::is_client;
use crate::{identity, mirror, mirrored, slot, writers};
use bluegreen_core::{Color, Direction, Kind, Position, Result};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio_postgres::Statement;
use tokio_postgres::types::{ToSql, Type};

/// A process that lives but hangs must not hold the lock for ever: the server ends an idle fence after so long.
pub(crate) const FENCE_AT_MOST: Duration = Duration::from_secs(30);

/// The sessions and statements of a cut-over to `to`; `from` is the side that writes now.
#[derive(Debug)]
pub(crate) struct Armed {
    pub(crate) to: Color,
    /// Holds the table lock, and does nothing else.
    pub(crate) lock: Arc<Session>,
    pub(crate) lock_pid: i32,
    /// Moves the marker, makes read-only, ends sessions.
    pub(crate) from: Session,
    pub(crate) from_pid: i32,
    /// Reads beside it: checks, sequences.
    pub(crate) from_reads: Session,
    /// Proves.
    pub(crate) proof: Session,
    /// Advances the reverse slot, sets sequences, opens.
    pub(crate) to_writes: Session,
    pub(crate) statements: Statements,
    pub(crate) sequences: Sequences,
    lock_tables: String,
    lock_settings: String,
    pub(crate) origin: String,
    /// Whether the table lock is held.
    pub(crate) held: bool,
    /// Whether the old writer is durably read-only and its clients are gone.
    pub(crate) handed_over: bool,
    /// When the lock was taken, by the server's clock.
    pub(crate) fenced_at: Option<String>,
    /// Whether a guard can be set here at all.
    pub(crate) may_guard: bool,
    pub(crate) guard: Option<Guard>,
    /// Whether the other side may have been opened.
    pub(crate) promoting: bool,
    /// Keeps the keeper off the slot during the pause.
    pub(crate) quiet: Option<Pause>,
    /// Keeps the guard of the log from giving a mirror up in the pause.
    pub(crate) whole: Option<OwnedMutexGuard<()>>,
    /// What arming needed: to end a session costs its server milliseconds, and they would be the pause's.
    pub(crate) spent: Vec<Session>,
    /// How often the proof was asked for, to look at the worker now and then.
    pub(crate) asked: u32,
}

/// Prepared, each on the session that runs it.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) writer_check: Statement,
    pub(crate) other_writers: Statement,
    pub(crate) move_marker: Statement,
    pub(crate) follower_check: Statement,
    pub(crate) proof: Proof,
    pub(crate) begin_after: BeginAfter,
}

/// Lets an idle subscription begin after a point of the other side's log, whatever its slot says: what the slot was advanced
/// past is sent again after a crash of its server, and would be applied to where it came from. Nothing where we may not.
#[derive(Debug)]
pub(crate) struct BeginAfter(Option<Statement>);

impl BeginAfter {
    const SQL: &str = "SELECT pg_replication_origin_advance('pg_' || oid, $2::text::pg_lsn) FROM pg_subscription \
     WHERE subname = $1 AND NOT subenabled AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

    /// On the session that will run it.
    pub(crate) async fn prepare(session: &Session) -> Result<Self> {
        if !catalog::may_execute(&**session, "pg_replication_origin_advance(text, pg_lsn)").await? {
            return Ok(Self(None));
        }
        let types = [Type::NAME, Type::TEXT];
        let statement = session.prepare_typed(Self::SQL, &types).await;
        Ok(Self(Some(statement.doing("prepare the way back")?)))
    }

    pub(crate) async fn run(&self, session: &Session, subscription: &str, at: &str) -> Result<()> {
        let Some(statement) = &self.0 else { return Ok(()) };
        let doing = "let the way back begin after the proof";
        let begun = session.query(statement, &[&subscription, &at]).await.doing(doing)?;
        if begun.len() == 1 {
            return Ok(());
        }
        let why = format!("its subscription {subscription} is gone, or runs");
        Err(fault(Kind::Diverged, doing, why))
    }
}

/// How it is proved that the follower has the marker durably.
#[derive(Debug)]
pub(crate) enum Proof {
    /// The origin's progress, flushed.
    Origin(Statement),
    /// The marker is seen, then a commit of our own is flushed.
    OwnCommit(Statement, Statement),
}

/// Who has a transaction id here and is not queued behind a lock; what is queued is ended later.
const OTHER_WRITERS: &str = concat!(
    "SELECT format('pid %s of %s since %s', pid, coalesce(usename, '?'), coalesce(xact_start::text, '?')) \
     FROM pg_stat_activity WHERE datname = current_database() AND ",
    is_client!(),
    " \
     AND backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND application_name <> $1 \
     AND wait_event_type IS DISTINCT FROM 'Lock'"
);

impl Armed {
    /// Opens and prepares everything for a cut-over to `to`.
    pub(crate) async fn open(context: &Context, to: Color) -> Result<Self> {
        let settings = &context.settings;
        let from = to.other();
        let direction = Direction::to(to);
        let (lock, writer, from_reads, proof, to_writes) = tokio::try_join!(
            settings.connect_guard(from),
            settings.connect(from),
            settings.connect(from),
            settings.connect(to),
            settings.connect(to),
        )?;
        identity::check(context, direction, &writer, &proof).await?;
        let doing = "prepare the cut-over";
        // Whoever has synchronous_commit off waits 200 ms for the log writer; the marker must not.
        let at_once = "SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan";
        // Planned when it is rehearsed, and not again.
        let planned = "SET plan_cache_mode = force_generic_plan";
        tokio::try_join!(
            writer.batch_execute(at_once),
            to_writes.batch_execute(at_once),
            from_reads.batch_execute(planned),
            proof.batch_execute(planned),
        )
        .doing(doing)?;
        let subscription = mirror::look(&proof, &mirror_name(&settings.name, direction))
            .await?
            .ok_or_else(|| fault(Kind::NotFound, doing, format!("there is no mirror {direction}")))?;
        let by_origin = catalog::may_execute(&*proof, "pg_replication_origin_progress(text, boolean)").await?;
        let proof_of = if by_origin {
            let types = [Type::TEXT, Type::INT8, Type::TEXT, Type::TEXT];
            Proof::Origin(proof.prepare_typed(marker::PROOF, &types).await.doing(doing)?)
        } else {
            proof.batch_execute("SET synchronous_commit = on").await.doing(doing)?;
            Proof::OwnCommit(
                proof.prepare(marker::ARRIVED).await.doing(doing)?,
                proof.prepare(marker::OWN_COMMIT).await.doing(doing)?,
            )
        };
        let statements = Statements {
            begin_after: BeginAfter::prepare(&from_reads).await?,
            writer_check: from_reads.prepare(&mirrored::writer_check()).await.doing(doing)?,
            other_writers: from_reads.prepare(OTHER_WRITERS).await.doing(doing)?,
            move_marker: writer.prepare(marker::MOVE).await.doing(doing)?,
            follower_check: to_writes.prepare(&mirrored::follower_check()).await.doing(doing)?,
            proof: proof_of,
        };
        let tables: Vec<String> = catalog::lockable(&lock)
            .await?
            .iter()
            .map(|t| format!("ONLY {t}"))
            .collect();
        let lock_tables = if tables.is_empty() {
            String::new()
        } else {
            format!("LOCK TABLE {} IN EXCLUSIVE MODE", tables.join(", "))
        };
        // An autovacuum that is in the way is ended by the deadlock check; that must come before our time is out.
        let superuser = catalog::is_superuser(&*lock).await?;
        let hurry = catalog::hurry(&*lock).await?;
        let (lock_pid, from_pid) = (pid(&lock).await?, pid(&writer).await?);
        // Only who may end anybody's session may leave it for later; and the server must know the language.
        let may_guard = superuser
            && writer
                .query_one(
                    &format!(
                        "SELECT pg_try_advisory_lock({KEY}) AND EXISTS (SELECT FROM pg_language WHERE lanname = 'plpgsql')"
                    ),
                    &[&from_pid.to_string()],
                )
                .await
                .doing(doing)?
                .get::<_, bool>(0);
        let sequences = Sequences::prepare(&from_reads, &to_writes).await?;
        let values = sequences.read(&from_reads).await?;
        sequences.set(&to_writes, values).await?;
        if !tables.is_empty() {
            // The names are looked up now; readers and writers do not notice.
            lock.batch_execute(&format!(
                "BEGIN; LOCK TABLE {} IN ACCESS SHARE MODE; ROLLBACK",
                tables.join(", ")
            ))
            .await
            .doing(doing)?;
        }
        tokio::try_join!(
            writers::rehearse(&writer, &settings.name, settings.server(from).conninfo().dbname()),
            writers::rehearse(&to_writes, &settings.name, settings.server(to).conninfo().dbname()),
            writers::rehearse_ending(&from_reads, &settings.name),
        )?;
        Ok(Self {
            to,
            lock: Arc::new(lock),
            from: writer,
            from_reads,
            proof,
            to_writes,
            statements,
            sequences,
            lock_tables,
            lock_settings: format!(
                "{hurry}SET LOCAL idle_in_transaction_session_timeout = {}",
                FENCE_AT_MOST.as_millis()
            ),
            origin: format!("pg_{}", subscription.oid),
            held: false,
            handed_over: false,
            promoting: false,
            fenced_at: None,
            may_guard,
            guard: None,
            lock_pid,
            from_pid,
            quiet: None,
            whole: None,
            spent: Vec::new(),
            asked: 0,
        })
    }

    /// Takes the lock on all tables, or nothing.
    pub(crate) async fn try_lock(&self, wait: Duration) -> Result<(), tokio_postgres::Error> {
        let sql = format!(
            "BEGIN; {}; SET LOCAL lock_timeout = {}; {}",
            self.lock_settings,
            wait.as_millis().max(1),
            self.lock_tables
        );
        self.lock.batch_execute(&sql).await
    }

    /// Fails where the session that locks the tables is gone, and the lock with it.
    pub(crate) async fn still_locks(&self) -> Result<()> {
        let asked = self.lock.batch_execute("SELECT 1").await;
        asked.doing("see that the table lock is still held")
    }

    /// Whether the session that holds the lock is still there. Refuses where `from` was opened meanwhile.
    pub(crate) async fn fence_stands(&self, from: Color) -> Result<bool> {
        let (closed, there) = self.fence_seen().await?;
        if closed { Ok(there) } else { Err(opened_again(from)) }
    }

    /// Whether the old writer is read-only by default, and the session that holds the lock is there.
    pub(crate) async fn fence_seen(&self) -> Result<(bool, bool)> {
        static ASKED: LazyLock<String> = LazyLock::new(|| {
            format!(
                "SELECT {}, EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)",
                writers::CLOSED
            )
        });
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&self.lock_pid, Type::INT4)];
        let doing = "look whether the fence still stands";
        let rows = self
            .from_reads
            .query_prepared(ASKED.as_str(), &params)
            .await
            .doing(doing)?;
        Ok(rows.first().map_or((false, false), |row| (row.get(0), row.get(1))))
    }

    /// Moves the idle mirror `back` to the end of the log: its slot, and its subscription, since a slot that was moved goes back
    /// with a crash of its server.
    pub(crate) async fn begin_way_back(&self, back: &str) -> Result<()> {
        let at = slot::advance(&self.to_writes, back).await?;
        self.statements.begin_after.run(&self.from_reads, back, &at).await
    }

    /// Whether one of its sessions broke.
    pub(crate) fn is_closed(&self) -> bool {
        [&*self.lock, &self.from, &self.from_reads, &self.proof, &self.to_writes]
            .iter()
            .any(|s| s.is_closed())
    }

    /// Lets go of the lock.
    pub(crate) async fn unlock(&mut self) -> Result<()> {
        self.call_guard_off().await?;
        self.lock
            .batch_execute("ROLLBACK")
            .await
            .doing("let go of the table lock")?;
        self.held = false;
        Ok(())
    }
}

/// The old writer may have what the new one has not.
pub(crate) fn opened_again(from: Color) -> bluegreen_core::Error {
    let why = format!(
        "{from} accepts writes again since the hand-over: it may have what {} has not",
        from.other()
    );
    fault(Kind::Diverged, "open the new writer", why)
}

async fn pid(session: &Session) -> Result<i32> {
    let row = session
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .doing("prepare the cut-over")?;
    Ok(row.get(0))
}

/// What a [`Position`] says: whose log, the marker's token, and the point in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) color: Color,
    pub(crate) token: i64,
    pub(crate) lsn: String,
}

impl Mark {
    pub(crate) fn position(&self) -> Position {
        Position::new(format!("{} {} {}", self.color, self.token, self.lsn))
    }

    pub(crate) fn read(position: &Position) -> Result<Self> {
        let mut words = position.as_str().split(' ');
        let parsed = (|| {
            let color = match words.next()? {
                "blue" => Color::Blue,
                "green" => Color::Green,
                _ => return None,
            };
            let token = words.next()?.parse().ok()?;
            let lsn = words.next().filter(|l| l.contains('/'))?.to_owned();
            Some(Self { color, token, lsn })
        })();
        parsed.ok_or_else(|| {
            fault(
                Kind::InvalidInput,
                "read the position",
                format!("{position} is not one that this replicator made"),
            )
        })
    }
}
