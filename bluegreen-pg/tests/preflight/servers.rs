//! What the preflight says of the servers themselves: what stands at their addresses, their settings and disks, and the gate. On
//! real clusters, with the fault and without.

use crate::common::findings::{find, ids, run, troubles};
use crate::common::{Pair, connect};
use bluegreen_core::{Color, Finding, Replicator, Severity, WriteGate};
use bluegreen_pg::{PgBouncer, PgReplicator, Upstream};
use bluegreen_testkit::servers::{PgBinaries, PgBouncerServer, PgCluster, available};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};

async fn of(blue: &str, green: &str) -> Vec<Finding> {
    troubles(&PgReplicator::builder("shop", blue, green).build().unwrap()).await
}

async fn notes(replicator: &PgReplicator) -> Vec<Finding> {
    let mut findings = replicator.preflight().await.unwrap();
    findings.retain(|finding| finding.severity == Severity::Note);
    findings
}

#[tokio::test]
async fn a_pooler_is_not_a_server() {
    let Some(program) = available("PgBouncer", PgBouncerServer::find()) else {
        return;
    };
    let Some(pair) = Pair::start().await else { return };
    pair.blue.create_database("plain").await.unwrap();
    pair.green.create_database("plain").await.unwrap();
    // One that refuses what it does not know, and one that leaves it out.
    for settings in [None, Some("options,extra_float_digits")] {
        let mut builder = PgBouncerServer::builder(&program).database(format!(
            "plain = host=127.0.0.1 port={} user=postgres",
            pair.blue.port()
        ));
        if let Some(ignored) = settings {
            builder = builder.setting("ignore_startup_parameters", ignored);
        }
        let bouncer = builder.start().await.unwrap();
        let found = of(&bouncer.url("postgres", "plain"), &pair.green.url("plain")).await;
        find(&found, "pooler", Severity::Blocking, &[&bouncer.port().to_string()]);
    }
    assert!(of(&pair.blue.url("plain"), &pair.green.url("plain")).await.is_empty());
}

/// Listens and sends every connection to the next of `ports`.
async fn balancer(ports: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        while let Ok((mut from, _)) = listener.accept().await {
            let port = ports[NEXT.fetch_add(1, Ordering::Relaxed) % 2];
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // Either end may hang up.
                let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_balancer_is_not_a_server_and_a_copy_is_told() {
    let Some(pair) = Pair::start().await else { return };
    let other = PgCluster::start().await.unwrap();
    for cluster in [&pair.blue, &pair.green, &other] {
        cluster.create_database("plain").await.unwrap();
    }
    let at = |port| format!("host=127.0.0.1 port={port} user=postgres dbname=plain");
    let both = balancer([pair.blue.port(), other.port()]).await;
    let found = of(&at(both), &at(pair.green.port())).await;
    let balanced = find(&found, "balanced-address", Severity::Blocking, &[&both.to_string()]);
    assert!(balanced.seen.contains(&pair.blue.port().to_string()) && balanced.seen.contains(&other.port().to_string()));
    let found = of(
        &at(balancer([pair.blue.port(), pair.blue.port()]).await),
        &at(pair.green.port()),
    )
    .await;
    assert!(found.is_empty(), "{found:#?}");

    // Both clusters are copies of one template; a third is not.
    let same = PgReplicator::builder("shop", at(pair.blue.port()), at(pair.green.port()))
        .build()
        .unwrap();
    find(
        &notes(&same).await,
        "same-system-identifier",
        Severity::Note,
        &["two servers"],
    );
    let binaries = PgBinaries::find().unwrap();
    let alias = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres-bin");
    if !alias.exists() {
        std::os::unix::fs::symlink(binaries.dir(), &alias).unwrap();
    }
    let own = PgCluster::builder()
        .binaries(PgBinaries::at(&alias).unwrap())
        .start()
        .await
        .unwrap();
    own.create_database("plain").await.unwrap();
    let apart = PgReplicator::builder("shop", at(pair.blue.port()), at(own.port()))
        .build()
        .unwrap();
    assert!(!ids(&notes(&apart).await).contains(&"same-system-identifier"));
}

#[tokio::test]
async fn a_standby_is_not_the_server_that_writes() {
    let Some(pair) = Pair::start().await else { return };
    pair.blue.create_database("plain").await.unwrap();
    pair.green.create_database("plain").await.unwrap();
    // A server that recovers, and never ends recovering.
    let mut standby = PgCluster::builder()
        .setting("restore_command", "false")
        .start()
        .await
        .unwrap();
    standby.create_database("plain").await.unwrap();
    standby
        .execute("plain", "COPY (SELECT) TO PROGRAM 'touch standby.signal'")
        .await
        .unwrap();
    standby.restart().await.unwrap();
    let found = of(&standby.url("plain"), &pair.green.url("plain")).await;
    find(&found, "standby", Severity::Blocking, &["blue", "recovery"]);
    let found = of(&pair.blue.url("plain"), &standby.url("plain")).await;
    find(&found, "standby", Severity::Blocking, &["green", "recovery"]);
    assert!(of(&pair.blue.url("plain"), &pair.green.url("plain")).await.is_empty());
}

#[tokio::test]
async fn locks_plugins_timeouts_and_tools() {
    let Some(_) = available("PostgreSQL", PgBinaries::find()) else {
        return;
    };
    let small = PgCluster::builder()
        .setting("max_locks_per_transaction", "10")
        .setting("max_connections", "30")
        .setting("wal_sender_timeout", "2s")
        .setting("wal_receiver_timeout", "9s");
    // A minor version that knows it: no other starts with it.
    let chosen = small.clone().setting("output_plugin_libraries", "test_decoding");
    let plugins = chosen.clone().start().await.is_ok();
    let small = if plugins { chosen } else { small };
    let (blue, green) = tokio::join!(small.clone().start(), small.start());
    let (mut blue, mut green) = (blue.unwrap(), green.unwrap());
    for cluster in [&blue, &green] {
        for name in ["few", "some", "many"] {
            cluster.create_database(name).await.unwrap();
        }
    }
    let make = |count| {
        format!(
            "DO $$ BEGIN FOR i IN 1..{count} LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY)', i); END LOOP; END $$"
        )
    };
    blue.execute("some", &make(200)).await.unwrap();
    blue.execute("many", &make(140)).await.unwrap();
    blue.execute("many", &make(400).replace("1..", "141..")).await.unwrap();
    let at = |name: &str| (blue.url(name), green.url(name));
    let few = of(&at("few").0, &at("few").1).await;
    assert!(!ids(&few).contains(&"max-locks-per-transaction"), "{few:#?}");
    for color in ["blue", "green"] {
        let here: Vec<Finding> = few.iter().filter(|f| f.seen.contains(color)).cloned().collect();
        if plugins {
            find(&here, "output-plugin", Severity::Blocking, &["test_decoding"]);
        } else {
            assert!(!ids(&here).contains(&"output-plugin"), "{here:#?}");
        }
        find(
            &here,
            "replication-timeout",
            Severity::Warning,
            &["wal_sender_timeout is 2000 ms", "wal_receiver_timeout is 9000 ms"],
        );
    }
    let some = of(&at("some").0, &at("some").1).await;
    let warned: Vec<&Finding> = some.iter().filter(|f| f.id == "max-locks-per-transaction").collect();
    assert_eq!(warned.len(), 2, "{some:#?}");
    assert!(
        warned
            .iter()
            .all(|f| f.severity == Severity::Warning && f.seen.contains("needs 200"))
    );
    let many = of(&at("many").0, &at("many").1).await;
    let blocked: Vec<&Finding> = many.iter().filter(|f| f.id == "max-locks-per-transaction").collect();
    assert!(
        blocked.len() == 2 && blocked.iter().all(|f| f.severity == Severity::Blocking),
        "{many:#?}"
    );

    for finding in &many {
        for (cluster, color) in [(&blue, "blue"), (&green, "green")] {
            if let Some((_, commands)) = finding.mend.split_once(&format!("at {color}: ")) {
                let client = cluster.connect("many").await.unwrap();
                for command in commands.split(" and restart").next().unwrap().split_inclusive(';') {
                    client.batch_execute(command).await.unwrap();
                }
            }
        }
    }
    blue.restart().await.unwrap();
    green.restart().await.unwrap();
    let left = of(&blue.url("many"), &green.url("many")).await;
    assert!(left.is_empty(), "{left:#?}");

    let without = PgReplicator::builder("shop", blue.url("few"), green.url("few"))
        .tools("/nowhere")
        .build()
        .unwrap();
    find(&troubles(&without).await, "no-tools", Severity::Blocking, &["/nowhere"]);
}

#[tokio::test]
async fn time_until_the_disk_is_full() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("CREATE TABLE t (id int PRIMARY KEY, what text); INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g")
        .await
        .unwrap();
    // Nothing is said of the disks: nothing is assumed.
    let unknown = notes(&pair.replicator()).await;
    find(
        &unknown,
        "wal-headroom",
        Severity::Note,
        &["unknown", "measured over", "/s of log"],
    );
    find(&unknown, "green-disk", Severity::Note, &["unknown", "kB"]);
    let blues: Vec<Finding> = unknown
        .into_iter()
        .filter(|f| f.seen.contains("of blue is -1"))
        .collect();
    find(&blues, "unbounded-wal", Severity::Note, &[]);
}

#[tokio::test]
async fn disks_that_are_too_small() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("CREATE TABLE t (id int PRIMARY KEY, what text); INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g")
        .await
        .unwrap();
    let writer = pair.client(Color::Blue).await;
    let writing = tokio::spawn(async move {
        loop {
            let message = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 100000)), pg_sleep(0.05)";
            if writer.batch_execute(message).await.is_err() {
                return;
            }
        }
    });
    let with = |blue, green| {
        pair.builder()
            .free_disk(Color::Blue, blue)
            .free_disk(Color::Green, green)
            .build()
            .unwrap()
    };
    let tight = troubles(&with(20_000_000, 1000)).await;
    assert_eq!(ids(&tight), ["green-disk", "wal-headroom"], "{tight:#?}");
    find(
        &tight,
        "wal-headroom",
        Severity::Blocking,
        &["20.0 MB of disk free", "full in"],
    );
    find(&tight, "green-disk", Severity::Blocking, &["1.0 kB of disk free"]);
    let size = "SELECT pg_total_relation_size('t')::bigint";
    let data: i64 = blue.query_one(size, &[]).await.unwrap().get(0);
    let little = troubles(&with(1 << 50, u64::try_from(data).unwrap() * 3 / 2)).await;
    assert_eq!(ids(&little), ["green-disk"], "{little:#?}");
    find(&little, "green-disk", Severity::Warning, &["of disk free"]);
    // At 1 to 2 MB a second 50 GB are some hours.
    let soon = troubles(&with(50_000_000_000, 1 << 40)).await;
    find(&soon, "wal-headroom", Severity::Warning, &["50.0 GB of disk free"]);
    assert_eq!(ids(&soon), ["wal-headroom"], "{soon:#?}");
    assert!(troubles(&with(1 << 50, 1 << 40)).await.is_empty());

    // A limit takes the danger from blue and gives it to the mirror.
    blue.batch_execute("ALTER SYSTEM SET max_slot_wal_keep_size = '100MB'")
        .await
        .unwrap();
    blue.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let limited = troubles(&with(1_000_000_000, 1 << 40)).await;
    assert_eq!(ids(&limited), ["slot-keeps-little"], "{limited:#?}");
    let little = find(
        &limited,
        "slot-keeps-little",
        Severity::Warning,
        &["104.9 MB", "written in"],
    );
    run(&blue, little, "at blue: ").await;
    let left = troubles(&with(1 << 50, 1 << 40)).await;
    assert!(left.is_empty(), "{left:#?}");
    writing.abort();
}

#[tokio::test]
async fn what_could_not_be_looked_at_is_said() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    assert!(troubles(&pair.replicator()).await.is_empty());
    blue.batch_execute("ALTER VIEW pg_catalog.pg_prepared_xacts RENAME TO moved")
        .await
        .unwrap();
    let seen = troubles(&pair.replicator()).await;
    find(
        &seen,
        "not-looked-at",
        Severity::Blocking,
        &["running transactions", "pg_prepared_xacts"],
    );
    // And it does not stop what can be looked at.
    let client = connect(&pair.url(Color::Blue)).await.unwrap();
    client.batch_execute("CREATE TABLE bare (what text)").await.unwrap();
    let seen = troubles(&pair.replicator()).await;
    assert_eq!(ids(&seen), ["no-replica-identity", "not-looked-at"]);
}

#[tokio::test]
async fn a_gate_that_lets_nobody_in() {
    let Some(program) = available("PgBouncer", PgBouncerServer::find()) else {
        return;
    };
    let line = "shop = host=127.0.0.1 port=5432 dbname=shop";
    let bouncer = PgBouncerServer::builder(&program).database(line).start().await.unwrap();
    let at = |port| Upstream::new("127.0.0.1", port, "shop");
    let gate = PgBouncer::new("shop", at(5432), at(5433))
        .instance(&bouncer.admin_url(), bouncer.ini())
        .unwrap();
    let seen = gate.preflight().await.unwrap();
    assert!(!ids(&seen).contains(&"gate-disabled"), "{seen:#?}");
    // 1.21 and newer carry prepared statements, once they are told to.
    find(
        &seen,
        "gate-prepared-statements",
        Severity::Note,
        &["prepared statements"],
    );
    let admin = connect(&bouncer.admin_url()).await.unwrap();
    admin.simple_query("DISABLE shop").await.unwrap();
    let seen = gate.preflight().await.unwrap();
    find(&seen, "gate-disabled", Severity::Warning, &["no new client"]);
}
