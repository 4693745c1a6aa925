//! Gates of one application that are not alike when a process begins: one is held and the other not, one points at green and
//! the other at blue. Where the journal knows who writes they are put right; where it does not, a human is asked.
#![allow(clippy::unwrap_used, dead_code)]

mod two;

use bluegreen_core::{Body, Color, Direction, Kind, Note, Outcome, Signal, WriteGate};
use bluegreen_testkit::Fault;
use bluegreen_testkit::fake::FakeGate;
use bluegreen_testkit::world::Ended;
use futures::FutureExt;
use std::time::Duration;
use two::{NAMES, Shop};

/// What becomes of one gate while nobody runs the migration.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mishap {
    /// It points at the other side.
    Turned,
    /// It is held.
    Held,
    /// Both.
    TurnedAndHeld,
    /// It lets through what it held.
    Released,
}

const MISHAPS: [Mishap; 4] = [Mishap::Turned, Mishap::Held, Mishap::TurnedAndHeld, Mishap::Released];

const DEATHS: [Fault; 2] = [Fault::KillBefore, Fault::KillAfter];

fn befalls(shop: &Shop, gate: &FakeGate, mishap: Mishap) {
    if mishap == Mishap::Released {
        return gate.release().now_or_never().unwrap().unwrap();
    }
    if mishap != Mishap::Held {
        let turned = gate.look().at.other();
        gate.point_at(turned).now_or_never().unwrap().unwrap();
    }
    if mishap != Mishap::Turned {
        // Nobody is in it for long, but who waits in it for the other, which the dead process holds.
        for _ in 0..20 {
            if gate.hold(Duration::ZERO).now_or_never().unwrap().is_ok() {
                break;
            }
            shop.clock.advance(Duration::from_millis(1));
        }
    }
}

fn has(shop: &Shop, is: impl Fn(&Note) -> bool) -> bool {
    let entries = shop.journal.entries().unwrap();
    let noted = |e: &bluegreen_core::Entry| matches!(&e.body, Body::Noted { note, .. } if is(note));
    entries.iter().any(noted)
}

fn shop(goes_back: bool) -> Shop {
    let shop = Shop::open([false, false]);
    if goes_back {
        let journal = shop.journal.clone();
        shop.clock.after(Duration::from_secs(150), move || {
            journal.request("back", Signal::GoBack)
        });
    }
    shop
}

/// A process dies at every single call, and then something befalls one of the gates: the next process asks nobody.
fn at_every_death(goes_back: bool) {
    let sound = shop(goes_back);
    let faults = sound.sound();
    assert!(matches!(sound.process(&faults), Ended::Answered(Ok(_))));
    let quiet = ["journal.requests", "replicator.status"];
    let (mut asked, mut mended, mut lawful) = (0, 0, 0);
    let calls = faults.calls().into_iter().enumerate();
    for (nth, (number, call)) in calls.filter(|(_, call)| !quiet.contains(call)).enumerate() {
        let shop = shop(goes_back);
        let faults = shop.sound();
        let (fault, mishap) = (DEATHS[nth % 2], MISHAPS[nth / 2 % 4]);
        faults.at_call(number, fault);
        assert!(matches!(shop.process(&faults), Ended::Died));
        let entries = shop.journal.entries().unwrap();
        if entries.iter().any(|e| matches!(e.body, Body::Closed { .. })) {
            // After the end it is nobody's business.
            continue;
        }
        let gate = &shop.gates[nth / 8 % 2];
        // Who is sent to a green that nobody has shut yet is not ours to save.
        let shut = shop
            .databases
            .iter()
            .all(|d| !d.accepts(Color::Blue) || !d.accepts(Color::Green));
        befalls(&shop, gate, mishap);
        // Whoever meets it meanwhile may see errors.
        shop.excuse();
        shop.clock.advance(Duration::from_secs(1));
        let told = format!("{mishap:?} after {fault:?} at {number} ({call})");
        let checked = has(&shop, |note| matches!(note, Note::Checked { .. }));
        let outcome = match shop.process(&shop.sound()) {
            Ended::Answered(Ok(outcome)) => outcome,
            Ended::Answered(Err(e)) => {
                // Nothing has been seen of the gates yet, and nothing is done to them.
                assert!(
                    !checked && e.kind() == Kind::HumanNeeded,
                    "{told}: {e}\n{}",
                    shop.story()
                );
                assert!(e.to_string().contains(": they disagree"), "{told}: {e}");
                assert_eq!(gate.look().at, Color::Green, "{told}");
                gate.point_at(Color::Blue).now_or_never().unwrap().unwrap();
                asked += 1;
                shop.finish()
            }
            Ended::Died => panic!("nobody killed it"),
        };
        mended += u32::from(checked);
        assert_eq!(outcome == Outcome::Completed, !goes_back, "{told}: {outcome}");
        if shut {
            shop.assert_laws(&outcome);
            lawful += 1;
        }
    }
    println!("{asked} asked, {mended} not; {lawful} in which nothing may be lost");
    assert!(asked > 0 && mended > 40 && lawful > 40);
}

#[test]
fn what_a_death_left_apart_is_put_right_by_the_record() {
    at_every_death(false);
}

#[test]
fn what_a_death_left_apart_is_put_right_by_the_record_of_going_back() {
    at_every_death(true);
}

/// Gates that lead to green before anything has begun: blue may not be who writes, and they are left alone.
#[test]
fn a_journal_that_knows_nothing_points_no_gate() {
    for turned in [&[0][..], &[1], &[0, 1]] {
        let shop = shop(false);
        for n in turned {
            shop.gates[*n].point_at(Color::Green).now_or_never().unwrap().unwrap();
        }
        shop.excuse();
        for _ in 0..2 {
            let faults = shop.sound();
            let Ended::Answered(Err(e)) = shop.process(&faults) else {
                panic!("it went on:\n{}", shop.story())
            };
            assert_eq!(e.kind(), Kind::HumanNeeded, "{e}");
            assert!(e.to_string().contains("nothing was changed"), "{e}");
            assert!(!faults.calls().contains(&"gate.point_at"), "{:?}", faults.calls());
        }
        for n in turned {
            assert_eq!(shop.gates[*n].look().at, Color::Green);
        }
    }
}

/// One begins held, as a gate in the process does, and the other leads to green: the checks say so, and an abort ends it.
#[test]
fn a_gate_that_begins_held_does_not_wait_on_a_journal_that_knows_nothing() {
    for aborted in [false, true] {
        let shop = Shop::open([true, false]);
        shop.gates[0].crash();
        shop.gates[1].point_at(Color::Green).now_or_never().unwrap().unwrap();
        shop.excuse();
        let Ended::Answered(Err(e)) = shop.process(&shop.sound()) else {
            panic!("it went on:\n{}", shop.story())
        };
        assert_eq!(e.kind(), Kind::HumanNeeded, "{e}");
        assert!(e.to_string().contains("nothing was changed"), "{e}");
        if aborted {
            shop.journal.request("end", Signal::Abort);
            let outcome = shop.finish();
            assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
            assert_eq!(shop.gates[1].look().at, Color::Green, "nobody knows better");
            // Nor does a process that finds it over.
            assert_eq!(shop.finish(), outcome);
            assert_eq!(
                shop.gates[1].look().at,
                Color::Green,
                "nobody knows better after the end"
            );
            continue;
        }
        shop.gates[1].point_at(Color::Blue).now_or_never().unwrap().unwrap();
        assert_eq!(shop.finish(), Outcome::Completed);
        assert!(shop.gates.iter().all(|gate| !gate.look().held));
    }
}

/// An instance that is restarted with an old file, while the process lives: before the pause all are pointed alike.
#[test]
fn one_that_turns_while_the_copy_runs_is_turned_back_before_the_pause() {
    for n in [0, 1] {
        let shop = shop(false);
        shop.excuse();
        let gate = shop.gates[n].clone();
        shop.clock.after(Duration::from_secs(5), move || {
            gate.point_at(Color::Green).now_or_never().unwrap().unwrap();
        });
        let Ended::Answered(Ok(outcome)) = shop.process(&shop.sound()) else {
            panic!("{} was not pointed back:\n{}", NAMES[n], shop.story())
        };
        assert_eq!(outcome, Outcome::Completed);
        shop.assert_laws(&outcome);
    }
}

/// One way back is lost for good, the other breaks again and again: that there is no way back is written down once.
#[test]
fn a_way_back_that_is_lost_is_told_once() {
    let mut shop = shop(false);
    shop.spec.watch = Duration::from_secs(10);
    let [orders, stock] = shop.databases.clone();
    let (journal, clock) = (shop.journal.clone(), shop.clock.clone());
    let held = move || {
        let entries = journal.entries().unwrap();
        entries.iter().any(|e| {
            matches!(
                e.body,
                Body::Noted {
                    note: Note::Pause { .. },
                    ..
                }
            )
        })
    };
    // The hold is of 300 s.
    for n in 0..40_u64 {
        let (orders, stock, held) = (orders.clone(), stock.clone(), held.clone());
        clock.after(Duration::from_secs(10 * n), move || {
            if held() {
                orders.break_mirror(Direction::GreenToBlue, "the slot is lost");
                stock.break_mirror(Direction::GreenToBlue, &format!("worker {n} died"));
            }
        });
    }
    let outcome = shop.finish();
    assert_eq!(outcome, Outcome::Completed);
    shop.assert_laws(&outcome);
    let entries = shop.journal.entries().unwrap();
    let told = entries.iter().filter_map(|e| match &e.body {
        Body::Noted {
            note: Note::WayBack { broken, for_good },
            ..
        } => Some((broken.clone(), *for_good)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].1 && told[0].0.as_ref().unwrap().contains("orders: the slot is lost"),
        "{told:?}"
    );
}
