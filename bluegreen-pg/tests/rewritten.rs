//! Tables that change under the first copy: rewritten, replaced, dropped, emptied; and what the copy holds of blue's meanwhile.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, MirrorStatus, Replicator};
use bluegreen_pg::PgReplicator;
use common::copying::{Tools, digests, kill, said, signal, stop};
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

/// What is read by a name would be another column's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_exchange_their_names_before_they_are_read_begin_the_copy_again() {
    let exchange =
        "UPDATE small SET v = id + 7; BEGIN; ALTER TABLE small RENAME id TO x; ALTER TABLE small RENAME v TO id;
        ALTER TABLE small RENAME x TO v; COMMIT";
    let Some(said) = small_changes(exchange).await else {
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

/// Waits until the copy has come to its end, and the comparison of the schemas says what only one side has.
async fn drift(replicator: &PgReplicator) -> String {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Failed { kind, why } => {
                assert!(kind == Kind::Diverged && why.contains("DDL does not travel"), "{why}");
                return why;
            }
            other => assert!(Instant::now() < until, "still {other}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A copy where this is done at blue after the snapshot was made, and before the schema is dumped or after it.
async fn changed_since_the_snapshot(sql: &str, dumped: bool) -> Option<(Pair, PgReplicator, Tools)> {
    let pair = Pair::start().await?;
    let blue = pair.client(Color::Blue).await;
    let small =
        "CREATE TABLE small (id int PRIMARY KEY, v int); INSERT INTO small SELECT i, i FROM generate_series(1, 1000) i;
        CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)";
    blue.batch_execute(small).await.unwrap();
    let tools = Tools::of(pair.green.binaries());
    let replicator = pair.builder().tools(tools.folder()).build().unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    tools.has("called").await;
    if dumped {
        tools.may("begin");
        tools.has("dumped").await;
    }
    blue.batch_execute(sql).await.unwrap();
    tools.may("begin");
    tools.may("end");
    Some((pair, replicator, tools))
}

/// What it has not dumped it does not read: the difference is drift, and the copy goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_added_between_the_dump_and_the_rows_is_drift() {
    for (change, back) in [
        (
            "ALTER TABLE small ADD late int DEFAULT 7",
            "ALTER TABLE small DROP late",
        ),
        (
            "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)",
            "DROP TABLE late",
        ),
    ] {
        let Some((pair, replicator, _tools)) = changed_since_the_snapshot(change, true).await else {
            return;
        };
        let why = drift(&replicator).await;
        assert!(why.contains("late"), "{why}");
        let blue = pair.client(Color::Blue).await;
        blue.batch_execute(back).await.unwrap();
        streaming(&replicator, Direction::BlueToGreen).await;
        assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_renamed_or_dropped_between_the_snapshot_and_the_rows_begins_the_copy_again() {
    for (change, dumped) in [
        ("ALTER TABLE small RENAME v TO w", true),
        ("DROP TABLE small", true),
        ("ALTER TABLE small DROP v", true),
        ("ALTER TABLE small RENAME TO former", false),
        ("ALTER SCHEMA s RENAME TO former", false),
    ] {
        let Some((pair, replicator, _tools)) = changed_since_the_snapshot(change, dumped).await else {
            return;
        };
        let said = said(&replicator).await;
        assert!(said.contains(AGAIN), "{change}, {dumped}: {said}");
        streaming(&replicator, Direction::BlueToGreen).await;
        let blue = pair.client(Color::Blue).await;
        assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
    }
}

/// Asks for the status until it says this.
async fn says(replicator: &PgReplicator, wanted: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let status = replicator.status(Direction::BlueToGreen).await.unwrap().to_string();
        if status.contains(wanted) {
            return;
        }
        assert!(Instant::now() < until, "it never says {wanted}: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client has it for hours, and the copy keeps blue's log and old rows meanwhile: only a human can end that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_locked_a_table_is_named_while_the_copy_waits_for_it() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, beside) = (
        pair.client(Color::Blue).await,
        pair.green.connect("postgres").await.unwrap(),
    );
    blue.batch_execute(TWO).await.unwrap();
    let tools = Tools::of(pair.green.binaries());
    let replicator = pair.builder().copy_jobs(1).tools(tools.folder()).build().unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let lock = "BEGIN; LOCK TABLE small IN ACCESS EXCLUSIVE MODE";
    let pid: i32 = blue.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let named =
        format!("at blue it waits for public.small, which is locked by pid {pid} of postgres, idle in transaction");
    // In the dump, and again before its rows are read.
    tools.has("called").await;
    blue.batch_execute(lock).await.unwrap();
    tools.may("begin");
    says(&replicator, &named).await;
    blue.batch_execute("COMMIT").await.unwrap();
    tools.has("dumped").await;
    tools.may("end");
    stop(&beside, "state = 'active' AND query LIKE '%COPY \"public\".\"big\"%'").await;
    blue.batch_execute(lock).await.unwrap();
    signal(&beside, "true", SIGCONT).await;
    says(&replicator, &named).await;
    blue.batch_execute("COMMIT").await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
}

/// Where blue is restarted, there is no snapshot to be had again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_copied_side_around_the_dump_begins_the_copy_again() {
    for at in ["called", "dumped"] {
        let Some(mut pair) = Pair::start().await else { return };
        pair.client(Color::Blue).await.batch_execute(TWO).await.unwrap();
        let tools = Tools::of(pair.green.binaries());
        let replicator = pair.builder().tools(tools.folder()).build().unwrap();
        if at == "dumped" {
            tools.may("begin");
        }
        replicator.start(Direction::BlueToGreen).await.unwrap();
        tools.has(at).await;
        pair.blue.stop().await.unwrap();
        pair.blue.restart().await.unwrap();
        tools.may("begin");
        tools.may("end");
        let said = said(&replicator).await;
        assert!(said.contains("begun again: the snapshot was lost"), "{at}: {said}");
        streaming(&replicator, Direction::BlueToGreen).await;
        let blue = pair.client(Color::Blue).await;
        assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
    }
}

/// Only those that green has can be filled there; what else changed is drift, and no reason to lose a copy at its last step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn materialized_views_that_change_under_the_copy_are_drift() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, beside) = (
        pair.client(Color::Blue).await,
        pair.green.connect("postgres").await.unwrap(),
    );
    blue.batch_execute(TWO).await.unwrap();
    blue.batch_execute(
        "CREATE MATERIALIZED VIEW sums AS SELECT sum(v) FROM small; CREATE MATERIALIZED VIEW twice AS SELECT * FROM sums, small WHERE id < 9;
         CREATE MATERIALIZED VIEW later AS SELECT count(*) FROM small WITH NO DATA; CREATE MATERIALIZED VIEW never AS SELECT 1 AS one WITH NO DATA",
    )
    .await
    .unwrap();
    let replicator = one_stream(&pair);
    replicator.start(Direction::BlueToGreen).await.unwrap();
    stop(&beside, "state = 'active' AND query LIKE '%COPY \"public\".\"big\"%'").await;
    blue.batch_execute(
        "CREATE MATERIALIZED VIEW late AS SELECT 1 AS one; ALTER MATERIALIZED VIEW sums RENAME TO totals;
         REFRESH MATERIALIZED VIEW later",
    )
    .await
    .unwrap();
    signal(&beside, "true", SIGCONT).await;
    let why = drift(&replicator).await;
    assert!(why.contains("late") && why.contains("totals"), "{why}");
    blue.batch_execute("DROP MATERIALIZED VIEW late; ALTER MATERIALIZED VIEW totals RENAME TO sums")
        .await
        .unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    let empty = "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND NOT relispopulated";
    let empty: Vec<String> = green
        .query(empty, &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_eq!(empty, ["never"]);
    for client in [&blue, &green] {
        let sums = client
            .query_one("SELECT count(*), min(sum) FROM twice", &[])
            .await
            .unwrap();
        assert_eq!((sums.get::<_, i64>(0), sums.get::<_, i64>(1)), (8, 40_000 * 40_001 / 2));
    }
}
