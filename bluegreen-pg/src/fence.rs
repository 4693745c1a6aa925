//! The fence and the proof: writes stop at one side, and the other durably has everything before.

use crate::armed::{Armed, Mark, Proof};
use crate::connect::Session;
use crate::error::{Doing, PgError, describe, fault};
use crate::replicator::PgReplicator;
use crate::{marker, mirror, mirrored, obstacles};
use bluegreen_core::{Color, Direction, Kind, Position, Result};
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

/// How long a rehearsal queues for the table lock.
const REHEARSE_LOCK: Duration = Duration::from_millis(5);

/// After so many questions without a yes, the worker is looked at as well.
const LOOK_EVERY: u32 = 50;

impl PgReplicator {
    /// See `Replicator::fence`.
    pub(crate) async fn take_fence(&self, color: Color, within: Duration) -> Result<Position> {
        let to = color.other();
        let until = Instant::now() + within;
        // Taken out, and put back when done: if this future is dropped, the sessions go and with them the lock.
        let ready = self.armed.lock().await.take().filter(|a| a.to == to && !a.is_closed());
        let mut armed = match ready {
            Some(armed) => armed,
            None => Box::pin(Armed::open(&self.context, to)).await?,
        };
        armed.quiet = self.keeper().as_ref().map(crate::keeper::Keeper::pause);
        armed.whole = None;
        // It is held for as long as a mirror is given up: then there is nothing to cut over to.
        let whole = tokio::time::timeout(within, self.guards.shared.busy.clone().lock_owned()).await;
        let within_all = async {
            armed.whole = Some(whole.map_err(|_| fault(Kind::Conflict, "fence", "a mirror is being given up"))?);
            self.fence_with(&mut armed, color, until, within).await
        };
        match within_all.await {
            Ok(position) => {
                *self.armed.lock().await = Some(armed);
                Ok(position)
            }
            Err(e) => {
                (armed.quiet, armed.whole) = (None, None);
                if armed.unlock().await.is_ok() {
                    *self.armed.lock().await = Some(armed);
                }
                Err(e)
            }
        }
    }

    async fn fence_with(&self, armed: &mut Armed, color: Color, until: Instant, within: Duration) -> Result<Position> {
        let started = Instant::now();
        let (locked, checked) = tokio::join!(
            self.lock_all(armed, until, within),
            self.check(armed, Direction::from(color))
        );
        checked?;
        locked?;
        armed.held = true;
        tracing::debug!(elapsed = ?started.elapsed(), "fence: locked");
        let name = &self.context.settings.name;
        let (moved, ()) = tokio::try_join!(
            async {
                armed
                    .from
                    .query_one(&armed.statements.move_marker, &[name])
                    .await
                    .doing("move the marker")
            },
            self.no_other_writer(armed, until, within),
        )?;
        tracing::debug!(elapsed = ?started.elapsed(), "fence: marked");
        let mark = Mark {
            color,
            token: moved.get(0),
            lsn: moved.get(1),
        };
        armed.fenced_at = Some(moved.get(2));
        Ok(mark.position())
    }

    /// Runs the pause's questions once, so that they are planned: it would fail now as it would then. Tells how long what a
    /// pause will do took.
    pub(crate) async fn rehearse(&self, armed: &mut Armed) -> Result<Duration> {
        let soon = Instant::now() + Duration::from_secs(5);
        let color = armed.to.other();
        self.check(armed, Direction::from(color)).await?;
        // A lock that is not had at once is let go at once: writers are not made to wait for a rehearsal.
        let started = Instant::now();
        let locked = armed.try_lock(REHEARSE_LOCK).await;
        let locking = started.elapsed();
        armed.unlock().await?;
        if let Err(e) = locked
            && e.code() != Some(&SqlState::LOCK_NOT_AVAILABLE)
        {
            return Err(PgError::from(e)).doing("rehearse the table lock");
        }
        let started = Instant::now();
        let moved = armed
            .from
            .query_one(&armed.statements.move_marker, &[&self.context.settings.name])
            .await
            .doing("move the marker")?;
        let mark = Mark {
            color,
            token: moved.get(0),
            lsn: moved.get(1),
        };
        while !self.ask(armed, &mark).await? {
            if Instant::now() > soon {
                return Err(fault(
                    Kind::Timeout,
                    "rehearse the proof",
                    "the marker did not arrive: the mirror is too far behind",
                ));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ours = crate::ident::application_name(&self.context.settings.name);
        armed
            .from_reads
            .query(&armed.statements.other_writers, &[&ours])
            .await
            .doing("look for other writers")?;
        armed.fenced_at = Some(moved.get(2));
        armed.can_be_guarded(&self.context.settings.name).await?;
        armed.fence_seen().await?;
        if armed.may_guard {
            armed.guard_waits().await.doing("rehearse the guard")?;
            armed.still_writing(&self.context.settings.name).await?;
            armed
                .lock
                .batch_execute("DO 'BEGIN PERFORM pg_stat_clear_snapshot(); END'")
                .await
                .doing("rehearse the guard")?;
        }
        let values = armed.sequences.read(&armed.from_reads).await?;
        armed.sequences.set(&armed.to_writes, values).await?;
        let quiet = self.keeper().as_ref().map(crate::keeper::Keeper::pause);
        if let Some(quiet) = &quiet {
            quiet.quiet().await;
        }
        armed.begin_way_back(&self.name_of(Direction::from(armed.to))).await?;
        Ok(locking + started.elapsed())
    }

    async fn lock_all(&self, armed: &Armed, until: Instant, within: Duration) -> Result<()> {
        let mut tries = 0_u32;
        loop {
            tries += 1;
            let left = until.saturating_duration_since(Instant::now());
            let wait = self.context.options.fence_lock_timeout.min(left);
            let error = match armed.try_lock(wait).await {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            armed
                .lock
                .batch_execute("ROLLBACK")
                .await
                .doing("let go of the table lock")?;
            let passing = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
            if !error.code().is_some_and(|c| passing.contains(c)) {
                return Err(PgError::from(error)).doing("lock the tables");
            }
            tracing::debug!(tries, error = %describe(&error), "fence: not yet");
            if Instant::now() >= until {
                let who = self.who_is_in_the_way(armed).await?;
                return Err(fault(
                    Kind::Timeout,
                    "lock the tables",
                    format!("writers did not drain within {within:?}; in the way: {who}"),
                ));
            }
            // Those who queued behind us get their turn, and two of us do not keep step.
            tokio::time::sleep(jitter().min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn who_is_in_the_way(&self, armed: &Armed) -> Result<String> {
        let who = obstacles::older_than(&armed.from_reads, &self.context.settings.name, Duration::ZERO).await?;
        Ok(if who.is_empty() {
            "nobody now".into()
        } else {
            who.join("; ")
        })
    }

    /// What must hold before a proof means anything, read beside the wait for the lock.
    async fn check(&self, armed: &Armed, direction: Direction) -> Result<()> {
        let doing = "look at the mirror before the proof";
        let name = self.name_of(direction);
        let params: [&(dyn ToSql + Sync); 1] = [&name];
        let (writer, follower) = tokio::try_join!(
            armed.from_reads.query_one(&armed.statements.writer_check, &params),
            armed.to_writes.query_opt(&armed.statements.follower_check, &params),
        )
        .doing(doing)?;
        let follower = follower.ok_or_else(|| fault(Kind::Diverged, doing, "the subscription is gone"))?;
        writer_is_whole(&writer, &name, armed.sequences.count())?;
        mirrored::tables_are_subscribed(&writer, &follower, &name)?;
        if follower.get::<_, i64>("unready") != 0 {
            return Err(fault(Kind::Diverged, doing, "a table of the subscription is not ready"));
        }
        if follower.get::<_, Option<i32>>("worker").is_none() {
            return Err(fault(
                Kind::Unavailable,
                doing,
                "the subscription's apply worker is not running",
            ));
        }
        Ok(())
    }

    /// Waits until nobody else has a transaction that wrote; the table lock alone does not see other things.
    async fn no_other_writer(&self, armed: &Armed, until: Instant, within: Duration) -> Result<()> {
        let ours = crate::ident::application_name(&self.context.settings.name);
        loop {
            let rows = armed
                .from_reads
                .query(&armed.statements.other_writers, &[&ours])
                .await
                .doing("look for other writers")?;
            if rows.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let who: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
                return Err(fault(
                    Kind::Timeout,
                    "wait for other writers",
                    format!("they did not end within {within:?}: {}", who.join("; ")),
                ));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// See `Replicator::caught_up`.
    pub(crate) async fn prove(&self, position: &Position) -> Result<bool> {
        let mark = Mark::read(position)?;
        let mut guard = self.armed.lock().await;
        if guard
            .as_ref()
            .is_none_or(|a| a.to != mark.color.other() || a.proof.is_closed())
        {
            // Another process fenced: the same question over sessions of our own.
            *guard = Some(Box::pin(Armed::open(&self.context, mark.color.other())).await?);
        }
        let Some(armed) = guard.as_mut() else {
            return Ok(false);
        };
        armed.asked = armed.asked.wrapping_add(1);
        let proved = self.ask(armed, &mark).await?;
        if !proved && armed.asked.is_multiple_of(LOOK_EVERY) {
            let name = self.name_of(Direction::from(mark.color));
            let alive = mirror::look(&armed.to_writes, &name).await?;
            if alive.as_ref().is_none_or(|s| !s.enabled || s.worker.is_none()) {
                return Err(fault(
                    Kind::Unavailable,
                    "prove that the follower has everything",
                    "the subscription's apply worker is not running; the server's log says why",
                ));
            }
        }
        Ok(proved)
    }

    async fn ask(&self, armed: &Armed, mark: &Mark) -> Result<bool> {
        let doing = "prove that the follower has everything";
        let name = &self.context.settings.name;
        match &armed.statements.proof {
            Proof::Origin(statement) => {
                let row = armed
                    .proof
                    .query_opt(statement, &[name, &mark.token, &armed.origin, &mark.lsn])
                    .await
                    .doing(doing)?;
                Ok(row.is_some_and(|r| r.get(0)))
            }
            Proof::OwnCommit(arrived, commit) => {
                let row = armed.proof.query_opt(arrived, &[name]).await.doing(doing)?;
                if row.is_none_or(|r| r.get::<_, i64>(0) < mark.token) {
                    return Ok(false);
                }
                armed.proof.execute(commit, &[name, &mark.token]).await.doing(doing)?;
                Ok(true)
            }
        }
    }

    /// Moves the marker at the writer and waits for it at the follower; how long it took. Outside any pause.
    pub(crate) async fn round_trip(&self, origin: &Session, follower: &Session, within: Duration) -> Result<Duration> {
        marker_round_trip(origin, follower, &self.context.settings.name, within)
            .await?
            .ok_or_else(|| {
                fault(
                    Kind::Timeout,
                    "send a marker through the mirror",
                    format!("the mirror did not bring it within {within:?}"),
                )
            })
    }
}

/// Moves the marker and waits for it; none when it did not come in time.
pub(crate) async fn marker_round_trip(
    origin: &Session,
    follower: &Session,
    migration: &str,
    within: Duration,
) -> Result<Option<Duration>> {
    let doing = "send a marker through the mirror";
    let arrived = follower.prepare(marker::ARRIVED).await.doing(doing)?;
    let started = Instant::now();
    let token: i64 = origin.query_one(marker::MOVE, &[&migration]).await.doing(doing)?.get(0);
    loop {
        let row = follower.query_opt(&arrived, &[&migration]).await.doing(doing)?;
        if row.is_some_and(|r| r.get::<_, i64>(0) >= token) {
            return Ok(Some(started.elapsed()));
        }
        if started.elapsed() > within {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Looks at the writer once more, when nobody can change anything there any more: the lock on the tables kept nobody from
/// making another one.
pub(crate) async fn look_again(reads: &Session, check: &Statement, publication: &str, sequences: i64) -> Result<()> {
    let writer = reads
        .query_one(check, &[&publication])
        .await
        .doing("look at the old writer once more")?;
    writer_is_whole(&writer, publication, sequences)
}

/// What a [`writer_check`](mirrored::writer_check) must have said.
fn writer_is_whole(writer: &Row, publication: &str, sequences: i64) -> Result<()> {
    let doing = "look whether all is mirrored";
    mirrored::tables_are_published(writer, publication)?;
    if writer.get::<_, i64>("sequences") != sequences {
        return Err(fault(
            Kind::Diverged,
            doing,
            "a sequence was made or dropped since the cut-over was armed: make it at both sides, and arm again",
        ));
    }
    if writer.get("large_objects") {
        return Err(fault(
            Kind::Diverged,
            doing,
            "large objects were made on the way, and no mirror carries them: keep what they hold in a bytea column, take them away \
             (lo_unlink), and arm again",
        ));
    }
    match writer.get::<_, Option<String>>("prepared") {
        Some(gids) => Err(fault(
            Kind::Conflict,
            doing,
            format!("prepared transactions are open: {gids}; commit or roll them back"),
        )),
        None => Ok(()),
    }
}

/// 2 to 20 ms, from the clock's last digits.
fn jitter() -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.subsec_nanos());
    Duration::from_micros(2_000 + u64::from(nanos / 1_000) % 18_000)
}
