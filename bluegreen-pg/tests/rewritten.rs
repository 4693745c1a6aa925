//! Tables that change under the first copy: rewritten, replaced, dropped, emptied; and what the copy holds of blue's meanwhile.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Replicator};
use bluegreen_pg::PgReplicator;
use common::copying::{digests, kill, said, signal, stop};
use common::{Pair, streaming};
use nix::sys::signal::Signal::SIGCONT;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// One stream copies `big` first.
const TWO: &str = "CREATE TABLE big (id int PRIMARY KEY, filler text);
    INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 60000) i;
    CREATE TABLE small (id int PRIMARY KEY, v int); INSERT INTO small SELECT i, i FROM generate_series(1, 40000) i";

const AGAIN: &str = "begun again: a table was";

fn one_stream(pair: &Pair) -> PgReplicator {
    pair.builder().copy_jobs(1).build().unwrap()
}

/// A copy of one stream that is in `big` while blue does this with `small`; what its status says.
async fn small_changes(sql: &str) -> Option<String> {
    let pair = Pair::start().await?;
    let (blue, beside) = (
        pair.client(Color::Blue).await,
        pair.green.connect("postgres").await.unwrap(),
    );
    blue.batch_execute(TWO).await.unwrap();
    let replicator = one_stream(&pair);
    replicator.start(Direction::BlueToGreen).await.unwrap();
    stop(&beside, "state = 'active' AND query LIKE '%COPY \"public\".\"big\"%'").await;
    blue.batch_execute(sql).await.unwrap();
    signal(&beside, "true", SIGCONT).await;
    let said = said(&replicator).await;
    streaming(&replicator, Direction::BlueToGreen).await;
    assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
    Some(said)
}

/// All its rows have a new author, whom the snapshot does not know: it sees none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_rewritten_before_it_is_read_begins_the_copy_again() {
    let rewrite = "ALTER TABLE small ALTER v TYPE int USING v + 0";
    let Some(said) = small_changes(rewrite).await else {
        return;
    };
    assert!(said.contains(AGAIN), "it was not noticed");
}

/// What is called so now is another table, whose rows nothing would bring.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_replaced_before_it_is_read_begins_the_copy_again() {
    let replace = "BEGIN; ALTER TABLE small RENAME TO former; CREATE TABLE small (LIKE former INCLUDING ALL);
        INSERT INTO small SELECT * FROM former; DROP TABLE former; COMMIT";
    let Some(said) = small_changes(replace).await else {
        return;
    };
    assert!(said.contains(AGAIN), "it was not noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_dropped_before_it_is_read_begins_the_copy_again() {
    let Some(said) = small_changes("DROP TABLE small").await else {
        return;
    };
    assert!(said.contains(AGAIN), "it was not noticed");
}

/// Rows alone may change as they like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_written_and_vacuumed_before_it_is_read_is_copied_at_once() {
    let write = "UPDATE small SET v = v + 1; DELETE FROM small WHERE id % 3 = 0; INSERT INTO small VALUES (0, 0);
        ALTER TABLE small ADD CHECK (v >= 0) NOT VALID; CREATE INDEX ON small (v); ALTER TABLE small DROP CONSTRAINT small_v_check;
        DROP INDEX small_v_idx; ANALYZE small";
    let Some(said) = small_changes(write).await else {
        return;
    };
    assert!(!said.contains("begun again"), "{said}");
}

/// Waits until somebody at blue waits for a lock.
async fn queued(client: &Client, query: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    let sql = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1";
    while client.query(sql, &[&query]).await.unwrap().is_empty() {
        assert!(Instant::now() < until, "nobody waits: {query}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Its rows are elsewhere then: a range of pages has not what it had, and another may have been read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_rewritten_between_two_of_its_pieces_begins_the_copy_again() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, beside) = (
        pair.client(Color::Blue).await,
        pair.green.connect("postgres").await.unwrap(),
    );
    // The first range has no rows, so that it is read when the others are still under way.
    blue.batch_execute(
        "CREATE TABLE big (id int PRIMARY KEY, filler text);
         INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 240000) i;
         DELETE FROM big WHERE id <= 80000",
    )
    .await
    .unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let green = pair.client(Color::Green).await;
    let until = Instant::now() + Duration::from_secs(60);
    let first = "SELECT FROM bluegreen.copied WHERE step = 1";
    while !green.query(first, &[]).await.is_ok_and(|rows| rows.len() == 1) {
        assert!(Instant::now() < until, "the first piece never came");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let reads = "state = 'active' AND query LIKE '%COPY \"public\".\"big\"%'";
    stop(&beside, reads).await;
    let aside = pair.client(Color::Blue).await;
    let rewritten = tokio::spawn(async move { aside.batch_execute("VACUUM FULL big").await });
    queued(&blue, "VACUUM FULL%").await;
    // It is next when the streams lose their connections, before they have them again.
    assert!(kill(&beside, reads).await > 0);
    signal(&beside, "true", SIGCONT).await;
    let said = said(&replicator).await;
    rewritten.await.unwrap().unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
    assert!(said.contains(AGAIN), "it was not noticed");
}

/// Blue's own work with a table that has been read does not wait for the rest of the copy, and nobody queues behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_has_been_read_is_locked_no_longer() {
    let Some(pair) = Pair::start().await else { return };
    let (mut blue, beside) = (
        pair.client(Color::Blue).await,
        pair.green.connect("postgres").await.unwrap(),
    );
    blue.batch_execute(TWO).await.unwrap();
    blue.batch_execute("INSERT INTO small SELECT i, i FROM generate_series(40001, 600000) i")
        .await
        .unwrap();
    let replicator = one_stream(&pair);
    replicator.start(Direction::BlueToGreen).await.unwrap();
    stop(&beside, "state = 'active' AND query LIKE '%COPY \"public\".\"small\"%'").await;
    let lock = async |client: &mut Client, table: &str| {
        let transaction = client.transaction().await.unwrap();
        let sql = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT");
        transaction.batch_execute(&sql).await.map_err(|e| e.code().cloned())
    };
    assert_eq!(lock(&mut blue, "big").await, Ok(()), "it has been read");
    let taken = Some(tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE);
    assert_eq!(lock(&mut blue, "small").await, Err(taken), "it is being read");
    signal(&beside, "true", SIGCONT).await;
    assert!(!said(&replicator).await.contains("begun again"));
    streaming(&replicator, Direction::BlueToGreen).await;
    assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
}
