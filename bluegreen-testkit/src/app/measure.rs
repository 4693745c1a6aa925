//! What the clients saw: counted while they run, summed up when they stop.

use super::orders::Order;
use bluegreen_core::{Clock, Color, SystemClock, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counters that may be looked at while the clients run.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    failed: AtomicU64,
    acked: AtomicU64,
    blue: AtomicU64,
    green: AtomicU64,
    stall: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

/// What the clients have seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Requests that ended, reads and writes.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Requests that blue answered.
    pub blue: u64,
    /// Requests that green answered.
    pub green: u64,
    /// The longest that any writer waited from one acknowledgement to the next, in microseconds.
    pub stall_us: u64,
}

impl Counters {
    pub(super) fn look(&self) -> Live {
        Live {
            requests: self.requests.load(Relaxed),
            failed: self.failed.load(Relaxed),
            acked: self.acked.load(Relaxed),
            blue: self.blue.load(Relaxed),
            green: self.green.load(Relaxed),
            stall_us: self.stall.load(Relaxed),
        }
    }

    pub(super) fn answered(&self, by: Option<Color>) {
        self.requests.fetch_add(1, Relaxed);
        match by {
            Some(Color::Blue) => self.blue.fetch_add(1, Relaxed),
            Some(Color::Green) => self.green.fetch_add(1, Relaxed),
            None => 0,
        };
    }

    pub(super) fn acked(&self, waited: Duration) {
        self.acked.fetch_add(1, Relaxed);
        self.stall
            .fetch_max(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn failed(&self, why: String) {
        self.failed.fetch_add(1, Relaxed);
        *self
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(why)
            .or_default() += 1;
    }

    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acked {
    /// What was written.
    pub order: Order,
    /// Who answered.
    pub by: Option<Color>,
}

/// The longest that a writer waited from one acknowledgement to the next, and when that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stall {
    /// How long.
    pub lasted: Duration,
    /// From when.
    pub from: Timestamp,
}

/// What one client saw.
#[derive(Debug)]
pub(super) struct Diary {
    pub(super) acked: Vec<Acked>,
    pub(super) latencies: Vec<u32>,
    pub(super) stalls: Vec<Stall>,
    last: (Instant, Timestamp),
}

/// So many of the longest stalls are remembered.
const STALLS: usize = 5;

impl Diary {
    pub(super) fn new() -> Self {
        Self {
            acked: vec![],
            latencies: vec![],
            stalls: vec![],
            last: (Instant::now(), SystemClock.now()),
        }
    }

    /// Notes an answer that took so long.
    pub(super) fn took(&mut self, long: Duration) {
        self.latencies.push(u32::try_from(long.as_micros()).unwrap_or(u32::MAX));
    }

    /// Notes an acknowledgement, and says how long ago the one before it was.
    pub(super) fn note(&mut self, acked: Acked) -> Duration {
        self.acked.push(acked);
        let now = Instant::now();
        let stall = Stall {
            lasted: now - self.last.0,
            from: self.last.1,
        };
        self.last = (now, SystemClock.now());
        keep_longest(&mut self.stalls, [stall]);
        stall.lasted
    }
}

fn keep_longest(kept: &mut Vec<Stall>, more: impl IntoIterator<Item = Stall>) {
    kept.extend(more);
    kept.sort_by_key(|stall| std::cmp::Reverse(stall.lasted));
    kept.truncate(STALLS);
}

/// What all clients saw, from start to stop.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The counters at the end.
    pub totals: Live,
    /// Why requests failed, and how often each.
    pub failures: BTreeMap<String, u64>,
    /// Every acknowledged write.
    pub acked: Vec<Acked>,
    /// The longest stalls, the longest first.
    pub stalls: Vec<Stall>,
    /// Half of all answers came faster.
    pub p50: Duration,
    /// All but one in a hundred answers came faster.
    pub p99: Duration,
}

impl Outcome {
    pub(super) fn of(counters: &Counters, diaries: Vec<Diary>) -> Self {
        let mut outcome = Self {
            totals: counters.look(),
            failures: counters.failures(),
            acked: vec![],
            stalls: vec![],
            p50: Duration::ZERO,
            p99: Duration::ZERO,
        };
        let mut latencies = vec![];
        for diary in diaries {
            outcome.acked.extend(diary.acked);
            latencies.extend(diary.latencies);
            keep_longest(&mut outcome.stalls, diary.stalls);
        }
        latencies.sort_unstable();
        let at = |per_cent: usize| {
            let index = (latencies.len() * per_cent / 100).min(latencies.len().saturating_sub(1));
            Duration::from_micros(latencies.get(index).copied().unwrap_or(0).into())
        };
        (outcome.p50, outcome.p99) = (at(50), at(99));
        outcome
    }

    /// The longest stall of all.
    #[must_use]
    pub fn longest_stall(&self) -> Duration {
        self.stalls.first().map_or(Duration::ZERO, |stall| stall.lasted)
    }
}
