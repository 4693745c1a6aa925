//! Several databases as one keep the contract of one; so do several gates. What is done to one is done to both, and what one
//! refuses the other must refuse too.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use bluegreen_core::{AllDatabases, AllGates, AppGate, AppGuard, Color, Replicator, WriteGate};
use bluegreen_testkit::VirtualClock;
use bluegreen_testkit::conformance::gate::{GateHarness, GateUnit};
use bluegreen_testkit::conformance::replicator::{OpenWrite, ReplicatorHarness};
use bluegreen_testkit::fake::{Databases, FakeGate, FakeReplicator, FakeUnit, Refused, Transaction};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(10);

// ---- replicator

/// Two pairs of databases, which hold the same.
struct Two {
    clock: VirtualClock,
    pairs: [Databases; 2],
    process: Mutex<Process>,
}

struct Process {
    parts: [Arc<FakeReplicator>; 2],
    both: Arc<AllDatabases>,
}

impl Process {
    fn new(pairs: &[Databases; 2]) -> Self {
        let parts = [0, 1].map(|n| Arc::new(FakeReplicator::new(&pairs[n])));
        let both = AllDatabases::new().with("orders", parts[0].clone()).unwrap();
        let both = Arc::new(both.with("stock", parts[1].clone()).unwrap());
        Self { parts, both }
    }
}

impl Two {
    fn new() -> Self {
        let clock = VirtualClock::new();
        // The second is slower in everything.
        let pairs = [1, 3].map(|n| {
            Databases::new(clock.clone())
                .with_copy(Duration::from_millis(100 * n))
                .with_delay(Duration::from_millis(3 * n))
        });
        let process = Mutex::new(Process::new(&pairs));
        Self { clock, pairs, process }
    }
}

/// What both say; that they do not say the same is a failure.
fn both<T>(said: [Result<T, Refused>; 2]) -> Result<[T; 2], String> {
    match said {
        [Ok(first), Ok(second)] => Ok([first, second]),
        [Err(first), Err(_)] => Err(first.to_string()),
        [first, second] => panic!(
            "one takes writes and the other does not: {:?}, {:?}",
            first.err(),
            second.err()
        ),
    }
}

struct Open([Databases; 2], [Transaction; 2]);

#[async_trait]
impl OpenWrite for Open {
    async fn commit(self: Box<Self>) -> Result<(), String> {
        both([0, 1].map(|n| self.0[n].commit(self.1[n]))).map(drop)
    }
}

#[async_trait]
impl ReplicatorHarness for Two {
    fn replicator(&self) -> Arc<dyn Replicator> {
        self.process.lock().unwrap().both.clone()
    }
    async fn crash(&self) {
        let mut process = self.process.lock().unwrap();
        for part in &process.parts {
            part.crash();
        }
        *process = Process::new(&self.pairs);
    }
    async fn write(&self, color: Color, token: u64) -> Result<(), String> {
        both([0, 1].map(|n| self.pairs[n].write(color, token))).map(drop)
    }
    async fn open(&self, color: Color, token: u64) -> Result<Box<dyn OpenWrite>, String> {
        let open = both([0, 1].map(|n| self.pairs[n].begin(color, token)))?;
        Ok(Box::new(Open(self.pairs.clone(), open)))
    }
    async fn tamper(&self, color: Color, token: u64, instead: u64) {
        // A difference in one of them is one of all.
        assert!(self.pairs[1].tamper(color, token, instead), "{color} has no {token}");
    }
    async fn tokens(&self, color: Color) -> Vec<u64> {
        let [first, mut all] = [0, 1].map(|n| self.pairs[n].tokens(color));
        if first != all {
            // One that is behind is shown by what the other has twice.
            all.extend(first);
        }
        all.sort_unstable();
        all
    }
    async fn pause(&self) {
        self.clock.sleep(MOMENT).await;
    }
}

bluegreen_testkit::replicator_conformance!(all_databases, async { Some(Two::new()) });

// ---- gate

/// Two gates; a unit of work passes the first and, in it, the second.
struct Nested {
    clock: VirtualClock,
    gates: [FakeGate; 2],
    both: AllGates,
}

impl Nested {
    fn new(make: impl Fn(VirtualClock) -> FakeGate) -> Self {
        let clock = VirtualClock::new();
        let gates = [0, 1].map(|_| make(clock.clone()));
        let both = AllGates::new().with("orders", gates[0].clone()).unwrap();
        let both = both.with("stock", gates[1].clone()).unwrap();
        Self { clock, gates, both }
    }

    async fn wait_for(&self, gate: usize) -> FakeUnit {
        loop {
            if let Some(unit) = self.gates[gate].try_enter() {
                return unit;
            }
            self.clock.sleep(MOMENT).await;
        }
    }
}

struct Units<T>([T; 2], Color);

impl<T> Units<T> {
    fn new(units: [T; 2], colors: [Color; 2]) -> Box<Self> {
        assert_eq!(colors[0], colors[1], "one unit of work at two sides");
        Box::new(Self(units, colors[0]))
    }
}

#[async_trait]
impl<T: Send> GateUnit for Units<T> {
    fn color(&self) -> Color {
        self.1
    }
    async fn end(self: Box<Self>) {
        drop(self.0);
    }
}

#[async_trait]
impl GateHarness for Nested {
    fn gate(&self) -> &dyn WriteGate {
        &self.both
    }
    async fn enter(&self) -> Box<dyn GateUnit> {
        let first = self.wait_for(0).await;
        let second = self.wait_for(1).await;
        let colors = [first.color(), second.color()];
        Units::new([first, second], colors)
    }
    async fn try_enter(&self) -> Option<Box<dyn GateUnit>> {
        self.clock.sleep(MOMENT).await;
        let (first, second) = (self.gates[0].try_enter(), self.gates[1].try_enter());
        assert_eq!(
            first.is_some(),
            second.is_some(),
            "one lets work through and the other does not"
        );
        let (first, second) = (first?, second?);
        let colors = [first.color(), second.color()];
        Some(Units::new([first, second], colors))
    }
    async fn pause(&self) {
        self.clock.sleep(MOMENT).await;
    }
}

bluegreen_testkit::gate_conformance!(all_gates, async { Some(Nested::new(FakeGate::new)) });
bluegreen_testkit::gate_conformance!(all_fleeting_gates, async { Some(Nested::new(FakeGate::fleeting)) });

/// The same with gates in an application, whose waiting is real.
struct InTheApp {
    gates: [AppGate<()>; 2],
    both: AllGates,
}

impl InTheApp {
    fn new() -> Self {
        let gates = [0, 1].map(|_| AppGate::new((), ()));
        let both = AllGates::new().with("orders", gates[0].clone()).unwrap();
        let both = both.with("stock", gates[1].clone()).unwrap();
        Self { gates, both }
    }
}

#[async_trait]
impl GateHarness for InTheApp {
    fn gate(&self) -> &dyn WriteGate {
        &self.both
    }
    async fn enter(&self) -> Box<dyn GateUnit> {
        let first: AppGuard<()> = self.gates[0].enter().await;
        let second = self.gates[1].enter().await;
        let colors = [first.color(), second.color()];
        Units::new([first, second], colors)
    }
    async fn try_enter(&self) -> Option<Box<dyn GateUnit>> {
        tokio::time::timeout(MOMENT * 5, self.enter()).await.ok()
    }
    async fn pause(&self) {
        tokio::time::sleep(MOMENT).await;
    }
}

bluegreen_testkit::gate_conformance!(all_app_gates, async { Some(InTheApp::new()) });
