//! What every built-in policy has in common: its guards, and the one function that decides with them. The policies
//! themselves only say which shares they climb.

use super::{Action, Decision, Observation};
use crate::duration::{IntoDuration, format_duration};
use crate::judge::Verdict;
use crate::model::{Color, Share};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What a policy does when green fails, or a share takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFail {
    /// Leave the share where it is, and ask a human.
    Hold,
    /// Back to the share before, watch that again, and try once more; a share that fails twice is held before.
    RetreatOne,
    /// All users back to blue, and ask a human. The default.
    #[default]
    RetreatToZero,
    /// All users back to blue, and unwind the migration.
    Abort,
}

impl fmt::Display for OnFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hold => "hold",
            Self::RetreatOne => "back one share",
            Self::RetreatToZero => "back to 0 % and hold",
            Self::Abort => "abort",
        })
    }
}

/// Past this, beyond the time a share is watched anyway, a share that does not move on counts as failed.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// A share that was given up so often is not tried again without a human.
const TRIES: usize = 2;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Guards {
    pub(super) bake: Duration,
    pub(super) min_requests: u64,
    pub(super) approve_before: Option<Share>,
    pub(super) on_fail: OnFail,
    pub(super) fail_after: u32,
    pub(super) deadline: Option<Duration>,
    pub(super) freeze: bool,
    /// What was set and makes no sense, for `validate`.
    pub(super) mistakes: Vec<String>,
}

impl Guards {
    pub(super) fn new(bake: Duration) -> Self {
        Self {
            bake,
            min_requests: 0,
            approve_before: None,
            on_fail: OnFail::default(),
            fail_after: 1,
            deadline: None,
            freeze: false,
            mistakes: vec![],
        }
    }

    pub(super) fn read(&mut self, what: &str, length: impl IntoDuration) -> Option<Duration> {
        length
            .into_duration()
            .map_err(|why| self.mistakes.push(format!("{what}: {why}")))
            .ok()
    }

    pub(super) fn read_share(&mut self, what: &str, percent: f64) -> Option<Share> {
        share(percent)
            .map_err(|why| self.mistakes.push(format!("{what}: {why}")))
            .ok()
    }

    pub(super) fn describe(&self, shares: &[Share]) -> String {
        let climb: Vec<String> = shares.iter().map(ToString::to_string).collect();
        let mut text = format!("{}, each watched for {}", climb.join(", "), format_duration(self.bake));
        if self.min_requests > 0 {
            text += &format!(" and {} requests", self.min_requests);
        }
        if let Some(from) = self.approve_before {
            text += &format!("; asks before {from}");
        }
        text += &format!("; on failure: {}", self.on_fail);
        if self.fail_after > 1 {
            text += &format!(" after {} in a row", self.fail_after);
        }
        text += &format!("; at most {} a share", format_duration(self.deadline()));
        if self.freeze {
            text += "; nothing moves while blue is ill";
        }
        text
    }

    pub(super) fn validate(&self, shares: &[Share]) -> Result<(), String> {
        if let Some(mistake) = self.mistakes.first() {
            return Err(mistake.clone());
        }
        let expected = "shares in per cent are expected, each larger than the one before, the last 100";
        match shares {
            [] => return Err(format!("there are no shares: {expected}")),
            [Share::ZERO, ..] => return Err(format!("the first share is 0, where it starts: {expected}")),
            [.., last] if *last != Share::FULL => return Err(format!("the last share is {last}: {expected}")),
            _ => {}
        }
        if let Some(pair) = shares.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(format!("{} comes after {}: {expected}", pair[1], pair[0]));
        }
        if self.fail_after == 0 {
            return Err("fail_after is 0: at least 1 failure is expected".into());
        }
        if self.deadline() <= self.bake {
            let (deadline, bake) = (format_duration(self.deadline()), format_duration(self.bake));
            return Err(format!(
                "the deadline of {deadline} a share is not longer than its bake of {bake}: it could never be met"
            ));
        }
        if self.approve_before == Some(Share::ZERO) {
            return Err("approve_before is 0: a share above 0 is expected".into());
        }
        Ok(())
    }

    pub(super) fn decide(&self, shares: &[Share], seen: &Observation) -> Decision {
        let next = shares.iter().copied().find(|s| *s > seen.share);
        // A deadline is for a share; before the first, it is for the beginning.
        let deadline = seen.since.max(seen.started) + self.deadline();
        let late = seen.now >= deadline;
        let stay = |until, why: String| Decision::new(Action::Stay(until), why);

        if self.freeze && seen.blue_healthy == Some(false) {
            return match late {
                false => stay(
                    Some(deadline),
                    "blue is ill too: that is not green's doing, nothing moves".into(),
                ),
                true => Decision::new(Action::Hold, "blue is ill too, and the time for this share is over"),
            };
        }
        if let Verdict::Fail { reason, .. } = &seen.verdict {
            return match seen.failures.max(1) >= self.fail_after {
                true => self.fail(shares, seen, reason),
                false => stay(
                    None,
                    format!(
                        "{reason}: failure {} of {} in a row",
                        seen.failures.max(1),
                        self.fail_after
                    ),
                ),
            };
        }
        let wait = |until, why: String| match late {
            true if next.is_some() && seen.approved >= next => stay(None, format!("{why}; an operator lets it wait")),
            true => self.fail(
                shares,
                seen,
                &format!("{} are over and {why}", format_duration(self.deadline())),
            ),
            false => stay(Some(until), why),
        };
        let Some(effective) = seen.effective_since else {
            return wait(deadline, format!("users do not see {} yet", seen.share));
        };
        // At zero nobody is on green: there is nothing to watch and little to judge.
        if seen.share > Share::ZERO {
            let baked = effective + self.bake;
            let requests = seen.verdict.evidence().requests;
            if let Verdict::Inconclusive { reason, .. } = &seen.verdict {
                return wait(deadline, format!("{} cannot be judged yet: {reason}", seen.share));
            }
            if seen.now < baked {
                return wait(baked.min(deadline), format!("{} is watched until {baked}", seen.share));
            }
            if requests < self.min_requests {
                return wait(deadline, format!("{requests} of {} requests seen", self.min_requests));
            }
        }
        let Some(next) = next else {
            return Decision::new(
                Action::Complete,
                "all users are on green, and it was watched long enough",
            );
        };
        if seen.approved < Some(next)
            && let Some(ask) = self.must_ask(shares, seen, next)
        {
            return ask;
        }
        let why = match seen.share {
            Share::ZERO => "nobody is on green yet, and nothing speaks against it".into(),
            share => format!("{share} was watched for {}", format_duration(seen.now.since(effective))),
        };
        Decision::new(Action::Advance(next), why)
    }

    /// What is done instead of moving on to a share that a human must approve. What failed stops; what was announced is
    /// waited for, and judged meanwhile.
    fn must_ask(&self, shares: &[Share], seen: &Observation, next: Share) -> Option<Decision> {
        let given_up = |share| {
            seen.history
                .windows(2)
                .filter(|w| w[0].0 == share && w[1].0 < share)
                .count()
        };
        if seen.share == Share::ZERO && shares.iter().any(|s| given_up(*s) > 0) {
            let why = "all users went back to blue: approve to begin again";
            return Some(Decision::new(Action::Hold, why));
        }
        if given_up(next) >= TRIES {
            let why = format!(
                "{next} was tried {} times and given up: approve to try it again",
                given_up(next)
            );
            return Some(Decision::new(Action::Hold, why));
        }
        let from = self.approve_before?;
        (next >= from).then(|| Decision::new(Action::Stay(None), format!("waits for an approval of {next}")))
    }

    fn fail(&self, shares: &[Share], seen: &Observation, why: &str) -> Decision {
        let hold = |why: String| Decision::new(Action::Hold, why);
        let before = shares
            .iter()
            .rev()
            .copied()
            .find(|s| *s < seen.share)
            .unwrap_or(Share::ZERO);
        if seen.authority == Color::Green && self.on_fail != OnFail::Hold {
            return hold(format!(
                "{why}; green's database is the writer, so users cannot simply go back"
            ));
        }
        match self.on_fail {
            OnFail::Abort => Decision::new(Action::Abort, why),
            _ if seen.share == Share::ZERO => hold(format!("{why}; nobody is on green")),
            OnFail::Hold => hold(why.into()),
            OnFail::RetreatOne => Decision::new(Action::Retreat(before), why),
            OnFail::RetreatToZero => Decision::new(Action::Retreat(Share::ZERO), why),
        }
    }

    fn deadline(&self) -> Duration {
        self.deadline
            .unwrap_or_else(|| self.bake.saturating_mul(2).saturating_add(PATIENCE))
    }
}

/// A share of so many per cent, to a tenth.
pub(super) fn share(percent: f64) -> Result<Share, String> {
    let per_mille = (percent * 10.0).round();
    if !(0.0..=1000.0).contains(&per_mille) {
        return Err(format!("{percent} is no share: 0 to 100 per cent is expected"));
    }
    if (per_mille - percent * 10.0).abs() > 1e-6 {
        return Err(format!(
            "{percent} is too fine a share: tenths of a per cent are expected"
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1000, checked above"
    )]
    Share::per_mille(per_mille as u16).ok_or_else(|| format!("{percent} is no share"))
}

/// The guards' setters, the same for every policy that has `guards`, and its `TrafficPolicy` over its `shares`.
macro_rules! guarded {
    ($policy:ty) => {
        impl $policy {
            /// How long a share is watched once users see it: a `Duration`, or text such as `"15m"`.
            #[must_use]
            pub fn bake(mut self, length: impl $crate::duration::IntoDuration) -> Self {
                self.guards.bake = self.guards.read("bake", length).unwrap_or(self.guards.bake);
                self
            }

            /// How many requests must have been seen at a share before it moves on.
            #[must_use]
            pub fn min_requests(mut self, requests: u64) -> Self {
                self.guards.min_requests = requests;
                self
            }

            /// Waits for an operator's approval before it moves to this share (in per cent), and before each larger one.
            #[must_use]
            pub fn approve_before(mut self, percent: impl Into<f64>) -> Self {
                self.guards.approve_before = self.guards.read_share("approve_before", percent.into());
                self
            }

            /// What happens when green fails.
            #[must_use]
            pub fn on_fail(mut self, what: $crate::policy::OnFail) -> Self {
                self.guards.on_fail = what;
                self
            }

            /// How many judgements in a row must fail before that counts (1).
            #[must_use]
            pub fn fail_after(mut self, in_a_row: u32) -> Self {
                self.guards.fail_after = in_a_row;
                self
            }

            /// How long a share may take, from being asked for to moving on; past it, it counts as failed. Without one
            /// it is a day and twice the bake.
            #[must_use]
            pub fn deadline(mut self, length: impl $crate::duration::IntoDuration) -> Self {
                self.guards.deadline = self.guards.read("deadline", length).or(self.guards.deadline);
                self
            }

            /// Moves nothing while blue is ill too: a shared outage is not green's fault.
            #[must_use]
            pub fn freeze_while_blue_is_ill(mut self) -> Self {
                self.guards.freeze = true;
                self
            }
        }

        impl $crate::policy::TrafficPolicy for $policy {
            fn describe(&self) -> String {
                self.guards.describe(&self.shares)
            }
            fn shares(&self) -> Vec<$crate::model::Share> {
                self.shares.to_vec()
            }
            fn validate(&self) -> Result<(), String> {
                self.guards.validate(&self.shares)
            }
            fn decide(&self, seen: &$crate::policy::Observation) -> $crate::policy::Decision {
                self.guards.decide(&self.shares, seen)
            }
        }
    };
}
pub(super) use guarded;
