//! `Window`: what was seen of requests over time, in bounded memory.

use super::Evidence;
use super::histogram::Histogram;
use crate::time::Timestamp;
use std::time::Duration;

/// Requests closer together than this share a slice.
const FINEST: Duration = Duration::from_millis(50);
/// A slice is never longer than this part of its age, beyond [`FINEST`].
const PART: u32 = 8;
/// Slices kept at most: months, at the pace at which they grow.
const MOST: usize = 512;

/// Samples of requests, by time. Old ones are kept more coarsely than new ones, and memory is bounded.
///
/// ```
/// use bluegreen_core::{Timestamp, Window};
/// use std::time::Duration;
/// let start = Timestamp::EPOCH;
/// let mut window = Window::default();
/// window.record(start, false, Duration::from_millis(5));
/// window.record(start + Duration::from_secs(2), true, Duration::from_millis(5));
/// assert_eq!(window.evidence(start).errors, 1);
/// assert_eq!(window.evidence(start + Duration::from_secs(1)).errors, 0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// Oldest first.
    slices: Vec<Slice>,
    /// How many slices there were after the last time they were made coarser.
    settled: usize,
}

#[derive(Debug, Clone)]
struct Slice {
    first: Timestamp,
    last: Timestamp,
    requests: u64,
    errors: u64,
    /// Of those that did not fail.
    latencies: Histogram,
}

impl Window {
    /// Remembers a request. A time before the latest one (a stepped clock) is counted with the latest.
    pub fn record(&mut self, at: Timestamp, ok: bool, latency: Duration) {
        let fits = |slice: &Slice| at < slice.first + FINEST || at <= slice.last;
        if !self.slices.last().is_some_and(fits) {
            self.make_room(at);
            self.slices.push(Slice {
                first: at,
                last: at,
                requests: 0,
                errors: 0,
                latencies: Histogram::default(),
            });
        }
        let Some(slice) = self.slices.last_mut() else {
            return;
        };
        slice.first = slice.first.min(at);
        slice.last = slice.last.max(at);
        slice.requests += 1;
        if ok {
            slice.latencies.record(latency);
        } else {
            slice.errors += 1;
        }
    }

    /// What has been seen since then. Nothing older is in it; of what is newer, the first part may be missing: up to
    /// 50 ms, or an eighth of the time that has passed since.
    #[must_use]
    pub fn evidence(&self, since: Timestamp) -> Evidence {
        let mut seen = Evidence::default();
        let mut latencies = Histogram::default();
        for slice in self.slices.iter().rev().take_while(|slice| slice.last >= since) {
            if slice.first >= since {
                seen.requests += slice.requests;
                seen.errors += slice.errors;
                latencies.merge(&slice.latencies);
            }
        }
        seen.p50 = latencies.quantile(0.5);
        seen.p99 = latencies.quantile(0.99);
        seen
    }

    fn make_room(&mut self, now: Timestamp) {
        if self.slices.len() < (self.settled * 2).clamp(32, MOST) {
            return;
        }
        let mut merged: Vec<Slice> = Vec::with_capacity(self.slices.len());
        for slice in self.slices.drain(..) {
            match merged.last_mut() {
                Some(before) if slice.last.since(before.first) <= now.since(slice.last) / PART => before.take(&slice),
                _ => merged.push(slice),
            }
        }
        // Beyond the bound the oldest goes: what is judged is recent.
        let excess = merged.len().saturating_sub(MOST - 1);
        merged.drain(..excess);
        self.settled = merged.len();
        self.slices = merged;
    }
}

impl Slice {
    fn take(&mut self, later: &Self) {
        self.last = later.last;
        self.requests += later.requests;
        self.errors += later.errors;
        self.latencies.merge(&later.latencies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn errors_have_no_latency() {
        let mut window = Window::default();
        window.record(at(0), false, Duration::from_secs(30));
        window.record(at(1), true, Duration::from_millis(10));
        let seen = window.evidence(at(0));
        assert_eq!((seen.requests, seen.errors), (2, 1));
        assert!(seen.p99.expect("one did not fail") < Duration::from_millis(11));
    }

    #[test]
    fn a_week_takes_little_room_and_stays_recent() {
        let mut window = Window::default();
        let week = 7 * 24 * 3600;
        for second in 0..week {
            window.record(at(second * 1000), true, Duration::from_millis(second % 100));
        }
        assert!(window.slices.len() < MOST);
        assert_eq!(window.evidence(at(0)).requests, week);
        let hour = window.evidence(at((week - 3600) * 1000)).requests;
        assert!((3600 - 3600 / 8..=3600).contains(&hour), "{hour}");
    }

    proptest! {
        #[test]
        fn nothing_older_is_in_it_and_little_newer_is_missing(
            gaps in prop::collection::vec((0u64..400, any::<bool>()), 1..2000),
            since in any::<prop::sample::Index>(),
        ) {
            let mut window = Window::default();
            let mut now = 0;
            let times: Vec<u64> = gaps.iter().map(|(gap, ok)| {
                now += gap;
                window.record(at(now), *ok, Duration::from_millis(1));
                now
            }).collect();
            let since = times[since.index(times.len())];
            let count = |from: u64| times.iter().filter(|t| **t >= from).count() as u64;
            let seen = window.evidence(at(since)).requests;
            prop_assert!(seen <= count(since));
            // A slice that began just before may be as long as the finest, or an eighth of its age.
            let missing = 50.max((now - since) / 8) + 1;
            prop_assert!(seen >= count(since + missing), "{seen} of {} since {since}", count(since));
        }
    }
}
