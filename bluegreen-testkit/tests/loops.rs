//! Loops over the plan, not hand-picked cases: a death and a failure at every single call of a whole migration, and of
//! going back, with the same end each time and nothing left behind.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{Color, Kind, Outcome, Signal};
use bluegreen_testkit::world::Ended;
use bluegreen_testkit::{Fault, World};
use std::time::Duration;

/// Which way the migration of a loop goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    There,
    AndBack,
}

/// A world with long looks, so that a loop over all calls is short; going back begins when this much time has passed.
fn world(way: Way, fleeting: bool) -> World {
    let mut world = if fleeting {
        World::with_fleeting_gate(11)
    } else {
        World::new(11)
    };
    world.spec.look = Duration::from_secs(20);
    if way == Way::AndBack {
        let journal = world.journal.clone();
        // In the middle of the hold.
        world.clock.after(Duration::from_secs(1080), move || {
            journal.request("back", Signal::GoBack)
        });
    }
    world
}

fn expected(way: Way) -> fn(&Outcome) -> bool {
    match way {
        Way::There => |outcome| *outcome == Outcome::Completed,
        Way::AndBack => |outcome| matches!(outcome, Outcome::RolledBack { .. }),
    }
}

/// The calls of a run in which nothing goes wrong.
fn calls(way: Way) -> Vec<&'static str> {
    let world = world(way, false);
    let faults = world.sound();
    let Ended::Answered(Ok(outcome)) = world.process(&faults) else {
        panic!("a sound run ends")
    };
    assert!(expected(way)(&outcome), "{outcome}");
    world.assert_laws(&outcome);
    let commits = if way == Way::There { 1 } else { 2 };
    assert_eq!(world.gate.holds(), commits);
    faults.calls()
}

/// Everything that a migration asks of anybody, and what of it may be left out without the test meaning less.
fn interesting(calls: &[&'static str]) -> Vec<usize> {
    let mut numbers = vec![];
    for (number, call) in calls.iter().enumerate() {
        // Of many looks in a row at the same thing the first ones and the last stand for all.
        let quiet = ["probe.check", "journal.requests"];
        let same = |other: Option<&&str>| other.is_none_or(|other| quiet.contains(other));
        let in_a_row = quiet.contains(call) && number > 0 && same(calls.get(number - 1)) && same(calls.get(number + 1));
        if !in_a_row || number % 5 == 0 {
            numbers.push(number);
        }
    }
    numbers
}

/// One migration with one fault at one call, continued by sound processes; every law holds at its end.
fn with_fault_at(way: Way, number: usize, fault: Fault, fleeting: bool, down: Duration) -> (World, Outcome) {
    let world = world(way, fleeting);
    let faults = world.sound();
    faults.at_call(number, fault);
    let outcome = match world.process(&faults) {
        Ended::Answered(Ok(outcome)) => outcome,
        Ended::Answered(Err(_)) | Ended::Died => {
            world.clock.advance(down);
            world.finish()
        }
    };
    assert!(!faults.happened().is_empty(), "call {number} never came");
    world.assert_laws(&outcome);
    (world, outcome)
}

fn every_death(way: Way, fleeting: bool) {
    let calls = calls(way);
    for number in interesting(&calls) {
        for fault in [Fault::KillBefore, Fault::KillAfter] {
            let down = Duration::from_secs(if number % 2 == 0 { 1 } else { 7200 });
            let (_, outcome) = with_fault_at(way, number, fault, fleeting, down);
            let end = expected(way)(&outcome);
            assert!(end, "{fault:?} at call {number} ({}) ended as {outcome}", calls[number]);
        }
    }
}

#[test]
fn a_death_before_and_after_every_call() {
    every_death(Way::There, false);
}

#[test]
fn a_death_before_and_after_every_call_with_a_gate_that_dies_too() {
    every_death(Way::There, true);
}

#[test]
fn a_death_before_and_after_every_call_of_going_back() {
    every_death(Way::AndBack, false);
}

/// Every entry made and nothing heard of it; every effect had and its entry not made: that step runs twice.
#[test]
fn every_step_runs_twice() {
    let calls = calls(Way::There);
    let appends = calls.iter().enumerate().filter(|(_, call)| **call == "journal.append");
    let mut worlds = 0;
    for (number, _) in appends {
        for fault in [Fault::KillBefore, Fault::KillAfter] {
            let (_, outcome) = with_fault_at(Way::There, number, fault, false, Duration::from_secs(1));
            assert_eq!(outcome, Outcome::Completed, "{fault:?} at call {number}");
            worlds += 1;
        }
    }
    assert!(worlds > 40, "{worlds}");
}

/// What may pass is tried again, and what happened although it failed is not done twice.
#[test]
fn a_failure_that_passes_at_every_call() {
    for way in [Way::There, Way::AndBack] {
        let calls = calls(way);
        for number in interesting(&calls) {
            for fault in [Fault::Reject(Kind::Unavailable), Fault::FailAfter(Kind::Timeout)] {
                let (_, outcome) = with_fault_at(way, number, fault, false, Duration::from_secs(1));
                let end = expected(way)(&outcome);
                assert!(end, "{fault:?} at call {number} ({}) ended as {outcome}", calls[number]);
            }
        }
    }
}

/// What will not pass is unwound, or a human is asked and the migration run again: all-blue or all-green.
#[test]
fn a_failure_that_stays_at_every_call_is_unwound() {
    let mut unwound = 0;
    let calls = calls(Way::There);
    for number in interesting(&calls) {
        for fault in [
            Fault::Reject(Kind::Unexpected),
            Fault::FailAfter(Kind::PermissionDenied),
        ] {
            let (_, outcome) = with_fault_at(Way::There, number, fault, false, Duration::from_secs(1));
            unwound += u32::from(outcome != Outcome::Completed);
        }
    }
    assert!(unwound > 20, "{unwound} were unwound");
}

/// A call that takes for ever, and one that is just slow: writes wait for the budget, and no longer.
#[test]
fn a_call_of_the_pause_that_takes_too_long() {
    let in_the_pause = [
        "gate.hold",
        "replicator.fence",
        "replicator.caught_up",
        "replicator.hand_over",
    ];
    for call in in_the_pause {
        for fault in [
            Fault::Hold,
            Fault::Slow(Duration::from_secs(60)),
            Fault::Slow(Duration::from_millis(300)),
        ] {
            let world = world(Way::There, false);
            let faults = world.sound();
            faults.script(call, [Some(fault)]);
            let Ended::Answered(Ok(outcome)) = world.process(&faults) else {
                panic!("{fault:?} at {call} ended it")
            };
            assert_eq!(faults.happened().len(), 1);
            let tally = world.assert_laws(&outcome);
            assert_eq!(outcome, Outcome::Completed, "{fault:?} at {call}");
            let most = world.spec.pause_budget + Duration::from_millis(100);
            assert!(
                tally.longest_pause <= most,
                "{fault:?} at {call}: {:?}",
                tally.longest_pause
            );
        }
    }
}

/// The process dies in a wait, at one time after the other, and nobody starts it again for two days.
#[test]
fn dead_for_days_inside_any_wait() {
    let whole = {
        let world = world(Way::There, false);
        let begin = bluegreen_core::Clock::now(&world.clock);
        world.assert_laws(&world.finish());
        bluegreen_core::Clock::now(&world.clock).since(begin)
    };
    let mut deaths = 0;
    for part in 0..60 {
        let world = world(Way::There, false);
        let faults = world.sound();
        let doomed = faults.clone();
        world.clock.after(whole * part / 60, move || doomed.kill());
        let outcome = match world.process(&faults) {
            Ended::Died => {
                deaths += 1;
                world.clock.advance(Duration::from_secs(48 * 3600));
                world.finish()
            }
            Ended::Answered(outcome) => outcome.unwrap(),
        };
        assert_eq!(outcome, Outcome::Completed);
        world.assert_laws(&outcome);
    }
    assert!(deaths > 40, "{deaths}");
}

/// An operator who aborts at one time after the other: blue before the cut-over, and after it the way back is another word.
#[test]
fn an_abort_at_any_time() {
    let (mut completed, mut rolled_back) = (0, 0);
    for n in 0..60 {
        let world = world(Way::There, false);
        let journal = world.journal.clone();
        world.clock.after(Duration::from_secs(n * 25), move || {
            journal.request("stop", Signal::Abort)
        });
        let outcome = world.finish();
        let tally = world.assert_laws(&outcome);
        assert!(tally.failed.is_empty());
        match outcome {
            Outcome::Completed => completed += 1,
            Outcome::RolledBack { .. } => rolled_back += 1,
        }
    }
    assert!(
        completed > 0 && rolled_back > 0,
        "{completed} completed, {rolled_back} rolled back"
    );
}

/// Going back at any time ends at blue until the point of no return, with everything that green has taken.
#[test]
fn going_back_at_any_time() {
    let mut after_green_wrote = 0;
    for n in 0..60 {
        let world = world(Way::There, false);
        let journal = world.journal.clone();
        world.clock.after(Duration::from_secs(n * 25), move || {
            journal.request("back", Signal::GoBack)
        });
        let outcome = world.finish();
        world.assert_laws(&outcome);
        let commits = world.gate.holds();
        match outcome {
            Outcome::Completed => assert_eq!(commits, 1),
            Outcome::RolledBack { .. } => after_green_wrote += u32::from(commits == 2),
        }
    }
    assert!(after_green_wrote > 5, "{after_green_wrote}");
}

/// Paused at any time, everything stands still and nothing is held; resumed, it goes on to its end.
#[test]
fn a_pause_at_any_time() {
    for n in 0..40 {
        let world = world(Way::There, false);
        let at = Duration::from_secs(n * 35);
        let (paused, resumed) = (world.journal.clone(), world.journal.clone());
        world.clock.after(at, move || paused.request("stop", Signal::Pause));
        let (gate, databases) = (world.gate.clone(), world.databases.clone());
        world.clock.after(at + Duration::from_secs(3600), move || {
            assert!(!gate.look().held && databases.accepts(gate.look().at));
            resumed.request("go", Signal::Resume);
        });
        let outcome = world.finish();
        assert_eq!(outcome, Outcome::Completed);
        let tally = world.assert_laws(&outcome);
        assert!(
            tally.longest_pause <= world.spec.pause_budget,
            "{:?}",
            tally.longest_pause
        );
    }
}

/// Of two runners on one journal one stops; between them they lose nothing.
#[test]
fn a_second_runner_at_every_entry() {
    let calls = calls(Way::There);
    for (number, _) in calls.iter().enumerate().filter(|(_, call)| **call == "journal.append") {
        let world = world(Way::There, false);
        let faults = world.sound();
        faults.at_call(number, Fault::Reject(Kind::Conflict));
        let Ended::Answered(Err(error)) = world.process(&faults) else {
            panic!("call {number}: somebody else has the journal, and it went on")
        };
        assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
        let writer = world.databases.writer();
        if !world.gate.look().held {
            assert!(
                world.databases.accepts(writer),
                "call {number}: {writer} takes no writes"
            );
        }
        let outcome = world.finish();
        assert_eq!(outcome, Outcome::Completed);
        world.assert_laws(&outcome);
    }
}

/// Green never becomes well: users never see it, and blue is as it was.
#[test]
fn an_ill_green_gets_nobody() {
    let world = World::new(5);
    world.probe.set(
        Color::Green,
        bluegreen_core::Health::ill(Duration::from_millis(5), "503"),
    );
    let outcome = world.finish();
    assert!(matches!(outcome, Outcome::RolledBack { .. }));
    world.assert_laws(&outcome);
    assert_eq!(world.gate.holds(), 0);
}

/// A runner whose migration was taken over while it slept begins nothing more, wherever it wakes up.
#[test]
fn who_was_deposed_has_no_more_effects() {
    const EFFECTS: [&str; 10] = [
        "dns.apply",
        "gate.hold",
        "gate.point_at",
        "gate.release",
        "replicator.arm",
        "replicator.fence",
        "replicator.hand_over",
        "replicator.promote",
        "replicator.start",
        "replicator.unfence",
    ];
    let mut stopped = 0;
    for seconds in (0..1_700).step_by(23) {
        let world = world(Way::There, false);
        let faults = world.sound();
        let before = std::sync::Arc::new(std::sync::Mutex::new(None));
        let (journal, seen, calls) = (world.journal.clone(), before.clone(), faults.clone());
        world.clock.after(Duration::from_secs(seconds), move || {
            journal.set_taken_over(true);
            *seen.lock().unwrap() = Some(calls.calls().len());
        });
        match world.process(&faults) {
            Ended::Answered(Ok(_)) => continue,
            Ended::Answered(Err(e)) => assert_eq!(e.kind(), Kind::Conflict, "{e:?}"),
            Ended::Died => panic!("nobody killed it"),
        }
        stopped += 1;
        let from = before.lock().unwrap().expect("it was taken over");
        let late: Vec<_> = faults
            .calls()
            .into_iter()
            .skip(from)
            .filter(|c| EFFECTS.contains(c))
            .collect();
        assert_eq!(late, Vec::<&str>::new(), "after {seconds} s");
        // The one who took it over goes on.
        world.journal.set_taken_over(false);
        let outcome = world.finish();
        assert_eq!(outcome, Outcome::Completed);
        world.assert_laws(&outcome);
    }
    assert!(stopped > 20, "only {stopped} were stopped in the middle");
}
