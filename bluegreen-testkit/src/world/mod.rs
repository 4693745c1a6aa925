//! The simulated world: clients with caches, two environments, two databases and an operator around a real migration, on a
//! virtual clock and from a seed. Every law of the design is an assertion here, and a failure replays from its seed.

mod chaos;
mod crowd;
mod laws;

pub use chaos::Chaos;
pub use laws::Tally;

use crate::clock::VirtualClock;
use crate::fake::{Databases, FakeDns, FakeGate, FakeProbe, FakeReplicator, MemoryJournal, Served};
use crate::fault::{Fault, Faults, Faulty, Point};
use bluegreen_core::{
    Clock, Color, Environment, Error, Migration, Note, Outcome, Record, Result, Signal, Spec, Steps, Target,
    TrafficPolicy, WritePath,
};
use crowd::Crowd;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The TTL of the production name before and after.
const FIRST_TTL: u32 = 300;

/// After so much simulated time in one process nothing can be under way any more: it hangs.
const HANGS: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a process ended.
#[derive(Debug)]
pub enum Ended {
    /// It was killed; what it held is gone.
    Died,
    /// The migration answered.
    Answered(Result<Outcome>),
}

/// A world with one application in it that is to move. Everything but processes outlives a process.
#[derive(Debug)]
pub struct World {
    seed: u64,
    /// The clock of everything in it.
    pub clock: VirtualClock,
    /// The production name's zone.
    pub dns: FakeDns,
    /// Both databases.
    pub databases: Databases,
    /// Where the application's writes come through.
    pub gate: FakeGate,
    /// What the probe sees.
    pub probe: FakeProbe,
    /// What the migration remembers.
    pub journal: MemoryJournal,
    /// What moves where, and how patiently; changed before the first process.
    pub spec: Spec,
    /// How the share moves; changed before the first process.
    pub policy: Arc<dyn TrafficPolicy>,
    crowd: Arc<Crowd>,
    faults_seen: Mutex<u32>,
    /// Whether opening the old writer again was itself made to fail or hang: then its clients may see errors.
    excused: AtomicBool,
}

impl World {
    /// A world in which nothing goes wrong by itself: six clients, patient databases, short waits.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let clock = VirtualClock::new();
        let gate = FakeGate::new(clock.clone());
        Self::with(seed, clock, gate)
    }

    fn with(seed: u64, clock: VirtualClock, gate: FakeGate) -> Self {
        let dns = FakeDns::new(clock.clone()).with_seed(seed);
        let databases = Databases::new(clock.clone());
        let journal = MemoryJournal::new();
        let mut spec = Spec::new("shop", environment(Color::Blue), environment(Color::Green))
            .record("example.com", "shop.example.com")
            .write_path(WritePath::BlueDatabase)
            .hold(Duration::from_secs(600))
            .pause_budget(Duration::from_secs(2));
        spec.look = Duration::from_secs(5);
        spec.watch = Duration::from_secs(120);
        spec.dns_samples = 60;
        spec.limits.min_requests = 3;
        if let Some(record) = &spec.record {
            dns.put(record, Served::plain(&target(Color::Blue), FIRST_TTL));
        }
        let crowd = Crowd::gather(seed, &clock, &dns, &databases, &gate, spec.record.clone());
        databases.on_promote({
            let journal = journal.clone();
            move |to| committed(&journal) == Some(to)
        });
        // The zone was there long before anybody looked.
        clock.advance(Duration::from_secs(60));
        crowd.tick();
        Self {
            seed,
            clock,
            dns,
            databases,
            gate,
            probe: FakeProbe::new(),
            journal,
            spec,
            policy: Arc::new(Steps::new([10, 50, 100]).bake("30s")),
            crowd,
            faults_seen: Mutex::new(0),
            excused: AtomicBool::new(false),
        }
    }

    /// The same world with the kind of gate that dies with its process.
    #[must_use]
    pub fn with_fleeting_gate(seed: u64) -> Self {
        let clock = VirtualClock::new();
        let gate = FakeGate::fleeting(clock.clone());
        Self::with(seed, clock, gate)
    }

    /// What it was made from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A process that runs the migration, from wherever the journal says it is, until its end or its death.
    ///
    /// # Panics
    /// When the migration hangs: everybody waits, and nothing will ever come.
    pub fn process(&self, faults: &Faults) -> Ended {
        let replicator = Arc::new(FakeReplicator::new(&self.databases));
        let crowd = Arc::clone(&self.crowd);
        faults.watch(move |_, point: Point| crowd.stir(point));
        faults.on_kill({
            let (replicator, gate) = (Arc::clone(&replicator), self.gate.clone());
            move || {
                replicator.crash();
                gate.crash();
            }
        });
        // A runtime of its own: when it is dropped, every task of the process is gone, as in a real death.
        let runtime = tokio::runtime::Builder::new_current_thread().event_interval(1).build();
        let runtime = runtime.expect("a runtime without drivers can be made");
        let ended = runtime.block_on(faults.until_killed(async {
            let migration = match self.migration(faults, Arc::clone(&replicator)) {
                Ok(migration) => migration,
                Err(error) => return Err(error),
            };
            let end = self.clock.now() + HANGS;
            tokio::select! {
                biased;
                answer = migration.run() => answer,
                () = self.clock.sleep_until(end) => panic!(
                    "seed {}: it hangs, with {:?} last; faults: {:?}", self.seed, faults.calls().last(), faults.happened()
                ),
            }
        }));
        drop(runtime);
        replicator.crash();
        let lasting = |fault: &Fault| match fault {
            Fault::Reject(kind) | Fault::FailAfter(kind) => !Error::new(*kind, "", "").is_transient(),
            Fault::Hold | Fault::Slow(_) => true,
            Fault::KillBefore | Fault::KillAfter => false,
        };
        if faults
            .happened()
            .iter()
            .any(|(_, call, fault)| ["replicator.unfence", "journal.confirm"].contains(call) && lasting(fault))
        {
            self.excused.store(true, Ordering::SeqCst);
        }
        let seen = u32::try_from(faults.happened().len()).unwrap_or(u32::MAX);
        *self.faults_seen.lock().unwrap_or_else(PoisonError::into_inner) += seen;
        ended.map_or(Ended::Died, Ended::Answered)
    }

    /// The migration as one process sees it.
    ///
    /// # Errors
    /// See the builder.
    pub fn migration(&self, faults: &Faults, replicator: Arc<FakeReplicator>) -> Result<Migration> {
        let crowd = Arc::clone(&self.crowd);
        Migration::builder("shop")
            .dns(Faulty::new(self.dns.clone(), faults))
            .replicator(Faulty::new(replicator, faults))
            .probe(Faulty::new(self.probe.clone(), faults))
            .gate(Faulty::new(self.gate.clone(), faults))
            .journal(Faulty::new(self.journal.clone(), faults))
            .policy(Arc::clone(&self.policy))
            .clock(self.clock.clone())
            .spec(self.spec.clone())
            .deploy(|| async { Ok::<(), String>(()) })
            .verify("suite", || async { Ok::<(), String>(()) })
            .decommission(move || {
                crowd.take_blue_down();
                async { Ok::<(), String>(()) }
            })
            .build()
    }

    /// A process in which nothing goes wrong.
    #[must_use]
    pub fn sound(&self) -> Faults {
        Faults::new(self.clock.clone())
    }

    /// Processes in which nothing goes wrong, one after the other, until the migration is over. What needs a human is
    /// answered by running it again, and by an approval where that is asked for.
    ///
    /// # Panics
    /// When it is not over after twenty of them.
    pub fn finish(&self) -> Outcome {
        let mut last = None;
        for _ in 0..20 {
            match self.process(&self.sound()) {
                Ended::Answered(Ok(outcome)) => return outcome,
                Ended::Answered(Err(error)) => {
                    self.answer(&error);
                    last = Some(error);
                }
                Ended::Died => {}
            }
            self.clock.advance(Duration::from_secs(300));
        }
        panic!("seed {}: it never ends; last: {last:?}\n{}", self.seed, self.story());
    }

    /// A human reads why it stopped, and approves where an approval is what it waits for.
    fn answer(&self, error: &Error) {
        if error.message().contains("approve") {
            let id = format!("answer at {}", self.clock.now());
            self.journal.request(id, Signal::Approve);
        }
    }

    /// What happened, for a failure's message: the journal, one line an entry.
    #[must_use]
    pub fn story(&self) -> String {
        let entries = self.journal.entries().unwrap_or_default();
        let lines = entries
            .iter()
            .map(|entry| format!("  {} {} {:?}", entry.seq, entry.at, entry.body));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for World {
    /// What is still on the clock holds the world that the clock belongs to.
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

/// Where an environment answers.
fn target(color: Color) -> Target {
    let last = if color == Color::Blue { 10 } else { 20 };
    Target::address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
}

fn environment(color: Color) -> Environment {
    Environment::at(format!("http://{color}.example.com"))
        .health("/health")
        .target(target(color))
}

/// Which environment a resolved address is.
fn color_of(values: &[String]) -> Option<Color> {
    [Color::Blue, Color::Green].into_iter().find(|color| {
        let expected: Vec<String> = target(*color)
            .record_sets(0)
            .into_iter()
            .flat_map(|set| set.values)
            .collect();
        expected == values
    })
}

/// The production name.
fn production() -> Record {
    Record {
        zone: "example.com".into(),
        name: "shop.example.com".into(),
    }
}
