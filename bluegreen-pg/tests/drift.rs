//! What somebody changes by hand while a mirror runs, at the tables, their definitions or the publication: it is seen before
//! anything rests on it, and said with what mends it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, MirrorStatus, Replicator};
use bluegreen_pg::PgReplicator;
use common::{Pair, WITHIN, streaming};
use std::time::{Duration, Instant};

/// Waits until the status of the mirror forward is a failure, and returns why.
async fn failed(replicator: &PgReplicator) -> String {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Failed { kind, why } => {
                assert_eq!(kind, Kind::Diverged, "{why}");
                return why;
            }
            other => assert!(Instant::now() < until, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// That the status, the arming and the fence all refuse, by another process too; what the status said.
async fn refused(pair: &Pair) -> String {
    let replicator = pair.replicator();
    let why = failed(&replicator).await;
    let e = replicator.arm(Color::Green, WITHIN).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Diverged, "{e}");
    why
}

const TWO: &str = "CREATE TABLE live (id int PRIMARY KEY, v text); CREATE TABLE staging (id int PRIMARY KEY, v text);
    INSERT INTO live SELECT i, 'old' FROM generate_series(1, 3) i; INSERT INTO staging SELECT i, 'new' FROM generate_series(11, 14) i";

const SWAP: &str = "BEGIN; ALTER TABLE live RENAME TO t; ALTER TABLE staging RENAME TO live; ALTER TABLE t RENAME TO staging;
    ALTER INDEX live_pkey RENAME TO t; ALTER INDEX staging_pkey RENAME TO live_pkey; ALTER INDEX t RENAME TO staging_pkey; COMMIT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_exchange_their_names_are_told_apart() {
    let Some((pair, armed)) = Pair::mirrored(TWO).await else {
        return;
    };
    let blue = pair.client(Color::Blue).await;
    armed.arm(Color::Green, WITHIN).await.unwrap();
    blue.batch_execute(SWAP).await.unwrap();
    let e = armed.fence(Color::Blue, WITHIN).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Diverged, "{e}");
    assert!(
        e.message()
            .contains("public.live is another table, which was public.staging"),
        "{e}"
    );
    assert!(e.message().contains("bluegreen_shop_to_green"), "{e}");
    armed.unfence(Color::Blue).await.unwrap();
    assert!(refused(&pair).await.contains("public.staging is another table"));
    blue.batch_execute(SWAP).await.unwrap();
    let replicator = pair.replicator();
    streaming(&replicator, Direction::BlueToGreen).await;
    common::cut_over(&replicator, Color::Green).await;

    // The same of the way back, which arming recorded.
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    pair.client(Color::Green).await.batch_execute(SWAP).await.unwrap();
    let e = pair.replicator().arm(Color::Blue, WITHIN).await.unwrap_err();
    assert!(e.message().contains("public.live is another table"), "{e}");
    pair.client(Color::Green).await.batch_execute(SWAP).await.unwrap();
    common::cut_over(&pair.replicator(), Color::Blue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_changed_by_hand_is_never_cut_over() {
    for (change, back, named) in [
        (
            "ALTER PUBLICATION bluegreen_shop_to_green SET (publish = 'update, delete')",
            "ALTER PUBLICATION bluegreen_shop_to_green SET (publish = 'insert, update, delete, truncate')",
            "it was altered",
        ),
        (
            "ALTER PUBLICATION bluegreen_shop_to_green DROP TABLE live",
            "ALTER PUBLICATION bluegreen_shop_to_green ADD TABLE ONLY live",
            "public.live was taken out and put back",
        ),
        (
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live WHERE (id > 2)",
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live",
            "public.live was taken out and put back",
        ),
        (
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live (id)",
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live",
            "public.live was taken out and put back",
        ),
    ] {
        let Some((pair, replicator)) = Pair::mirrored(TWO).await else {
            return;
        };
        let blue = pair.client(Color::Blue).await;
        replicator.arm(Color::Green, WITHIN).await.unwrap();
        blue.batch_execute(change).await.unwrap();
        let e = replicator.fence(Color::Blue, WITHIN).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Diverged, "{change}: {e}");
        replicator.unfence(Color::Blue).await.unwrap();
        // What was written meanwhile is nowhere but here, so to change it back mends nothing.
        blue.batch_execute("INSERT INTO live VALUES (0, 'unseen')")
            .await
            .unwrap();
        blue.batch_execute(back).await.unwrap();
        let why = refused(&pair).await;
        assert!(why.contains(named), "{change}: {why}");
        assert!(why.contains("begin again"), "{change}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_made_anew_or_at_both_sides_is_not_taken_for_mirrored() {
    let Some((pair, replicator)) = Pair::mirrored(TWO).await else {
        return;
    };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for client in [&blue, &green] {
        client
            .batch_execute("BEGIN READ WRITE; CREATE TABLE late (id int PRIMARY KEY); COMMIT")
            .await
            .unwrap();
    }
    blue.batch_execute("INSERT INTO late VALUES (1)").await.unwrap();
    let why = failed(&replicator).await;
    assert!(why.contains("public.late is not in it"), "{why}");
    for client in [&blue, &green] {
        client
            .batch_execute("BEGIN READ WRITE; DROP TABLE late; COMMIT")
            .await
            .unwrap();
    }
    streaming(&replicator, Direction::BlueToGreen).await;

    // At the follower, under the same name: the subscription has forgotten it.
    green
        .batch_execute("BEGIN READ WRITE; DROP TABLE staging; CREATE TABLE staging (id int PRIMARY KEY, v text); COMMIT")
        .await
        .unwrap();
    let why = failed(&replicator).await;
    assert!(why.contains("subscription bluegreen_shop_to_green"), "{why}");

    // At the writer, and put into the publication again.
    let Some((pair, _)) = Pair::mirrored(TWO).await else {
        return;
    };
    pair.client(Color::Blue)
        .await
        .batch_execute(
            "DROP TABLE live; CREATE TABLE live (id int PRIMARY KEY, v text); INSERT INTO live VALUES (7, 'lost');
             ALTER PUBLICATION bluegreen_shop_to_green ADD TABLE live",
        )
        .await
        .unwrap();
    let why = refused(&pair).await;
    assert!(why.contains("public.live is another table, made since"), "{why}");
}
