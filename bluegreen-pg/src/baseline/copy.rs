//! The rows: several streams of `COPY` from the snapshot straight into the follower, nothing stored between. A lost
//! connection repeats its piece while the snapshot lives.

use super::brake::{Brake, Gauge};
use super::plan::{Load, Piece};
use super::pump::{Broke, pump};
use super::queue::Queue;
use super::{record, unchanged};
use crate::error::{Doing, PgError, fault};
use crate::ident::{copy_application_name, literal};
use crate::progress::Report;
use crate::replicator::Context;
use crate::wire::Wire;
use bluegreen_core::{Direction, Error, Kind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_postgres::GenericClient;

/// How long a stream tries to have its connections again.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long it waits in between.
const BETWEEN: Duration = Duration::from_millis(500);

/// Settings of the sessions that write; they end with them. A lost row cannot be noticed before the end, where the record
/// of every piece is looked for. What is written is new: the log's files need no zeroes first, where we may say so.
pub(super) const WRITER: &str = "SET synchronous_commit = off; SET client_min_messages = error; \
     DO $$ BEGIN SET wal_init_zero = off; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$";

/// What all streams of one copy share.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) context: Arc<Context>,
    pub(super) direction: Direction,
    pub(super) snapshot: String,
    pub(super) report: Arc<Report>,
    pub(super) brake: Arc<Brake>,
    pub(super) queue: Mutex<Queue>,
    /// The steps that the target has acknowledged.
    pub(super) kept: Mutex<Vec<i32>>,
}

/// Why a copy ended before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its snapshot is gone: what is copied fits nothing that could still be copied.
    Snapshot(Error),
    /// The target has forgotten what it had acknowledged: whatever failed may have failed for that.
    Forgotten(Error),
    /// A table is not what the snapshot saw of it.
    Changed(Error),
    Fault(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

/// Copies every row of the loads. `done` hears of each piece that is in, and with the last one of a load the number of it: its
/// tables are complete.
pub(super) async fn run(copy: &Arc<Copy>, loads: &[Load], done: UnboundedSender<Option<usize>>) -> Result<(), Stop> {
    let pieces: usize = loads.iter().map(|l| l.pieces.len()).sum();
    let streams = copy.context.options.copy_jobs.clamp(1, pieces.max(1));
    let mut set = JoinSet::new();
    for number in 0..streams {
        set.spawn(stream(copy.clone(), number, done.clone()));
    }
    while let Some(ended) = set.join_next().await {
        // The first failure ends the others: dropping the set aborts them.
        ended.map_err(|e| fault(Kind::Unexpected, "copy the rows", format!("a stream died: {e}")))??;
    }
    Ok(())
}

async fn stream(copy: Arc<Copy>, number: usize, done: UnboundedSender<Option<usize>>) -> Result<(), Stop> {
    let mut pair = None;
    let mut at = None;
    loop {
        copy.brake.turn(number, || copy.queue().is_empty()).await;
        let next = copy.queue().next(at);
        let Some((load, piece)) = next else {
            copy.brake.ended(number);
            return Ok(());
        };
        at = Some(load);
        copy.piece(&mut pair, number, &piece).await?;
        copy.keeps(piece.step);
        let whole = copy.queue().is_in(load);
        if done.send(whole.then_some(load)).is_err() {
            return Ok(());
        }
    }
}

/// The two ends of a stream.
struct Pair {
    source: Wire,
    target: Wire,
}

impl Copy {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target has acknowledged a step.
    pub(super) fn keeps(&self, step: i32) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// Fails unless the target has all of these steps.
    pub(super) async fn has(&self, target: &impl GenericClient, steps: &[i32]) -> Result<(), Stop> {
        match record::missing(target, &self.context.settings.name, steps).await? {
            0 => Ok(()),
            missing => Err(Stop::Forgotten(record::forgotten(missing, steps.len()))),
        }
    }

    /// The failure; or, if the target has forgotten something, that: it is the reason, as rows that are missing are for a key.
    pub(super) async fn reason(&self, failure: Stop) -> Stop {
        let Stop::Fault(error) = failure else { return failure };
        let asked = async {
            let settings = &self.context.settings;
            let session = settings.connect_copy(self.direction.follower()).await?;
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.has(&*session, &kept).await
        };
        match asked.await {
            Err(Stop::Forgotten(forgotten)) => {
                tracing::warn!(%error, %forgotten, "the copy failed");
                Stop::Forgotten(forgotten)
            }
            _ => Stop::Fault(error),
        }
    }

    /// Copies a piece, again and again while connections are lost.
    async fn piece(&self, pair: &mut Option<Pair>, number: usize, piece: &Piece) -> Result<(), Stop> {
        let mut trial = Trial::of(&self.report, &format!("step {}, {}", piece.step, piece.name));
        let mut was = None;
        loop {
            let error = match self.once(pair, number, piece, was).await {
                Ok(()) => return Ok(()),
                Err(Failed { target, error }) => {
                    was = target.or(was);
                    error
                }
            };
            if snapshot_is_gone(&error) {
                return Err(Stop::Snapshot(error));
            }
            if matches!(cause(&error), Some(PgError::Changed(_))) {
                return Err(Stop::Changed(error));
            }
            trial.failed(error).await?;
        }
    }

    async fn once(
        &self,
        pair: &mut Option<Pair>,
        number: usize,
        piece: &Piece,
        was: Option<i32>,
    ) -> Result<(), Failed> {
        let mut gauge = Gauge::new(&self.report, &self.brake, number, piece.bytes);
        if let Some(pid) = was {
            let sure = self.settle(pid, piece.step).await.map_err(Failed::early)?;
            if sure {
                gauge.done(0);
                return Ok(());
            }
        }
        let mut ends = match pair.take() {
            Some(ends) => ends,
            None => self.open().await.map_err(Failed::early)?,
        };
        let write = format!(
            "{}; {}",
            record::insert(&self.context.settings.name, piece.step),
            piece.write
        );
        match pump(&mut ends.source, &mut ends.target, &piece.read, &write, &mut gauge).await {
            Ok(rows) => {
                gauge.done(rows);
                *pair = Some(ends);
                Ok(())
            }
            Err(broke) => {
                gauge.undone();
                let (side, error) = match broke {
                    Broke::Source(e) => (self.direction.origin(), gone(e)),
                    Broke::Target(e) => (self.direction.follower(), e),
                };
                let doing = format!("copy the rows of {} at {}", piece.name, crate::ident::side(side));
                Err::<(), _>(error).doing(doing).map_err(|error| Failed {
                    target: Some(ends.target.pid),
                    error,
                })
            }
        }
    }

    /// Ends the lost session's process, which may still be at it, and tells whether it had kept the piece.
    pub(super) async fn settle(&self, pid: i32, step: i32) -> Result<bool> {
        let doing = "end a lost session of the copy";
        let settings = &self.context.settings;
        let session = settings.connect_copy(self.direction.follower()).await?;
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let there = session
                .query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2",
                    &[&pid, &copy_application_name(&settings.name)],
                )
                .await
                .doing(doing)?;
            if there.is_empty() {
                return record::has(&session, &settings.name, step).await;
            }
            if Instant::now() > until {
                return Err(fault(Kind::Timeout, doing, format!("process {pid} does not end")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn open(&self) -> Result<Pair> {
        let settings = &self.context.settings;
        let application = copy_application_name(&settings.name);
        let reader = format!(
            "SET client_min_messages = error; SET synchronize_seqscans = off; SET jit = off; \
             SET max_parallel_workers_per_gather = 0; {}; {}",
            seeing(&self.snapshot),
            unchanged::BETWEEN,
        );
        let (source, target) = tokio::try_join!(
            settings
                .server(self.direction.origin())
                .connect_wire(&application, &reader),
            settings
                .server(self.direction.follower())
                .connect_wire(&application, WRITER),
        )?;
        Ok(Pair { source, target })
    }
}

/// How long something has been tried again. While it is, the status says why.
#[derive(Debug)]
pub(super) struct Trial {
    report: Arc<Report>,
    what: String,
    since: Option<Instant>,
}

impl Trial {
    pub(super) fn of(report: &Arc<Report>, what: &str) -> Self {
        Self {
            report: report.clone(),
            what: what.to_owned(),
            since: None,
        }
    }

    /// Waits a moment if the error may pass by itself and has not lasted too long; else gives it back.
    pub(super) async fn failed(&mut self, error: Error) -> Result<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let passes = matches!(error.kind(), Kind::Unavailable | Kind::Timeout);
        if !passes || since.elapsed() > PATIENCE {
            return Err(error);
        }
        self.report.trouble(&self.what, Some(format!("tried again: {error}")));
        tokio::time::sleep(BETWEEN).await;
        Ok(())
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.report.trouble(&self.what, None);
    }
}

/// A piece that failed, and the target's process that may still be at it.
struct Failed {
    target: Option<i32>,
    error: Error,
}

impl Failed {
    fn early(error: Error) -> Self {
        Self { target: None, error }
    }
}

/// Begins a transaction that sees what the snapshot sees.
pub(super) fn seeing(snapshot: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        literal(snapshot)
    )
}

/// A session that cannot import the snapshot any more.
pub(super) fn snapshot_is_gone(error: &Error) -> bool {
    let Some(PgError::Server(e)) = cause(error) else {
        return false;
    };
    // Of the statements that prepare a session only the import can fail so.
    e.code()
        .is_some_and(|c| matches!(c.code(), "22023" | "42704" | "55000"))
}

fn cause(error: &Error) -> Option<&PgError> {
    std::error::Error::source(error).and_then(|e| e.downcast_ref::<PgError>())
}

/// What is read was there when the snapshot was made: a table, schema or column that is not has been taken away since.
fn gone(error: PgError) -> PgError {
    match error {
        PgError::Refused { code, message, .. } if matches!(code.as_str(), "42P01" | "3F000" | "42703") => {
            PgError::Changed(message)
        }
        other => other,
    }
}
