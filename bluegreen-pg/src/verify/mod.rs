//! Comparing both databases while one is written to and mirrored to the other.
//!
//! Tables are cut into ranges of their key; each range is digested at both sides at the same time. A range that differs is
//! looked at again after a marker has passed through the mirror, then its rows are compared by key, each until it is settled.
//! Only the digests travel. What each file knows: `tables` what there is, `plan` the SQL, `sides` the sessions and the marker, `rows`
//! and, without a key, `counted` what is real, `resume` how far an earlier process came, `pace` when to rest, `run` the workers.

mod counted;
mod pace;
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
        self.progress_after(self.started.elapsed())
    }

    fn progress_after(&self, spent: Duration) -> Comparison {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_how_far_it_is_and_how_long_the_rest_takes() {
        let table = plan::Table {
            relation: crate::ident::Relation::new("public", "t"),
            only: String::new(),
            columns: vec![],
            key: vec![],
            ordered: false,
            rows: 1_000,
            bytes: 50_000,
        };
        let shared = Shared::new();
        shared.begin(&[table.clone(), table.clone()]);
        let told = |spent| match shared.progress_after(Duration::from_secs(spent)) {
            Comparison::Running { rows, bytes, left } => ((rows.done, rows.total), (bytes.done, bytes.total), left),
            other => panic!("{other}"),
        };
        assert_eq!(told(60), ((0, 2_000), (0, 100_000), None), "nothing to tell it by");
        shared.add(&table, 500);
        assert_eq!(told(1).2, None, "too early to tell");
        let left = Some(Duration::from_secs(30));
        assert_eq!(told(10), ((500, 2_000), (25_000, 100_000), left));
        // The total was an estimate.
        shared.add(&table, 2_500);
        let all = (3_000, 3_000);
        assert_eq!(told(10), (all, (150_000, 150_000), Some(Duration::ZERO)));
    }
}
