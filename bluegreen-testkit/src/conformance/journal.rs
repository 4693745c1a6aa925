//! What every `Journal` owes: order, durability, and compare-and-append.

use async_trait::async_trait;
use bluegreen_core::{
    Body, Color, Direction, Entry, Journal, Kind, Note, Outcome, PausePart, Position, Result, Share, Signal, StepName,
    Timestamp, Verdict,
};
use std::sync::Arc;
use std::time::Duration;

/// What the suite needs beside the journal, which is empty.
#[async_trait]
pub trait JournalHarness: Send + Sync {
    /// Opens the journal in a process of its own. What it is opened in next to a process that still has it is up to the
    /// journal: it may answer `Conflict`.
    async fn open(&self) -> Result<Arc<dyn Journal>>;

    /// Asks something of the runner from another process; false when the journal has no such door.
    async fn request(&self, signal: Signal) -> bool;
}

/// Makes a module of tests of the [journal suite](crate::conformance::journal).
#[macro_export]
macro_rules! journal_conformance {
    ($module:ident, $harness:expr) => {
        $crate::conformance_tests!(
            $module,
            journal,
            $harness,
            [
                it_starts_empty,
                entries_come_back_as_they_were_written,
                entries_outlive_the_process,
                an_entry_that_is_not_next_is_a_conflict,
                of_two_runners_one_gets_a_conflict,
                requests_are_heard_with_an_id,
            ]
        );
    };
}

fn entry(seq: u64, body: Body) -> Entry {
    let at = Timestamp::from_micros(1_767_225_600_000_000) + Duration::from_micros(seq);
    Entry { v: 1, seq, at, body }
}

fn started(seq: u64) -> Entry {
    let step = StepName::Prepare;
    entry(seq, Body::Started { step })
}

/// An entry of every kind that has something in it that could get lost.
fn samples() -> Vec<Entry> {
    let step = StepName::CutOver;
    let noted = |note| Body::Noted { step, note };
    let until = Timestamp::from_micros(1_767_225_600_123_456);
    let bodies = vec![
        Body::Planned {
            name: "shop \"ümläut\"\n2".into(),
            fingerprint: "f00".into(),
            steps: vec![StepName::Prepare, StepName::CleanUp],
            acts_on: [("database".into(), "blue a:5432/shop".into())].into(),
        },
        Body::Started { step },
        noted(Note::Mirror {
            direction: Direction::BlueToGreen,
        }),
        noted(Note::Asking {
            share: Share::per_mille(125).expect("a share"),
            ttl: 60,
            ttl_before: 300,
            reason: "the script says so".into(),
        }),
        noted(Note::Commit {
            to: Color::Green,
            position: Some(Position::new("0/16B3748")),
            parts: vec![PausePart {
                name: "fence".into(),
                took: Duration::from_nanos(1_234_567),
            }],
        }),
        noted(Note::Judged {
            share: Share::ZERO,
            verdict: Verdict::no_data(),
            blue: bluegreen_core::Evidence::default(),
            lag: Some(7),
            decision: bluegreen_core::Decision::new(bluegreen_core::Action::Stay(Some(until)), "no data"),
        }),
        Body::Waiting {
            step,
            until,
            why: "the old TTL".into(),
        },
        Body::Operator {
            signal: Signal::Approve,
            request: Some("7".into()),
        },
        Body::Closed {
            outcome: Outcome::RolledBack { why: "so".into() },
        },
    ];
    bodies
        .into_iter()
        .zip(0..)
        .map(|(body, seq)| entry(seq, body))
        .collect()
}

async fn open(h: &dyn JournalHarness) -> Arc<dyn Journal> {
    h.open().await.expect("the journal opens")
}

/// What the harness promises, so that the rest means something.
pub async fn it_starts_empty(h: &dyn JournalHarness) {
    assert_eq!(open(h).await.load().await.expect("it loads"), vec![]);
}

/// All of them, in order, and whole.
pub async fn entries_come_back_as_they_were_written(h: &dyn JournalHarness) {
    let journal = open(h).await;
    journal.load().await.expect("it loads");
    for entry in samples() {
        journal.append(&entry).await.expect("it is next");
    }
    assert_eq!(journal.load().await.expect("it loads"), samples());
}

/// A process that comes later reads them and goes on.
pub async fn entries_outlive_the_process(h: &dyn JournalHarness) {
    for seq in 0..5 {
        let journal = open(h).await;
        let before: Vec<Entry> = (0..seq).map(started).collect();
        assert_eq!(journal.load().await.expect("it loads"), before);
        journal.append(&started(seq)).await.expect("it is next");
    }
}

/// A gap, a repetition: refused, and nothing is changed.
pub async fn an_entry_that_is_not_next_is_a_conflict(h: &dyn JournalHarness) {
    let journal = open(h).await;
    journal.load().await.expect("it loads");
    for seq in 0..3 {
        journal.append(&started(seq)).await.expect("it is next");
    }
    for wrong in [0, 2, 4, 99] {
        let error = journal.append(&started(wrong)).await.expect_err("it is not next");
        assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
    }
    journal.append(&started(3)).await.expect("it is next");
    assert_eq!(journal.load().await.expect("it loads").len(), 4);
}

/// At its opening, its reading or its first append: before it has any effect.
pub async fn of_two_runners_one_gets_a_conflict(h: &dyn JournalHarness) {
    let first = open(h).await;
    first.load().await.expect("it loads");
    first.append(&started(0)).await.expect("it is next");
    let second = async {
        let second = h.open().await?;
        let seen = second.load().await?.len() as u64;
        first.append(&started(1)).await.expect("the first goes on");
        second.append(&started(seen)).await
    };
    let error = second.await.expect_err("two runners");
    assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
}

/// What an operator asked for is there at every look, under the same id.
pub async fn requests_are_heard_with_an_id(h: &dyn JournalHarness) {
    let journal = open(h).await;
    journal.load().await.expect("it loads");
    journal.append(&started(0)).await.expect("it is next");
    if !h.request(Signal::Pause).await {
        assert!(!journal.has_requests());
        assert_eq!(journal.requests().await.expect("it can look"), vec![]);
        return;
    }
    assert!(journal.has_requests());
    assert!(h.request(Signal::Approve).await);
    let seen = journal.requests().await.expect("it can look");
    let signals: Vec<Signal> = seen.iter().map(|request| request.signal).collect();
    assert_eq!(signals, [Signal::Pause, Signal::Approve]);
    assert_ne!(seen[0].id, seen[1].id);
    assert_eq!(journal.requests().await.expect("it can look"), seen);
}
