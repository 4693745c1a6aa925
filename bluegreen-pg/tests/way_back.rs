//! The way back while it is held, by whole migrations between versions: there and back and there again with nothing copied
//! anew, a fresh migration after it was gone back, and a way back that breaks and is mended.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Event, FileJournal, Kind, MirrorStatus, Outcome, Replicator, Status};
use common::course::{is_held, migration, until};
use common::mover::of_mover;
use common::writers::{LEDGER, Writers, check};
use common::{Pair, WITHIN, cut_over, digests, proved, streaming};
use futures::StreamExt;
use std::time::{Duration, Instant};

async fn a_while() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn oid(pair: &Pair) -> u32 {
    let green = pair.client(Color::Green).await;
    green
        .query_one("SELECT 'ledger'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_and_there_again_under_load() {
    let Some(pair) = Pair::of_majors(15, 18).await else {
        return;
    };
    pair.client(Color::Blue).await.batch_execute(LEDGER).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let writers = Writers::start(&pair, 4);
    let first = migration(
        &writers,
        &folder.path().join("first"),
        Duration::from_secs(3600),
        pair.replicator(),
    );
    let handle = first.handle();
    let running = tokio::spawn(async move { first.run().await });
    until(&handle, "held", is_held).await;
    let made = oid(&pair).await;
    a_while().await;
    handle.switch_back();
    until(&handle, "switched back", |s| s.paused && s.writer == Color::Blue).await;
    a_while().await;
    handle.resume();
    until(&handle, "held again", is_held).await;
    assert_eq!(oid(&pair).await, made, "nothing was copied anew");
    a_while().await;
    handle.go_back();
    let outcome = running.await.unwrap().unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
    assert_eq!(pair.replicator().leftovers().await.unwrap(), Vec::<String>::new());

    // A new migration says what it does not touch, and how to be rid of it; then it is one like any other.
    let findings = pair.replicator().preflight().await.unwrap();
    let full = findings.iter().find(|f| f.id == "target-not-empty").unwrap();
    assert!(full.seen.contains("ledger"), "{full}");
    let (_, commands) = full.mend.split_once("server: ").unwrap();
    let elsewhere = pair.green.connect("postgres").await.unwrap();
    for command in commands.split_inclusive(';') {
        elsewhere.batch_execute(command).await.unwrap();
    }
    let second = migration(
        &writers,
        &folder.path().join("second"),
        Duration::ZERO,
        pair.replicator(),
    );
    assert_eq!(second.run().await.unwrap(), Outcome::Completed);
    a_while().await;
    let told = writers.end().await;
    assert_eq!(told.failed, 0, "with a gate no client sees an error");
    assert!(told.acked.len() > 100, "{}", told.acked.len());
    check(&pair.client(Color::Green).await, &told).await;
    assert_eq!(pair.replicator().leftovers().await.unwrap(), Vec::<String>::new());
}

/// A row at blue that is in the way of one of green's: going back is refused while it is, and loses nothing afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_that_breaks_is_known_and_comes_back_when_mended() {
    let Some(pair) = Pair::of_majors(15, 18).await else {
        return;
    };
    pair.client(Color::Blue).await.batch_execute(LEDGER).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let writers = Writers::start(&pair, 2);
    let journal = folder.path().join("journal");
    let migration = migration(&writers, &journal, Duration::from_secs(3600), pair.replicator());
    let (handle, mut events) = (migration.handle(), migration.events());
    let running = tokio::spawn(async move { migration.run().await });
    until(&handle, "held", is_held).await;
    assert!(handle.status().can_go_back);

    let blue = pair.client(Color::Blue).await;
    // Nobody writes there by mistake: its tables are shut.
    blue.batch_execute("SET default_transaction_read_only = off; SET session_replication_role = replica")
        .await
        .unwrap();
    blue.batch_execute("INSERT INTO balance VALUES (77, 0)").await.unwrap();
    let green = pair.client(Color::Green).await;
    green.batch_execute("INSERT INTO balance VALUES (77, 0)").await.unwrap();
    until(&handle, "known to be broken", |s| !s.can_go_back).await;
    // Who only has the journal knows it too.
    let read = Status::of_entries(&FileJournal::read(&journal).unwrap()).unwrap();
    assert!(!read.can_go_back && read.way_back_broken.is_some(), "{read}");
    handle.go_back();
    let refused = async {
        while let Some(event) = events.next().await {
            if matches!(&event, Event::Warned { what, .. } if what.contains("go-back is not followed")) {
                return;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(12 * WITHIN, refused).await.unwrap();
    assert_eq!(handle.status().writer, Color::Green);

    blue.batch_execute("DELETE FROM balance WHERE who = 77").await.unwrap();
    until(&handle, "mended", |s| s.can_go_back && is_held(s)).await;
    handle.go_back();
    let outcome = running.await.unwrap().unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
    let told = writers.end().await;
    assert_eq!(told.failed, 0, "with a gate no client sees an error");
    let blue = pair.client(Color::Blue).await;
    check(&blue, &told).await;
    let found = blue.query("SELECT FROM balance WHERE who = 77", &[]).await.unwrap();
    assert_eq!(found.len(), 1, "what green took while the way back was broken");
}

/// A slot that is gone cannot be mended: that is known at once, and the migration goes on to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_without_its_slot_is_none() {
    let Some(pair) = Pair::of_majors(14, 17).await else {
        return;
    };
    pair.client(Color::Blue).await.batch_execute(LEDGER).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let writers = Writers::start(&pair, 2);
    let held = Duration::from_secs(25);
    let migration = migration(&writers, &folder.path().join("journal"), held, pair.replicator());
    let handle = migration.handle();
    let running = tokio::spawn(async move { migration.run().await });
    until(&handle, "held", is_held).await;
    let green = pair.client(Color::Green).await;
    let gone = "DO $$ BEGIN
        PERFORM pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active_pid IS NOT NULL;
        PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots; END $$";
    let since = Instant::now();
    // The walsender may come back in between.
    while green.batch_execute(gone).await.is_err() {
        assert!(since.elapsed() < WITHIN, "the slot stays");
    }
    until(&handle, "known to be gone", |s| !s.can_go_back).await;
    let why = handle.status().way_back_broken.unwrap();
    assert!(why.contains("is gone"), "{why}");
    handle.go_back();
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Completed);
    let told = writers.end().await;
    assert_eq!(told.failed, 0, "with a gate no client sees an error");
    let green = pair.client(Color::Green).await;
    check(&green, &told).await;
    assert_eq!(pair.replicator().leftovers().await.unwrap(), Vec::<String>::new());
    let left = digests(&green).await;
    assert!(left.iter().any(|(table, ..)| table == "public.ledger"));
}

/// Asked by mistake for the mirror into the writer, it refuses: that would shut the writer and stop the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mirror_begins_into_the_writer() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let e = replicator.start(Direction::BlueToGreen).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Diverged, "{e}");
    pair.client(Color::Green)
        .await
        .batch_execute("INSERT INTO balance VALUES (77, 0)")
        .await
        .unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
}

/// Who is no superuser cannot say where the mirror is to begin. A crash of blue takes its slot back to before the hand-over, and
/// what came from green until then must not be sent there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blue_dies_right_after_it_writes_again_without_superuser() {
    let Some(mut pair) = Pair::durable_of_majors(17, 18).await else {
        return;
    };
    let replicator = of_mover(&mut pair).await;
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    // Of another database, it is in nobody's way; but while it is open a slot that is moved is not written to disk.
    let other = pair.blue.connect("postgres").await.unwrap();
    other.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
    cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let some = |whose: &str| {
        format!(
            "INSERT INTO ledger (token) SELECT '{whose}' || g FROM generate_series(1, 100) g; UPDATE balance SET amount = amount + 7"
        )
    };
    let green = pair.client(Color::Green).await;
    green.batch_execute(&some("before")).await.unwrap();
    replicator.arm(Color::Blue, WITHIN).await.unwrap();
    green.batch_execute(&some("armed")).await.unwrap();
    let position = replicator.fence(Color::Green, WITHIN).await.unwrap();
    proved(&replicator, &position).await;
    replicator.hand_over(Color::Blue).await.unwrap();
    replicator.promote(Color::Blue).await.unwrap();
    pair.blue.crash().await.unwrap();
    pair.blue.restart().await.unwrap();

    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(&some("after")).await.unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    // From now on it brings what blue has from elsewhere, too.
    let passes: String = green_origin(&pair).await;
    assert_eq!(passes, "any");
    cut_over(&replicator, Color::Green).await;
    let (at_blue, at_green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let mut rows = [digests(&at_blue).await, digests(&at_green).await];
    rows.iter_mut()
        .for_each(|all| all.retain(|(table, ..)| table != "public.sums"));
    assert_eq!(rows[0], rows[1]);
    assert!(
        rows[0]
            .iter()
            .any(|(table, count, _)| table == "public.ledger" && *count == 300)
    );
    replicator.stop(Color::Green).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

/// Rows that somebody else brings to blue must reach green: nothing is passed over where that is known before, and a mirror that
/// passed over some is never taken for whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_blue_has_from_elsewhere_is_never_passed_over_in_silence() {
    let Some(mut pair) = Pair::of_majors(17, 18).await else {
        return;
    };
    let replicator = of_mover(&mut pair).await;
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;

    let elsewhere = pair.blue.connect("postgres").await.unwrap();
    let (comes, goes) = (
        "SELECT pg_replication_origin_create('x')",
        "SELECT pg_replication_origin_drop('x')",
    );
    elsewhere.batch_execute(comes).await.unwrap();
    replicator.arm(Color::Blue, WITHIN).await.unwrap();
    assert_eq!(green_origin(&pair).await, "any");
    elsewhere.batch_execute(goes).await.unwrap();
    cut_over(&replicator, Color::Blue).await;
    assert_eq!(green_origin(&pair).await, "none");

    elsewhere.batch_execute(comes).await.unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let since = Instant::now();
    let why = loop {
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Failed { kind, why } => {
                assert_eq!(kind, Kind::Diverged, "{why}");
                break why;
            }
            other => assert!(since.elapsed() < 6 * WITHIN, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(why.contains("the replication origin x"), "{why}");
    let error = replicator.arm(Color::Green, WITHIN).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Diverged, "{error}");
    assert_eq!(green_origin(&pair).await, "none");

    // It brought nothing, and is gone.
    elsewhere.batch_execute(goes).await.unwrap();
    cut_over(&replicator, Color::Green).await;
    assert_eq!(green_origin(&pair).await, "any");
    replicator.stop(Color::Green).await.unwrap();
}

async fn green_origin(pair: &Pair) -> String {
    let elsewhere = pair.green.connect("postgres").await.unwrap();
    let row = elsewhere.query_one("SELECT suborigin FROM pg_subscription", &[]).await;
    row.unwrap().get(0)
}
