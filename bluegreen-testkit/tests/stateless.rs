//! A stateless application moves by its name alone: what is looked at before anything changes, and what counts as failing.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{
    AtOnce, Clock, Environment, Error, Event, Health, HealthProbe, Kind, Migration, MigrationBuilder, NoDatabase,
    Outcome, Record, Severity, Spec, Steps, Target, TrafficPolicy, probe_fn,
};
use bluegreen_testkit::fake::{FakeDns, FakeProbe, MemoryJournal, Served};
use bluegreen_testkit::{Fault, Faults, Faulty, VirtualClock};
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn targets() -> (Target, Target) {
    (
        Target::address([192, 0, 2, 1].into()),
        Target::address([192, 0, 2, 2].into()),
    )
}

/// A zone in which the name points at blue.
fn zone(clock: &VirtualClock) -> FakeDns {
    let record = Record {
        zone: "example.com".into(),
        name: "shop.example.com".into(),
    };
    let dns = FakeDns::new(clock.clone()).with_authorities([Duration::ZERO]);
    dns.put(&record, Served::plain(&targets().0, 60));
    dns
}

fn spec() -> Spec {
    let (blue, green) = targets();
    let mut spec = Spec::new(
        "shop",
        Environment::at("https://blue.example.com").target(blue),
        Environment::at("https://green.example.com").target(green),
    )
    .record("example.com", "shop.example.com")
    .hold(Duration::ZERO);
    spec.look = Duration::from_secs(30);
    spec.limits.min_requests = 3;
    spec
}

fn builder<H: HealthProbe, P: TrafficPolicy>(
    dns: Faulty<FakeDns>,
    probe: H,
    policy: P,
    clock: &VirtualClock,
) -> MigrationBuilder<Faulty<FakeDns>, NoDatabase, H, P> {
    Migration::builder("shop")
        .dns(dns)
        .replicator(NoDatabase)
        .probe(probe)
        .policy(policy)
        .journal(MemoryJournal::new())
        .clock(clock.clone())
}

/// Failures that pass are counted in a row: a share that is watched for long meets more of them than are borne at once.
#[tokio::test]
async fn failures_with_answers_between_them_are_not_in_a_row() {
    let clock = VirtualClock::new();
    let faults = Faults::new(clock.clone());
    let dns = Faulty::new(zone(&clock), &faults);
    let policy = Steps::new([50, 100]).bake("12h");
    let migration = builder(dns, FakeProbe::new(), policy, &clock)
        .spec(spec())
        .build()
        .unwrap();
    faults.script("dns.read", [None, Some(Fault::Reject(Kind::Unavailable))].repeat(30));
    let outcome = migration.run().await.unwrap();
    assert_eq!(outcome, Outcome::Completed);
    assert_eq!(faults.happened().len(), 30, "all of them came");
}

#[tokio::test]
async fn failures_in_a_row_are_still_given_up() {
    let clock = VirtualClock::new();
    let faults = Faults::new(clock.clone());
    let dns = Faulty::new(zone(&clock), &faults);
    let probe = Faulty::new(FakeProbe::new(), &faults);
    let policy = Steps::new([50, 100]).bake("12h");
    let migration = builder(dns, probe, policy, &clock).spec(spec()).build().unwrap();
    // After what is looked at before the shift.
    let probes = [None]
        .repeat(20)
        .into_iter()
        .chain([Some(Fault::Reject(Kind::Unavailable))].repeat(9));
    faults.script("probe.check", probes);
    let outcome = migration.run().await.unwrap();
    assert!(
        matches!(&outcome, Outcome::RolledBack { why } if why.contains("tried 9 times")),
        "{outcome}"
    );
}

/// Bakes for an hour a share with an API that answers nothing from its ninth read on, for so many reads. What it warned of, too.
async fn baked_with_an_outage(reads: usize) -> (Outcome, Vec<String>) {
    let clock = VirtualClock::new();
    let faults = Faults::new(clock.clone());
    let dns = Faulty::new(zone(&clock), &faults);
    let policy = Steps::new([50, 100]).bake("1h");
    let mut spec = spec();
    spec.watch = Duration::from_secs(60);
    spec.patience = Duration::from_secs(30 * 60);
    let migration = builder(dns, FakeProbe::new(), policy, &clock)
        .spec(spec)
        .build()
        .unwrap();
    let outage = [Some(Fault::Reject(Kind::Unavailable))].repeat(reads);
    faults.script("dns.read", [None].repeat(8).into_iter().chain(outage));
    let mut events = migration.events();
    let outcome = migration.run().await.unwrap();
    let mut warned = vec![];
    // All of them at once, however many: the buffer holds them.
    while let Some(Some(event)) = tokio::task::unconstrained(events.next()).now_or_never() {
        if let Event::Warned { what, .. } = event {
            warned.push(what);
        }
    }
    (outcome, warned)
}

/// To look whether the record is still ours needs no answer now: nothing is moved meanwhile, and unwinding would ask the
/// same API.
#[tokio::test]
async fn an_outage_of_the_dns_api_in_a_bake_is_waited_out() {
    let (outcome, warned) = baked_with_an_outage(20).await;
    assert_eq!(outcome, Outcome::Completed);
    assert_eq!(warned.len(), 20, "{warned:?}");
    assert!(warned[0].contains("shop.example.com"), "{warned:?}");
}

#[tokio::test]
async fn an_outage_of_the_dns_api_is_not_waited_out_for_ever() {
    let (outcome, warned) = baked_with_an_outage(35).await;
    assert!(
        matches!(&outcome, Outcome::RolledBack { why } if why.contains("no change in 30m")),
        "{outcome}"
    );
    assert!(warned.len() > 20, "{warned:?}");
}

/// Findings that block, of a migration with these addresses that were asked and ill; and that nothing was touched.
async fn blocking(ill: &'static str, deploys: bool, production: Option<&str>) -> Vec<String> {
    let clock = VirtualClock::new();
    let faults = Faults::new(clock.clone());
    let probe = probe_fn(move |endpoint| async move {
        let latency = Duration::from_millis(3);
        Ok(if endpoint.url.contains(ill) {
            Health::ill(latency, "connection refused")
        } else {
            Health::well(latency)
        })
    });
    let mut spec = spec();
    spec.production_url = production.map(Into::into);
    let mut builder = builder(Faulty::new(zone(&clock), &faults), probe, AtOnce::new(), &clock).spec(spec);
    if deploys {
        builder = builder.deploy(|| async { Ok::<_, String>(()) });
    }
    let migration = builder.build().unwrap();
    let findings = migration.preflight().await.unwrap();
    let blocks = findings.iter().filter(|f| f.severity == Severity::Blocking);
    let ids: Vec<String> = blocks.map(|f| f.id.clone()).collect();
    if !ids.is_empty() {
        let asked = migration.run().await.unwrap_err();
        assert_eq!(asked.kind(), Kind::HumanNeeded, "{asked}");
    }
    assert!(!faults.calls().contains(&"dns.apply"), "nothing was changed");
    ids
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_known_before_anything_changes() {
    let production = Some("https://shop.example.com");
    assert_eq!(blocking("nobody", false, production).await, Vec::<String>::new());
    assert_eq!(blocking("blue", false, production).await, ["blue-ill"]);
    assert_eq!(blocking("green", false, production).await, ["green-ill"]);
    assert_eq!(
        blocking("shop.example.com", false, production).await,
        ["production-ill"]
    );
    assert_eq!(
        blocking("green", true, production).await,
        Vec::<String>::new(),
        "it is still to be deployed"
    );
}

/// A server may say anything of when to come back.
#[tokio::test]
async fn nobody_is_stayed_away_from_for_ever() {
    let clock = VirtualClock::new();
    let began = clock.now();
    let faults = Faults::new(clock.clone());
    let dns = Faulty::new(zone(&clock), &faults);
    let policy = AtOnce::new().bake("1m");
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let probe = probe_fn(move |_| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match nth {
                5 => Err(Error::new(Kind::RateLimited, "probe", "later").after(Duration::MAX)),
                _ => Ok(Health::well(Duration::from_millis(3))),
            }
        }
    });
    let migration = builder(dns, probe, policy, &clock).spec(spec()).build().unwrap();
    assert_eq!(migration.run().await.unwrap(), Outcome::Completed);
    assert!(clock.now().since(began) < Duration::from_secs(6 * 3600));
    assert!(asked.load(Ordering::SeqCst) > 5);
}
