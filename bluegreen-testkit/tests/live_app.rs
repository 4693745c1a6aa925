//! The live application under its clients: a gate that moves it loses nothing, and a ledger that sees what is lost.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{AppGate, Color, Share, Target, WriteGate};
use bluegreen_testkit::app::{App, Clients, ClientsConfig, Database, Pool, ledger, schema};
use bluegreen_testkit::dns::{Entry, LocalDns, Zone};
use bluegreen_testkit::servers::{PgBinaries, PgCluster, available, free_port};
use std::time::Duration;

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_follow_the_name_and_outlive_terminated_connections() {
    let Some(_) = available("PostgreSQL", PgBinaries::find()) else {
        return;
    };
    let cluster = PgCluster::start().await.unwrap();
    cluster.create_database("shop").await.unwrap();
    let url = cluster.url("shop");
    schema::create(&url, 5000).await.unwrap();
    // Both sides of the gate are one database here: only the way there is looked at.
    let gate = AppGate::new(Pool::new(&url, 8), Pool::new(&url, 8));
    let port = free_port().unwrap();
    let _blue = App::start(Color::Blue, port, Database::Gated(gate.clone()))
        .await
        .unwrap();
    let _green = App::start(Color::Green, port, Database::Gated(gate.clone()))
        .await
        .unwrap();
    let (blue, green) = (
        Target::address(App::host(Color::Blue).into()),
        Target::address(App::host(Color::Green).into()),
    );
    let (_dns, server) = LocalDns::start(Zone::new("example.test").with("shop.example.test", &blue, 0))
        .await
        .unwrap();
    let clients = Clients::start(&ClientsConfig {
        name: "shop.example.test".into(),
        port,
        resolver: server.address(),
        writers: 4,
        readers: 2,
        think: Duration::from_millis(1),
    });
    until("writes at blue", || clients.live().acked > 100).await;
    assert_eq!(clients.live().green, 0);
    let share = Share::percent(50).unwrap();
    server.with_zone(|zone| {
        zone.set(
            "shop.example.test",
            Some(Entry::Weighted {
                blue,
                green,
                share,
                ttl: 0,
            }),
        )
    });
    until("requests at green", || clients.live().green > 100).await;

    gate.hold(Duration::from_secs(5)).await.unwrap();
    let held = clients.live().acked;
    let terminate =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop' AND pid <> pg_backend_pid()";
    cluster.execute("shop", terminate).await.unwrap();
    let after = clients.live().acked;
    assert!(after - held <= 4, "a write was answered behind the held gate");
    gate.point_at(Color::Green).await.unwrap();
    gate.release().await.unwrap();
    until("writes after the gate", || clients.live().acked > after + 100).await;
    gate.hold(Duration::from_secs(5)).await.unwrap();
    gate.point_at(Color::Blue).await.unwrap();
    gate.release().await.unwrap();
    let back = clients.live().acked;
    until("writes through connections that were terminated", || {
        clients.live().acked > back + 100
    })
    .await;

    let outcome = clients.stop().await.unwrap();
    assert_eq!(outcome.failures, std::collections::BTreeMap::new());
    assert_eq!(outcome.totals.acked, outcome.acked.len() as u64);
    assert!(outcome.longest_stall() > Duration::ZERO && outcome.p99 >= outcome.p50);
    assert!(ledger::check(&outcome.acked, &url).await.unwrap().is_clean());

    // A ledger that cannot see a loss is worth nothing.
    let [lost, doubled, changed] = [0, 1, 2].map(|i| outcome.acked[i].order.token.clone());
    let spoil = format!(
        "DELETE FROM orders WHERE token = '{lost}';
         INSERT INTO orders (token, acct, amount) SELECT token, acct, amount FROM orders WHERE token = '{doubled}';
         UPDATE orders SET amount = amount + 1 WHERE token = '{changed}'"
    );
    cluster.execute("shop", &spoil).await.unwrap();
    let spoilt = ledger::check(&outcome.acked, &url).await.unwrap();
    assert_eq!((spoilt.lost, spoilt.doubled), (2, 1));
    assert!(spoilt.unbalanced > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_what_was_said() {
    let Some(_) = available("PostgreSQL", PgBinaries::find()) else {
        return;
    };
    let cluster = PgCluster::start().await.unwrap();
    cluster.create_database("shop").await.unwrap();
    schema::create(&cluster.url("shop"), 10).await.unwrap();
    cluster
        .execute("shop", "ALTER DATABASE shop SET default_transaction_read_only = on")
        .await
        .unwrap();
    let port = free_port().unwrap();
    let pool = Pool::new(cluster.url("shop"), 4);
    let blue = App::start(Color::Blue, port, Database::Pooled(pool)).await.unwrap();
    let target = Target::address(blue.address().ip());
    let (_dns, server) = LocalDns::start(Zone::new("example.test").with("shop.example.test", &target, 5))
        .await
        .unwrap();
    let clients = Clients::start(&ClientsConfig {
        name: "shop.example.test".into(),
        port,
        resolver: server.address(),
        writers: 2,
        readers: 0,
        think: Duration::from_millis(1),
    });
    until("failures", || clients.live().failed > 5).await;
    let outcome = clients.stop().await.unwrap();
    assert!(outcome.acked.is_empty());
    let (why, count) = outcome.failures.first_key_value().unwrap();
    assert!(why.contains("blue answered 500") && why.contains("25006"), "{why}");
    assert_eq!(*count, outcome.totals.failed);
}
