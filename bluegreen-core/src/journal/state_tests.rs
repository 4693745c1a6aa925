//! Tables and laws of the fold.

#![allow(clippy::unwrap_used)]

use super::entry::{Body, Entry, FORMAT, Note, Outcome, Signal, StepName};
use super::state::{Next, Stage, State};
use crate::error::Kind;
use crate::model::{Color, Share};
use crate::time::Timestamp;
use proptest::prelude::*;
use std::time::Duration;

fn entries(bodies: impl IntoIterator<Item = Body>) -> Vec<Entry> {
    (0..)
        .zip(bodies)
        .map(|(seq, body)| Entry {
            v: FORMAT,
            seq,
            at: at(seq),
            body,
        })
        .collect()
}

fn at(second: u64) -> Timestamp {
    Timestamp::EPOCH + Duration::from_secs(second)
}

fn planned() -> Body {
    use StepName::{CleanUp, CutOver, Prepare};
    Body::Planned {
        name: "t".into(),
        fingerprint: "f".into(),
        steps: vec![Prepare, CutOver, CleanUp],
        acts_on: [].into(),
    }
}

fn next(bodies: impl IntoIterator<Item = Body>, now: u64) -> Next {
    let bodies: Vec<Body> = std::iter::once(planned()).chain(bodies).collect();
    State::of(&entries(bodies)).unwrap().next(at(now))
}

fn started(step: StepName) -> Body {
    Body::Started { step }
}

fn finished(step: StepName) -> Body {
    Body::Finished { step }
}

fn said(signal: Signal) -> Body {
    Body::Operator { signal, request: None }
}

fn commit(to: Color) -> Body {
    Body::Noted {
        step: StepName::CutOver,
        note: Note::Commit {
            to,
            position: None,
            parts: vec![],
        },
    }
}

#[test]
fn what_comes_next() {
    use StepName::{CleanUp, CutOver, Prepare};
    assert_eq!(State::default().next(at(0)), Next::Plan);
    assert_eq!(next([], 0), Next::Advance(Prepare));
    assert_eq!(next([started(Prepare)], 0), Next::Advance(Prepare));
    assert_eq!(next([started(Prepare), finished(Prepare)], 0), Next::Advance(CutOver));
    let waiting = Body::Waiting {
        step: Prepare,
        until: at(9),
        why: "w".into(),
    };
    assert_eq!(
        next([started(Prepare), waiting.clone()], 8),
        Next::WaitUntil(at(9), "w".into())
    );
    assert_eq!(next([started(Prepare), waiting.clone()], 9), Next::Advance(Prepare));
    let retry = Body::Retrying {
        step: Prepare,
        attempt: 1,
        until: at(9),
        error: "e".into(),
    };
    assert!(matches!(next([started(Prepare), retry.clone()], 8), Next::WaitUntil(t, _) if t == at(9)));
    // A wait that is over hides no retry, or all tries are used up at once.
    let over = Body::Waiting {
        step: Prepare,
        until: at(5),
        why: "w".into(),
    };
    assert!(matches!(next([started(Prepare), over, retry], 8), Next::WaitUntil(t, _) if t == at(9)));
    let asked = Body::Asked {
        step: Prepare,
        why: "q".into(),
    };
    assert_eq!(
        next([started(Prepare), asked.clone()], 0),
        Next::Ask(Prepare, "q".into())
    );
    assert_eq!(
        next([started(Prepare), asked, said(Signal::Resume)], 0),
        Next::Advance(Prepare)
    );
    assert_eq!(next([said(Signal::Pause)], 0), Next::Paused);
    assert_eq!(
        next([said(Signal::Pause), said(Signal::Resume)], 0),
        Next::Advance(Prepare)
    );
    // An abort ends a wait, and undoes what was started, newest first.
    let abort = [
        started(Prepare),
        finished(Prepare),
        started(CutOver),
        said(Signal::Abort),
    ];
    assert_eq!(next(abort.clone(), 0), Next::Undo(CutOver));
    let undone = abort.into_iter().chain([Body::Undone { step: CutOver }]);
    assert_eq!(next(undone.clone(), 0), Next::Undo(Prepare));
    let all = undone.chain([Body::Undone { step: Prepare }]);
    assert!(matches!(next(all, 0), Next::Close(Outcome::RolledBack { .. })));
    let done = [
        started(Prepare),
        finished(Prepare),
        started(CutOver),
        finished(CutOver),
        started(CleanUp),
    ];
    assert_eq!(
        next(done.clone().into_iter().chain([finished(CleanUp)]), 0),
        Next::Close(Outcome::Completed)
    );
    // Past the point of no return nothing goes back.
    assert_eq!(
        next(done.into_iter().chain([said(Signal::GoBack)]), 0),
        Next::Advance(CleanUp)
    );
}

#[test]
fn an_abort_after_the_commit_does_not_go_back_but_going_back_does() {
    use StepName::{CutOver, Prepare};
    let after = [
        started(Prepare),
        finished(Prepare),
        started(CutOver),
        commit(Color::Green),
    ];
    assert_eq!(
        next(after.clone().into_iter().chain([said(Signal::Abort)]), 0),
        Next::Advance(CutOver)
    );
    assert_eq!(
        next(after.into_iter().chain([said(Signal::GoBack)]), 0),
        Next::Undo(CutOver)
    );
}

#[test]
fn switched_back_it_waits_before_the_cut_over_and_begins_that_anew() {
    use StepName::{CutOver, Prepare};
    let switched = vec![
        started(Prepare),
        finished(Prepare),
        started(CutOver),
        commit(Color::Green),
        said(Signal::SwitchBack),
    ];
    assert_eq!(next(switched.clone(), 0), Next::Undo(CutOver));
    let more = |more: &[Body]| next(switched.iter().chain(more).cloned(), 0);
    let undone = [commit(Color::Blue), Body::Undone { step: CutOver }];
    assert_eq!(more(&undone), Next::Paused);
    let resumed = [&undone[..], &[said(Signal::Resume)]].concat();
    assert_eq!(more(&resumed), Next::Advance(CutOver));
    let all: Vec<Body> = std::iter::once(planned())
        .chain(switched.clone())
        .chain(resumed)
        .collect();
    let state = State::of(&entries(all)).unwrap();
    assert_eq!(state.step(CutOver).stage, Stage::Pending);
    assert!(
        state.step(CutOver).notes.is_empty(),
        "the old commit record is no longer unfinished"
    );
    let aborted = [&undone[..], &[said(Signal::Abort)]].concat();
    assert_eq!(more(&aborted), Next::Undo(Prepare));
    // Going back altogether goes further than what was begun.
    let further = [
        said(Signal::GoBack),
        commit(Color::Blue),
        Body::Undone { step: CutOver },
    ];
    assert_eq!(more(&further), Next::Undo(Prepare));
}

#[test]
fn a_broken_way_back_is_not_taken_until_it_is_mended() {
    use StepName::{CutOver, Hold, Prepare};
    let seen = |broken: Option<&str>| Body::Noted {
        step: Hold,
        note: Note::WayBack {
            broken: broken.map(str::to_owned),
            for_good: false,
        },
    };
    let held = |more: &[Body]| {
        let before = [
            started(Prepare),
            finished(Prepare),
            started(CutOver),
            commit(Color::Green),
        ];
        next(before.iter().chain(more).cloned(), 0)
    };
    let broken = seen(Some("the slot is lost"));
    for signal in [Signal::GoBack, Signal::SwitchBack] {
        assert_eq!(held(&[broken.clone(), said(signal)]), Next::Advance(CutOver));
        assert_eq!(held(&[broken.clone(), seen(None), said(signal)]), Next::Undo(CutOver));
    }
}

#[test]
fn the_latest_commit_names_the_writer() {
    let writer = |bodies: Vec<Body>| {
        let all: Vec<Body> = std::iter::once(planned()).chain(bodies).collect();
        State::of(&entries(all)).unwrap().writer()
    };
    assert_eq!(writer(vec![]), Color::Blue);
    assert_eq!(writer(vec![commit(Color::Green)]), Color::Green);
    assert_eq!(writer(vec![commit(Color::Green), commit(Color::Blue)]), Color::Blue);
}

#[test]
fn an_approval_is_for_one_share() {
    let asking = Body::Noted {
        step: StepName::Shift,
        note: Note::Asking {
            share: Share::FULL,
            ttl: 1,
            ttl_before: 1,
            reason: String::new(),
        },
    };
    let state = State::of(&entries([planned(), said(Signal::Approve)])).unwrap();
    assert!(state.approved);
    let state = State::of(&entries([planned(), said(Signal::Approve), asking])).unwrap();
    assert!(!state.approved);
}

#[test]
fn what_cannot_be_one_journal_is_corrupt() {
    let good = entries([planned(), started(StepName::Prepare)]);
    let mut gap = good.clone();
    gap[1].seq = 2;
    let mut newer = good.clone();
    newer[1].v = FORMAT + 1;
    let after = entries([
        planned(),
        Body::Closed {
            outcome: Outcome::Completed,
        },
        started(StepName::Prepare),
    ]);
    let headless = entries([started(StepName::Prepare)]);
    let twice = entries([planned(), planned()]);
    for bad in [gap, newer, after, headless, twice] {
        assert_eq!(State::of(&bad).unwrap_err().kind(), Kind::Corrupt, "{bad:?}");
    }
}

fn any_body() -> impl Strategy<Value = Body> {
    let step = prop_oneof![
        Just(StepName::Prepare),
        Just(StepName::CutOver),
        Just(StepName::CleanUp)
    ];
    let signal = prop_oneof![
        Just(Signal::Pause),
        Just(Signal::Resume),
        Just(Signal::Approve),
        Just(Signal::Retreat),
        Just(Signal::Abort),
        Just(Signal::GoBack),
        Just(Signal::SwitchBack)
    ];
    prop_oneof![
        step.clone().prop_map(started),
        step.clone().prop_map(finished),
        step.clone().prop_map(|step| Body::Undone { step }),
        step.clone().prop_map(|step| Body::Asked { step, why: "q".into() }),
        (step.clone(), 0_u64..99).prop_map(|(step, s)| Body::Waiting {
            step,
            until: at(s),
            why: "w".into()
        }),
        (step, 0_u64..99).prop_map(|(step, s)| Body::Retrying {
            step,
            attempt: 1,
            until: at(s),
            error: "e".into()
        }),
        signal.prop_map(said),
        prop_oneof![Just(Color::Green), Just(Color::Blue)].prop_map(commit),
        Just(Body::RollbackRequested { why: "r".into() }),
    ]
}

proptest! {
    #[test]
    fn every_state_has_an_answer_and_a_prefix_then_the_rest_is_the_whole(
        bodies in proptest::collection::vec(any_body(), 0..40),
        cut in 0_usize..40,
        now in 0_u64..99,
    ) {
        let all = entries(std::iter::once(planned()).chain(bodies));
        let whole = State::of(&all).unwrap();
        let cut = cut.min(all.len());
        let mut resumed = State::of(&all[..cut]).unwrap();
        for entry in &all[cut..] {
            resumed.apply(entry).unwrap();
        }
        prop_assert_eq!(whole.next(at(now)), resumed.next(at(now)));
        prop_assert_eq!(whole.writer(), resumed.writer());
        match whole.next(at(now)) {
            Next::Advance(step) => prop_assert_ne!(whole.step(step).stage, Stage::Finished),
            Next::Undo(step) => prop_assert!(
                matches!(whole.step(step).stage, Stage::Started | Stage::Finished)
            ),
            Next::WaitUntil(until, _) => prop_assert!(until > at(now)),
            _ => {}
        }
    }
}
