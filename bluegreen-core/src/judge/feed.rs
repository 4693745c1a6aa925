//! `Feed`: what the service that embeds us counts of its own requests.

use crate::model::Color;
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests kept until somebody looks; beyond it the oldest go.
const MOST: usize = 1 << 16;

/// A handle that a service gives its requests to, so that green is judged by real ones. Clones feed the same.
///
/// ```
/// use bluegreen_core::{Color, Feed};
/// let feed = Feed::new();
/// let in_a_handler = feed.clone();
/// in_a_handler.record(Color::Green, true, std::time::Duration::from_millis(12));
/// assert_eq!(feed.drain(bluegreen_core::Timestamp::EPOCH).len(), 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Feed(Arc<Mutex<VecDeque<Fed>>>);

#[derive(Debug)]
struct Fed {
    when: Instant,
    color: Color,
    ok: bool,
    latency: Duration,
}

impl Feed {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a request that `color` has just answered. Cheap, and never waits for more than another `record`.
    pub fn record(&self, color: Color, ok: bool, latency: Duration) {
        let when = Instant::now();
        let mut fed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fed.len() == MOST {
            fed.pop_front();
        }
        fed.push_back(Fed {
            when,
            color,
            ok,
            latency,
        });
    }

    /// Takes everything that was counted, with the time it was counted at when it is `now` by the caller's clock: what
    /// nobody asked for during a long wait is not taken for news.
    #[must_use]
    pub fn drain(&self, now: Timestamp) -> Vec<(Color, Timestamp, bool, Duration)> {
        let fed = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let told = |f: Fed| {
            let ago = i64::try_from(f.when.elapsed().as_micros()).unwrap_or(i64::MAX);
            let at = Timestamp::from_micros(now.as_micros().saturating_sub(ago));
            (f.color, at, f.ok, f.latency)
        };
        fed.into_iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_keeps_the_newest() {
        let feed = Feed::new();
        for n in 0..MOST as u64 + 10 {
            feed.record(Color::Green, true, Duration::from_micros(n));
        }
        let fed = feed.drain(Timestamp::EPOCH);
        assert_eq!(fed.len(), MOST);
        assert_eq!(fed[0].3, Duration::from_micros(10));
        assert!(feed.drain(Timestamp::EPOCH).is_empty());
        assert!(
            fed.iter().all(|(_, at, ..)| *at <= Timestamp::EPOCH),
            "none is from the future"
        );
    }
}
