//! The first copy and the mirror, with a zoo of what databases have in them.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, MirrorStatus, Replicator};
use common::{Pair, digests, sequences, streaming};
use std::time::Duration;
use tokio_postgres::Client;

const ZOO: &str = include_str!("zoo.sql");

/// Writes of every kind, to run while it mirrors.
async fn live(client: &Client, round: i32) {
    client
        .batch_execute(&format!(
            "INSERT INTO \"Straße\".\"Käse \"\"Quote\"\"\" (\"select\", m, ms, c) VALUES ('live{round}', 'HAPPY \"!\"', '{{ok}}', '(1,sad)');
             UPDATE \"Straße\".\"Käse \"\"Quote\"\"\" SET p = {round} + 1, \"select\" = 'u{round}' WHERE \"Id\" = {round} + 1;
             DELETE FROM \"Straße\".\"Käse \"\"Quote\"\"\" WHERE \"Id\" = 400 + {round};
             INSERT INTO big (filler) VALUES ('live {round}');
             UPDATE parted SET day = '2027-01-01', what = 'moved' WHERE id = 10 + {round};
             UPDATE no_key SET b = 'other{round}' WHERE a = 2;
             INSERT INTO no_key VALUES ({round}, NULL);
             DELETE FROM by_index WHERE a = 1 + {round};
             INSERT INTO inherited_from VALUES (100 + {round}, 'live');
             BEGIN; INSERT INTO parent_one VALUES (1000 + {round}, 2000 + {round});
             INSERT INTO other_one VALUES (2000 + {round}, 1000 + {round}); COMMIT;
             INSERT INTO no_columns DEFAULT VALUES;
             SELECT nextval('\"Straße\".\"free Sequence\"');"
        ))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_through_with_writes_going_on() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(ZOO).await.unwrap();
    let replicator = pair.replicator();
    assert_eq!(
        replicator.status(Direction::BlueToGreen).await.unwrap(),
        MirrorStatus::Absent
    );
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let mut round = 0;
    loop {
        live(&blue, round % 15).await;
        round += 1;
        blue.batch_execute(
            "DELETE FROM ONLY inherited_from WHERE id >= 100;
             BEGIN; DELETE FROM other_one WHERE id >= 1000; DELETE FROM parent_one WHERE id >= 1000; COMMIT",
        )
        .await
        .unwrap();
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Streaming(_) if round >= 15 => break,
            MirrorStatus::Failed { why, .. } => panic!("{why}"),
            _ => tokio::time::sleep(Duration::from_millis(30)).await,
        }
    }
    streaming(&replicator, Direction::BlueToGreen).await;
    common::cut_over(&replicator, Color::Green).await;
    let green = pair.client(Color::Green).await;
    // Until it has ended the old writer's clients, the guard ends who comes.
    let elsewhere = pair.blue.connect("postgres").await.unwrap();
    let guards = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'bluegreen%guard%'";
    while elsewhere.query_one(guards, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let blue = pair.client(Color::Blue).await;
    green.batch_execute("REFRESH MATERIALIZED VIEW sums").await.unwrap();
    blue.batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    blue.batch_execute("REFRESH MATERIALIZED VIEW sums").await.unwrap();
    let (at_blue, at_green) = (digests(&blue).await, digests(&green).await);
    assert!(at_blue.iter().any(|(t, n, _)| t == "public.big" && *n > 130_000));
    assert_eq!(at_blue, at_green);
    assert_eq!(sequences(&blue).await, sequences(&green).await);
    for what in [
        "pg_indexes",
        "pg_constraint",
        // But for what keeps a mirror shut.
        "pg_trigger WHERE tgname !~ '^bluegreen_'",
        "pg_views",
        "pg_proc WHERE pronamespace <> 'bluegreen'::regnamespace",
        "pg_type",
    ] {
        let count = format!("SELECT count(*) FROM {what}");
        let (b, g): (i64, i64) = (
            blue.query_one(&count, &[]).await.unwrap().get(0),
            green.query_one(&count, &[]).await.unwrap().get(0),
        );
        assert_eq!(b, g, "{what}");
    }

    // The way back: green writes, blue follows, and equals it in the end.
    replicator.start(Direction::GreenToBlue).await.unwrap();
    for round in 15..18 {
        live(&green, round).await;
    }
    streaming(&replicator, Direction::GreenToBlue).await;
    common::cut_over(&replicator, Color::Blue).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let mut both = (digests(&blue).await, digests(&green).await);
    for side in [&mut both.0, &mut both.1] {
        side.retain(|(t, _, _)| t != "public.sums");
    }
    assert_eq!(both.0, both.1);
    assert_eq!(sequences(&blue).await, sequences(&green).await);
    live(&blue, 19).await;
    assert!(
        green
            .batch_execute("INSERT INTO nothing_in_it VALUES (1)")
            .await
            .is_err(),
        "green is a mirror again"
    );
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    replicator.stop(Color::Blue).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_tables_has_a_mirror_too() {
    let Some((pair, replicator)) = Pair::mirrored("SELECT 1").await else {
        return;
    };
    common::cut_over(&replicator, Color::Green).await;
    pair.client(Color::Green)
        .await
        .batch_execute("CREATE TABLE t (id int)")
        .await
        .unwrap();
    replicator.stop(Color::Green).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_refused_before_anything_changes() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let replicator = pair.replicator();
    blue.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    let e = replicator.start(Direction::BlueToGreen).await.unwrap_err();
    assert!(
        e.kind() == Kind::InvalidInput && e.message().contains("REPLICA IDENTITY FULL"),
        "{e}"
    );
    blue.batch_execute("ALTER TABLE t ADD PRIMARY KEY (a)").await.unwrap();
    green.batch_execute("CREATE TABLE theirs (a int)").await.unwrap();
    let e = replicator.start(Direction::BlueToGreen).await.unwrap_err();
    assert!(e.kind() == Kind::Conflict && e.message().contains("theirs"), "{e}");
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    let e = replicator.start(Direction::GreenToBlue).await.unwrap_err();
    assert_eq!(e.kind(), Kind::InvalidInput, "{e}");
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

/// As when a worker begins anew before the server has noticed that the last one is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_senders_of_one_name_are_no_error() {
    let Some((pair, replicator)) = Pair::mirrored("CREATE TABLE t (id int PRIMARY KEY)").await else {
        return;
    };
    let blue = pair.client(Color::Blue).await;
    let ours = "SELECT application_name FROM pg_stat_replication";
    let name: String = blue.query_one(ours, &[]).await.unwrap().get(0);
    let psql = pair.cluster(Color::Blue).binaries().dir().join("psql");
    let mut other = tokio::process::Command::new(psql)
        .args(["-d", &format!("{} replication=database", pair.url(Color::Blue))])
        .env("PGAPPNAME", &name)
        .stdin(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let both = "SELECT count(*) FROM pg_stat_replication WHERE application_name = $1";
    while blue.query_one(both, &[&name]).await.unwrap().get::<_, i64>(0) < 2 {
        assert_eq!(other.try_wait().unwrap(), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = replicator.status(Direction::BlueToGreen).await.unwrap();
    assert!(matches!(status, MirrorStatus::Streaming(_)), "{status:?}");
}

/// An index that looks into another table is made when that one is filled too, however early its own rows are in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_over_a_lookup_in_another_table_is_right() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(
        "CREATE TABLE lookup (code int PRIMARY KEY, region text); INSERT INTO lookup SELECT i, 'r' || i FROM generate_series(0, 9) i;
         CREATE FUNCTION region(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN RETURN (SELECT l.region FROM public.lookup l WHERE l.code = $1); END $$;
         CREATE TABLE items (id int PRIMARY KEY, code int, pad text);
         INSERT INTO items SELECT i, i % 10, repeat('x', 300) FROM generate_series(1, 40000) i;
         CREATE INDEX items_region ON items (region(code));
         CREATE TABLE other (id int PRIMARY KEY, pad text);
         INSERT INTO other SELECT i, repeat('y', 300) FROM generate_series(1, 30000) i; ANALYZE",
    )
    .await
    .unwrap();
    let replicator = pair.builder().copy_jobs(1).build().unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    green
        .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        .await
        .unwrap();
    let found = "SELECT count(*) FROM items WHERE region(code) = 'r3'";
    let plan = green.query(&format!("EXPLAIN {found}"), &[]).await.unwrap();
    let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("items_region")), "{plan:?}");
    assert_eq!(green.query_one(found, &[]).await.unwrap().get::<_, i64>(0), 4000);
}
