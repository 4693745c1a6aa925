//! Comparing both databases while one is written to and mirrored to the other.
//!
//! Tables are cut into ranges of their key; each range is digested at both sides at the same time. A range that differs is
//! looked at again after a marker has passed through the mirror, then its rows are compared by key, each until it is settled.
//! Only the digests travel. What each file knows: `tables` what there is, `plan` the SQL, `sides` the sessions and the marker, `rows`
//! what is real, `resume` how far an earlier process came, `run` the workers.

mod plan;
mod resume;
mod rows;
mod run;
mod sides;
mod tables;

use crate::connect::Settings;
use crate::error::fault;
use crate::replicator::PgReplicator;
use crate::wal;
use bluegreen_core::{Comparison, Kind, Progress, Result};
use futures::FutureExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How hard it works.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How many pieces are digested at a time.
    pub(crate) jobs: usize,
    /// Which part of the time each of them works.
    pub(crate) share: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { jobs: 2, share: 1.0 }
    }
}

/// How far it is.
#[derive(Debug)]
struct Shared {
    started: Instant,
    rows_done: AtomicU64,
    rows_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            rows_done: AtomicU64::new(0),
            rows_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
        }
    }

    fn begin(&self, tables: &[plan::Table]) {
        self.rows_total
            .store(tables.iter().map(|t| t.rows).sum(), Ordering::Relaxed);
        self.bytes_total
            .store(tables.iter().map(|t| t.bytes).sum(), Ordering::Relaxed);
    }

    fn add(&self, table: &plan::Table, rows: u64) {
        self.rows_done.fetch_add(rows, Ordering::Relaxed);
        let row = table.bytes / table.rows.max(1);
        self.bytes_done.fetch_add(row.saturating_mul(rows), Ordering::Relaxed);
    }

    fn rows(&self) -> u64 {
        self.rows_done.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    fn progress(&self) -> Comparison {
        let of = |done: &AtomicU64, total: &AtomicU64| {
            let done = done.load(Ordering::Relaxed);
            // The total is an estimate: it is never below what is done.
            let total = total.load(Ordering::Relaxed).max(done);
            Progress { done, total }
        };
        let (rows, bytes) = (
            of(&self.rows_done, &self.rows_total),
            of(&self.bytes_done, &self.bytes_total),
        );
        let spent = self.started.elapsed();
        let left = (bytes.done > 0 && spent > Duration::from_secs(2))
            .then(|| spent.mul_f64((bytes.total - bytes.done) as f64 / bytes.done as f64));
        Comparison::Running { rows, bytes, left }
    }
}

/// A comparison in the background. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Comparing {
    shared: Arc<Shared>,
    task: JoinHandle<Result<Comparison>>,
}

impl Comparing {
    fn spawn(settings: Settings, options: Options, log: Arc<wal::Shared>) -> Self {
        let shared = Arc::new(Shared::new());
        let told = Arc::clone(&shared);
        let task = tokio::spawn(async move { run::run(&settings, &options, &told, &log).await });
        Self { shared, task }
    }
}

impl Drop for Comparing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PgReplicator {
    /// See `Replicator::compare`.
    pub(crate) fn compare_data(&self) -> Result<Comparison> {
        let mut slot = self.comparing.lock().unwrap_or_else(PoisonError::into_inner);
        let context = &self.context;
        let mut comparing = slot.take().unwrap_or_else(|| {
            let log = self.guards.shared.clone();
            Comparing::spawn(context.settings.clone(), context.options.compare.clone(), log)
        });
        if !comparing.task.is_finished() {
            let progress = comparing.shared.progress();
            *slot = Some(comparing);
            return Ok(progress);
        }
        match (&mut comparing.task).now_or_never() {
            Some(Ok(answer)) => answer,
            Some(Err(e)) => Err(fault(
                Kind::Unexpected,
                "compare the data",
                format!("its task ended: {e}"),
            )),
            None => Err(fault(
                Kind::Unexpected,
                "compare the data",
                "a finished task has no answer",
            )),
        }
    }
}
