//! Work in the background and how far it is: what dies there is seen, never quiet.

use bluegreen_core::{Kind, MirrorStatus, Progress, Result};
use futures::FutureExt;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Told by the work, read by `status`.
#[derive(Debug, Default)]
pub(crate) struct Report {
    stage: Mutex<String>,
    /// What is in its way now, by who noticed.
    troubles: Mutex<BTreeMap<String, String>>,
    failed: Mutex<Option<(Kind, String)>>,
    copying: std::sync::atomic::AtomicBool,
    pub(crate) rows_done: AtomicU64,
    pub(crate) rows_total: AtomicU64,
    pub(crate) bytes_done: AtomicU64,
    pub(crate) bytes_total: AtomicU64,
    /// Bytes of indexes at the origin: how many of them are made here, and of how many.
    built: AtomicU64,
    to_build: AtomicU64,
    begun: Mutex<Option<Instant>>,
}

impl Report {
    /// What it is at.
    pub(crate) fn stage(&self, stage: impl Into<String>) {
        let stage = stage.into();
        tracing::info!(%stage, "mirror");
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Something is in its way, as this part of it noticed, or is not any more.
    pub(crate) fn trouble(&self, part: &str, what: Option<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.get(part) == what.as_ref() {
            return;
        }
        match what {
            Some(what) => {
                tracing::warn!(%part, %what, "in the mirror's way");
                troubles.insert(part.to_owned(), what);
            }
            None => {
                tracing::info!(%part, "out of the mirror's way");
                troubles.remove(part);
            }
        }
    }

    /// From now on rows are counted.
    pub(crate) fn copying(&self, rows: u64, bytes: u64) {
        self.rows_total.store(rows, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
        for done in [&self.rows_done, &self.bytes_done, &self.built, &self.to_build] {
            done.store(0, Ordering::Relaxed);
        }
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.copying.store(true, Ordering::Relaxed);
    }

    /// How much is to be made of indexes.
    pub(crate) fn to_build(&self, bytes: u64) {
        self.to_build.store(bytes, Ordering::Relaxed);
    }

    /// So much more is made of indexes.
    pub(crate) fn built(&self, bytes: u64) {
        self.built.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How long it will still take, if it goes on as it went: rows and indexes alike, by their bytes.
    fn left(&self) -> Option<Duration> {
        let begun = (*self.begun.lock().unwrap_or_else(PoisonError::into_inner))?;
        let sum = |a: &AtomicU64, b: &AtomicU64| a.load(Ordering::Relaxed) + b.load(Ordering::Relaxed);
        time_left(
            begun.elapsed(),
            sum(&self.bytes_done, &self.built),
            sum(&self.bytes_total, &self.to_build),
        )
    }

    fn status(&self) -> MirrorStatus {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        // Streams may all have the same.
        for what in troubles.values().collect::<BTreeSet<_>>() {
            stage.push_str(": ");
            stage.push_str(what);
        }
        if !self.copying.load(Ordering::Relaxed) {
            return MirrorStatus::Preparing(stage);
        }
        let progress = |done: &AtomicU64, total: &AtomicU64| {
            let done = done.load(Ordering::Relaxed);
            Progress {
                done,
                // The total is an estimate: it is never below what is done.
                total: total.load(Ordering::Relaxed).max(done),
            }
        };
        MirrorStatus::Copying {
            rows: progress(&self.rows_done, &self.rows_total),
            bytes: progress(&self.bytes_done, &self.bytes_total),
            stage,
            left: self.left(),
        }
    }
}

/// Nothing is said of the first second, nor before a hundredth is done.
fn time_left(elapsed: Duration, done: u64, total: u64) -> Option<Duration> {
    if elapsed < Duration::from_secs(1) || done == 0 || done < total / 100 {
        return None;
    }
    let left = u128::from(total.saturating_sub(done)) * elapsed.as_millis() / u128::from(done);
    u64::try_from(left).ok().map(Duration::from_millis)
}

/// What is said of work that panicked.
fn died(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let cause = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "the mirror's background work died: {}",
        cause.unwrap_or("no cause was given")
    )
}

/// A task of ours. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Work {
    report: Arc<Report>,
    task: JoinHandle<()>,
}

impl Work {
    /// Starts it; its error is kept, and its panic.
    pub(crate) fn spawn<F>(first_stage: &str, work: impl FnOnce(Arc<Report>) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let report = Arc::new(Report::default());
        report.stage(first_stage);
        let future = work(report.clone());
        let told = report.clone();
        let task = tokio::spawn(async move {
            // After a panic only what is locked or atomic outlives it.
            let ended = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(result) => result.map_err(|e| (e.kind(), e.to_string())),
                Err(panic) => Err((Kind::Unexpected, died(&*panic))),
            };
            if let Err((kind, why)) = ended {
                tracing::error!(error = %why, "the mirror's background work failed");
                *told.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, why));
            }
        });
        Self { report, task }
    }

    /// Where it is; none once it is done well.
    pub(crate) fn status(&self) -> Option<MirrorStatus> {
        let finished = self.task.is_finished();
        let failed = self
            .report
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match (finished, failed) {
            (_, Some((kind, why))) => Some(MirrorStatus::Failed { kind, why }),
            (false, None) => Some(self.report.status()),
            (true, None) => None,
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_has_failed_with_its_cause() {
        let work = Work::spawn("a stage", |_| async {
            tokio::task::yield_now().await;
            panic!("nothing in row {}", 7)
        });
        while work.is_running() {
            tokio::task::yield_now().await;
        }
        let Some(MirrorStatus::Failed { kind, why }) = work.status() else {
            panic!("{:?}", work.status());
        };
        assert_eq!(kind, Kind::Unexpected);
        assert!(why.ends_with("died: nothing in row 7"), "{why}");
    }

    #[test]
    fn the_time_that_is_left_follows_from_what_was_done() {
        let seconds = Duration::from_secs;
        assert_eq!(time_left(seconds(10), 25, 100), Some(seconds(30)));
        assert_eq!(time_left(seconds(10), 100, 100), Some(seconds(0)));
        assert_eq!(time_left(seconds(10), 120, 100), Some(seconds(0)));
        assert_eq!(time_left(Duration::from_millis(900), 25, 100), None);
        assert_eq!(time_left(seconds(10), 1, 1000), None);
        assert_eq!(time_left(seconds(10), 0, 0), None);
    }
}
