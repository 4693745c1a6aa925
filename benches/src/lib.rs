//! What the benchmarks share: migrations on the in-memory fakes, each with a clock of its own.

pub mod copying;

use async_trait::async_trait;
use bluegreen_core::{AtOnce, Entry, Environment, Journal, Migration, Result, Spec, Target, WritePath};
use bluegreen_testkit::VirtualClock;
use bluegreen_testkit::fake::{Databases, FakeDns, FakeGate, FakeProbe, FakeReplicator, MemoryJournal, Served};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A journal in memory without a door for other processes: nothing is looked for in the long waits.
#[derive(Debug, Clone)]
struct Quiet(MemoryJournal);

#[async_trait]
impl Journal for Quiet {
    async fn load(&self) -> Result<Vec<Entry>> {
        self.0.load().await
    }
    async fn append(&self, entry: &Entry) -> Result<()> {
        self.0.append(entry).await
    }
}

/// A whole migration in memory (name, database, gate, probe; 48 h of hold), and its journal.
///
/// # Errors
/// See the builder.
pub fn in_memory(name: &str) -> Result<(Migration, MemoryJournal)> {
    let clock = VirtualClock::new();
    let target = |last| Target::address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
    let mut spec = Spec::new(
        name,
        Environment::at("http://blue.example.com").target(target(10)),
        Environment::at("http://green.example.com").target(target(20)),
    )
    .record("example.com", "shop.example.com")
    .write_path(WritePath::BlueDatabase);
    spec.look = Duration::from_secs(5);
    spec.watch = Duration::from_secs(3600);
    spec.limits.min_requests = 3;
    let dns = FakeDns::new(clock.clone());
    if let Some(record) = &spec.record {
        dns.put(record, Served::plain(&target(10), 60));
    }
    clock.advance(Duration::from_secs(60));
    let databases = Databases::new(clock.clone());
    let journal = MemoryJournal::new();
    let migration = Migration::builder(name)
        .dns(dns)
        .replicator(FakeReplicator::new(&databases))
        .probe(FakeProbe::new())
        .gate(FakeGate::new(clock.clone()))
        .policy(AtOnce::new().bake("30s"))
        .journal(Quiet(journal.clone()))
        .clock(clock)
        .spec(spec)
        .build()?;
    Ok((migration, journal))
}

/// The most memory that this process has had, in KiB; none where the system does not tell.
#[must_use]
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
