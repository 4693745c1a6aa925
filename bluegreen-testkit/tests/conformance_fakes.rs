//! The fakes, and what core brings along, keep every contract; so do fakes behind a fault wrapper that does nothing.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use bluegreen_core::{
    AppGate, AppGuard, AtOnce, Color, DnsCapabilities, DnsProvider, Endpoint, FileJournal, Health, HealthProbe,
    Journal, Linear, Record, Replicator, Result, Share, Signal, Steps, SystemClock, Weights, WriteGate,
};
use bluegreen_testkit::conformance::dns::DnsHarness;
use bluegreen_testkit::conformance::gate::{GateHarness, GateUnit};
use bluegreen_testkit::conformance::journal::JournalHarness;
use bluegreen_testkit::conformance::probe::ProbeHarness;
use bluegreen_testkit::conformance::replicator::{OpenWrite, ReplicatorHarness};
use bluegreen_testkit::fake::{
    Databases, FakeDns, FakeGate, FakeProbe, FakeReplicator, FakeUnit, MemoryJournal, ScriptedPolicy, Served,
    Transaction,
};
use bluegreen_testkit::{Faults, Faulty, VirtualClock};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(10);

// ---- dns

struct Zone {
    clock: VirtualClock,
    fake: FakeDns,
    wrapped: Arc<dyn DnsProvider>,
}

impl Zone {
    fn new(capabilities: DnsCapabilities, faulty: bool) -> Self {
        let clock = VirtualClock::new();
        let fake = FakeDns::new(clock.clone()).with_capabilities(capabilities).with_seed(7);
        let wrapped: Arc<dyn DnsProvider> = if faulty {
            Arc::new(Faulty::new(fake.clone(), &Faults::new(clock.clone())))
        } else {
            Arc::new(fake.clone())
        };
        Self { clock, fake, wrapped }
    }
}

#[async_trait]
impl DnsHarness for Zone {
    fn provider(&self) -> &dyn DnsProvider {
        &*self.wrapped
    }
    fn record(&self) -> Record {
        Record {
            zone: "example.com".into(),
            name: "app.example.com".into(),
        }
    }
    async fn put_foreign(&self) -> bool {
        let served = Served::Foreign {
            what: "latency routing".into(),
            sets: vec![],
        };
        self.fake.put(&self.record(), served);
        true
    }
    async fn pause(&self) {
        self.clock.sleep(MOMENT).await;
    }
}

fn everything() -> DnsCapabilities {
    DnsCapabilities::new(Weights::UpTo(1000))
        .with_compare_and_swap()
        .with_change_status()
}

bluegreen_testkit::dns_conformance!(dns_with_everything, async { Some(Zone::new(everything(), false)) });
bluegreen_testkit::dns_conformance!(dns_with_coarse_weights, async {
    Some(Zone::new(
        DnsCapabilities::new(Weights::UpTo(255)).with_min_ttl(60),
        false,
    ))
});
bluegreen_testkit::dns_conformance!(dns_with_a_switch, async {
    Some(Zone::new(DnsCapabilities::new(Weights::Switch), false))
});
bluegreen_testkit::dns_conformance!(dns_behind_a_wrapper, async { Some(Zone::new(everything(), true)) });

// ---- replicator

struct Pair {
    clock: VirtualClock,
    databases: Databases,
    process: Mutex<Arc<FakeReplicator>>,
    wrapped: bool,
}

impl Pair {
    fn new(wrapped: bool) -> Self {
        let clock = VirtualClock::new();
        let databases = Databases::new(clock.clone()).with_copy(Duration::from_millis(100));
        let process = Mutex::new(Arc::new(FakeReplicator::new(&databases)));
        Self {
            clock,
            databases,
            process,
            wrapped,
        }
    }
}

struct Open(Databases, Transaction);

#[async_trait]
impl OpenWrite for Open {
    async fn commit(self: Box<Self>) -> Result<(), String> {
        self.0.commit(self.1).map_err(|e| e.to_string())
    }
}

#[async_trait]
impl ReplicatorHarness for Pair {
    fn replicator(&self) -> Arc<dyn Replicator> {
        let replicator = Arc::clone(&self.process.lock().unwrap());
        if self.wrapped {
            Arc::new(Faulty::new(replicator, &Faults::new(self.clock.clone())))
        } else {
            replicator
        }
    }
    async fn crash(&self) {
        let mut process = self.process.lock().unwrap();
        process.crash();
        *process = Arc::new(FakeReplicator::new(&self.databases));
    }
    async fn write(&self, color: Color, token: u64) -> Result<(), String> {
        self.databases.write(color, token).map_err(|e| e.to_string())
    }
    async fn open(&self, color: Color, token: u64) -> Result<Box<dyn OpenWrite>, String> {
        let open = self.databases.begin(color, token).map_err(|e| e.to_string())?;
        Ok(Box::new(Open(self.databases.clone(), open)))
    }
    async fn tamper(&self, color: Color, token: u64, instead: u64) {
        assert!(self.databases.tamper(color, token, instead), "{color} has no {token}");
    }
    async fn tokens(&self, color: Color) -> Vec<u64> {
        let mut tokens = self.databases.tokens(color);
        tokens.sort_unstable();
        tokens
    }
    async fn pause(&self) {
        self.clock.sleep(MOMENT).await;
    }
}

bluegreen_testkit::replicator_conformance!(replicator, async { Some(Pair::new(false)) });
bluegreen_testkit::replicator_conformance!(replicator_behind_a_wrapper, async { Some(Pair::new(true)) });

// ---- gate

struct FakeGateHarness {
    clock: VirtualClock,
    gate: FakeGate,
}

impl FakeGateHarness {
    fn new(make: impl Fn(VirtualClock) -> FakeGate) -> Self {
        let clock = VirtualClock::new();
        let gate = make(clock.clone());
        Self { clock, gate }
    }
}

struct Unit(FakeUnit);

#[async_trait]
impl GateUnit for Unit {
    fn color(&self) -> Color {
        self.0.color()
    }
    async fn end(self: Box<Self>) {}
}

#[async_trait]
impl GateHarness for FakeGateHarness {
    fn gate(&self) -> &dyn WriteGate {
        &self.gate
    }
    async fn enter(&self) -> Box<dyn GateUnit> {
        loop {
            if let Some(unit) = self.gate.try_enter() {
                return Box::new(Unit(unit));
            }
            self.clock.sleep(MOMENT).await;
        }
    }
    async fn try_enter(&self) -> Option<Box<dyn GateUnit>> {
        self.clock.sleep(MOMENT).await;
        Some(Box::new(Unit(self.gate.try_enter()?)))
    }
    async fn pause(&self) {
        self.clock.sleep(MOMENT).await;
    }
}

bluegreen_testkit::gate_conformance!(gate, async { Some(FakeGateHarness::new(FakeGate::new)) });
bluegreen_testkit::gate_conformance!(fleeting_gate, async { Some(FakeGateHarness::new(FakeGate::fleeting)) });

struct InTheApp(AppGate<()>);
struct AppUnit(AppGuard<()>);

#[async_trait]
impl GateUnit for AppUnit {
    fn color(&self) -> Color {
        self.0.color()
    }
    async fn end(self: Box<Self>) {}
}

#[async_trait]
impl GateHarness for InTheApp {
    fn gate(&self) -> &dyn WriteGate {
        &self.0
    }
    async fn enter(&self) -> Box<dyn GateUnit> {
        Box::new(AppUnit(self.0.enter().await))
    }
    async fn try_enter(&self) -> Option<Box<dyn GateUnit>> {
        let entered = tokio::time::timeout(MOMENT * 5, self.0.enter()).await;
        Some(Box::new(AppUnit(entered.ok()?)))
    }
    async fn pause(&self) {
        tokio::time::sleep(MOMENT).await;
    }
}

bluegreen_testkit::gate_conformance!(app_gate, async { Some(InTheApp(AppGate::new((), ()))) });

// ---- journal

struct Memory {
    journal: MemoryJournal,
    asked: AtomicU32,
}

#[async_trait]
impl JournalHarness for Memory {
    async fn open(&self) -> Result<Arc<dyn Journal>> {
        Ok(Arc::new(self.journal.clone()))
    }
    async fn request(&self, signal: Signal) -> bool {
        let id = self.asked.fetch_add(1, Ordering::SeqCst);
        self.journal.request(id.to_string(), signal);
        true
    }
}

bluegreen_testkit::journal_conformance!(memory_journal, async {
    Some(Memory {
        journal: MemoryJournal::new(),
        asked: AtomicU32::new(0),
    })
});

struct InAFile(tempfile::TempDir);

#[async_trait]
impl JournalHarness for InAFile {
    async fn open(&self) -> Result<Arc<dyn Journal>> {
        Ok(Arc::new(FileJournal::open(self.0.path().join("shop.journal"))?))
    }
    async fn request(&self, signal: Signal) -> bool {
        FileJournal::request(self.0.path().join("shop.journal"), signal).unwrap();
        true
    }
}

bluegreen_testkit::journal_conformance!(file_journal, async { Some(InAFile(tempfile::tempdir().unwrap())) });

// ---- probe

struct Probed(FakeProbe);

impl Probed {
    fn endpoint(color: Color) -> Endpoint {
        Endpoint {
            color: Some(color),
            url: format!("http://{color}.example.com/health"),
            host: None,
            deadline: Duration::from_millis(500),
        }
    }
}

#[async_trait]
impl ProbeHarness for Probed {
    fn probe(&self) -> &dyn HealthProbe {
        &self.0
    }
    async fn well(&self) -> Endpoint {
        Self::endpoint(Color::Blue)
    }
    async fn ill(&self) -> Endpoint {
        self.0.set(Color::Green, Health::ill(MOMENT, "503"));
        Self::endpoint(Color::Green)
    }
    async fn slow(&self) -> Option<Endpoint> {
        self.0.set(Color::Green, Health::well(Duration::from_secs(3)));
        Some(Self::endpoint(Color::Green))
    }
    async fn gone(&self) -> Option<Endpoint> {
        self.0
            .set(Color::Green, Health::ill(Duration::ZERO, "connection refused"));
        Some(Self::endpoint(Color::Green))
    }
}

bluegreen_testkit::probe_conformance!(probe, async { Some(Probed(FakeProbe::new())) });

// ---- clock and policy

fn percent(values: &[u16]) -> Vec<Share> {
    values.iter().map(|p| Share::percent(*p).unwrap()).collect()
}

bluegreen_testkit::clock_conformance!(virtual_clock, async { Some(VirtualClock::new()) });
bluegreen_testkit::clock_conformance!(system_clock, async { Some(SystemClock) });
bluegreen_testkit::policy_conformance!(scripted_policy, async {
    Some(ScriptedPolicy::new(percent(&[10, 50, 100])))
});
bluegreen_testkit::policy_conformance!(steps, async { Some(Steps::new([10, 50, 100])) });
bluegreen_testkit::policy_conformance!(at_once, async { Some(AtOnce::new()) });
bluegreen_testkit::policy_conformance!(linear, async { Some(Linear::new(10, "5m")) });

/// A behaviour that its suite's macro does not name would be tested by nobody.
#[test]
fn every_behaviour_is_in_its_macro() {
    let suites = [
        ("clock", include_str!("../src/conformance/clock.rs")),
        ("dns", include_str!("../src/conformance/dns.rs")),
        ("gate", include_str!("../src/conformance/gate.rs")),
        ("journal", include_str!("../src/conformance/journal.rs")),
        ("policy", include_str!("../src/conformance/policy.rs")),
        ("probe", include_str!("../src/conformance/probe.rs")),
        ("replicator", include_str!("../src/conformance/replicator.rs")),
    ];
    for (suite, source) in suites {
        let behaviours = source
            .split("\npub async fn ")
            .skip(1)
            .filter_map(|rest| rest.split('(').next());
        let named = source
            .split("macro_rules!")
            .nth(1)
            .and_then(|rest| rest.split("\n}\n").next());
        let named = named.unwrap();
        let mut count = 0;
        for behaviour in behaviours {
            assert!(
                named.contains(&format!(" {behaviour},")),
                "{suite}: {behaviour} is not tested"
            );
            count += 1;
        }
        assert!(count > 4, "{suite}: {count} behaviours");
    }
}
