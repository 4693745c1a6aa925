//! A schema that is so large that its tables are made by several sessions: it comes whole, in whatever way its tables hang together.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Replicator};
use common::copying::{copied, kill};
use common::{Pair, cut_over, digests, fails, sequences, streaming};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// At both sides from the beginning: an extension's tables are not copied, and not taken away.
const EXTENSION: &str =
    "CREATE EXTENSION hstore; CREATE TABLE of_hstore (k int PRIMARY KEY); ALTER EXTENSION hstore ADD TABLE of_hstore";

/// The partitioned one needs a table, and nothing of the server's says so.
const BEFORE: &str = r#"
    CREATE TABLE a_needed (x int PRIMARY KEY); CREATE FUNCTION hidden(x int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT x FROM public.a_needed';
    CREATE TABLE b_needs (x int) PARTITION BY RANGE (hidden(x)); CREATE TABLE b_too (x int) PARTITION BY RANGE (hidden(x));
    CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE SEQUENCE "odd\one"; CREATE TABLE kin (k int PRIMARY KEY, m mood DEFAULT 'good');
    CREATE TABLE parts (id int, p int, PRIMARY KEY (id, p)) PARTITION BY LIST (p); CREATE SCHEMA "Other"; CREATE TABLE t0 (id serial PRIMARY KEY);
    CREATE TABLE filler AS SELECT i AS id, repeat('x', 900) AS f FROM generate_series(1, 100000) i; ALTER TABLE filler ADD PRIMARY KEY (id)"#;

/// One that stands alone, with comments; and some each of which needs another: a row's type, inherited, a partition's, another's
/// sequence, a view's. The array type of the first has the name of another.
const EACH: &str = r#"
    CREATE TABLE t# (id serial PRIMARY KEY, a text, m mood); COMMENT ON TABLE t# IS 'no. #; CREATE TABLE x'; COMMENT ON COLUMN t#.a IS 'a';
    CREATE TABLE "Other"."I #" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, r t#); CREATE TABLE kid_# (PRIMARY KEY (k)) INHERITS (kin);
    CREATE TABLE parts_# PARTITION OF parts FOR VALUES IN (#); INSERT INTO t# (a, m) VALUES ('#', 'bad'); INSERT INTO kid_# VALUES (#);
    CREATE TABLE borrows_# (id int PRIMARY KEY DEFAULT nextval('"odd\one"'), n int DEFAULT nextval('t0_id_seq'));
    CREATE TABLE kid_of_hstore_# (PRIMARY KEY (k)) INHERITS (of_hstore); CREATE TABLE _t# (id int PRIMARY KEY); CREATE VIEW bare_# AS SELECT # AS n;
    CREATE VIEW a_view_# AS SELECT t.id, k.k FROM t# t, kid_# k; INSERT INTO parts VALUES (1, #);
    INSERT INTO borrows_# DEFAULT VALUES; INSERT INTO "Other"."I #" (r) SELECT t FROM t# t"#;

/// So many that two sessions are worth it.
async fn many() -> Option<Pair> {
    let pair = Pair::start().await?;
    let blue = pair.client(Color::Blue).await;
    for color in [Color::Blue, Color::Green] {
        pair.client(color).await.batch_execute(EXTENSION).await.unwrap();
    }
    blue.batch_execute(BEFORE).await.unwrap();
    for i in 1..=61 {
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

/// Those that make it die in the midst of it, in whatever statement: what they made goes with the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_come_whole_after_a_death_in_the_midst_of_them() {
    let Some(pair) = many().await else { return };
    let dying = pair.replicator();
    dying.start(Direction::BlueToGreen).await.unwrap();
    let beside = pair.green.connect("postgres").await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let makes =
        "application_name = 'bluegreen_shop_copy' AND state = 'active' AND query LIKE '%CREATE TABLE \"public\".\"t%'";
    while kill(&beside, makes).await == 0 {
        assert!(Instant::now() < until, "nobody makes the tables");
    }
    assert!(!fails(&dying).await.1.is_empty());
    drop(dying);
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    alike(&pair).await;
}

/// What an event trigger does to other tables is known to nobody: they are made one after the other. (It notes who made one.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_an_event_trigger_they_are_made_in_order() {
    let Some(pair) = many().await else { return };
    let notes = "CREATE SCHEMA platform; CREATE FUNCTION platform.note() RETURNS event_trigger LANGUAGE plpgsql AS $$
        DECLARE said text := coalesce(obj_description('platform'::regnamespace), ''); me text := pg_backend_pid() || ' ';
        BEGIN IF strpos(said, me) = 0 THEN EXECUTE format('COMMENT ON SCHEMA platform IS %L', said || me); END IF; END $$;
        CREATE EVENT TRIGGER note ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION platform.note();
        ALTER EVENT TRIGGER note ENABLE ALWAYS";
    pair.client(Color::Green).await.batch_execute(notes).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    alike(&pair).await;
    let who = "SELECT obj_description('platform'::regnamespace)";
    let who: String = pair
        .client(Color::Green)
        .await
        .query_one(who, &[])
        .await
        .unwrap()
        .get(0);
    assert!(
        who.split_whitespace().count() < 3,
        "ours, and who makes our own schema: {who}"
    );
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
    let (_, why) = fails(&replicator).await;
    assert!(why.contains("role \"someone\" does not exist"), "{why}");
    // And mended, it goes on.
    let role = "BEGIN READ WRITE; CREATE ROLE someone; COMMIT";
    pair.client(Color::Green).await.batch_execute(role).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    alike(&pair).await;
}
