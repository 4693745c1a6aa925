//! An application with two databases and a gate in front of each moves in one cut-over: a death and a failure at every single
//! call of any of them, and both are at the same side in the end, with everything that was acknowledged.
#![allow(clippy::unwrap_used)]

mod two;

use bluegreen_core::{Color, Error, Kind, Outcome, Replicator, Signal};
use bluegreen_testkit::Fault;
use bluegreen_testkit::fake::FakeReplicator;
use bluegreen_testkit::fault::Point;
use bluegreen_testkit::world::Ended;
use futures::FutureExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use two::Shop;

/// Which way the migration of a loop goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    There,
    AndBack,
}

fn shop(way: Way, fleeting: bool) -> Shop {
    // Only the first dies with its process: afterwards it knows nothing, and the other does.
    let shop = Shop::open([fleeting, false]);
    if way == Way::AndBack {
        let journal = shop.journal.clone();
        // In the middle of the hold.
        shop.clock.after(Duration::from_secs(150), move || {
            journal.request("back", Signal::GoBack)
        });
    }
    shop
}

fn is_expected(way: Way, outcome: &Outcome) -> bool {
    (*outcome == Outcome::Completed) == (way == Way::There)
}

/// The calls of a run in which nothing goes wrong.
fn calls(way: Way) -> Vec<&'static str> {
    let shop = shop(way, false);
    let faults = shop.sound();
    let Ended::Answered(outcome) = shop.process(&faults) else {
        panic!("nobody killed it")
    };
    let outcome = outcome.unwrap();
    assert!(is_expected(way, &outcome), "{outcome}");
    let acked = shop.assert_laws(&outcome);
    assert!(acked.iter().all(|n| *n > 20), "{acked:?} writes acknowledged");
    for gate in &shop.gates {
        assert_eq!(gate.holds(), if way == Way::There { 1 } else { 2 });
    }
    faults.calls()
}

/// One migration with one fault at one call, continued by sound processes; every law holds at its end.
fn with_fault_at(way: Way, number: usize, fault: Fault, fleeting: bool) -> (Shop, Outcome) {
    let shop = shop(way, fleeting);
    let faults = shop.sound();
    faults.at_call(number, fault);
    let outcome = match shop.process(&faults) {
        Ended::Answered(Ok(outcome)) => outcome,
        Ended::Answered(Err(_)) | Ended::Died => {
            shop.clock
                .advance(Duration::from_secs(if number.is_multiple_of(2) { 1 } else { 400 }));
            shop.finish()
        }
    };
    let happened = faults.happened();
    assert_eq!(happened.len(), 1, "call {number} never came");
    // Opening the old writer again was made to fail for good: its clients may see it.
    if let ("replicator.unfence", Fault::Reject(kind) | Fault::FailAfter(kind)) = (happened[0].1, fault)
        && !Error::new(kind, "", "").is_transient()
    {
        shop.excuse();
    }
    shop.assert_laws(&outcome);
    (shop, outcome)
}

fn at_every_call(way: Way, fleeting: bool, faults: &[Fault]) {
    for (number, call) in calls(way).into_iter().enumerate() {
        for fault in faults {
            let (_, outcome) = with_fault_at(way, number, *fault, fleeting);
            assert!(
                is_expected(way, &outcome),
                "{fault:?} at call {number} ({call}) ended as {outcome}"
            );
        }
    }
}

const DEATHS: [Fault; 2] = [Fault::KillBefore, Fault::KillAfter];

#[test]
fn a_death_before_and_after_every_call() {
    at_every_call(Way::There, false, &DEATHS);
}

#[test]
fn a_death_before_and_after_every_call_with_a_gate_that_dies_too() {
    at_every_call(Way::There, true, &DEATHS);
}

#[test]
fn a_death_before_and_after_every_call_of_going_back() {
    at_every_call(Way::AndBack, false, &DEATHS);
}

#[test]
fn a_failure_that_passes_at_every_call() {
    let passing = [Fault::Reject(Kind::Unavailable), Fault::FailAfter(Kind::Timeout)];
    for way in [Way::There, Way::AndBack] {
        at_every_call(way, false, &passing);
    }
}

/// All-blue or all-green, never one of each.
#[test]
fn a_failure_that_stays_at_every_call() {
    let mut unwound = 0;
    for (number, _) in calls(Way::There).into_iter().enumerate() {
        for fault in [
            Fault::Reject(Kind::Unexpected),
            Fault::FailAfter(Kind::PermissionDenied),
        ] {
            let (_, outcome) = with_fault_at(Way::There, number, fault, false);
            unwound += u32::from(outcome != Outcome::Completed);
        }
    }
    assert!(unwound > 10, "{unwound} were unwound");
}

/// A call that takes for ever in one of them: writes of both wait for the budget, and no longer.
#[test]
fn one_that_does_not_answer_in_the_pause() {
    for call in [
        "gate.hold",
        "replicator.fence",
        "replicator.caught_up",
        "replicator.hand_over",
    ] {
        // The first or the second of them.
        for before in [vec![], vec![None]] {
            let shop = shop(Way::There, false);
            let faults = shop.sound();
            faults.script(call, before.into_iter().chain([Some(Fault::Hold)]));
            let Ended::Answered(outcome) = shop.process(&faults) else {
                panic!("nobody killed it")
            };
            let outcome = outcome.unwrap();
            assert_eq!(outcome, Outcome::Completed, "{call}");
            shop.assert_laws(&outcome);
            for gate in &shop.gates {
                let longest = gate.longest_hold();
                assert!(
                    longest <= shop.spec.pause_budget + Duration::from_millis(100),
                    "{call}: {longest:?}"
                );
            }
        }
    }
}

/// Somebody keeps a transaction open in the second that went past its gate: both are given back, and writers go on.
#[test]
fn a_fence_that_one_does_not_reach_holds_none() {
    let shop = shop(Way::There, false);
    let faults = shop.sound();
    let (stock, opened) = (shop.databases[1].clone(), Arc::new(AtomicU32::new(0)));
    let clock = shop.clock.clone();
    shop.also(&faults, move |call, point| {
        if (call, point) == ("gate.hold", Point::Before) && opened.fetch_add(1, Ordering::SeqCst) == 0 {
            let transaction = stock.begin(Color::Blue, 1_000_000).unwrap();
            let stock = stock.clone();
            clock.after(Duration::from_secs(10), move || stock.commit(transaction).unwrap());
        }
    });
    let Ended::Answered(outcome) = shop.process(&faults) else {
        panic!("nobody killed it")
    };
    let outcome = outcome.unwrap();
    assert_eq!(outcome, Outcome::Completed);
    shop.assert_laws(&outcome);
    assert!(
        shop.story().contains("stock: writers at blue did not drain"),
        "{}",
        shop.story()
    );
    assert_eq!(shop.gates[0].holds(), 2);
    let green = shop.databases[1].tokens(Color::Green);
    assert!(green.contains(&1_000_000), "what was open is not lost");
}

/// The old writer of one was opened by somebody after the hand-over: the other, which could be opened, is not.
#[test]
fn none_is_opened_beside_an_old_writer_that_was() {
    for meddled in [0, 1] {
        let shop = shop(Way::There, false);
        let faults = shop.sound();
        let database = shop.databases[meddled].clone();
        shop.also(&faults, move |call, point| {
            if (call, point) == ("replicator.may_promote", Point::Before) {
                let stranger = FakeReplicator::new(&database);
                stranger.unfence(Color::Blue).now_or_never().unwrap().unwrap();
            }
        });
        let Ended::Answered(Err(refused)) = shop.process(&faults) else {
            panic!("it went on")
        };
        assert_eq!(refused.kind(), Kind::HumanNeeded, "{refused}");
        assert!(refused.to_string().contains(["orders", "stock"][meddled]), "{refused}");
        for database in &shop.databases {
            assert!(!database.accepts(Color::Green), "green was opened");
        }
        assert!(!faults.calls().contains(&"replicator.promote"));
    }
}

#[test]
fn an_abort_at_any_time() {
    let (mut completed, mut rolled_back) = (0, 0);
    for n in 0..30 {
        let shop = shop(Way::There, false);
        let journal = shop.journal.clone();
        shop.clock.after(Duration::from_secs(n * 7), move || {
            journal.request("stop", Signal::Abort)
        });
        let outcome = shop.finish();
        shop.assert_laws(&outcome);
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
