//! What a mirror makes a server keep of its log: told, yielded to, and given up before the disk is full, either way.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "bad_days/wire.rs"]
#[allow(dead_code, unreachable_pub)]
mod wire;

mod common;

use bluegreen_core::{Color, Comparison, Direction, Event, Kind, MirrorStatus, Outcome, Replicator};
use bluegreen_pg::PgReplicator;
use common::course::{is_held, migration, migration_with, slots, until};
use common::writers::{LEDGER, Writers, check};
use common::{Pair, WITHIN, streaming};
use futures::StreamExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use wire::Wire;

const MIB: u64 = 1 << 20;

/// Several segments of log, so that what a healthy mirror keeps is far from it.
const LIMIT: u64 = 96 * MIB;

/// Writes so much log, a mebibyte at a time.
async fn fill(client: &Client, mebibytes: u64) {
    for _ in 0..mebibytes {
        client
            .batch_execute(
                "SET default_transaction_read_only = off; \
                 SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1048576))",
            )
            .await
            .unwrap();
    }
}

/// Hears what is said until it holds this; all that was said.
async fn says(replicator: &PgReplicator, wanted: &str) -> Vec<String> {
    let since = Instant::now();
    let mut said = Vec::new();
    while !said.iter().any(|s: &String| s.contains(wanted)) {
        assert!(since.elapsed() < 6 * WITHIN, "never {wanted:?}: {said:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        said.extend(replicator.warnings());
    }
    said
}

async fn given_up(replicator: &PgReplicator, direction: Direction) -> String {
    let since = Instant::now();
    loop {
        match replicator.status(direction).await.unwrap() {
            MirrorStatus::Failed { kind, why } => {
                assert_eq!(kind, Kind::Unexpected, "nobody is asked, it is given up: {why}");
                return why;
            }
            other => assert!(since.elapsed() < 6 * WITHIN, "still {other}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Told at half, yielded to at three quarters, forgotten when it takes what was kept, given up when it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_is_cut_off_is_told_of_yielded_to_and_given_up() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(LEDGER).await.unwrap();
    let wire = Wire::to(pair.blue.port()).await;
    let build = || {
        pair.builder()
            .database_from_peer(Color::Blue, wire.instead_of(&pair.url(Color::Blue)))
            .wal_limit(Color::Blue, LIMIT)
            .build()
            .unwrap()
    };
    let replicator = build();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    assert_eq!(replicator.warnings(), Vec::<String>::new());

    wire.cut();
    fill(&blue, 56).await;
    let said = says(&replicator, "at 75 %").await;
    assert!(
        said[0].contains("(wal_limit)") && said[0].contains("(its log's folder holds"),
        "{said:?}"
    );
    fill(&blue, 20).await;
    says(&replicator, "the comparison of the data rests").await;
    for _ in 0..30 {
        match replicator.compare().await.unwrap() {
            Comparison::Running { rows, .. } => assert_eq!(rows.done, 0, "it does not rest"),
            other => panic!("it does not rest: {other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut said = replicator.warnings();
    // The comparison has its own to say where the machine is slow.
    said.retain(|s| !s.contains("waits where"));
    assert_eq!(said, Vec::<String>::new(), "each level is said once");

    wire.mend();
    let since = Instant::now();
    let mut said = Vec::new();
    while !said.iter().any(|s: &String| s.contains("that is little again")) {
        assert!(since.elapsed() < 12 * WITHIN, "it keeps its level: {said:#?}");
        // A slot lets go of log at points that a server writes only now and then by itself.
        blue.batch_execute("CHECKPOINT").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        said.extend(replicator.warnings());
    }
    streaming(&replicator, Direction::BlueToGreen).await;
    let since = Instant::now();
    while !matches!(replicator.compare().await.unwrap(), Comparison::Same(_)) {
        assert!(since.elapsed() < 6 * WITHIN, "the comparison does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    wire.cut();
    fill(&blue, 110).await;
    let why = given_up(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("was given up") && why.contains("of the 100.7 MB"), "{why}");
    assert_eq!(slots(&pair, Color::Blue).await, Vec::<String>::new());
    assert!(says(&replicator, "was given up").await.contains(&why));
    blue.batch_execute("INSERT INTO balance VALUES (77, 0)").await.unwrap();

    // Another process knows it too, and begins nothing again by itself.
    let next = build();
    next.start(Direction::BlueToGreen).await.unwrap();
    assert_eq!(given_up(&next, Direction::BlueToGreen).await, why);
    assert_eq!(slots(&pair, Color::Blue).await, Vec::<String>::new());
    next.stop(Color::Blue).await.unwrap();
    assert_eq!(next.leftovers().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_rolls_back_before_blues_disk_is_full() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(LEDGER).await.unwrap();
    let wire = Wire::to(pair.blue.port()).await;
    // Nobody says a limit to us: the server has one.
    for sql in [
        "ALTER SYSTEM SET max_slot_wal_keep_size = '96MB'",
        "SELECT pg_reload_conf()",
    ] {
        blue.batch_execute(sql).await.unwrap();
    }
    let replicator = pair
        .builder()
        .database_from_peer(Color::Blue, wire.instead_of(&pair.url(Color::Blue)))
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let writers = Writers::start(&pair, 2);
    let migration = migration_with(&writers, &folder.path().join("journal"), replicator, |spec| {
        spec.soak = Duration::from_secs(3600);
    });
    let (handle, mut events) = (migration.handle(), migration.events());
    let warned = Arc::new(Mutex::new(Vec::new()));
    let told = warned.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Warned { what, .. } = event {
                told.lock().unwrap().push(what);
            }
        }
    });
    let running = tokio::spawn(async move { migration.run().await });
    until(&handle, "soaking", |s| s.step == Some(bluegreen_core::StepName::Soak)).await;
    wire.cut();
    fill(&blue, 64).await;
    let since = Instant::now();
    while warned.lock().unwrap().is_empty() {
        assert!(since.elapsed() < 6 * WITHIN, "nobody is told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!running.is_finished(), "half of the limit is no reason to give up");
    fill(&blue, 64).await;
    let outcome = tokio::time::timeout(12 * WITHIN, running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let Outcome::RolledBack { why } = &outcome else {
        panic!("{outcome}")
    };
    assert!(
        why.contains("was given up") && why.contains("(its max_slot_wal_keep_size)"),
        "{why}"
    );
    let warned = warned.lock().unwrap().clone();
    assert!(warned[0].contains("at 75 %"), "{warned:#?}");
    let told = writers.end().await;
    assert_eq!(told.failed, 0, "no client sees an error");
    check(&blue, &told).await;
    assert_eq!(pair.replicator().leftovers().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_is_given_up_before_greens_disk_is_full() {
    let Some(pair) = Pair::start().await else { return };
    pair.client(Color::Blue).await.batch_execute(LEDGER).await.unwrap();
    let wire = Wire::to(pair.green.port()).await;
    let build = || {
        pair.builder()
            .database_from_peer(Color::Green, wire.instead_of(&pair.url(Color::Green)))
            .wal_limit(Color::Green, LIMIT)
            .build()
            .unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let writers = Writers::start(&pair, 2);
    let journal = folder.path().join("journal");
    let migration = migration(&writers, &journal, Duration::from_secs(3600), build());
    let handle = migration.handle();
    let running = tokio::spawn(async move { migration.run().await });
    until(&handle, "held", is_held).await;
    wire.cut();
    let green = pair.client(Color::Green).await;
    fill(&green, 110).await;
    until(&handle, "known to be broken", |s| s.way_back_broken.is_some()).await;
    let status = handle.status();
    let why = status.way_back_broken.clone().unwrap();
    assert!(why.contains("the mirror green to blue was given up"), "{why}");
    assert!(!status.can_go_back && status.writer == Color::Green, "{status}");
    let left = slots(&pair, Color::Green).await;
    assert!(!left.iter().any(|slot| slot.ends_with("_to_blue")), "{left:?}");
    assert!(!running.is_finished(), "green goes on");
    // Writes flow: the gate is open, and nobody saw an error.
    let count = async || -> i64 {
        let row = green.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap();
        row.get(0)
    };
    let (before, since) = (count().await, Instant::now());
    while count().await < before + 20 {
        assert!(since.elapsed() < WITHIN, "writes do not flow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.abort();
    let told = writers.end().await;
    assert_eq!(told.failed, 0, "with a gate no client sees an error");
    check(&green, &told).await;
    let replicator = build();
    replicator.stop(Color::Green).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

/// A copy that hangs keeps the log as much as a mirror does. We ourselves do not reach green here, and need not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_copy_that_hangs_is_given_up() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, filler text); \
         INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 100000) i",
    )
    .await
    .unwrap();
    let wire = Wire::to(pair.green.port()).await;
    let replicator = pair
        .builder_of(pair.url(Color::Blue), wire.instead_of(&pair.url(Color::Green)))
        .wal_limit(Color::Blue, LIMIT)
        .build()
        .unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let since = Instant::now();
    while !matches!(
        replicator.status(Direction::BlueToGreen).await.unwrap(),
        MirrorStatus::Copying { .. }
    ) {
        assert!(since.elapsed() < 6 * WITHIN, "it does not copy");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    wire.cut();
    fill(&blue, 80).await;
    says(&replicator, "the first copy goes on as fast as it may").await;
    fill(&blue, 30).await;
    let why = given_up(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("was given up"), "{why}");
    assert_eq!(slots(&pair, Color::Blue).await, Vec::<String>::new());
    wire.mend();
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

/// The slot of a way back that waits is nobody's loss: it goes, the mirror stays, and the next cut-over makes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_slot_that_nobody_moves_on_is_dropped_and_made_anew() {
    let Some((pair, first)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    first.arm(Color::Green, WITHIN).await.unwrap();
    // With its process goes who moved it on.
    drop(first);
    let replicator = pair.builder().wal_limit(Color::Green, LIMIT).build().unwrap();
    // One that cannot be armed now is guarded, and not moved on.
    let open = pair.client(Color::Blue).await;
    let write = "BEGIN; INSERT INTO ledger (token) VALUES ('open')";
    open.batch_execute(write).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let forecast = replicator.arm(Color::Green, Duration::from_millis(10)).await.unwrap();
    assert!(!forecast.in_the_way.is_empty());
    open.batch_execute("ROLLBACK").await.unwrap();
    fill(&pair.client(Color::Green).await, 110).await;
    says(&replicator, "idle replication slot").await;
    assert_eq!(slots(&pair, Color::Green).await, Vec::<String>::new());
    streaming(&replicator, Direction::BlueToGreen).await;
    common::cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_look_says_so() {
    let Some((mut pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    pair.blue.stop().await.unwrap();
    let said = says(&replicator, "cannot be seen").await;
    assert!(
        said.iter().any(|s| s.contains("blue") && s.contains("not guarded")),
        "{said:?}"
    );
    pair.blue.restart().await.unwrap();
    says(&replicator, "is seen again").await;
}
