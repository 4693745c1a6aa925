//! A whole move with writers going on: over to green, back to blue, over again, and nothing left.

use super::writers::{Writers, check};
use super::{Pair, WITHIN, digests, proved, sequences, streaming};
use bluegreen_core::{Color, Direction, Replicator, Severity};
use bluegreen_pg::PgReplicator;
use std::time::Duration;

/// A little of what databases have in them, beside the ledger; 14 knows all of it.
pub const MORE: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE \"Käse\" (id serial PRIMARY KEY, m mood, doubled text GENERATED ALWAYS AS (name || name) STORED, name text,
        n numeric, j jsonb, at timestamptz DEFAULT now(), CHECK (n > 0));
    INSERT INTO \"Käse\" (m, name, n, j) SELECT 'ok', 'x' || i, i / 7.0, '{\"a\": [1]}' FROM generate_series(1, 500) i;
    CREATE TABLE parted (id bigint, day date NOT NULL, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE parted_new PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
    CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
    INSERT INTO parted SELECT i, '2024-06-01'::date + i FROM generate_series(1, 600) i;
    CREATE TABLE no_key (a int, b text);
    ALTER TABLE no_key REPLICA IDENTITY FULL;
    INSERT INTO no_key SELECT i % 3, 'same' FROM generate_series(1, 9) i;
    CREATE TABLE child (id int PRIMARY KEY, cheese int REFERENCES \"Käse\" ON DELETE CASCADE);
    INSERT INTO child SELECT i, i FROM generate_series(1, 50) i;
    CREATE SEQUENCE free START 7 INCREMENT 5;
    CREATE VIEW seen AS SELECT id, doubled FROM \"Käse\";
    CREATE MATERIALIZED VIEW sums AS SELECT a, count(*) FROM no_key GROUP BY a;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $$;
    CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON \"Käse\" FOR EACH ROW EXECUTE FUNCTION touch();
    SELECT nextval('free');";

/// Changes of every kind at the writer.
pub const LIVE: &str = "
    INSERT INTO \"Käse\" (m, name, n) VALUES ('sad', 'live', 1);
    UPDATE \"Käse\" SET name = 'up', j = NULL WHERE id % 50 = 3;
    DELETE FROM \"Käse\" WHERE id = (SELECT min(id) FROM \"Käse\");
    UPDATE parted SET day = day + 300 WHERE id % 20 = 1;
    UPDATE no_key SET b = b || '!' WHERE a = 1;
    DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE a = 2);
    SELECT nextval('free');";

/// Everything, from the preflight to the clean-up, of a database that has the ledger and [`MORE`] at blue.
pub async fn whole_move(pair: &Pair, replicator: &PgReplicator) {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init()
            .ok();
    }
    let writers = Writers::start(pair, 4);
    let findings = replicator.preflight().await.unwrap();
    let blocking: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Blocking).collect();
    assert!(blocking.is_empty(), "{blocking:#?}");
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(replicator, Direction::BlueToGreen).await;
    for to in [Color::Green, Color::Blue, Color::Green] {
        pair.client(to.other()).await.batch_execute(LIVE).await.unwrap();
        replicator.arm(to, WITHIN).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let gate = writers.hold().await;
        let position = replicator.fence(to.other(), WITHIN).await.unwrap();
        proved(replicator, &position).await;
        replicator.hand_over(to).await.unwrap();
        replicator.promote(to).await.unwrap();
        writers.point_at(to);
        drop(gate);
        pair.client(to).await.batch_execute(LIVE).await.unwrap();
        replicator.start(Direction::from(to)).await.unwrap();
        streaming(replicator, Direction::from(to)).await;
    }
    let told = writers.end().await;
    assert_eq!(told.failed, 0, "with a gate no client sees an error");
    assert!(told.acked.len() > 100, "{}", told.acked.len());
    // What has arrived at blue is compared after a proof, as for a cut-over.
    replicator.arm(Color::Blue, WITHIN).await.unwrap();
    let position = replicator.fence(Color::Green, WITHIN).await.unwrap();
    proved(replicator, &position).await;
    replicator.unfence(Color::Green).await.unwrap();
    let (at_blue, at_green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    check(&at_green, &told).await;
    let rows =
        |all: Vec<(String, i64, String)>| all.into_iter().filter(|(t, ..)| t != "public.sums").collect::<Vec<_>>();
    assert_eq!(rows(digests(&at_blue).await), rows(digests(&at_green).await));
    assert_eq!(sequences(&at_blue).await, sequences(&at_green).await);
    replicator.stop(Color::Green).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}
