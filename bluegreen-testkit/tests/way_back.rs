//! The way back while it is held: switched back and forward again, and what becomes of it when it breaks.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{Color, Direction, Event, Outcome, Signal, Status, StepName, WriteGate};
use bluegreen_testkit::fake::{FakeGate, FakeReplicator};
use bluegreen_testkit::world::Ended;
use bluegreen_testkit::{Fault, World};
use futures::{FutureExt, StreamExt};
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

/// What becomes of a gate that something befalls in the hold, and what is warned of meanwhile.
fn gate_in_the_hold(
    befalls: impl FnOnce(&FakeGate) + Send + 'static,
    then: impl FnOnce(&FakeGate) + Send + 'static,
) -> Vec<String> {
    let world = world();
    let [gate, later] = [world.gate.clone(), world.gate.clone()];
    world.clock.after(HELD, move || befalls(&gate));
    world.clock.after(HELD + world.spec.watch * 2, move || then(&later));
    let faults = world.sound();
    let migration = world
        .migration(&faults, Arc::new(FakeReplicator::new(&world.databases)))
        .unwrap();
    let mut events = migration.events();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(migration.run()).unwrap();
    assert_eq!(outcome, Outcome::Completed, "{}", world.story());
    let tally = world.tally(Color::Green);
    assert!(tally.lost.is_empty() && tally.doubled.is_empty(), "{tally:?}");
    let mut warned = vec![];
    while let Some(Some(event)) = tokio::task::unconstrained(events.next()).now_or_never() {
        if let Event::Warned {
            step: StepName::Hold,
            what,
        } = event
        {
            warned.push(what);
        }
    }
    warned
}

/// As after the restart of a pooler with an old file: clients would be sent where nobody may write.
#[test]
fn a_gate_that_leads_to_blue_in_the_hold_is_pointed_at_green_again() {
    let warned = gate_in_the_hold(
        |gate| gate.point_at(Color::Blue).now_or_never().unwrap().unwrap(),
        |gate| assert_eq!(gate.look().at, Color::Green),
    );
    assert_eq!(warned, ["fake gate was pointed at green again: it led to blue"]);
}

/// Whoever holds it has a reason.
#[test]
fn a_gate_that_is_held_in_the_hold_stays_held_and_is_told() {
    let warned = gate_in_the_hold(
        // Held at once, whoever is still inside.
        |gate| drop(gate.hold(Duration::from_secs(1)).now_or_never()),
        |gate| {
            assert!(gate.look().held);
            gate.release().now_or_never().unwrap().unwrap();
        },
    );
    assert!(warned.len() > 1, "{warned:?}");
    assert!(
        warned
            .iter()
            .all(|w| w == "fake gate is held, and clients wait: release it"),
        "{warned:?}"
    );
}
