//! The way back while it is held: switched back and forward again, and what becomes of it when it breaks.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{Color, Direction, Outcome, Signal, Status, StepName};
use bluegreen_testkit::world::Ended;
use bluegreen_testkit::{Fault, World};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// In the middle of the hold.
const HELD: Duration = Duration::from_secs(1080);

const LATER: Duration = Duration::from_secs(3600);

fn world() -> World {
    let mut world = World::new(11);
    world.spec.look = Duration::from_secs(20);
    world
}

fn ask(world: &World, after: Duration, id: &'static str, signal: Signal) {
    let journal = world.journal.clone();
    world.clock.after(after, move || journal.request(id, signal));
}

/// Whenever it is said: after the cut-over blue writes again and waits, and forward again nothing is copied anew.
#[test]
fn switched_back_at_any_time_it_goes_forward_again_when_told() {
    let mut again = 0;
    for n in 0..60 {
        let world = world();
        let at = Duration::from_secs(n * 25);
        ask(&world, at, "back", Signal::SwitchBack);
        let (journal, databases, gate) = (world.journal.clone(), world.databases.clone(), world.gate.clone());
        world.clock.after(at + LATER, move || {
            if gate.holds() == 2 {
                assert_eq!(databases.writer(), Color::Blue);
                assert!(!gate.look().held && !databases.accepts(Color::Green));
                // Were green copied anew, it would be emptied first.
                assert!(databases.count(Color::Green) > 0);
            }
            journal.request("forth", Signal::Resume);
        });
        let outcome = world.finish();
        assert_eq!(outcome, Outcome::Completed, "{}", world.story());
        world.assert_laws(&outcome);
        again += u32::from(world.gate.holds() == 3);
    }
    assert!(again > 5, "{again}");
}

/// Waiting there, it can be given up altogether, by either word.
#[test]
fn switched_back_it_can_be_unwound() {
    for signal in [Signal::Abort, Signal::GoBack] {
        let world = world();
        ask(&world, HELD, "back", Signal::SwitchBack);
        ask(&world, HELD + LATER, "enough", signal);
        let outcome = world.finish();
        assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
        assert_eq!(world.gate.holds(), 2);
        world.assert_laws(&outcome);
    }
}

/// Killed at any call of it, it comes to the same end.
#[test]
fn killed_while_it_is_switched_back_it_continues() {
    let begin = || {
        let world = world();
        ask(&world, HELD, "back", Signal::SwitchBack);
        ask(&world, HELD + LATER, "forth", Signal::Resume);
        world
    };
    let sound = begin();
    let faults = sound.sound();
    let Ended::Answered(Ok(Outcome::Completed)) = sound.process(&faults) else {
        panic!("a sound run ends")
    };
    let calls = faults.calls();
    let first = calls.iter().position(|call| *call == "replicator.promote").unwrap();
    let quiet = [
        "probe.check",
        "journal.requests",
        "dns.ask_authorities",
        "replicator.status",
    ];
    let mut deaths = 0;
    for (number, call) in calls.iter().enumerate().skip(first).filter(|(_, c)| !quiet.contains(c)) {
        let fault = if number % 2 == 0 {
            Fault::KillBefore
        } else {
            Fault::KillAfter
        };
        let world = begin();
        let faults = world.sound();
        faults.at_call(number, fault);
        let outcome = match world.process(&faults) {
            Ended::Died => {
                deaths += 1;
                // Longer than until the operator's words: they are heard by the next process.
                world.clock.advance(Duration::from_secs(60));
                world.finish()
            }
            Ended::Answered(outcome) => outcome.unwrap(),
        };
        assert_eq!(
            outcome,
            Outcome::Completed,
            "killed at {number}, {call}\n{}",
            world.story()
        );
        world.assert_laws(&outcome);
    }
    assert!(deaths > 40, "{deaths}");
}

/// A way back that broke is said to be none, also by the journal alone, and a word that would need it is not followed:
/// green goes on writing, and the migration comes to its end.
#[test]
fn a_broken_way_back_is_known_and_not_taken() {
    let world = world();
    let databases = world.databases.clone();
    world.clock.after(HELD, move || {
        databases.break_mirror(Direction::GreenToBlue, "the slot is lost");
    });
    let (journal, seen) = (world.journal.clone(), Arc::new(Mutex::new(None)));
    let saw = Arc::clone(&seen);
    world.clock.after(HELD + Duration::from_secs(150), move || {
        *saw.lock().unwrap() = Some(Status::of_entries(&journal.entries().unwrap()).unwrap());
        journal.request("back", Signal::GoBack);
        journal.request("or so", Signal::SwitchBack);
    });
    let outcome = world.finish();
    assert_eq!(outcome, Outcome::Completed, "{}", world.story());
    assert_eq!(world.gate.holds(), 1);
    world.assert_laws(&outcome);
    let status = seen.lock().unwrap().take().unwrap();
    assert_eq!(
        (status.step, status.can_go_back),
        (Some(StepName::Hold), false),
        "{status}"
    );
    assert!(status.to_string().contains("the slot is lost"), "{status}");
}
