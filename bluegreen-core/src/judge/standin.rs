//! Plain samples and fixed limits.

use super::{Evidence, Verdict};
use crate::model::Color;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Samples of requests.
#[derive(Debug, Default)]
pub struct Window(Vec<(Timestamp, bool, Duration)>);

impl Window {
    /// Remembers a request.
    pub fn record(&mut self, at: Timestamp, ok: bool, latency: Duration) {
        self.0.push((at, ok, latency));
    }

    /// What has been seen since then.
    #[must_use]
    pub fn evidence(&self, since: Timestamp) -> Evidence {
        let seen: Vec<_> = self.0.iter().filter(|(at, ..)| *at >= since).collect();
        let mut good: Vec<Duration> = seen.iter().filter(|(_, ok, _)| *ok).map(|(.., l)| *l).collect();
        good.sort();
        Evidence {
            requests: seen.len() as u64,
            errors: (seen.len() - good.len()) as u64,
            p50: good.get(good.len() / 2).copied(),
            p99: good.get(good.len().saturating_sub(1) * 99 / 100).copied(),
        }
    }
}

/// When green counts as failing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The largest share of requests that may fail.
    pub max_error_rate: f64,
    /// The largest 99th percentile.
    pub max_p99: Option<Duration>,
    /// How many requests a verdict needs.
    pub min_requests: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_error_rate: 0.01,
            max_p99: None,
            min_requests: 20,
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} % errors", self.max_error_rate * 100.0)
    }
}

impl Limits {
    /// What is wrong with them.
    ///
    /// # Errors
    /// A sentence.
    pub fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// What can be said.
    #[must_use]
    pub fn judge(&self, seen: &Evidence) -> Verdict {
        if seen.requests < self.min_requests {
            return Verdict::Inconclusive {
                reason: "too few".into(),
                evidence: *seen,
            };
        }
        if seen.errors as f64 > self.max_error_rate * seen.requests as f64 {
            return Verdict::Fail {
                reason: "errors".into(),
                evidence: *seen,
            };
        }
        Verdict::Pass(*seen)
    }
}

/// What an embedding service counts.
#[derive(Debug, Clone, Default)]
pub struct Feed(Arc<Mutex<Vec<(Color, bool, Duration)>>>);

impl Feed {
    /// Counts a request.
    pub fn record(&self, color: Color, ok: bool, latency: Duration) {
        self.0.lock().expect("never poisoned").push((color, ok, latency));
    }

    pub(crate) fn drain(&self) -> Vec<(Color, bool, Duration)> {
        std::mem::take(&mut self.0.lock().expect("never poisoned"))
    }
}
