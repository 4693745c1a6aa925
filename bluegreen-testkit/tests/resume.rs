//! A migration is gone on with only where it was begun: on the same databases, behind the same gate, by the same DNS.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{
    AtOnce, Clock, Environment, Kind, Migration, Outcome, Record, Result, Spec, Target, Tick, WritePath,
};
use bluegreen_testkit::fake::{Databases, FakeDns, FakeGate, FakeProbe, FakeReplicator, MemoryJournal, Served};
use bluegreen_testkit::{Faults, Faulty, VirtualClock};
use std::time::Duration;

/// What every process finds.
struct Place {
    clock: VirtualClock,
    faults: Faults,
    dns: FakeDns,
    databases: Databases,
    gate: FakeGate,
    journal: MemoryJournal,
}

/// What each part says that it acts on.
#[derive(Clone, Copy)]
struct On {
    dns: &'static str,
    databases: &'static str,
    gate: &'static str,
}

const FIRST: On = On {
    dns: "https://dns.example.net",
    databases: "blue old:5432/shop, green new:5432/shop",
    gate: "shop at pooler:6432",
};

const PATIENCE: Duration = Duration::from_secs(600);

impl Place {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let dns = FakeDns::new(clock.clone()).with_authorities([Duration::ZERO]);
        let record = Record {
            zone: "example.com".into(),
            name: "shop.example.com".into(),
        };
        dns.put(&record, Served::plain(&targets().0, 60));
        Self {
            faults: Faults::new(clock.clone()),
            dns,
            databases: Databases::new(clock.clone()),
            gate: FakeGate::new(clock.clone()),
            journal: MemoryJournal::new(),
            clock,
        }
    }

    fn process(&self, on: On, patience: Duration) -> Migration {
        let (blue, green) = targets();
        let mut spec = Spec::new(
            "shop",
            Environment::at("https://blue.example.com").target(blue),
            Environment::at("https://green.example.com").target(green),
        )
        .record("example.com", "shop.example.com")
        .write_path(WritePath::BlueDatabase);
        spec.patience = patience;
        spec.limits.min_requests = 3;
        spec.hold = Duration::ZERO;
        Migration::builder("shop")
            .dns(Faulty::new(self.dns.clone(), &self.faults).acting_on(on.dns))
            .replicator(Faulty::new(FakeReplicator::new(&self.databases), &self.faults).acting_on(on.databases))
            .gate(Faulty::new(self.gate.clone(), &self.faults).acting_on(on.gate))
            .probe(FakeProbe::new())
            .policy(AtOnce::new())
            .journal(self.journal.clone())
            .clock(self.clock.clone())
            .spec(spec)
            .build()
            .unwrap()
    }

    /// Begins it, and ends the process once the mirror was asked for.
    async fn begin(&self) {
        let first = self.process(FIRST, PATIENCE);
        while !self.faults.calls().contains(&"replicator.start") {
            match first.tick().await.unwrap() {
                Tick::Again(at) => self.clock.advance(at.since(self.clock.now())),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn resume(&self, on: On) -> Result<Outcome> {
        self.process(on, PATIENCE).run().await
    }
}

fn targets() -> (Target, Target) {
    (
        Target::address([192, 0, 2, 1].into()),
        Target::address([192, 0, 2, 2].into()),
    )
}

#[tokio::test]
async fn another_database_gate_or_dns_is_refused_by_name_and_not_touched() {
    let place = Place::new();
    place.begin().await;
    let (calls, kept) = (place.faults.calls().len(), place.journal.len());
    let others = [
        (
            On {
                databases: "blue old:5432/shop, green stranger:5432/shop",
                ..FIRST
            },
            "database",
            "green stranger:5432/shop",
            FIRST.databases,
        ),
        (
            On {
                gate: "shop at elsewhere:6432",
                ..FIRST
            },
            "gate",
            "shop at elsewhere:6432",
            FIRST.gate,
        ),
        (
            On {
                dns: "https://other.example.net",
                ..FIRST
            },
            "DNS",
            "https://other.example.net",
            FIRST.dns,
        ),
    ];
    for (on, part, given, begun) in others {
        let refused = place.resume(on).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Diverged, "{refused}");
        let said = refused.to_string();
        for word in [part, given, begun, "resume with the specification"] {
            assert!(said.contains(word), "{word:?} is missing: {said}");
        }
        for same in ["settings", "the same"] {
            assert!(!said.contains(same), "{said}");
        }
    }
    assert_eq!(place.faults.calls().len(), calls, "nobody was asked anything");
    assert_eq!(place.journal.len(), kept, "nothing was written down");
    assert_eq!(place.resume(FIRST).await.unwrap(), Outcome::Completed);
}

#[tokio::test]
async fn other_settings_are_told_from_another_place() {
    let place = Place::new();
    place.begin().await;
    let refused = place.process(FIRST, PATIENCE * 2).run().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Diverged, "{refused}");
    assert!(refused.to_string().contains("acts on the same"), "{refused}");
}
