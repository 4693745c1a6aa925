//! The laws of the design, as assertions over a world in which a migration has ended.

use super::{FIRST_TTL, World, production, target};
use bluegreen_core::{Body, Clock, Color, DnsProvider, Note, Outcome, Replicator, Shape, Share, Timestamp};
use futures::FutureExt;
use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What became of everything that was done in a world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests made.
    pub requests: u64,
    /// Requests that failed, and how.
    pub failed: Vec<String>,
    /// Writes that were acknowledged.
    pub acked: usize,
    /// Of them, not to be found at the writer.
    pub lost: Vec<u64>,
    /// Tokens that are there more than once.
    pub doubled: Vec<u64>,
    /// Lost ones that are at the other side, where nobody reads.
    pub misplaced: Vec<u64>,
    /// How long both sides took writes.
    pub two_writers: Duration,
    /// The longest time a write waited at the gate.
    pub longest_stall: Duration,
    /// The longest time the gate was held.
    pub longest_pause: Duration,
}

impl World {
    /// What became of everything up to now, with `writer` as the side that counts.
    #[must_use]
    pub fn tally(&self, writer: Color) -> Tally {
        let ledger = self.crowd.ledger();
        let mut there: HashMap<u64, usize> = HashMap::new();
        for token in self.databases.tokens(writer) {
            *there.entry(token).or_default() += 1;
        }
        let elsewhere = self.databases.tokens(writer.other());
        let lost: Vec<u64> = ledger
            .acked
            .iter()
            .copied()
            .filter(|token| !there.contains_key(token))
            .collect();
        let mut doubled: Vec<u64> = there.iter().filter(|(_, n)| **n > 1).map(|(token, _)| *token).collect();
        doubled.sort_unstable();
        Tally {
            requests: ledger.requests,
            failed: ledger.failed,
            acked: ledger.acked.len(),
            misplaced: lost.iter().copied().filter(|token| elsewhere.contains(token)).collect(),
            lost,
            doubled,
            two_writers: self.databases.time_with_two_writers(),
            longest_stall: ledger.longest_stall,
            longest_pause: self.gate.longest_hold(),
        }
    }

    /// Every law of the design, after a migration that ended with `outcome`.
    ///
    /// # Panics
    /// When one is broken: with which, the seed, and the journal.
    pub fn assert_laws(&self, outcome: &Outcome) -> Tally {
        let writer = match outcome {
            Outcome::Completed => Color::Green,
            Outcome::RolledBack { .. } => Color::Blue,
        };
        // Whoever waits comes through, and every cached answer ends.
        self.clock.advance(Duration::from_secs(120));
        self.crowd.go_home();
        self.clock.advance(Duration::from_secs(120));
        let tally = self.tally(writer);
        let mut broken = vec![];
        let mut law = |holds: bool, what: String| {
            if !holds {
                broken.push(what);
            }
        };
        law(
            tally.two_writers.is_zero(),
            format!("1: two writers for {:?}", tally.two_writers),
        );
        law(
            tally.lost.is_empty(),
            format!("2: lost {:?}, of them misplaced {:?}", tally.lost, tally.misplaced),
        );
        law(tally.doubled.is_empty(), format!("2: doubled {:?}", tally.doubled));
        let excused = self.excused.load(Ordering::SeqCst);
        law(
            excused || tally.failed.is_empty(),
            format!("3: failed requests {:?}", tally.failed),
        );
        let violations = self.databases.violations();
        law(
            violations.is_empty(),
            format!("of the replicator's protocol: {violations:?}"),
        );
        for what in self.left_behind(writer) {
            law(false, format!("5: {what}"));
        }
        for what in self.broken_in_the_journal() {
            law(false, what);
        }
        assert!(
            broken.is_empty(),
            "broken laws, seed {}, {outcome}:\n  {}\nthe journal:\n{}",
            self.seed,
            broken.join("\n  "),
            self.story()
        );
        tally
    }

    /// The longest that writes may have waited in a world without deaths and without operators: every call of the pause and
    /// of its way out has the budget, and a fault costs a retry.
    #[must_use]
    pub fn longest_lawful_pause(&self) -> Duration {
        let faults = *self.faults_seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.spec.pause_budget * 4 + Duration::from_secs(130) * faults
    }

    /// What should not be there any more.
    fn left_behind(&self, writer: Color) -> Vec<String> {
        let mut left = vec![];
        let replicator = crate::fake::FakeReplicator::new(&self.databases);
        // The fakes answer at once.
        let looked = (
            replicator.leftovers().now_or_never(),
            self.dns.read(&production()).now_or_never(),
        );
        match looked {
            (Some(Ok(leftovers)), Some(Ok(record))) => {
                left.extend(leftovers);
                if record.shape != Shape::Simple
                    || record.sets != target(writer).record_sets(FIRST_TTL)
                    || record.owner.is_some()
                {
                    left.push(format!("the record {record:?}"));
                }
            }
            unread => left.push(format!("unreadable: {unread:?}")),
        }
        let gate = self.gate.look();
        if gate.held || gate.at != writer {
            left.push(format!("the gate {gate:?}"));
        }
        if !self.databases.accepts(writer) {
            left.push(format!("{writer} takes no writes"));
        }
        if writer == Color::Green && self.databases.accepts(Color::Blue) {
            left.push("blue takes writes".to_owned());
        }
        left
    }

    /// A share rises only when the one before is effective; the commit comes with a proof; the end is the last entry.
    fn broken_in_the_journal(&self) -> Vec<String> {
        let entries = match self.journal.entries() {
            Ok(entries) => entries,
            Err(error) => return vec![format!("the journal: {error}")],
        };
        let mut broken = vec![];
        let (mut share, mut effective, mut committed) = (Share::ZERO, None::<Timestamp>, false);
        for entry in &entries {
            let Body::Noted { note, .. } = &entry.body else {
                continue;
            };
            match note {
                Note::Asking { share: to, .. } => {
                    if *to > share && !committed && effective.is_none_or(|at| at > entry.at) {
                        broken.push(format!("entry {}: {to} before {share} was effective", entry.seq));
                    }
                    share = *to;
                    effective = None;
                }
                Note::Served { effective: at, .. } => effective = Some(*at),
                Note::Commit { position, .. } => {
                    committed = true;
                    if position.is_none() {
                        broken.push(format!("entry {}: a commit without a proof", entry.seq));
                    }
                }
                _ => {}
            }
        }
        if !matches!(entries.last().map(|entry| &entry.body), Some(Body::Closed { .. })) {
            broken.push("the journal is not closed".into());
        }
        if entries.iter().any(|entry| entry.at > self.clock.now()) {
            broken.push("an entry from the future".into());
        }
        broken
    }
}
