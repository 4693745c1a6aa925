//! An application with two databases, `orders` and `stock`, a gate in front of each, and writers of one, of the other, and of
//! both in one unit of work.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use bluegreen_core::{
    AllDatabases, AllGates, AtOnce, Clock, Color, Environment, Error, Migration, NoDns, NoProbe, Note, Outcome,
    Replicator, Result, Spec,
};
use bluegreen_testkit::fake::{Databases, FakeGate, FakeReplicator, FakeUnit, MemoryJournal, Transaction};
use bluegreen_testkit::fault::Point;
use bluegreen_testkit::world::Ended;
use bluegreen_testkit::{Faults, Faulty, VirtualClock};
use futures::FutureExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const NAMES: [&str; 2] = ["orders", "stock"];

/// The application and all that outlives a process.
pub struct Shop {
    pub clock: VirtualClock,
    pub databases: [Databases; 2],
    pub gates: [FakeGate; 2],
    pub journal: MemoryJournal,
    pub spec: Spec,
    crowd: Arc<Crowd>,
    excused: AtomicBool,
}

impl Shop {
    pub fn open(fleeting: [bool; 2]) -> Self {
        let clock = VirtualClock::new();
        // The second is slower in everything.
        let databases = [1, 3].map(|n| {
            Databases::new(clock.clone())
                .with_copy(Duration::from_secs(5 * n))
                .with_delay(Duration::from_millis(2 * n))
        });
        let gates = fleeting.map(|fleeting| {
            if fleeting {
                FakeGate::fleeting(clock.clone())
            } else {
                FakeGate::new(clock.clone())
            }
        });
        let journal = MemoryJournal::new();
        for database in &databases {
            let journal = journal.clone();
            database.on_promote(move |to| committed(&journal) == Some(to));
        }
        let mut spec = Spec::new("shop", Environment::none(), Environment::none())
            .hold(Duration::from_secs(300))
            .pause_budget(Duration::from_secs(2));
        spec.look = Duration::from_secs(20);
        spec.watch = Duration::from_secs(100);
        let crowd = Arc::new(Crowd {
            clock: clock.clone(),
            databases: databases.clone(),
            gates: gates.clone(),
            tokens: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            seen: Mutex::default(),
        });
        crowd.tick();
        Self {
            clock,
            databases,
            gates,
            journal,
            spec,
            crowd,
            excused: AtomicBool::new(false),
        }
    }

    /// A process in which nothing goes wrong, among writers who act around each of its calls.
    pub fn sound(&self) -> Faults {
        let faults = Faults::new(self.clock.clone());
        self.also(&faults, |_, _| ());
        faults
    }

    /// Somebody else looks on as well, or meddles.
    pub fn also(&self, faults: &Faults, other: impl Fn(&'static str, Point) + Send + Sync + 'static) {
        let crowd = Arc::clone(&self.crowd);
        faults.watch(move |call, point| {
            crowd.look_on();
            other(call, point);
            crowd.unit();
        });
    }

    /// From now on errors that clients saw are no failure.
    pub fn excuse(&self) {
        self.excused.store(true, Ordering::SeqCst);
    }

    fn migration(&self, parts: &[Arc<FakeReplicator>; 2], faults: &Faults) -> Result<Migration> {
        let (mut databases, mut gates) = (AllDatabases::new(), AllGates::new());
        for n in [0, 1] {
            databases = databases.with(NAMES[n], Faulty::new(Arc::clone(&parts[n]), faults))?;
            gates = gates.with(NAMES[n], Faulty::new(self.gates[n].clone(), faults))?;
        }
        Migration::builder("shop")
            .dns(NoDns)
            .probe(NoProbe)
            .policy(AtOnce::new())
            .replicator(databases)
            .gate(gates)
            .journal(Faulty::new(self.journal.clone(), faults))
            .clock(self.clock.clone())
            .spec(self.spec.clone())
            .build()
    }

    /// A process that runs the migration until its end or its death.
    pub fn process(&self, faults: &Faults) -> Ended {
        let parts = [0, 1].map(|n| Arc::new(FakeReplicator::new(&self.databases[n])));
        faults.on_kill({
            let (parts, gates) = (parts.clone(), self.gates.clone());
            move || {
                parts.iter().for_each(|part| part.crash());
                gates.iter().for_each(FakeGate::crash);
            }
        });
        // A runtime of its own: with it every task of the process is gone.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .event_interval(1)
            .build()
            .unwrap();
        let ended = runtime.block_on(faults.until_killed(async {
            let migration = self.migration(&parts, faults)?;
            let end = self.clock.now() + Duration::from_secs(7 * 24 * 3600);
            tokio::select! {
                biased;
                answer = migration.run() => answer,
                () = self.clock.sleep_until(end) => panic!("it hangs, after {:?}", faults.calls().last()),
            }
        }));
        drop(runtime);
        parts.iter().for_each(|part| part.crash());
        ended.map_or(Ended::Died, Ended::Answered)
    }

    /// Sound processes, one after the other, until it is over.
    pub fn finish(&self) -> Outcome {
        let mut last: Option<Error> = None;
        for _ in 0..10 {
            match self.process(&self.sound()) {
                Ended::Answered(Ok(outcome)) => return outcome,
                Ended::Answered(Err(error)) => last = Some(error),
                Ended::Died => {}
            }
            self.clock.advance(Duration::from_secs(300));
        }
        panic!("it never ends; last: {last:?}\n{}", self.story());
    }

    pub fn story(&self) -> String {
        let entries = self.journal.entries().unwrap();
        let lines = entries.iter().map(|e| format!("  {} {} {:?}", e.seq, e.at, e.body));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Both at one side, nothing lost, nothing doubled, nothing left. How much was acknowledged in each.
    pub fn assert_laws(&self, outcome: &Outcome) -> [usize; 2] {
        let writer = match outcome {
            Outcome::Completed => Color::Green,
            Outcome::RolledBack { .. } => Color::Blue,
        };
        self.crowd.gone.store(true, Ordering::SeqCst);
        self.clock.advance(Duration::from_secs(120));
        let seen = self.crowd.seen.lock().unwrap();
        let mut broken = seen.broken.clone();
        if !self.excused.load(Ordering::SeqCst) {
            broken.extend(seen.failed.iter().cloned());
        }
        for (n, name) in NAMES.into_iter().enumerate() {
            let (database, gate) = (&self.databases[n], self.gates[n].look());
            let mut there: HashMap<u64, usize> = HashMap::new();
            for token in database.tokens(writer) {
                *there.entry(token).or_default() += 1;
            }
            let lost: Vec<_> = seen.acked[n].iter().filter(|t| !there.contains_key(t)).collect();
            if !lost.is_empty() || there.values().any(|times| *times > 1) {
                broken.push(format!("{name}: lost {lost:?}, or something is there twice"));
            }
            let two = database.time_with_two_writers();
            if !two.is_zero() || !database.violations().is_empty() {
                broken.push(format!("{name}: two writers for {two:?}; {:?}", database.violations()));
            }
            let left = FakeReplicator::new(database)
                .leftovers()
                .now_or_never()
                .unwrap()
                .unwrap();
            if !left.is_empty() || gate.held || gate.at != writer || !database.accepts(writer) {
                broken.push(format!("{name}: left {left:?}, {gate:?}"));
            }
            if writer == Color::Green && database.accepts(Color::Blue) {
                broken.push(format!("{name}: blue takes writes"));
            }
        }
        assert!(
            broken.is_empty(),
            "{outcome}:\n  {}\n{}",
            broken.join("\n  "),
            self.story()
        );
        [seen.acked[0].len(), seen.acked[1].len()]
    }
}

impl Drop for Shop {
    /// What is still on the clock holds the application that the clock belongs to.
    fn drop(&mut self) {
        self.clock.clear_events();
    }
}

/// The colour of the newest commit record.
fn committed(journal: &MemoryJournal) -> Option<Color> {
    let entries = journal.entries().ok()?;
    entries.iter().rev().find_map(|entry| match &entry.body {
        bluegreen_core::Body::Noted {
            note: Note::Commit { to, .. },
            ..
        } => Some(*to),
        _ => None,
    })
}

/// The writers.
struct Crowd {
    clock: VirtualClock,
    databases: [Databases; 2],
    gates: [FakeGate; 2],
    tokens: AtomicU64,
    gone: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    acked: [Vec<u64>; 2],
    failed: Vec<String>,
    broken: Vec<String>,
}

/// Where a unit of work is in.
type Inside = Vec<(usize, FakeUnit, Transaction)>;

impl Crowd {
    /// Somebody works, and again after a while.
    fn tick(self: &Arc<Self>) {
        if self.gone.load(Ordering::SeqCst) {
            return;
        }
        self.unit();
        let crowd = Arc::downgrade(self);
        self.clock.after(Duration::from_millis(14_300), move || {
            if let Some(crowd) = crowd.upgrade() {
                crowd.tick();
            }
        });
    }

    /// At no instant does the application write to green's orders and blue's stock.
    fn look_on(&self) {
        let open = self.databases.each_ref().map(|d| (d.writer(), d.accepts(d.writer())));
        if let [(first, true), (second, true)] = open
            && first != second
        {
            let what = format!("{}: orders are open at {first}, stock at {second}", self.clock.now());
            self.seen.lock().unwrap().broken.push(what);
        }
    }

    /// One unit of work: of the first, of the second, or of both, the second in the first.
    fn unit(self: &Arc<Self>) {
        if self.gone.load(Ordering::SeqCst) {
            return;
        }
        let token = self.tokens.fetch_add(1, Ordering::SeqCst) + 1;
        let parts = match token % 3 {
            0 => vec![0],
            1 => vec![1],
            _ => vec![0, 1],
        };
        self.enter(token, parts, vec![], Duration::from_millis(1));
    }

    fn enter(self: &Arc<Self>, token: u64, mut parts: Vec<usize>, mut inside: Inside, patience: Duration) {
        while let Some(part) = parts.first().copied() {
            let Some(unit) = self.gates[part].try_enter() else {
                let crowd = Arc::downgrade(self);
                return self.clock.after(patience, move || {
                    if let Some(crowd) = crowd.upgrade() {
                        crowd.enter(token, parts, inside, (patience * 2).min(Duration::from_secs(30)));
                    }
                });
            };
            match self.databases[part].begin(unit.color(), token) {
                Ok(transaction) => inside.push((part, unit, transaction)),
                Err(why) => {
                    for (part, _, transaction) in inside {
                        self.databases[part].roll_back(transaction);
                    }
                    return self.failed(format!("write {token} of {} at {}: {why}", NAMES[part], unit.color()));
                }
            }
            parts.remove(0);
        }
        if let [(_, first, _), (_, second, _)] = &inside[..]
            && first.color() != second.color()
        {
            self.seen
                .lock()
                .unwrap()
                .broken
                .push(format!("{token}: one unit of work at two sides"));
        }
        let crowd = Arc::downgrade(self);
        self.clock.after(Duration::from_micros(100 + token % 7 * 900), move || {
            let Some(crowd) = crowd.upgrade() else { return };
            for (part, unit, transaction) in inside {
                match crowd.databases[part].commit(transaction) {
                    Ok(()) => crowd.seen.lock().unwrap().acked[part].push(token),
                    Err(why) => crowd.failed(format!(
                        "commit of {token} of {} at {}: {why}",
                        NAMES[part],
                        unit.color()
                    )),
                }
            }
        });
    }

    fn failed(&self, what: String) {
        let now = self.clock.now();
        self.seen.lock().unwrap().failed.push(format!("{now}: {what}"));
    }
}
