//! The simulated world: a clean run, and many seeded ones in which a lot goes wrong. Every law is asserted after each.
#![allow(clippy::unwrap_used)]

use bluegreen_core::Outcome;
use bluegreen_testkit::World;
use bluegreen_testkit::world::{Chaos, Ended};
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn a_run_in_which_nothing_goes_wrong() {
    let world = World::new(1);
    let Ended::Answered(outcome) = world.process(&world.sound()) else {
        panic!("nobody killed it")
    };
    let outcome = outcome.unwrap();
    assert_eq!(outcome, Outcome::Completed);
    let tally = world.assert_laws(&outcome);
    assert!(tally.acked > 100, "{tally:?}");
    assert!(world.gate.holds() == 1, "{tally:?}");
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in [3, 4, 5] {
        let stories = [(); 2].map(|()| {
            let mut chaos = Chaos::new(seed);
            let (_, tally) = chaos.run_and_assert();
            (tally, chaos.world.story())
        });
        assert_eq!(stories[0], stories[1]);
    }
}

/// `BLUEGREEN_WORLD_RUNS` says how many; `BLUEGREEN_WORLD_SEED` replays one.
#[test]
fn many_runs_in_which_a_lot_goes_wrong() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let (first, runs) = match number("BLUEGREEN_WORLD_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("BLUEGREEN_WORLD_RUNS").unwrap_or(10_000)),
    };
    let next = AtomicU64::new(first);
    let (completed, deaths, acked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + runs {
                        return;
                    }
                    let mut chaos = Chaos::new(seed);
                    let (outcome, tally) = chaos.run_and_assert();
                    completed.fetch_add(u64::from(outcome == Outcome::Completed), Ordering::SeqCst);
                    deaths.fetch_add(u64::from(chaos.deaths), Ordering::SeqCst);
                    acked.fetch_add(tally.acked as u64, Ordering::SeqCst);
                }
            });
        }
    });
    let (completed, deaths, acked) = (completed.into_inner(), deaths.into_inner(), acked.into_inner());
    println!("{runs} runs: {completed} completed, the rest rolled back; {deaths} deaths, {acked} writes acknowledged");
    // A world in which everything always goes the same way would prove nothing.
    if runs >= 1000 {
        assert!(completed > runs / 10 && completed < runs, "{completed} of {runs}");
        assert!(deaths > runs / 10, "{deaths} deaths");
    }
}
