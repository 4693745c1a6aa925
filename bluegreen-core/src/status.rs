//! `Status`: where a migration is, since when, what it waits for, and whether it can still go back.

use crate::error::Result;
use crate::journal::state::State;
use crate::journal::{Entry, Outcome, StepName};
use crate::model::{Color, Share};
use crate::time::Timestamp;
use serde::Serialize;
use std::fmt;

/// Where a migration is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Its name; none before its first entry.
    pub name: Option<String>,
    /// The step it is at, or undoes.
    pub step: Option<StepName>,
    /// Since when it is at that step.
    pub since: Option<Timestamp>,
    /// Until when it waits, and for what.
    pub waits: Option<(Timestamp, String)>,
    /// What a human is asked.
    pub asks: Option<String>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Why it is unwound, if it is.
    pub unwinding: Option<String>,
    /// The share meant for green.
    pub share: Share,
    /// Since when users see it.
    pub effective: Option<Timestamp>,
    /// Which side's database accepts writes.
    pub writer: Color,
    /// Whether it can still go back to blue; not before it was begun.
    pub can_go_back: bool,
    /// What is wrong with the way back after the cut-over, if so; while it is, it cannot go back.
    pub way_back_broken: Option<String>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

impl Status {
    pub(crate) fn of(state: &State) -> Self {
        let step = state.current().filter(|_| state.closed.is_none());
        let own = step.map(|s| state.step(s));
        Self {
            name: state.planned.as_ref().map(|(name, ..)| name.clone()),
            step,
            since: own.and_then(|s| s.started),
            waits: own.and_then(|s| s.waiting.clone()),
            asks: state.asked.as_ref().map(|(_, why)| why.clone()),
            paused: state.paused,
            unwinding: state.unwinding.clone(),
            share: state.traffic.share(),
            effective: state.traffic.effective,
            writer: state.writer(),
            can_go_back: state.planned.is_some()
                && state.closed.is_none()
                && !state.past_no_return()
                && state.no_way_back().is_none(),
            way_back_broken: state.no_way_back().map(str::to_owned),
            outcome: state.closed.clone(),
        }
    }

    /// The status that these entries say, for those who only have a journal.
    ///
    /// # Errors
    /// `Corrupt` when the entries are not one journal.
    pub fn of_entries(entries: &[Entry]) -> Result<Self> {
        Ok(Self::of(&State::of(entries)?))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = &self.name else {
            return f.write_str("not begun");
        };
        write!(f, "{name}: ")?;
        if let Some(outcome) = &self.outcome {
            return write!(f, "{outcome}");
        }
        match (&self.unwinding, self.step) {
            (Some(why), Some(step)) => write!(f, "undoing {step} ({why})")?,
            (None, Some(step)) => write!(f, "{step}")?,
            (_, None) => f.write_str("at its end")?,
        }
        if let Some(since) = self.since {
            write!(f, ", since {since}")?;
        }
        write!(f, "; {} to green; {} writes", self.share, self.writer)?;
        if self.paused {
            f.write_str("; paused by an operator")?;
        }
        if let Some((until, why)) = &self.waits {
            write!(f, "; waits until {until}: {why}")?;
        }
        if let Some(asks) = &self.asks {
            write!(f, "; a human is needed: {asks}")?;
        }
        f.write_str(if self.can_go_back {
            "; can go back"
        } else {
            "; cannot go back"
        })?;
        match &self.way_back_broken {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_begun_cannot_go_back() {
        let status = Status::of_entries(&[]).unwrap();
        assert!(!status.can_go_back);
        assert_eq!(status.to_string(), "not begun");
    }
}
