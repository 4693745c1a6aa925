//! `PowerDns` against a real PowerDNS: read, compile, apply, and then what the server itself says.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{
    Answer, Applied, DnsProvider, Intent, Kind, Record, RecordKind, RecordSet, Shape, Share, Snapshot, Target,
};
use bluegreen_dns::{PowerDns, Stickiness, authority};
use bluegreen_testkit::servers::{PowerDnsBinaries, PowerDnsServer, available};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const ZONE: &str = "example.com";

async fn server() -> Option<PowerDnsServer> {
    available("PowerDNS", PowerDnsBinaries::find())?;
    Some(PowerDnsServer::start(ZONE).await.unwrap())
}

fn provider(server: &PowerDnsServer) -> PowerDns {
    PowerDns::new(server.api_url(), server.key()).authorities([server.dns()])
}

fn app() -> Record {
    Record {
        zone: ZONE.into(),
        name: format!("app.{ZONE}"),
    }
}

fn target(v4: &[&str], v6: &[&str]) -> Target {
    Target::Addresses {
        v4: v4.iter().map(|ip| ip.parse().unwrap()).collect(),
        v6: v6.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

fn blue() -> Target {
    target(&["192.0.2.1"], &["2001:db8::1"])
}

fn green() -> Target {
    target(&["192.0.2.2", "192.0.2.3"], &["2001:db8::2"])
}

fn weighted(blue: Target, green: Target, percent: u16) -> Intent {
    Intent::Weighted {
        blue,
        green,
        share: Share::percent(percent).unwrap(),
        ttl: 5,
        owner: "shop".into(),
    }
}

async fn make(dns: &PowerDns, intent: &Intent) -> Snapshot {
    let before = dns.read(&app()).await.unwrap();
    let plan = dns.compile(&before, intent).unwrap();
    let applied = dns.apply(&plan).await.unwrap();
    assert!(matches!(applied, Applied::Accepted(_)), "{applied:?}");
    let after = dns.read(&app()).await.unwrap();
    assert!(after.is(intent, plan.share), "{after:?}");
    after
}

async fn ask(dns: &PowerDns, samples: u32) -> (BTreeMap<String, u32>, u32) {
    let answers = dns.ask_authorities(&app(), samples).await.unwrap();
    match &answers[0].answer {
        Answer::Serving { seen, ttl, serial, .. } => {
            assert!(serial.is_some());
            (seen.clone(), *ttl)
        }
        other => panic!("{other:?}"),
    }
}

/// A count within five standard deviations of a binomial draw: wrong once in 1,700,000 times.
fn assert_binomial(seen: u32, samples: u32, share: f64) {
    let (n, p) = (f64::from(samples), share);
    let off = (f64::from(seen) - n * p).abs();
    assert!(
        off <= 5.0 * (n * p * (1.0 - p)).sqrt(),
        "{seen} of {samples} at {share}"
    );
}

#[tokio::test]
async fn moves_both_families_by_weight() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    server.set("app.example.com", "A", 300, &["192.0.2.1"]).await.unwrap();
    server
        .set("app.example.com", "AAAA", 300, &["2001:db8::1"])
        .await
        .unwrap();
    server
        .set("app.example.com", "MX", 300, &["10 mail.example.com."])
        .await
        .unwrap();
    let plain = dns.read(&app()).await.unwrap();
    assert_eq!((&plain.shape, plain.ttl), (&Shape::Simple, Some(300)));
    assert_eq!(plain.sets, blue().record_sets(300));

    make(&dns, &weighted(blue(), green(), 0)).await;
    let (seen, ttl) = ask(&dns, 50).await;
    assert_eq!(
        seen,
        BTreeMap::from([("192.0.2.1".into(), 50), ("2001:db8::1".into(), 50)])
    );
    assert_eq!(ttl, 5);

    make(&dns, &weighted(blue(), green(), 10)).await;
    let (seen, _) = ask(&dns, 2000).await;
    assert_eq!(seen["192.0.2.1"] + seen["192.0.2.2"], 2000);
    assert_eq!(
        seen["192.0.2.2"], seen["192.0.2.3"],
        "a side answers with all of its addresses"
    );
    assert_eq!(seen["2001:db8::1"] + seen["2001:db8::2"], 2000);
    assert_binomial(seen["192.0.2.2"], 2000, 0.1);
    assert_binomial(seen["2001:db8::2"], 2000, 0.1);

    make(&dns, &weighted(blue(), green(), 100)).await;
    let (seen, _) = ask(&dns, 50).await;
    assert!(
        !seen.contains_key("192.0.2.1") && !seen.contains_key("2001:db8::1"),
        "{seen:?}"
    );
    let mx = server
        .sets()
        .await
        .unwrap()
        .into_iter()
        .filter(|s| s["type"] == "MX")
        .count();
    assert_eq!(mx, 1, "what does not steer is left alone");
}

#[tokio::test]
async fn moves_a_name_by_weight() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    server
        .set("app.example.com", "CNAME", 60, &["Blue.example.net."])
        .await
        .unwrap();
    let (blue, green) = (
        Target::Name("blue.example.net".into()),
        Target::Name("green.example.net".into()),
    );
    assert_eq!(dns.read(&app()).await.unwrap().sets, blue.record_sets(60));
    make(&dns, &weighted(blue, green, 25)).await;
    let (seen, _) = ask(&dns, 2000).await;
    assert_eq!(seen.values().sum::<u32>(), 2000);
    assert_binomial(seen["green.example.net"], 2000, 0.25);
}

#[tokio::test]
async fn a_side_without_a_family_answers_nothing_in_it() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    server.set("app.example.com", "A", 300, &["192.0.2.1"]).await.unwrap();
    make(&dns, &weighted(target(&["192.0.2.1"], &[]), green(), 30)).await;
    let (seen, _) = ask(&dns, 2000).await;
    assert_eq!(seen["192.0.2.1"] + seen["192.0.2.2"], 2000);
    assert_binomial(seen["2001:db8::2"], 2000, 0.3);
}

#[tokio::test]
async fn clients_that_stick_never_go_back_to_blue() {
    let Some(server) = server().await else { return };
    let dns = provider(&server).stickiness(Stickiness::ByClient);
    assert!(dns.capabilities().sticky);
    server.set("app.example.com", "A", 300, &["192.0.2.1"]).await.unwrap();
    let (blue, green) = (target(&["192.0.2.1"], &[]), target(&["192.0.2.2"], &[]));
    let mut was_green = false;
    for percent in [0, 10, 30, 50, 70, 90, 100] {
        make(&dns, &weighted(blue.clone(), green.clone(), percent)).await;
        let (seen, _) = ask(&dns, 64).await;
        assert_eq!(seen.len(), 1, "one client, one side: {seen:?}");
        let is_green = seen.contains_key("192.0.2.2");
        assert!(is_green || !was_green, "went back at {percent} %");
        was_green = is_green;
    }
    assert!(was_green);
}

#[tokio::test]
async fn releases_exactly_what_it_adopted() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    let comments = json!([{"content": "do not touch", "account": "ops", "modified_at": 1_600_000_000}]);
    let records = json!([
        {"content": "192.0.2.7", "disabled": true},
        {"content": "192.0.2.1", "disabled": false},
        {"content": "192.0.2.0", "disabled": false},
    ]);
    server
        .patch(
            json!({"name": "app.example.com.", "type": "A", "changetype": "REPLACE", "ttl": 17,
            "records": records, "comments": comments}),
        )
        .await
        .unwrap();
    server
        .set("app.example.com", "AAAA", 3600, &["2001:db8::1"])
        .await
        .unwrap();
    server
        .set("app.example.com", "TXT", 99, &["\"v=spf1 -all\""])
        .await
        .unwrap();
    let strip = |sets: Vec<serde_json::Value>| {
        let mut texts: Vec<String> = sets
            .into_iter()
            .filter(|s| s["type"] != "SOA")
            .map(|s| s.to_string())
            .collect();
        texts.sort();
        texts
    };
    let before = strip(server.sets().await.unwrap());
    let plain = dns.read(&app()).await.unwrap();
    make(&dns, &weighted(blue(), green(), 10)).await;
    assert_ne!(strip(server.sets().await.unwrap()), before);
    let release = Intent::Plain {
        sets: plain.sets.clone(),
        raw: plain.raw.clone(),
    };
    let after = make(&dns, &release).await;
    assert_eq!(after, plain);
    assert_eq!(strip(server.sets().await.unwrap()), before);
}

#[tokio::test]
async fn ends_plain_at_the_other_target_and_is_idempotent() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    server.set("app.example.com", "A", 300, &["192.0.2.1"]).await.unwrap();
    let before = dns.read(&app()).await.unwrap();
    let intent = weighted(blue(), green(), 10);
    let plan = dns.compile(&before, &intent).unwrap();
    assert!(plan.to_string().contains("LUA"), "{plan}");
    for _ in 0..2 {
        assert!(matches!(dns.apply(&plan).await.unwrap(), Applied::Accepted(_)));
    }
    let again = dns.compile(&dns.read(&app()).await.unwrap(), &intent).unwrap();
    assert!(!again.changes, "{again}");
    assert_eq!(again.to_string(), "app.example.com: nothing to change");
    let end = Intent::Plain {
        sets: green().record_sets(300),
        raw: serde_json::Value::Null,
    };
    let after = make(&dns, &end).await;
    assert_eq!(after.shape, Shape::Simple);
    let (seen, ttl) = ask(&dns, 1).await;
    assert_eq!((seen.len(), ttl), (3, 300));
    make(
        &dns,
        &Intent::Plain {
            sets: vec![],
            raw: serde_json::Value::Null,
        },
    )
    .await;
    let gone = dns.ask_authorities(&app(), 3).await.unwrap();
    assert!(
        matches!(&gone[0].answer, Answer::Wrong(why) if why.contains("no such name")),
        "{gone:?}"
    );
}

#[tokio::test]
async fn another_writer_in_between_is_a_conflict() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    server.set("app.example.com", "A", 300, &["192.0.2.1"]).await.unwrap();
    let before = dns.read(&app()).await.unwrap();
    let plan = dns.compile(&before, &weighted(blue(), green(), 10)).unwrap();
    server.set("app.example.com", "A", 300, &["192.0.2.99"]).await.unwrap();
    match dns.apply(&plan).await.unwrap() {
        Applied::Conflict(now) => assert_eq!(now.sets[0].values, ["192.0.2.99"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        dns.read(&app()).await.unwrap().shape,
        Shape::Simple,
        "nothing was changed"
    );
}

#[tokio::test]
async fn foreign_shapes_and_other_owners_are_refused() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    let lua = "A \"ifportup(443, {'192.0.2.1', '192.0.2.2'})\"";
    server.set("app.example.com", "LUA", 60, &[lua]).await.unwrap();
    let seen = dns.read(&app()).await.unwrap();
    assert!(matches!(seen.shape, Shape::Foreign(_)), "{seen:?}");
    let plain = Intent::Plain {
        sets: blue().record_sets(60),
        raw: serde_json::Value::Null,
    };
    for intent in [weighted(blue(), green(), 10), plain] {
        assert_eq!(dns.compile(&seen, &intent).unwrap_err().kind(), Kind::Conflict);
    }
    server
        .patch(json!({"name": "app.example.com.", "type": "LUA", "changetype": "DELETE"}))
        .await
        .unwrap();
    make(&dns, &weighted(blue(), green(), 10)).await;
    let mut other = weighted(blue(), green(), 20);
    if let Intent::Weighted { owner, .. } = &mut other {
        *owner = "another".into();
    }
    let refused = dns.compile(&dns.read(&app()).await.unwrap(), &other).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.to_string().contains("shop"), "{refused}");
}

#[tokio::test]
async fn what_dns_cannot_have_is_refused_before_it_is_sent() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    let seen = dns.read(&app()).await.unwrap();
    assert_eq!(seen.shape, Shape::Absent);
    let name = Target::Name("green.example.net".into());
    let quote = Target::Name("x'}} os.execute('x".into());
    for intent in [
        weighted(blue(), name.clone(), 10),
        weighted(target(&[], &[]), green(), 10),
        weighted(name.clone(), quote, 10),
    ] {
        assert_eq!(dns.compile(&seen, &intent).unwrap_err().kind(), Kind::InvalidInput);
    }
    let apex = Record {
        zone: ZONE.into(),
        name: ZONE.into(),
    };
    let seen = dns.read(&apex).await.unwrap();
    let refused = dns.compile(&seen, &weighted(name.clone(), name, 10)).unwrap_err();
    assert!(refused.to_string().contains("top of its zone"), "{refused}");
}

#[tokio::test]
async fn a_server_without_lua_is_not_given_any() {
    if available("PowerDNS", PowerDnsBinaries::find()).is_none() {
        return;
    }
    let server = PowerDnsServer::start_with(ZONE, &[("enable-lua-records", "no")])
        .await
        .unwrap();
    let dns = provider(&server);
    server.set("app.example.com", "A", 300, &["192.0.2.1"]).await.unwrap();
    let before = dns.read(&app()).await.unwrap();
    let plan = dns.compile(&before, &weighted(blue(), green(), 0)).unwrap();
    match dns.apply(&plan).await.unwrap() {
        Applied::Rejected(why) => assert!(why.contains("enable-lua-records=yes"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(dns.read(&app()).await.unwrap(), before);
}

#[tokio::test]
async fn errors_say_what_and_never_the_key() {
    let Some(mut server) = server().await else { return };
    let dns = provider(&server);
    let before = dns.read(&app()).await.unwrap();
    let sent = dns.compile(&before, &weighted(blue(), green(), 10)).unwrap();
    let short = Duration::from_millis(300);

    let wrong_key = PowerDns::new(server.api_url(), "not-the-key")
        .read(&app())
        .await
        .unwrap_err();
    assert_eq!(wrong_key.kind(), Kind::Unauthenticated);
    assert!(!format!("{wrong_key} {wrong_key:?}").contains("not-the-key"));
    let record = |zone: &str| Record {
        zone: zone.into(),
        name: format!("app.{zone}"),
    };
    assert_eq!(
        dns.read(&record("example.org")).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let outside = Record {
        zone: ZONE.into(),
        name: "app.example.org".into(),
    };
    assert_eq!(dns.read(&outside).await.unwrap_err().kind(), Kind::InvalidInput);
    for url in ["", "127.0.0.1:8081", "ftp://host", "http://user:secret@host"] {
        let error = PowerDns::new(url, "k").read(&app()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let other_id = provider(&server).server("elsewhere").read(&app()).await.unwrap_err();
    assert_eq!(other_id.kind(), Kind::NotFound);

    server.signal(Signal::SIGSTOP).unwrap();
    let slow = provider(&server).timeout(short);
    assert_eq!(slow.read(&app()).await.unwrap_err().kind(), Kind::Timeout);
    let silent = authority::ask(&[server.dns()], &app(), 5, short).await.unwrap();
    assert!(matches!(silent[0].answer, Answer::Silent(_)), "{silent:?}");
    server.signal(Signal::SIGCONT).unwrap();
    let (url, dns_at) = (server.api_url(), server.dns());
    drop(server);
    let dead = PowerDns::new(url, "k").authorities([dns_at]);
    assert_eq!(dead.apply(&sent).await.unwrap_err().kind(), Kind::Unavailable);
    let silent = dead.ask_authorities(&app(), 5).await.unwrap();
    assert!(matches!(silent[0].answer, Answer::Silent(_)), "{silent:?}");
}

#[tokio::test]
async fn lua_that_does_not_run_shows_at_the_authority() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    server
        .set("app.example.com", "LUA", 60, &["A \"this is not Lua\""])
        .await
        .unwrap();
    let answers = dns.ask_authorities(&app(), 3).await.unwrap();
    assert!(matches!(&answers[0].answer, Answer::Wrong(_)), "{answers:?}");
    let elsewhere = Record {
        zone: "example.org".into(),
        name: "app.example.org".into(),
    };
    let answers = dns.ask_authorities(&elsewhere, 3).await.unwrap();
    assert!(matches!(&answers[0].answer, Answer::Wrong(_)), "{answers:?}");
}

#[tokio::test]
async fn large_answers_come_by_tcp() {
    let Some(server) = server().await else { return };
    let dns = provider(&server);
    let many: Vec<String> = (0..200).map(|n| format!("2001:db8::{n:x}")).collect();
    let values: Vec<&str> = many.iter().map(String::as_str).collect();
    server.set("app.example.com", "AAAA", 60, &values).await.unwrap();
    let (seen, _) = ask(&dns, 2).await;
    assert_eq!(seen.len(), 200);
    assert_eq!(
        dns.read(&app()).await.unwrap().sets,
        [RecordSet {
            kind: RecordKind::Aaaa,
            ttl: 60,
            values: seen.into_keys().collect(),
        }]
    );
}

/// Passes requests on, but keeps the answer to every PATCH to itself: it happened, and nobody hears of it.
async fn swallows_answers(to: std::net::SocketAddr) -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut first = vec![0; 65536];
                let length = client.read(&mut first).await.unwrap();
                let is_patch = first.starts_with(b"PATCH");
                let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                server.write_all(&first[..length]).await.unwrap();
                if is_patch {
                    let mut answer = vec![];
                    server.read_to_end(&mut answer).await.unwrap();
                    std::future::pending::<()>().await;
                }
                tokio::io::copy_bidirectional(&mut client, &mut server).await.unwrap();
            });
        }
    });
    at
}

#[tokio::test]
async fn an_answer_that_never_comes_is_unknown_and_reads_back() {
    let Some(server) = server().await else { return };
    server.set("app.example.com", "A", 300, &["192.0.2.1"]).await.unwrap();
    let api = server.api_url().trim_start_matches("http://").parse().unwrap();
    let url = format!("http://{}", swallows_answers(api).await);
    let dns = PowerDns::new(url, server.key()).timeout(Duration::from_millis(700));
    let intent = weighted(blue(), green(), 10);
    let plan = dns.compile(&dns.read(&app()).await.unwrap(), &intent).unwrap();
    let applied = dns.apply(&plan).await.unwrap();
    assert!(matches!(applied, Applied::Unknown(_)), "{applied:?}");
    assert!(
        dns.read(&app()).await.unwrap().is(&intent, plan.share),
        "it happened all the same"
    );
}
