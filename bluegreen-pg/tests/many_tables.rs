//! A schema that is so large that its tables are made by several sessions: it comes whole, in whatever way its tables hang together.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, MirrorStatus, Replicator};
use common::copying::copied;
use common::{Pair, cut_over, digests, sequences, streaming};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const BEFORE: &str = r#"
    CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE SEQUENCE "odd\one"; CREATE TABLE kin (k int PRIMARY KEY, m mood DEFAULT 'good');
    CREATE TABLE parts (id int, p int, PRIMARY KEY (id, p)) PARTITION BY LIST (p); CREATE SCHEMA "Other"; CREATE TABLE t0 (id serial PRIMARY KEY);
    CREATE TABLE filler AS SELECT i AS id, repeat('x', 900) AS f FROM generate_series(1, 100000) i; ALTER TABLE filler ADD PRIMARY KEY (id)"#;

/// One that stands alone, with comments; and some each of which needs another: a row's type, inherited, a partition's, another's
/// sequence, a view's.
const EACH: &str = r#"
    CREATE TABLE t# (id serial PRIMARY KEY, a text, m mood); COMMENT ON TABLE t# IS 'no. #; CREATE TABLE x'; COMMENT ON COLUMN t#.a IS 'a';
    CREATE TABLE "Other"."I #" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, r t#); CREATE TABLE kid_# (PRIMARY KEY (k)) INHERITS (kin);
    CREATE TABLE parts_# PARTITION OF parts FOR VALUES IN (#); INSERT INTO t# (a, m) VALUES ('#', 'bad'); INSERT INTO kid_# VALUES (#);
    CREATE TABLE borrows_# (id int PRIMARY KEY DEFAULT nextval('"odd\one"'), n int DEFAULT nextval('t0_id_seq'));
    CREATE VIEW a_view_# AS SELECT t.id, k.k FROM t# t, kid_# k; INSERT INTO parts VALUES (1, #);
    INSERT INTO borrows_# DEFAULT VALUES; INSERT INTO "Other"."I #" (r) SELECT t FROM t# t"#;

/// So many that two sessions are worth it.
async fn many() -> Option<Pair> {
    let pair = Pair::start().await?;
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(BEFORE).await.unwrap();
    for i in 1..=90 {
        blue.batch_execute(&EACH.replace('#', &i.to_string())).await.unwrap();
    }
    Some(pair)
}

async fn alike(pair: &Pair) {
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(digests(&blue).await, digests(&green).await);
    let said = async |client: &Client| {
        let sql = "SELECT string_agg(concat(objoid::regclass, objsubid, description), ' ' ORDER BY objoid::regclass::text, objsubid) \
                   FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid >= 16384";
        client.query_one(sql, &[]).await.unwrap().get::<_, String>(0)
    };
    assert_eq!(said(&blue).await, said(&green).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_come_whole_also_after_a_try_that_was_not_finished() {
    let Some(pair) = many().await else { return };
    let unfinished = pair.replicator();
    unfinished.start(Direction::BlueToGreen).await.unwrap();
    copied(&unfinished, 1).await;
    drop(unfinished);
    // All that it made is known, and goes before the next one: else its tables would be in the way.
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    alike(&pair).await;
    cut_over(&replicator, Color::Green).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(sequences(&blue).await, sequences(&green).await);
    green
        .batch_execute("INSERT INTO borrows_9 DEFAULT VALUES")
        .await
        .unwrap();
}

/// What an event trigger does to other tables is known to nobody: they are made one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_an_event_trigger_they_are_made_in_order() {
    let Some(pair) = many().await else { return };
    let keeps = "CREATE ROLE reader; CREATE SCHEMA platform; CREATE FUNCTION platform.grants() RETURNS event_trigger LANGUAGE plpgsql AS
            'BEGIN GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; END';
        CREATE EVENT TRIGGER grants ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION platform.grants()";
    pair.client(Color::Green).await.batch_execute(keeps).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    alike(&pair).await;
}

/// One that the server refuses ends its lane, is tried once more in the script's order, and then said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_is_said() {
    let Some(pair) = many().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("CREATE ROLE someone; ALTER TABLE t50 OWNER TO someone")
        .await
        .unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let why = loop {
        if let MirrorStatus::Failed { why, .. } = replicator.status(Direction::BlueToGreen).await.unwrap() {
            break why;
        }
        assert!(Instant::now() < until, "it does not fail");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(why.contains("role \"someone\" does not exist"), "{why}");
    // And mended, it goes on.
    let role = "BEGIN READ WRITE; CREATE ROLE someone; COMMIT";
    pair.client(Color::Green).await.batch_execute(role).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    alike(&pair).await;
}
