//! `Steps`: the shares one names.

use super::guards::{Guards, guarded, share};
use crate::model::Share;
use std::time::Duration;

/// Climbs the shares it is given, in per cent, and watches each for 15 minutes unless told otherwise.
///
/// ```
/// use bluegreen_core::{Steps, TrafficPolicy};
/// let policy = Steps::new([10, 50, 100]).bake("15m").approve_before(100);
/// assert_eq!(policy.validate(), Ok(()));
/// let wrong = Steps::new([50, 10]).validate().unwrap_err();
/// assert!(wrong.contains("the last 100"), "{wrong}");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    pub(super) shares: Vec<Share>,
    pub(super) guards: Guards,
}

impl Steps {
    /// The shares in per cent, ascending, the last one 100; tenths of a per cent are the finest.
    pub fn new(percents: impl IntoIterator<Item: Into<f64>>) -> Self {
        let mut guards = Guards::new(Duration::from_secs(15 * 60));
        let mut shares = vec![];
        for percent in percents {
            match share(percent.into()) {
                Ok(share) => shares.push(share),
                Err(why) => guards.mistakes.push(format!("steps: {why}")),
            }
        }
        Self { shares, guards }
    }
}

guarded!(Steps);
