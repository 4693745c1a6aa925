//! The first copy on bad days, and with what is hard to copy.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, MirrorStatus, Replicator};
use common::copying::{copied, digests, kill, signal};
use common::{Pair, streaming};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const BIG: &str = "CREATE TABLE big (id serial PRIMARY KEY, filler text);
    INSERT INTO big (filler) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 150000) i;
    CREATE INDEX ON big (md5(filler));
    CREATE TABLE no_key (a int, b text); ALTER TABLE no_key REPLICA IDENTITY FULL;
    INSERT INTO no_key SELECT i, repeat('x', 500) FROM generate_series(1, 50000) i";

async fn valid(client: &Client) -> i64 {
    let bad = "SELECT (SELECT count(*) FROM pg_constraint WHERE NOT convalidated) + \
               (SELECT count(*) FROM pg_index WHERE NOT indisvalid)";
    client.query_one(bad, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_repeat_a_piece_and_a_lost_snapshot_begins_again() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(BIG).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let copies = "application_name = 'bluegreen_shop_copy' AND query LIKE '%COPY%' AND backend_type = 'client backend'";
    copied(&replicator, 3).await;
    let beside = pair.green.connect("postgres").await.unwrap();
    assert!(kill(&beside, copies).await > 0);
    // Who sends the log to disk ahead of the streams is no condition of the copy.
    let until = Instant::now() + Duration::from_secs(60);
    while kill(&beside, "query LIKE '%pg_logical_emit_message%'").await == 0 {
        assert!(Instant::now() < until, "nobody wakes the log writer");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    copied(&replicator, 20).await;
    assert!(kill(&blue, copies).await > 0);
    copied(&replicator, 30).await;
    // The snapshot's own session, and the streams that would have to import it again.
    assert!(
        kill(
            &blue,
            "application_name = 'bluegreen_shop_copy' AND backend_type = 'walsender'"
        )
        .await
            > 0
    );
    kill(&blue, copies).await;
    let until = Instant::now() + Duration::from_secs(30);
    let mut told = false;
    while !told {
        let status = replicator.status(Direction::BlueToGreen).await.unwrap();
        told = status.to_string().contains("begun again");
        assert!(Instant::now() < until, "{status}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
    assert_eq!(valid(&green).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_target_loses_nothing_that_counted() {
    let Some(mut pair) = Pair::durable().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(BIG).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    copied(&replicator, 60).await;
    pair.green.crash().await.unwrap();
    pair.green.restart().await.unwrap();
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        match replicator.status(Direction::BlueToGreen).await {
            Ok(MirrorStatus::Streaming(_)) => break,
            // Acknowledged steps were forgotten in the crash: that is found out, and begun again.
            Ok(MirrorStatus::Failed { why, .. }) => {
                assert!(why.contains("steps are"), "{why}");
                replicator.start(Direction::BlueToGreen).await.unwrap();
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        assert!(Instant::now() < until);
    }
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
}

/// What this process has had in memory at most, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A parent's rows that were forgotten make a foreign key fail, long before the end at which the record is looked through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_for_what_the_target_forgot_begins_the_copy_again() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(BIG).await.unwrap();
    blue.batch_execute(
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 100);
         ALTER TABLE big ADD COLUMN parent int DEFAULT 1 REFERENCES parent",
    )
    .await
    .unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    copied(&replicator, 3).await;
    let green = pair.client(Color::Green).await;
    // What a crash does that forgets the first commits.
    green
        .batch_execute("SET session_replication_role = replica; SET default_transaction_read_only = off")
        .await
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while green.execute("DELETE FROM parent", &[]).await.unwrap() == 0 {
        assert!(Instant::now() < until, "it never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(green.execute("DELETE FROM bluegreen.copied", &[]).await.unwrap() > 0);
    let mut said = String::new();
    loop {
        let status = replicator.status(Direction::BlueToGreen).await.unwrap();
        if matches!(status, MirrorStatus::Streaming(_)) {
            break;
        }
        assert!(!matches!(status, MirrorStatus::Failed { .. }), "{status}");
        assert!(Instant::now() < until, "{status}");
        said.push_str(&status.to_string());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(said.contains("begun again: green has forgotten"), "it was not noticed");
    // The new beginning ended our session.
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
    assert_eq!(valid(&green).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_200_mb_is_never_in_our_memory() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(
        "CREATE TABLE giant (id int PRIMARY KEY, b text);
         INSERT INTO giant VALUES (1, 'small'), (2, repeat('0123456789', 20 << 20)), (3, 'small')",
    )
    .await
    .unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let digest = "SELECT string_agg(id || md5(b), ',' ORDER BY id) FROM giant";
    let green = pair.client(Color::Green).await;
    let (b, g): (String, String) = (
        blue.query_one(digest, &[]).await.unwrap().get(0),
        green.query_one(digest, &[]).await.unwrap().get(0),
    );
    assert_eq!(b, g);
    assert!(peak() < 150 << 10, "{} KiB", peak());
}

/// Blanks at the end come again, whatever else is there, and travel where that is cheaper.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn padding_does_not_travel_and_is_there_again() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(
        "CREATE DOMAIN short AS char(50); CREATE TYPE own AS (a char(40));
         CREATE TABLE padded (id int PRIMARY KEY, c char(60), \"Full\" char(32), free bpchar, of_domain short, many char(40)[]);
         INSERT INTO padded SELECT i, (ARRAY['', 'x', NULL, E'  \\u00e4\\u65e5\\u672c ', E'tab\\t ', E'line\\n', repeat('y', 60)])[1 + i % 7], md5(i::text),
             'kept   ', 'd', ARRAY['a', NULL, ''] FROM generate_series(1, 20000) i;
         CREATE TABLE as_text (id int PRIMARY KEY, c char(200), o own);
         INSERT INTO as_text SELECT i, 'x', row('y')::own FROM generate_series(1, 20000) i;
         CREATE TABLE unknown (id int PRIMARY KEY, c char(300)); INSERT INTO unknown SELECT i, 'z' FROM generate_series(1, 20000) i;
         ANALYZE padded; ANALYZE as_text",
    )
    .await
    .unwrap();
    blue.batch_execute("ALTER SYSTEM SET log_statement = 'all'")
        .await
        .unwrap();
    blue.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
    let bytes =
        "SELECT sum(octet_length(c) + octet_length(free) + octet_length(of_domain)) FROM padded WHERE c IS NOT NULL";
    let of = async |client: &Client| client.query_one(bytes, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(of(&blue).await, of(&green).await);
    let log = std::fs::read_to_string(pair.blue.log().unwrap()).unwrap();
    let reads: Vec<&str> = log.lines().filter(|l| l.contains("TO STDOUT (FORMAT")).collect();
    let read = |table: &str| reads.iter().find(|l| l.contains(table)).unwrap();
    assert_eq!(read("\"padded\"").matches("bpcharsend(\"c\")").count(), 1, "{reads:#?}");
    assert_eq!(
        reads.iter().filter(|l| l.contains("bpcharsend")).count(),
        1,
        "{reads:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extensions_own_table_brings_the_users_rows() {
    let Some(pair) = Pair::start().await else { return };
    // As an extension's script does it: a table of the extension's, with rows of its own and rows of users.
    let extension = "CREATE EXTENSION pg_trgm; CREATE TABLE config (id int PRIMARY KEY, standard bool, v text);
        INSERT INTO config VALUES (1, true, 'theirs'); ALTER EXTENSION pg_trgm ADD TABLE config;
        CREATE SEQUENCE numbers; ALTER EXTENSION pg_trgm ADD SEQUENCE numbers;
        UPDATE pg_extension SET extconfig = ARRAY['config'::regclass::oid, 'numbers'::regclass::oid], extcondition = ARRAY['WHERE NOT standard', '']
        WHERE extname = 'pg_trgm'";
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for side in [&blue, &green] {
        side.batch_execute(extension).await.unwrap();
    }
    blue.batch_execute("INSERT INTO config VALUES (2, false, 'ours'); CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    green
        .batch_execute("INSERT INTO config VALUES (3, false, 'of an earlier try')")
        .await
        .unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
    // And it is mirrored from then on.
    blue.batch_execute("INSERT INTO config VALUES (4, false, 'later'); DELETE FROM config WHERE id = 2; SELECT setval('numbers', 4711)")
        .await
        .unwrap();
    common::cut_over(&replicator, Color::Green).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(digests(&blue).await, digests(&green).await);
    let number: i64 = green
        .query_one("SELECT last_value FROM numbers", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        number, 4711,
        "the numbers it gives the user's rows go on where they were"
    );
}

/// Everything of a server that is set and outlives a session.
async fn settings(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "SELECT format('%s = %s', name, setting) FROM pg_settings WHERE source <> 'default' AND source <> 'client' \
             UNION ALL SELECT 'file: ' || name FROM pg_file_settings WHERE sourcefile LIKE '%.auto.conf' \
             UNION ALL SELECT format('role or database: %s', setconfig) FROM pg_db_role_setting \
             UNION ALL SELECT format('table %s: %s', oid::regclass, reloptions) FROM pg_class WHERE relkind = 'r' \
                 AND reloptions IS NOT NULL ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|r| r.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_tables_come_with_keys_and_statistics_and_no_setting_stays_changed() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    blue.batch_execute(
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 100);
         DO $$ BEGIN FOR i IN 1..150 LOOP
         EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, p int REFERENCES parent, u text UNIQUE)', i);
         EXECUTE format('CREATE INDEX ON t%s (p) WHERE p > 3', i);
         EXECUTE format('INSERT INTO t%s (p, u) SELECT g, md5(g::text) FROM generate_series(1, 30) g', i); END LOOP; END $$;
         CREATE TABLE loop (a int PRIMARY KEY, b int); INSERT INTO loop SELECT i, 1 + i % 10 FROM generate_series(1, 10) i;
         ALTER TABLE loop ADD FOREIGN KEY (b) REFERENCES loop;
         CREATE MATERIALIZED VIEW first AS SELECT 1 AS n; CREATE VIEW between AS SELECT count(*) AS n FROM parent;
         CREATE MATERIALIZED VIEW zero AS SELECT n FROM between;
         CREATE OR REPLACE VIEW between AS SELECT count(*) AS n FROM parent JOIN first ON true",
    )
    .await
    .unwrap();
    blue.batch_execute("REFRESH MATERIALIZED VIEW zero").await.unwrap();
    let before = (settings(&blue).await, settings(&green).await);
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
    assert_eq!(valid(&green).await, 0);
    for what in [
        "SELECT string_agg(indexdef, E'\\n' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT string_agg(format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)), E'\\n' \
         ORDER BY conrelid::regclass::text, conname) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    ] {
        let of = async |client: &Client| client.query_one(what, &[]).await.unwrap().get::<_, String>(0);
        assert_eq!(of(&blue).await, of(&green).await);
    }
    let without: i64 = green
        .query_one(
            "SELECT count(*) FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
             AND NOT EXISTS (SELECT FROM pg_statistic WHERE starelid = c.oid)",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(without, 0, "tables without statistics");
    replicator.stop(Color::Blue).await.unwrap();
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(before, (settings(&blue).await, settings(&green).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_holds_itself_back_while_the_copied_side_answers_late() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (
        pair.client(Color::Blue).await,
        pair.green.connect("postgres").await.unwrap(),
    );
    blue.batch_execute(BIG).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    // So that the copy is not over before: green does not take anything.
    while signal(&green, "query LIKE '%COPY%FROM STDIN%'", SIGSTOP).await == 0 {
        assert!(Instant::now() < until, "no stream begins");
    }
    let asked = "query LIKE '%FROM pg_stat_replication%'";
    while signal(&blue, asked, SIGSTOP).await == 0 {
        assert!(Instant::now() < until, "nobody asks how it is");
    }
    let stage = async || match replicator.status(Direction::BlueToGreen).await.unwrap() {
        MirrorStatus::Copying { stage, .. } => stage,
        other => panic!("{other}"),
    };
    while !stage().await.contains("held back to 1 of 2 streams") {
        assert!(Instant::now() < until, "{}", stage().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    signal(&blue, "true", SIGCONT).await;
    while stage().await.contains("held back") {
        assert!(Instant::now() < until, "{}", stage().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    signal(&green, "true", SIGCONT).await;
    streaming(&replicator, Direction::BlueToGreen).await;
    assert_eq!(digests(&blue).await, digests(&pair.client(Color::Green).await).await);
}

/// What another migration made at this copy's origin is its own: it may be in its hold while the next one begins, or its clean-up
/// may not have reached this side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_triggers_of_another_migration_are_not_copied() {
    let Some(pair) = Pair::start().await else { return };
    pair.blue.create_database("third").await.unwrap();
    let third = pair.blue.connect("third").await.unwrap();
    third
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1); CREATE TABLE \"execute\" (id int PRIMARY KEY);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v + 1; RETURN NEW; END $$;
             CREATE TRIGGER bluegreen_shut BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.v > 0) EXECUTE FUNCTION refuse()",
        )
        .await
        .unwrap();
    let first = bluegreen_pg::PgReplicator::new("first", pair.blue.url("third"), pair.url(Color::Green)).unwrap();
    first.start(Direction::BlueToGreen).await.unwrap();
    streaming(&first, Direction::BlueToGreen).await;
    common::cut_over(&first, Color::Green).await;
    first.start(Direction::GreenToBlue).await.unwrap();
    streaming(&first, Direction::GreenToBlue).await;
    // Its clients were sent away in the cut-over.
    let third = pair.blue.connect("third").await.unwrap();
    // At the writer they are switched off, at the side that follows they are not.
    for (origin, name) in [(pair.url(Color::Green), "second"), (pair.blue.url("third"), "other")] {
        pair.blue.create_database(name).await.unwrap();
        let second = bluegreen_pg::PgReplicator::new(name, origin, pair.blue.url(name)).unwrap();
        second.start(Direction::BlueToGreen).await.unwrap();
        streaming(&second, Direction::BlueToGreen).await;
        let follower = pair.blue.connect(name).await.unwrap();
        assert_eq!(digests(&third).await, digests(&follower).await);
        let triggers =
            "SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 't'::regclass ORDER BY 1";
        let triggers = follower.query(triggers, &[]).await.unwrap();
        let mut triggers: Vec<String> = triggers.iter().map(|r| r.get(0)).collect();
        triggers.sort();
        assert_eq!(triggers, [format!("bluegreen_{name}_shut"), "bluegreen_shut".into()]);
    }
}
