//! What goes wrong in a world, drawn from its seed: faults and deaths in the process, slow databases, silent authorities, ill
//! environments, jobs past the gate, long transactions, and an operator who changes his mind.

use super::{Ended, World};
use crate::fault::{Faults, Rates};
use bluegreen_core::{AtOnce, Color, Direction, Health, Outcome, Signal, Steps, WritePath};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;

/// After so many processes nothing goes wrong with a process any more.
const TROUBLED: u32 = 8;

/// A world and its troubles.
#[derive(Debug)]
pub struct Chaos {
    /// The world.
    pub world: World,
    rng: SmallRng,
    rates: Rates,
    /// How many processes it took.
    pub processes: u32,
    /// How many of them were killed.
    pub deaths: u32,
    operated: bool,
}

impl Chaos {
    /// The world of a seed, with everything that will go wrong in it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = if rng.random_range(0..4) == 0 {
            World::with_fleeting_gate(seed)
        } else {
            World::new(seed)
        };
        let one_in = |rng: &mut SmallRng, n: u32| rng.random_range(0..n) == 0;
        world
            .databases
            .set_delay(Duration::from_micros(rng.random_range(0..30_000)));
        world
            .databases
            .set_copy(Duration::from_millis(rng.random_range(0..60_000)));
        let lags = [0, rng.random_range(0..20_000)].map(Duration::from_millis);
        world.dns = world.dns.clone().with_authorities(lags);
        world.policy = match rng.random_range(0..4) {
            0 => Arc::new(AtOnce::new()),
            1 => Arc::new(Steps::new([1, 100])),
            _ => Arc::new(Steps::new([10, 50, 100]).bake("30s")),
        };
        if one_in(&mut rng, 4) {
            world.spec.write_path = Some(WritePath::NoLiveTraffic);
        }
        if one_in(&mut rng, 3) {
            world.spec.lead = Duration::from_secs(600);
        }
        if one_in(&mut rng, 3) {
            world.spec.soak = Duration::from_secs(60);
        }
        let bypass = if one_in(&mut rng, 3) { 100 } else { 0 };
        let long = if one_in(&mut rng, 3) { 50 } else { 0 };
        world.crowd.misbehave(bypass, long);
        let mut rate = |most: u16| {
            if rng.random_range(0..2) == 0 {
                0
            } else {
                rng.random_range(0..most)
            }
        };
        let mut rates = Rates {
            reject: rate(60),
            fail_after: rate(60),
            refuse: rate(8),
            hold: rate(10),
            slow: rate(40),
            kill: rate(20),
            limit: 0,
        };
        rates.limit = rng.random_range(1..8);
        let mut chaos = Self {
            world,
            rng,
            rates,
            processes: 0,
            deaths: 0,
            operated: false,
        };
        chaos.plan_troubles();
        chaos.plan_operator();
        chaos
    }

    /// Some time in the first hour or so.
    fn some_time(&mut self) -> Duration {
        Duration::from_secs_f64(10_f64.powf(self.rng.random_range(0.0..3.4)))
    }

    fn plan_troubles(&mut self) {
        for _ in 0..self.rng.random_range(0..4) {
            let (when, lasts) = (self.some_time(), self.some_time() / 10);
            let end = when + lasts;
            let clock = self.world.clock.clone();
            match self.rng.random_range(0..5) {
                0 => {
                    let databases = self.world.databases.clone();
                    clock.after(when, move || databases.stall(lasts));
                }
                1 => {
                    let (silenced, heard) = (self.world.dns.clone(), self.world.dns.clone());
                    clock.after(when, move || silenced.set_silent(1, true));
                    clock.after(end, move || heard.set_silent(1, false));
                }
                2 | 3 => {
                    let color = if self.rng.random_range(0..4) == 0 {
                        Color::Blue
                    } else {
                        Color::Green
                    };
                    let (ill, well) = (self.world.probe.clone(), self.world.probe.clone());
                    clock.after(when, move || {
                        ill.set(color, Health::ill(Duration::from_millis(9), "503"))
                    });
                    clock.after(end, move || well.set(color, Health::well(Duration::from_millis(3))));
                }
                _ => {
                    // The way back is not broken: what to do then only a human can say.
                    let databases = self.world.databases.clone();
                    clock.after(when, move || {
                        if databases.writer() == Color::Blue && !databases.is_handed_over() {
                            databases.break_mirror(Direction::BlueToGreen, "the worker died");
                        }
                    });
                }
            }
        }
    }

    fn plan_operator(&mut self) {
        if self.rng.random_range(0..3) != 0 {
            return;
        }
        self.operated = true;
        for n in 0..self.rng.random_range(1..4) {
            let signal = match self.rng.random_range(0..8) {
                0 | 1 => Signal::Pause,
                2 => Signal::Approve,
                3 | 4 => Signal::Retreat,
                5 => Signal::Abort,
                6 => Signal::SwitchBack,
                _ => Signal::GoBack,
            };
            let (when, later) = (self.some_time(), self.some_time());
            self.ask(format!("{n}"), signal, when);
            if signal == Signal::SwitchBack {
                // Nobody knows when blue writes again: it is told to go on until it does.
                for hours in [1, 6, 24, 72, 144] {
                    let then = when + later + Duration::from_secs(hours * 3600);
                    self.ask(format!("{n} answered, {hours}"), Signal::Resume, then);
                }
            }
            if matches!(signal, Signal::Pause | Signal::Retreat) {
                self.ask(format!("{n} answered"), Signal::Resume, when + later);
            }
        }
    }

    fn ask(&self, id: String, signal: Signal, when: Duration) {
        let journal = self.world.journal.clone();
        self.world.clock.after(when, move || journal.request(id, signal));
    }

    /// One process after the other until the migration is over. What needs a human is answered by running it again.
    ///
    /// # Panics
    /// When it is never over.
    pub fn run(&mut self) -> Outcome {
        let mut last = None;
        while self.processes < TROUBLED + 20 {
            let faults = Faults::new(self.world.clock.clone());
            let faults = if self.processes < TROUBLED {
                faults.seeded(self.rng.random(), self.rates)
            } else {
                faults
            };
            self.processes += 1;
            // A call that hangs is answered some time, long after anybody should have waited for it.
            for n in 1..=20 {
                let held = faults.clone();
                self.world
                    .clock
                    .after(Duration::from_secs(n * 400), move || held.release());
            }
            match self.world.process(&faults) {
                Ended::Answered(Ok(outcome)) => return outcome,
                Ended::Answered(Err(error)) => {
                    self.world.answer(&error);
                    last = Some(error);
                }
                Ended::Died => self.deaths += 1,
            }
            let down = self.some_time();
            self.world.clock.advance(down);
        }
        panic!(
            "seed {}: it never ends; last: {last:?}\n{}",
            self.world.seed(),
            self.world.story()
        );
    }

    /// Runs it, and asserts every law.
    ///
    /// # Panics
    /// When a law is broken; the message has the seed.
    pub fn run_and_assert(&mut self) -> (Outcome, super::Tally) {
        let outcome = self.run();
        let tally = self.world.assert_laws(&outcome);
        let most = self.world.longest_lawful_pause();
        assert!(
            self.deaths > 0 || self.operated || self.processes > 1 || tally.longest_pause <= most,
            "seed {}: 6: writes waited {:?}, at most {most:?} is lawful\n{}",
            self.world.seed(),
            tally.longest_pause,
            self.world.story()
        );
        (outcome, tally)
    }
}
