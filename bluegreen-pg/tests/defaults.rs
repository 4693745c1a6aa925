//! What a server or a role has for defaults changes nothing in the first copy.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Replicator};
use common::copying::{digests, kill, said, signal, stop};
use common::{Pair, streaming};
use std::time::Duration;

const BIG: &str = "CREATE TABLE big (id int PRIMARY KEY, filler text);
    INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 100000) i";

/// It would end the session that holds the snapshot, and any that lost its connection had none to come back to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_of_transactions_is_not_ours() {
    let Some(pair) = Pair::of_majors(17, 17).await else {
        return;
    };
    let (blue, beside) = (
        pair.client(Color::Blue).await,
        pair.green.connect("postgres").await.unwrap(),
    );
    blue.batch_execute(BIG).await.unwrap();
    blue.batch_execute("ALTER ROLE postgres SET transaction_timeout = '1s'")
        .await
        .unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    stop(&beside, "state = 'active' AND query LIKE '%COPY%FROM STDIN%'").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let reads = "application_name = 'bluegreen_shop_copy' AND query LIKE '%COPY%' AND backend_type = 'client backend'";
    assert!(kill(&blue, reads).await > 0);
    signal(&beside, "true", nix::sys::signal::Signal::SIGCONT).await;
    assert!(
        !said(&replicator).await.contains("begun again"),
        "the snapshot was lost"
    );
    streaming(&replicator, Direction::BlueToGreen).await;
    assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
}

/// A server's defaults of how text is read change no value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_server_reads_arrays_and_xml_by_default_changes_nothing() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    blue.batch_execute(
        "CREATE TYPE own AS (a text[]); CREATE TABLE lists (id int PRIMARY KEY, own own);
         INSERT INTO lists VALUES (1, row(ARRAY['a', NULL, 'NULL']));
         CREATE TABLE fragments (id int PRIMARY KEY, x xml); INSERT INTO fragments VALUES (1, 'no <b>document</b>')",
    )
    .await
    .unwrap();
    for client in [&blue, &green] {
        client
            .batch_execute("ALTER ROLE postgres SET array_nulls = off; ALTER ROLE postgres SET xmloption = document")
            .await
            .unwrap();
    }
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    // What was there before was ended: no client may write there.
    let green = pair.client(Color::Green).await;
    let lists = "SELECT format('%s %s', (own).a[2] IS NULL, (own).a[3]) FROM lists";
    for client in [&blue, &green] {
        assert_eq!(
            client.query_one(lists, &[]).await.unwrap().get::<_, String>(0),
            "t NULL"
        );
    }
    let fragments = "SELECT x::text FROM fragments";
    let fragment: String = green.query_one(fragments, &[]).await.unwrap().get(0);
    assert_eq!(fragment, "no <b>document</b>");
}
