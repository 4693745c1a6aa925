//! The authoritative server and its provider, over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{Answer, Applied, DnsProvider, Intent, Kind, Record, Shape, Share, Target};
use bluegreen_testkit::dns::{CachingResolver, Entry, LocalDns, Zone, ask};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::time::Duration;

fn record() -> Record {
    Record {
        zone: "example.test".into(),
        name: "app.example.test".into(),
    }
}

fn address(last: u8) -> Target {
    Target::address([127, 0, 0, last].into())
}

fn weighted(percent: u16, ttl: u32) -> Intent {
    Intent::Weighted {
        blue: address(2),
        green: address(3),
        share: Share::percent(percent).unwrap(),
        ttl,
        owner: "shop".into(),
    }
}

async fn apply(dns: &dyn DnsProvider, intent: &Intent) -> Applied {
    let snapshot = dns.read(&record()).await.unwrap();
    let plan = dns.compile(&snapshot, intent).unwrap();
    assert!(plan.changes, "{plan}");
    let applied = dns.apply(&plan).await.unwrap();
    let after = dns.read(&record()).await.unwrap();
    assert!(
        !dns.compile(&after, intent).unwrap().changes,
        "said twice, it changes nothing"
    );
    applied
}

#[tokio::test]
async fn a_name_is_adopted_shifted_and_released_and_the_authority_serves_it() {
    let (dns, _server) = LocalDns::start(Zone::new("example.test").with("app.example.test", &address(2), 300))
        .await
        .unwrap();
    let first = dns.read(&record()).await.unwrap();
    assert_eq!((first.shape.clone(), first.ttl), (Shape::Simple, Some(300)));
    for percent in [0, 30, 100] {
        assert!(matches!(apply(&dns, &weighted(percent, 1)).await, Applied::Accepted(_)));
        let answers = dns.ask_authorities(&record(), 200).await.unwrap();
        let [answer] = answers.as_slice() else {
            panic!("one authority: {answers:?}")
        };
        let Answer::Serving {
            seen,
            samples: 200,
            ttl: 1,
            serial: Some(_),
        } = &answer.answer
        else {
            panic!("{answer:?}")
        };
        let green = seen.get("127.0.0.3").copied().unwrap_or(0);
        match percent {
            0 => assert_eq!(green, 0),
            100 => assert_eq!(green, 200),
            _ => assert!((30..90).contains(&green), "{green} of 200 at 30 %"),
        }
    }
    let plain = Intent::Plain {
        sets: first.sets.clone(),
        raw: first.raw.clone(),
    };
    assert!(matches!(apply(&dns, &plain).await, Applied::Accepted(_)));
    let last = dns.read(&record()).await.unwrap();
    assert_eq!((last.shape, last.sets, last.owner), (Shape::Simple, first.sets, None));
}

#[tokio::test]
async fn another_process_changes_it_over_a_socket_and_a_stale_snapshot_is_a_conflict() {
    let (dns, server) = LocalDns::start(Zone::new("example.test").with("app.example.test", &address(2), 300))
        .await
        .unwrap();
    let remote = LocalDns::remote(dns.listen().await.unwrap());
    let stale = remote.read(&record()).await.unwrap();
    assert!(matches!(apply(&remote, &weighted(10, 1)).await, Applied::Accepted(_)));
    let plan = remote.compile(&stale, &weighted(20, 1)).unwrap();
    let Applied::Conflict(now) = remote.apply(&plan).await.unwrap() else {
        panic!("a stale snapshot was taken")
    };
    assert_eq!(now.owner.as_deref(), Some("shop"));
    assert_eq!(
        remote.ask_authorities(&record(), 1).await.unwrap()[0].server,
        server.address()
    );
    let gone = LocalDns::remote("127.0.0.1:1".parse().unwrap());
    assert_eq!(gone.read(&record()).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(matches!(gone.apply(&plan).await.unwrap(), Applied::Unknown(_)));
}

#[tokio::test]
async fn foreign_records_and_other_migrations_are_refused() {
    let (dns, server) = LocalDns::start(Zone::new("example.test")).await.unwrap();
    server.with_zone(|zone| zone.set("app.example.test", Some(Entry::Foreign("latency routing".into()))));
    let snapshot = dns.read(&record()).await.unwrap();
    assert_eq!(
        dns.compile(&snapshot, &weighted(10, 1)).unwrap_err().kind(),
        Kind::Conflict
    );
    server.with_zone(|zone| {
        zone.set("app.example.test", Some(Entry::Plain(address(2).record_sets(60))));
        zone.set_text("_bluegreen.app.example.test", Some("another".into()));
    });
    let snapshot = dns.read(&record()).await.unwrap();
    assert_eq!(
        dns.compile(&snapshot, &weighted(10, 1)).unwrap_err().kind(),
        Kind::Conflict
    );
}

#[tokio::test]
async fn a_server_answers_as_an_authority_does() {
    let zone = Zone::new("example.test")
        .with("blue.example.test", &address(2), 60)
        .with("app.example.test", &Target::Name("blue.example.test".into()), 5);
    let (_dns, server) = LocalDns::start(zone).await.unwrap();
    let at = server.address();
    let within = Duration::from_secs(2);
    let reply = ask(at, "app.example.test", RecordType::A, within).await.unwrap();
    assert!(reply.authoritative);
    assert_eq!((reply.answers.len(), reply.ttl()), (2, Some(5)));
    assert_eq!(
        reply.addresses().collect::<Vec<_>>(),
        ["127.0.0.2".parse::<std::net::IpAddr>().unwrap()]
    );
    let code = async |name, kind| ask(at, name, kind, within).await.unwrap().code;
    assert_eq!(code("none.example.test", RecordType::A).await, ResponseCode::NXDomain);
    assert_eq!(code("blue.example.test", RecordType::MX).await, ResponseCode::NoError);
    assert_eq!(code("elsewhere.test", RecordType::A).await, ResponseCode::Refused);
    // More than fits into a datagram comes over TCP.
    let v4 = (1..=100).map(|last| [10, 0, 0, last].into()).collect();
    let many = Target::Addresses { v4, v6: vec![] };
    server.with_zone(|zone| zone.set("many.example.test", Some(Entry::Plain(many.record_sets(5)))));
    let reply = ask(at, "many.example.test", RecordType::A, within).await.unwrap();
    assert_eq!(reply.addresses().count(), 100);
}

#[tokio::test]
async fn a_resolver_keeps_an_answer_for_its_ttl_and_no_longer() {
    let zone = Zone::new("example.test")
        .with("short.example.test", &address(2), 0)
        .with("long.example.test", &address(2), 600);
    let (_dns, server) = LocalDns::start(zone).await.unwrap();
    let resolver = CachingResolver::new(server.address());
    let resolve = async |name| resolver.resolve(name).await.unwrap()[0].to_string();
    assert_eq!(
        (resolve("short.example.test").await, resolve("long.example.test").await),
        ("127.0.0.2".into(), "127.0.0.2".into())
    );
    for name in ["short.example.test", "long.example.test"] {
        server.with_zone(|zone| zone.set(name, Some(Entry::Plain(address(3).record_sets(600)))));
    }
    assert_eq!(
        (resolve("short.example.test").await, resolve("long.example.test").await),
        ("127.0.0.3".into(), "127.0.0.2".into())
    );
    assert_eq!(
        resolver.resolve("none.example.test").await.unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
}
