//! Tables and columns that exchange their names, or are made anew under an old one, while a mirror runs: all definitions are alike, and
//! rows would go to the wrong one.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, Replicator};
use common::{COLUMNS, Pair, TWO, WITHIN, failed, refused, streaming};

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

const EXCHANGE: &str =
    "BEGIN READ WRITE; ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b; COMMIT";

const EXCHANGE_NEW: &str =
    "BEGIN READ WRITE; ALTER TABLE t RENAME d TO x; ALTER TABLE t RENAME e TO d; ALTER TABLE t RENAME x TO e; COMMIT";

const ANEW: &str = "BEGIN READ WRITE; ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b text; COMMIT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_exchange_their_names_or_are_made_anew_are_told_apart() {
    let Some((pair, first)) = Pair::mirrored(COLUMNS).await else {
        return;
    };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    // A new one, under a name that nobody had, is nobody's; from then on it is one of them.
    let more =
        "BEGIN READ WRITE; ALTER TABLE t ADD COLUMN d int, ADD COLUMN e int; ALTER TABLE t RENAME c TO f; COMMIT";
    for client in [&blue, &green] {
        client.batch_execute(more).await.unwrap();
    }
    streaming(&pair.replicator(), Direction::BlueToGreen).await;
    for (exchange, column) in [
        (EXCHANGE, "public.t.a is what was b"),
        (EXCHANGE_NEW, "public.t.d is what was e"),
    ] {
        blue.batch_execute(exchange).await.unwrap();
        let at_one = format!("column {column} at the writer");
        let why = refused(&pair).await;
        assert!(why.contains(&at_one) && !why.contains("at the follower"), "{why}");
        // The process that looked before it sees it too.
        assert!(failed(&first).await.contains(&at_one));
        // Done at both, it was not done in the same moment.
        green.batch_execute(exchange).await.unwrap();
        let why = refused(&pair).await;
        assert!(why.contains(&format!("column {column} at the follower")), "{why}");
        for client in [&blue, &green] {
            client.batch_execute(exchange).await.unwrap();
        }
        streaming(&pair.replicator(), Direction::BlueToGreen).await;
    }
    let replicator = pair.replicator();
    common::cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let green = pair.client(Color::Green).await;
    green.batch_execute(ANEW).await.unwrap();
    let e = pair.replicator().arm(Color::Blue, WITHIN).await.unwrap_err();
    assert!(
        e.message().contains("column public.t.b is made anew at the writer"),
        "{e}"
    );
}
