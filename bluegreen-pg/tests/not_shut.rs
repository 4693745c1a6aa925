//! Tables that somebody uses while they are to be shut, or opened for good: an autovacuum that yields, a lock that is not to be had.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, Replicator};
use bluegreen_pg::PgReplicator;
use common::mover::of_mover;
use common::writers::LEDGER;
use common::{Pair, WITHIN, cut_over, proved, streaming};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// What an autovacuum of it takes is a minute and more.
const SLOW: &str = "ALTER TABLE ledger SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
        autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
    INSERT INTO ledger (token) SELECT repeat('x', 100) FROM generate_series(1, 20000); UPDATE ledger SET token = 'vacuumed'";

async fn until(client: &Client, sql: &str) {
    let since = Instant::now();
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(since.elapsed() < 12 * WITHIN, "never: {sql}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns when an autovacuum of a table is at work there. The session is of another database: nobody ends it.
async fn vacuumed(pair: &Pair, color: Color) -> Client {
    let beside = pair.cluster(color).connect("postgres").await.unwrap();
    for sql in ["ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"] {
        beside.batch_execute(sql).await.unwrap();
    }
    at_work(&beside).await;
    beside
}

async fn at_work(beside: &Client) {
    until(
        beside,
        "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a ON a.pid = v.pid \
         WHERE a.backend_type = 'autovacuum worker' AND a.query LIKE '%public.ledger%')",
    )
    .await;
}

/// Whether a client that insists on writing into the table is told who the writer is.
async fn is_shut(pair: &Pair, color: Color, write: &str) -> bool {
    let client = pair.client(color).await;
    client.batch_execute("SET lock_timeout = '2s'").await.unwrap();
    let refused = client
        .batch_execute(&format!("BEGIN READ WRITE; {write}; COMMIT"))
        .await;
    refused.is_err_and(|e| {
        e.as_db_error()
            .is_some_and(|e| e.message().contains("is not the writer"))
    })
}

const INTO_LEDGER: &str = "INSERT INTO ledger (token) VALUES ('nowhere')";
const INTO_BALANCE: &str = "UPDATE balance SET amount = 7";

async fn handed_over(replicator: &PgReplicator) {
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    proved(replicator, &position).await;
    replicator.hand_over(Color::Green).await.unwrap();
}

async fn write(pair: &Pair, color: Color) {
    let client = pair.client(color).await;
    client.batch_execute("SET statement_timeout = '5s'").await.unwrap();
    client
        .batch_execute("INSERT INTO ledger (token) VALUES ('application')")
        .await
        .unwrap();
}

/// The runner died after its commit record, and blue is being vacuumed: green is opened all the same, and blue is shut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autovacuum_yields_to_an_opening_after_a_death() {
    let Some((pair, first)) = Pair::mirrored(&format!("{LEDGER}; {SLOW}")).await else {
        return;
    };
    handed_over(&first).await;
    drop(first);
    let _beside = vacuumed(&pair, Color::Blue).await;
    let next = pair.replicator();
    next.promote(Color::Green).await.unwrap();
    write(&pair, Color::Green).await;
    assert!(is_shut(&pair, Color::Blue, INTO_LEDGER).await);
    next.start(Direction::GreenToBlue).await.unwrap();
    streaming(&next, Direction::GreenToBlue).await;
}

/// Who is no superuser cannot have the server look sooner, and waits until it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autovacuum_yields_to_the_way_back_and_to_the_clean_up_without_superuser() {
    let Some(mut pair) = Pair::of_majors(17, 18).await else {
        return;
    };
    let replicator = of_mover(&mut pair).await;
    let owner = pair.blue.connect(common::DB).await.unwrap();
    owner.batch_execute(SLOW).await.unwrap();
    drop(owner);
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    cut_over(&replicator, Color::Green).await;
    let beside = vacuumed(&pair, Color::Blue).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    assert!(is_shut(&pair, Color::Blue, INTO_LEDGER).await);
    // It was ended, and comes again.
    at_work(&beside).await;
    replicator.stop(Color::Green).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

/// A lock that is not to be had costs that table its trigger, and not the copy, which would be wiped and made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_ends_though_a_table_of_it_cannot_be_shut() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    let naps = "CREATE MATERIALIZED VIEW naps AS SELECT 1 AS n FROM pg_sleep(3)";
    blue.batch_execute(&format!("{LEDGER}; {naps}")).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    // All tables and their indexes are made then.
    let beside = pair.green.connect("postgres").await.unwrap();
    let refreshes = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%REFRESH MATERIALIZED%' AND pid <> pg_backend_pid())";
    until(&beside, refreshes).await;
    let uses = pair.client(Color::Green).await;
    uses.batch_execute("BEGIN READ WRITE; LOCK TABLE ledger IN ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    assert!(is_shut(&pair, Color::Green, INTO_BALANCE).await);
    uses.batch_execute("ROLLBACK").await.unwrap();
    assert!(!is_shut(&pair, Color::Green, "DELETE FROM ledger").await);
    replicator.stop(Color::Blue).await.unwrap();
}

/// The same lock after a death, when neither side writes, and while the mirrors turn. A prepared transaction has it, which nobody ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_an_opening_nor_the_way_back_fails_for_a_table_that_cannot_be_shut() {
    let Some((pair, first)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    handed_over(&first).await;
    drop(first);
    let locks = "BEGIN READ WRITE; LOCK TABLE ledger IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'stays'";
    let since = Instant::now();
    // The fence is let go of when the server hears of the death; until then it may end who comes.
    while pair.client(Color::Blue).await.batch_execute(locks).await.is_err() {
        assert!(since.elapsed() < 12 * WITHIN, "the lock is not to be had");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let next = pair.replicator();
    next.promote(Color::Green).await.unwrap();
    write(&pair, Color::Green).await;
    assert!(is_shut(&pair, Color::Blue, INTO_BALANCE).await);
    next.start(Direction::GreenToBlue).await.unwrap();
    streaming(&next, Direction::GreenToBlue).await;
    assert!(is_shut(&pair, Color::Blue, INTO_BALANCE).await);
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("ROLLBACK PREPARED 'stays'").await.unwrap();
    assert!(!is_shut(&pair, Color::Blue, "BEGIN; DELETE FROM ledger WHERE false").await);
}

/// A table that is read for hours keeps its trigger: it is named, all the rest goes, and later this goes too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_up_says_which_table_is_in_use_and_is_finished_later() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let reader = pair.client(Color::Blue).await;
    reader.batch_execute("BEGIN; SELECT FROM ledger").await.unwrap();
    let error = replicator.stop(Color::Green).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    let said = error.to_string();
    assert!(
        said.contains("public.ledger") && said.contains("AccessShareLock"),
        "{said}"
    );
    assert!(!said.contains("balance"), "{said}");
    let left = replicator.leftovers().await.unwrap();
    assert!(left.iter().all(|l| l.starts_with("blue: ")), "{left:?}");
    assert!(
        left.iter()
            .any(|l| l.contains("on public.ledger") || l.contains("on ledger")),
        "{left:?}"
    );
    assert!(
        is_shut(&pair, Color::Blue, INTO_LEDGER).await,
        "what it looks at is there"
    );
    reader.batch_execute("ROLLBACK").await.unwrap();
    replicator.stop(Color::Green).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}
