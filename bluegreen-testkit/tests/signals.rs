//! What operators say is heard wherever the migration stands.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{
    AtOnce, Clock, Environment, Error, Handle, Kind, Migration, MigrationBuilder, NoDatabase, Outcome, Record, Result,
    Signal, Spec, Target, Tick,
};
use bluegreen_testkit::VirtualClock;
use bluegreen_testkit::fake::{FakeDns, FakeProbe, MemoryJournal, Served};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A stateless application that is to move.
fn builder(clock: &VirtualClock, journal: &MemoryJournal) -> MigrationBuilder<FakeDns, NoDatabase, FakeProbe, AtOnce> {
    let (blue, green) = (
        Target::address([192, 0, 2, 1].into()),
        Target::address([192, 0, 2, 2].into()),
    );
    let record = Record {
        zone: "example.com".into(),
        name: "shop.example.com".into(),
    };
    let dns = FakeDns::new(clock.clone()).with_authorities([Duration::ZERO]);
    dns.put(&record, Served::plain(&blue, 60));
    let spec = Spec::new(
        "shop",
        Environment::at("https://blue.example.com").target(blue),
        Environment::at("https://green.example.com").target(green),
    )
    .record("example.com", "shop.example.com")
    .hold(Duration::from_secs(600));
    Migration::builder("shop")
        .dns(dns)
        .replicator(NoDatabase)
        .probe(FakeProbe::new())
        .policy(AtOnce::new())
        .journal(journal.clone())
        .clock(clock.clone())
        .spec(spec)
}

/// Without a database no pause follows the commit record: what an operator says afterwards must not wait for its end.
#[tokio::test]
async fn going_back_is_heard_in_the_hold_of_a_migration_without_a_database() {
    let clock = VirtualClock::new();
    let migration = builder(&clock, &MemoryJournal::new()).build().unwrap();
    while migration.status().step != Some(bluegreen_core::StepName::Hold) {
        match migration.tick().await.unwrap() {
            Tick::Again(at) => clock.advance(at.since(clock.now())),
            other => panic!("{other:?}"),
        }
    }
    migration.handle().go_back();
    let outcome = migration.run().await.unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
}

/// A hook that runs until it may end, and counts.
#[derive(Clone, Default)]
struct Suite {
    began: Arc<Notify>,
    may_end: Arc<Notify>,
    begun: Arc<AtomicU32>,
    dropped: Arc<AtomicU32>,
}

struct Unfinished(Arc<AtomicU32>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Suite {
    async fn run(self) -> Result<(), String> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let unfinished = Unfinished(self.dropped);
        self.began.notify_one();
        self.may_end.notified().await;
        std::mem::forget(unfinished);
        Ok(())
    }

    /// Runs a migration until its suite runs, then lets somebody speak, and it end.
    async fn hears(&self, migration: &Migration, speak: impl FnOnce(&Handle)) -> Result<Outcome, Error> {
        let speaker = async {
            self.began.notified().await;
            speak(&migration.handle());
        };
        let both = async { tokio::join!(migration.run(), speaker).0 };
        tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .expect("it was heard while the suite ran")
    }

    fn count(&self) -> (u32, u32) {
        (self.begun.load(Ordering::SeqCst), self.dropped.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn an_abort_ends_a_running_hook() {
    for deploys in [true, false] {
        let (clock, journal, suite) = (VirtualClock::new(), MemoryJournal::new(), Suite::default());
        let call = {
            let suite = suite.clone();
            move || suite.clone().run()
        };
        let builder = builder(&clock, &journal);
        let migration = match deploys {
            true => builder.deploy(call),
            false => builder.verify("suite", call),
        };
        let migration = migration.build().unwrap();
        let outcome = match deploys {
            true => suite.hears(&migration, Handle::abort).await.unwrap(),
            // From another process.
            false => suite
                .hears(&migration, |_| journal.request("1", Signal::Abort))
                .await
                .unwrap(),
        };
        assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
        assert_eq!(suite.count(), (1, 1));
    }
}

#[tokio::test]
async fn a_stop_ends_a_running_hook_and_it_is_asked_again() {
    let (clock, journal, suite) = (VirtualClock::new(), MemoryJournal::new(), Suite::default());
    let call = suite.clone();
    let migration = builder(&clock, &journal)
        .verify("suite", move || call.clone().run())
        .build()
        .unwrap();
    let stopped = suite.hears(&migration, Handle::stop).await.unwrap_err();
    assert_eq!(stopped.kind(), Kind::HumanNeeded, "{stopped}");
    assert_eq!(suite.count(), (1, 1));
    suite.may_end.notify_one();
    assert_eq!(migration.run().await.unwrap(), Outcome::Completed);
    assert_eq!(suite.count(), (2, 1));
}

/// To begin nothing new is no reason to end what runs.
#[tokio::test]
async fn a_pause_lets_a_running_hook_end() {
    let (clock, journal, suite) = (VirtualClock::new(), MemoryJournal::new(), Suite::default());
    let call = suite.clone();
    let migration = builder(&clock, &journal)
        .deploy(move || call.clone().run())
        .build()
        .unwrap();
    let outcome = suite.hears(&migration, |handle| {
        handle.pause();
        handle.resume();
        suite.may_end.notify_one();
    });
    assert_eq!(outcome.await.unwrap(), Outcome::Completed);
    assert_eq!(suite.count(), (1, 0));
}
