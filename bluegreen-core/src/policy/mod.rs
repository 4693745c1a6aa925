//! `TrafficPolicy`: a pure function from what is known to what to do next about the share. Its table is its test.

mod at_once;
mod guards;
mod linear;
mod steps;

pub use at_once::AtOnce;
pub use guards::OnFail;
pub use linear::Linear;
pub use steps::Steps;

use crate::judge::Verdict;
use crate::model::{Color, Share};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// All a policy may know.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// The time now.
    pub now: Timestamp,
    /// When the shift began.
    pub started: Timestamp,
    /// The share that was last asked for.
    pub share: Share,
    /// When it was asked for.
    pub since: Timestamp,
    /// Since when users see it; none while that is not certain.
    pub effective_since: Option<Timestamp>,
    /// What the judge says of green since the share became effective.
    pub verdict: Verdict,
    /// Whether blue is well too; none when that is not known. A shared outage is not green's fault.
    pub blue_healthy: Option<bool>,
    /// Judgements in a row that failed, up to now, since the share became effective.
    pub failures: u32,
    /// Which side's database accepts writes.
    pub authority: Color,
    /// The largest share an operator has approved since the present one was asked for, if any.
    pub approved: Option<Share>,
    /// Earlier shares and when they were asked for, oldest first, the present one last.
    pub history: Vec<(Share, Timestamp)>,
}

impl Observation {
    /// An observation of a share that was asked for at `now`, is not effective, and of which nothing else is known.
    #[must_use]
    pub fn new(now: Timestamp, share: Share) -> Self {
        Self {
            now,
            started: now,
            share,
            since: now,
            effective_since: None,
            verdict: Verdict::no_data(),
            blue_healthy: None,
            failures: 0,
            authority: Color::Blue,
            approved: None,
            history: vec![(share, now)],
        }
    }
}

/// What to do about the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Leave it, and look again at this time at the latest, or at the engine's next look.
    Stay(Option<Timestamp>),
    /// Move on to this share.
    Advance(Share),
    /// Stop and ask a human; nothing moves meanwhile.
    Hold,
    /// Go back to this smaller share.
    Retreat(Share),
    /// Give the migration up and unwind.
    Abort,
    /// The shift is over: the last share has been watched long enough.
    Complete,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay(_) => f.write_str("stay"),
            Self::Advance(to) => write!(f, "advance to {to}"),
            Self::Hold => f.write_str("hold"),
            Self::Retreat(to) => write!(f, "retreat to {to}"),
            Self::Abort => f.write_str("abort"),
            Self::Complete => f.write_str("complete"),
        }
    }
}

/// An action, and the reason that lands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Why, in a sentence.
    pub reason: String,
}

impl Decision {
    /// A decision and its reason.
    pub fn new(action: Action, reason: impl Into<String>) -> Self {
        Self {
            action,
            reason: reason.into(),
        }
    }
}

/// Decides about the share. Synchronous, no clock, no state: it survives a restart because it remembers nothing.
///
/// Whatever it answers, the engine holds to this: it never advances on a failed or inconclusive verdict or before the
/// share is effective, never retreats past authority, and honours the operator's abort while that is safe.
#[diagnostic::on_unimplemented(
    message = "the migration has no traffic policy: call `.policy(..)` before `.build()`",
    label = "`{Self}` is no `TrafficPolicy`",
    note = "all at once is a policy too: `.policy(AtOnce::new())`"
)]
pub trait TrafficPolicy: fmt::Debug + Send + Sync + 'static {
    /// What it will do, for the plan and its fingerprint: one line.
    fn describe(&self) -> String;

    /// Every share it may ask for on its way up, ascending, the last one full.
    fn shares(&self) -> Vec<Share>;

    /// What is wrong with it as it was configured, if anything.
    ///
    /// # Errors
    /// The sentence says what is wrong and what is expected.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// What to do now.
    fn decide(&self, seen: &Observation) -> Decision;
}

#[deny(clippy::missing_trait_methods)]
impl<T: TrafficPolicy + ?Sized> TrafficPolicy for Arc<T> {
    fn describe(&self) -> String {
        (**self).describe()
    }
    fn shares(&self) -> Vec<Share> {
        (**self).shares()
    }
    fn validate(&self) -> Result<(), String> {
        (**self).validate()
    }
    fn decide(&self, seen: &Observation) -> Decision {
        (**self).decide(seen)
    }
}
