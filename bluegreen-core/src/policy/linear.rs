//! `Linear`: the same step again and again.

use super::guards::{Guards, guarded};
use crate::duration::IntoDuration;
use crate::model::Share;
use std::time::Duration;

/// Climbs by the same share each time.
///
/// ```
/// use bluegreen_core::{Linear, Share, TrafficPolicy};
/// let shares = Linear::new(30, "10m").shares();
/// assert_eq!(shares, [30, 60, 90, 100].map(|p| Share::percent(p).unwrap()));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub(super) shares: Vec<Share>,
    pub(super) guards: Guards,
}

impl Linear {
    /// Steps of so many per cent, each watched for `every`; the last one goes to 100.
    pub fn new(step_percent: impl Into<f64>, every: impl IntoDuration) -> Self {
        let mut guards = Guards::new(Duration::ZERO);
        guards.bake = guards.read("every", every).unwrap_or(guards.bake);
        let step = guards
            .read_share("the step", step_percent.into())
            .map_or(0, Share::as_per_mille);
        if step == 0 && guards.mistakes.is_empty() {
            guards
                .mistakes
                .push("the step is 0: more than 0, up to 100 per cent, is expected".into());
        }
        let climb = (1..)
            .map(|n: u16| n.saturating_mul(step))
            .take_while(|s| (1..1000).contains(s));
        let mut shares: Vec<Share> = climb.filter_map(Share::per_mille).collect();
        shares.push(Share::FULL);
        Self { shares, guards }
    }
}

guarded!(Linear);
