//! A journal that goes out of reach around a pause: no pause begins that could not be given up, and none stays.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{Body, Kind, Note, Outcome, StepName, Timestamp};
use bluegreen_testkit::world::Ended;
use bluegreen_testkit::{Fault, World};
use std::time::Duration;

/// A journal whose lease is known to be the runner's for a little more than two budgets, and a forecast that holds the
/// pause up for a while: nothing is written right before it.
fn world(free: Option<Timestamp>) -> World {
    let world = World::new(21);
    world
        .journal
        .lease(world.clock.clone(), world.spec.pause_budget * 12 / 5);
    if let Some(free) = free {
        world.databases.obstruct(["a long transaction"]);
        let databases = world.databases.clone();
        world.clock.at(free, move || databases.obstruct(Vec::<String>::new()));
    }
    world
}

fn run(world: &World, proof: Option<Fault>) -> Option<Outcome> {
    let faults = world.sound();
    faults.script("replicator.caught_up", [proof]);
    match world.process(&faults) {
        Ended::Answered(Ok(outcome)) => Some(outcome),
        Ended::Answered(Err(_)) => None,
        Ended::Died => panic!("nobody killed it"),
    }
}

/// When something is first in the journal.
fn when(world: &World, is: impl Fn(&Body) -> bool) -> Timestamp {
    let entries = world.journal.entries().unwrap();
    entries.iter().find(|e| is(&e.body)).unwrap().at
}

#[test]
fn a_journal_that_goes_down_around_a_pause_leaves_nobody_waiting() {
    let is_begun = |body: &Body| {
        *body
            == Body::Started {
                step: StepName::CutOver,
            }
    };
    let is_committed = |body: &Body| {
        let Body::Noted { note, .. } = body else { return false };
        matches!(note, Note::Commit { .. })
    };
    let first = world(None);
    assert_eq!(run(&first, None), Some(Outcome::Completed));
    let free = when(&first, is_begun) + Duration::from_secs(120);
    let sound = world(Some(free));
    assert_eq!(run(&sound, None), Some(Outcome::Completed));
    let pause = when(&sound, is_committed);
    let budget = sound.spec.pause_budget;
    // From three budgets before it to three after it.
    let early = i64::try_from((budget * 3).as_micros()).unwrap();
    let first_down = Timestamp::from_micros(pause.as_micros() - early);
    // Proven just in time, and not in time.
    let proofs = [Fault::Slow(budget * 19 / 20), Fault::Hold];
    let (mut begun, mut kept_out) = (0, 0);
    for proof in proofs {
        for step in 0..40 {
            let down = first_down + budget * step * 3 / 20;
            let lasting = Duration::from_secs(if step % 2 == 0 { 30 } else { 3600 });
            let world = world(Some(free));
            let (goes, comes) = (world.journal.clone(), world.journal.clone());
            world.clock.at(down, move || goes.set_down(true));
            let (gate, databases) = (world.gate.clone(), world.databases.clone());
            world.clock.at(down + lasting, move || {
                let seen = gate.look();
                assert!(
                    !seen.held && databases.accepts(seen.at),
                    "{proof:?}, down at {down}, the pause at {pause}: clients wait, and the journal is still out of reach"
                );
                comes.set_down(false);
            });
            let outcome = run(&world, Some(proof));
            let held = world.gate.holds();
            (begun, kept_out) = (begun + u32::from(held > 0), kept_out + u32::from(held == 0));
            world.clock.advance(lasting);
            let outcome = outcome.unwrap_or_else(|| world.finish());
            assert_eq!(outcome, Outcome::Completed);
            let tally = world.assert_laws(&outcome);
            let most = budget * 4;
            assert!(tally.longest_pause <= most, "{proof:?}: {:?}", tally.longest_pause);
        }
    }
    assert!(begun > 10 && kept_out > 10, "{begun} begun, {kept_out} kept out");
}

/// A commit record that failed, and what stands in its place is there although it was said to have failed: that is the runner's own
/// word, and no other runner's.
#[test]
fn what_stands_in_a_commit_records_place_is_known_for_ours() {
    let sound = World::new(21);
    assert_eq!(run(&sound, None), Some(Outcome::Completed));
    let entries = sound.journal.entries().unwrap();
    let is_commit = |body: &Body| {
        let Body::Noted { note, .. } = body else { return false };
        matches!(note, Note::Commit { .. })
    };
    let commit = entries.iter().position(|e| is_commit(&e.body)).unwrap();
    let world = World::new(21);
    let faults = world.sound();
    let before = std::iter::repeat_n(None, commit);
    let then = [
        Some(Fault::Reject(Kind::Corrupt)),
        Some(Fault::FailAfter(Kind::Unavailable)),
    ];
    faults.script("journal.append", before.chain(then));
    let Ended::Answered(answered) = world.process(&faults) else {
        panic!("nobody killed it")
    };
    let entries = world.journal.entries().unwrap();
    let Body::Noted { note, .. } = &entries[commit].body else {
        panic!("{:?}", entries[commit])
    };
    assert!(matches!(note, Note::PauseGivenUp { .. }), "{note:?}");
    let outcome = answered.unwrap();
    assert_eq!(outcome, Outcome::Completed);
    assert_eq!(faults.happened().len(), 2, "{:?}", faults.happened());
    world.assert_laws(&outcome);
}
