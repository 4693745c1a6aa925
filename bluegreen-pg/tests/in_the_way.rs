//! Somebody else's lock, or a dead process's last statement, on what is made or taken away.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, Replicator};
use common::{Pair, connect, cut_over, streaming};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// No wait of ours may last as long; it is no limit of what is right.
const HANGS: Duration = Duration::from_secs(90);

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// Our statements that wait for a lock there.
async fn waiting(client: &Client) -> i64 {
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'bluegreen%' AND wait_event_type = 'Lock'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until one does.
async fn waits(client: &Client) {
    let until = Instant::now() + Duration::from_secs(60);
    while waiting(client).await == 0 {
        assert!(Instant::now() < until, "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Somebody's `pg_dump` has it for hours: it is said, nobody stays queued behind it, and later it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_our_table_makes_the_clean_up_wait_for_a_moment_only() {
    let Some((pair, replicator)) = Pair::mirrored(TABLE).await else {
        return;
    };
    let mut reader = pair.client(Color::Blue).await;
    let reading = reader.transaction().await.unwrap();
    reading.query("SELECT * FROM bluegreen.state", &[]).await.unwrap();
    let stopped = tokio::time::timeout(HANGS, replicator.stop(Color::Blue)).await;
    let error = stopped.expect("it waits without an end").unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    let beside = pair.client(Color::Blue).await;
    assert_eq!(waiting(&beside).await, 0, "somebody is still queued");
    reading.commit().await.unwrap();
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_or_takes_away_our_schema_makes_a_beginning_wait_for_a_moment_only() {
    let Some(pair) = Pair::start().await else { return };
    pair.client(Color::Blue).await.batch_execute(TABLE).await.unwrap();
    let mut other = pair.client(Color::Green).await;
    let alone = other.transaction().await.unwrap();
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('bluegreen', 0))";
    alone.query(lock, &[]).await.unwrap();
    let replicator = pair.replicator();
    let started = tokio::time::timeout(HANGS, async {
        loop {
            replicator.start(Direction::BlueToGreen).await?;
            if let bluegreen_core::MirrorStatus::Failed { kind, .. } = replicator.status(Direction::BlueToGreen).await?
            {
                return Ok::<_, bluegreen_core::Error>(kind);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let kind = started.await.expect("it waits without an end");
    assert_eq!(kind.unwrap_or_else(|e| e.kind()), Kind::Timeout);
    alone.commit().await.unwrap();
}

/// The server still runs the last statement of a process that died: what it takes away is gone, as it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_a_dead_process_drops_is_dropped() {
    let Some((pair, replicator)) = Pair::mirrored(TABLE).await else {
        return;
    };
    let mut dead = connect(&pair.url(Color::Green)).await.unwrap();
    for sql in [
        "SET default_transaction_read_only = off",
        "ALTER SUBSCRIPTION bluegreen_shop_to_green DISABLE",
        "ALTER SUBSCRIPTION bluegreen_shop_to_green SET (slot_name = NONE)",
    ] {
        dead.batch_execute(sql).await.unwrap();
    }
    let dropping = dead.transaction().await.unwrap();
    dropping
        .batch_execute("DROP SUBSCRIPTION bluegreen_shop_to_green")
        .await
        .unwrap();
    let beside = pair.green.connect("postgres").await.unwrap();
    let dropped = async {
        waits(&beside).await;
        dropping.commit().await.unwrap();
    };
    let (stopped, ()) = tokio::join!(replicator.stop(Color::Blue), dropped);
    stopped.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), [""; 0]);
}

/// Somebody has begun to mend the subscription by hand, and went home: blue must not keep its log for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebodys_lock_on_the_subscription_does_not_keep_blues_slot() {
    let Some((pair, replicator)) = Pair::mirrored(TABLE).await else {
        return;
    };
    let mut other = pair.client(Color::Green).await;
    other
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    let open = other.transaction().await.unwrap();
    open.batch_execute("ALTER SUBSCRIPTION bluegreen_shop_to_green SET (binary = off)")
        .await
        .unwrap();
    let stopped = tokio::time::timeout(HANGS, replicator.stop(Color::Blue)).await;
    let error = stopped.expect("it waits without an end").unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert!(
        [
            "at green: ",
            "bluegreen_shop_to_green",
            "locked by pid ",
            "at blue nothing of ours is left"
        ]
        .iter()
        .all(|said| error.to_string().contains(said)),
        "{error}"
    );
    let ours = "SELECT count(*) FROM (SELECT slot_name FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication \
                UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'bluegreen') AS ours";
    let blue = pair.client(Color::Blue).await;
    assert_eq!(blue.query_one(ours, &[]).await.unwrap().get::<_, i64>(0), 0);
    let beside = pair.green.connect("postgres").await.unwrap();
    assert_eq!(waiting(&beside).await, 0, "somebody is still queued");
    // Until it is over there, green is a mirror's: its clients are kept out.
    assert!(
        pair.client(Color::Green)
            .await
            .batch_execute("INSERT INTO t VALUES (1)")
            .await
            .is_err()
    );
    open.commit().await.unwrap();
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), [""; 0]);
    pair.client(Color::Green)
        .await
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
}

/// The first copy's publication needs a moment of each table: who has one for hours is named, and nothing queues behind him. Of a
/// prepared transaction, no process is left to be named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_table_locked_before_the_copy_is_named_and_not_waited_for_without_an_end() {
    let Some(pair) = Pair::start().await else { return };
    let client = pair.client(Color::Blue).await;
    client.batch_execute(TABLE).await.unwrap();
    let lock = "BEGIN; LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE";
    let replicator = pair.replicator();
    let beside = pair.blue.connect("postgres").await.unwrap();
    for (then, named, over) in [
        ("", "locked by pid ", "COMMIT"),
        (
            "PREPARE TRANSACTION 'it''s left'",
            "locked by the prepared transaction 'it''s left'",
            "ROLLBACK PREPARED 'it''s left'",
        ),
    ] {
        client.batch_execute(&format!("{lock}; {then}")).await.unwrap();
        let started = tokio::time::timeout(HANGS, replicator.start(Direction::BlueToGreen)).await;
        let error = started.expect("it waits without an end").unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout, "{error}");
        let said = error.message();
        assert!(
            said.contains(named) && said.contains(", which has locked public.t"),
            "{said}"
        );
        assert_eq!(waiting(&beside).await, 0, "somebody is still queued");
        client.batch_execute(over).await.unwrap();
    }
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
}

/// What everybody's tables are published with needs a key of each, ours too: else our own deletions would be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebodys_publication_of_all_tables_stops_nothing_of_ours() {
    let Some(pair) = Pair::start().await else { return };
    let everything = "CREATE PUBLICATION everything FOR ALL TABLES";
    for color in [Color::Blue, Color::Green] {
        pair.client(color).await.batch_execute(everything).await.unwrap();
    }
    pair.client(Color::Blue).await.batch_execute(TABLE).await.unwrap();
    let replicator = pair.replicator();
    for (to, direction) in [
        (Color::Green, Direction::BlueToGreen),
        (Color::Blue, Direction::GreenToBlue),
    ] {
        replicator.start(direction).await.unwrap();
        streaming(&replicator, direction).await;
        cut_over(&replicator, to).await;
    }
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), [""; 0]);
}
