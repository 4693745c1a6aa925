//! `ScriptedPolicy`: says what it was told, in order, and climbs its shares by itself when it was told nothing.

use bluegreen_core::{Action, Decision, Observation, Share, TrafficPolicy};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// A policy with a script. Clones share it.
#[derive(Debug, Clone)]
pub struct ScriptedPolicy {
    shares: Vec<Share>,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Action>,
    seen: Vec<Observation>,
}

impl ScriptedPolicy {
    /// Climbs these shares, each as soon as the one before is effective and passes, and is complete when the last one does.
    #[must_use]
    pub fn new(shares: impl IntoIterator<Item = Share>) -> Self {
        Self {
            shares: shares.into_iter().collect(),
            script: Arc::default(),
        }
    }

    /// At its next decisions it says these, one each.
    #[must_use]
    pub fn then(self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.lock().next.extend(actions);
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything it was shown so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Observation> {
        self.lock().seen.clone()
    }
}

impl TrafficPolicy for ScriptedPolicy {
    fn describe(&self) -> String {
        let shares: Vec<String> = self.shares.iter().map(ToString::to_string).collect();
        format!("scripted: {}", shares.join(", "))
    }

    fn shares(&self) -> Vec<Share> {
        self.shares.clone()
    }

    fn decide(&self, seen: &Observation) -> Decision {
        let mut script = self.lock();
        script.seen.push(seen.clone());
        if let Some(action) = script.next.pop_front() {
            return Decision::new(action, "the script says so");
        }
        let fine = seen.effective_since.is_some() && seen.verdict.is_pass();
        match self.shares.iter().find(|share| **share > seen.share) {
            None if fine => Decision::new(Action::Complete, "the last share is effective, and green is well"),
            Some(next) if fine || seen.share == Share::ZERO => Decision::new(
                Action::Advance(*next),
                "the share before it is effective, and green is well",
            ),
            _ => Decision::new(
                Action::Stay(None),
                "not effective yet, or green is not known to be well",
            ),
        }
    }
}
