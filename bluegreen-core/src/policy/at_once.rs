//! `AtOnce`: everybody in one move.

use super::guards::{Guards, guarded};
use crate::model::Share;
use std::time::Duration;

/// Sends everybody to green in one move. It still waits until users see it and the verdict is a pass; `.bake(..)` watches
/// longer.
///
/// ```
/// use bluegreen_core::{AtOnce, Share, TrafficPolicy};
/// assert_eq!(AtOnce::new().bake("5m").shares(), [Share::FULL]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AtOnce {
    pub(super) shares: [Share; 1],
    pub(super) guards: Guards,
}

impl AtOnce {
    /// Everybody in one move.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shares: [Share::FULL],
            guards: Guards::new(Duration::ZERO),
        }
    }
}

impl Default for AtOnce {
    fn default() -> Self {
        Self::new()
    }
}

guarded!(AtOnce);
