//! The report of a journal, as data and as a page.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{Body, Color, Entry, FileJournal, Outcome, Report, Share, Signal, StepName};
use std::time::Duration;

fn fixture() -> Report {
    let path = format!("{}/tests/fixtures/journal-v1.journal", env!("CARGO_MANIFEST_DIR"));
    Report::of(&FileJournal::read(path).unwrap())
}

#[test]
fn says_what_happened_as_data() {
    let report = fixture();
    assert_eq!(
        (report.name.as_str(), report.fingerprint.as_str()),
        ("shop", "5b1f0c9e")
    );
    assert_eq!(report.outcome, Some(Outcome::Completed));
    assert_eq!(report.steps.len(), 8);
    assert!(
        report
            .steps
            .iter()
            .all(|s| s.finished > s.started && s.undone.is_none())
    );
    assert_eq!(report.steps[4].step, StepName::Shift);

    let shares: Vec<_> = report.shares.iter().map(|s| (s.share, s.effective.is_some())).collect();
    assert_eq!(shares, [(Share::ZERO, false), (Share::percent(10).unwrap(), true)]);
    let pause = &report.pauses[0];
    assert_eq!((pause.to, pause.length), (Color::Green, Duration::from_micros(26_100)));
    assert_eq!(pause.parts.len(), 3);
    assert_eq!(report.given_up[0].held, Duration::from_secs(10));
    assert_eq!(report.commits[0].position.as_ref().unwrap().as_str(), "0/5A3C1F8");
    assert_eq!(
        (report.judged.len(), report.retries.len(), report.asked.len()),
        (3, 1, 1)
    );
    let heard: Vec<_> = report.signals.iter().map(|s| (s.signal, s.request.is_some())).collect();
    assert_eq!(heard, [(Signal::Approve, true), (Signal::Resume, false)]);
    assert_eq!(report.rollback, None);

    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn is_a_page_to_read() {
    let page = fixture().to_string();
    for part in [
        "shop: completed\n",
        "  cut-over  2026-11-18T11:07:07Z  4s\n",
        "    10 %  asked 2026-11-18T11:06:57Z, users from 2026-11-18T11:08:00Z: first step\n",
        "Writes paused for 26.1ms; green writes since 2026-11-18T11:07:10Z\n",
        "  fence blue                         900.0µs\n",
        "after 10.0s: the budget ran out",
    ] {
        assert!(page.contains(part), "{part:?} is missing in\n{page}");
    }
}

#[test]
fn knows_which_words_unwind_it() {
    let path = format!("{}/tests/fixtures/journal-v1.journal", env!("CARGO_MANIFEST_DIR"));
    let entries = FileJournal::read(path).unwrap();
    let before = |stop: &dyn Fn(&Body) -> bool| entries.iter().position(|e| stop(&e.body)).unwrap();
    let committed = before(&|b| {
        matches!(
            b,
            Body::Finished {
                step: StepName::CutOver
            }
        )
    });
    let cleaning = before(&|b| {
        matches!(
            b,
            Body::Finished {
                step: StepName::CleanUp
            }
        )
    });
    for (end, signal, unwinds) in [
        (5, Signal::Abort, true),
        (5, Signal::Retreat, false),
        (committed, Signal::Abort, false),
        (committed, Signal::GoBack, true),
        (cleaning, Signal::GoBack, false),
    ] {
        let mut told = entries[..end].to_vec();
        told.push(Entry {
            body: Body::Operator { signal, request: None },
            ..entries[end].clone()
        });
        assert_eq!(Report::of(&told).rollback.is_some(), unwinds, "{signal} after {end}");
    }
}

#[test]
fn every_prefix_of_a_journal_has_one() {
    let path = format!("{}/tests/fixtures/journal-v1.journal", env!("CARGO_MANIFEST_DIR"));
    let entries = FileJournal::read(path).unwrap();
    for end in 0..entries.len() {
        let report = Report::of(&entries[..end]);
        assert_eq!(report.outcome, None);
        assert!(!report.to_string().is_empty());
    }
}
