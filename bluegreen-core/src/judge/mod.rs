//! Judging: from samples of requests to a verdict with its evidence. No data is never a pass.

mod feed;
mod histogram;
mod limits;
mod window;

pub use feed::Feed;
pub use limits::Limits;
pub use window::Window;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What can be said of green.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within the limits, on enough data.
    Pass(Evidence),
    /// Outside a limit; the reason says which.
    Fail {
        /// Which limit, and by how much.
        reason: String,
        /// What it rests on.
        evidence: Evidence,
    },
    /// It cannot be said yet.
    Inconclusive {
        /// What is missing: no data, or how many more requests are needed.
        reason: String,
        /// What there is.
        evidence: Evidence,
    },
}

impl Verdict {
    /// Nothing is known.
    #[must_use]
    pub fn no_data() -> Self {
        Self::Inconclusive {
            reason: "no data".into(),
            evidence: Evidence::default(),
        }
    }

    /// Whether it is a pass.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        matches!(self, Self::Pass(_))
    }

    /// Whether it is a fail.
    #[must_use]
    pub fn is_fail(&self) -> bool {
        matches!(self, Self::Fail { .. })
    }

    /// What it rests on.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        match self {
            Self::Pass(evidence) | Self::Fail { evidence, .. } | Self::Inconclusive { evidence, .. } => evidence,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass(e) => write!(f, "pass ({e})"),
            Self::Fail { reason, evidence } => write!(f, "fail: {reason} ({evidence})"),
            Self::Inconclusive { reason, evidence } => write!(f, "inconclusive: {reason} ({evidence})"),
        }
    }
}

/// What a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Requests seen.
    pub requests: u64,
    /// Of them, failed.
    pub errors: u64,
    /// Median latency of those that did not fail.
    pub p50: Option<Duration>,
    /// 99th percentile of the same.
    pub p99: Option<Duration>,
}

impl Evidence {
    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} errors", self.requests, self.errors)?;
        if let Some(p99) = self.p99 {
            write!(f, ", p99 {p99:.1?}")?;
        }
        Ok(())
    }
}
