//! What operators say is heard wherever the migration stands.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{AtOnce, Clock, Environment, Migration, NoDatabase, Outcome, Record, Spec, Target, Tick};
use bluegreen_testkit::VirtualClock;
use bluegreen_testkit::fake::{FakeDns, FakeProbe, MemoryJournal, Served};

/// Without a database no pause follows the commit record: what an operator says afterwards must not wait for its end.
#[tokio::test]
async fn going_back_is_heard_in_the_hold_of_a_migration_without_a_database() {
    let clock = VirtualClock::new();
    let (blue, green) = (
        Target::address([192, 0, 2, 1].into()),
        Target::address([192, 0, 2, 2].into()),
    );
    let record = Record {
        zone: "example.com".into(),
        name: "shop.example.com".into(),
    };
    let dns = FakeDns::new(clock.clone()).with_authorities([std::time::Duration::ZERO]);
    dns.put(&record, Served::plain(&blue, 60));
    let spec = Spec::new(
        "shop",
        Environment::at("https://blue.example.com").target(blue),
        Environment::at("https://green.example.com").target(green),
    )
    .record("example.com", "shop.example.com");
    let migration = Migration::builder("shop")
        .dns(dns)
        .replicator(NoDatabase)
        .probe(FakeProbe::new())
        .policy(AtOnce::new())
        .journal(MemoryJournal::new())
        .clock(clock.clone())
        .spec(spec)
        .build()
        .unwrap();
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
