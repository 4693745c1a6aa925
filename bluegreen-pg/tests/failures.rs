//! What fails is said, names what is wrong, holds no secret, and can be begun again.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, MirrorStatus, Replicator};
use bluegreen_pg::PgReplicator;
use common::{Pair, digests, streaming};
use std::time::{Duration, Instant};

const ROWS: &str = "CREATE TYPE mood AS ENUM ('ok'); CREATE SCHEMA s;
    CREATE TABLE s.t (id serial PRIMARY KEY, filler text, m mood DEFAULT 'ok');
    INSERT INTO s.t (filler) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 150000) i";

async fn failed(replicator: &PgReplicator, direction: Direction) -> String {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match replicator.status(direction).await.unwrap() {
            MirrorStatus::Failed { why, .. } => return why,
            other => assert!(Instant::now() < until, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn copying(replicator: &PgReplicator) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Copying { bytes, .. } if bytes.done > 0 => return,
            other => assert!(Instant::now() < until, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_breaks_is_seen_and_begins_again() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    blue.batch_execute(ROWS).await.unwrap();
    // A row that its own server let in, and no other will.
    blue.batch_execute(
        "CREATE TABLE s.child (id int PRIMARY KEY, p int REFERENCES s.t);
         SET session_replication_role = replica; INSERT INTO s.child VALUES (1, -1); RESET session_replication_role",
    )
    .await
    .unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let why = failed(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("foreign keys") && why.contains("child_p_fkey"), "{why}");
    blue.batch_execute("DELETE FROM s.child").await.unwrap();

    // Begun again, and killed with its process in the middle.
    replicator.start(Direction::BlueToGreen).await.unwrap();
    copying(&replicator).await;
    drop(replicator);
    let replicator = pair.replicator();
    let why = failed(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("interrupted"), "{why}");

    // A third process wipes what the second left, and comes through; what it did not make stays.
    let green = if green.is_closed() {
        pair.client(Color::Green).await
    } else {
        green
    };
    green
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    green
        .batch_execute("CREATE SCHEMA theirs; CREATE FUNCTION theirs.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .await
        .unwrap();
    blue.batch_execute("DELETE FROM s.t WHERE id % 3 = 0").await.unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = pair.client(Color::Green).await;
    green.batch_execute("SELECT theirs.f()").await.unwrap();
    assert_eq!(digests(&blue).await, digests(&green).await);

    // Given up in the middle of a copy: half of the data is no data.
    replicator.stop(Color::Blue).await.unwrap();
    green
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .ok();
    let green = pair.client(Color::Green).await;
    green
        .batch_execute("DROP SCHEMA s CASCADE; DROP TYPE mood")
        .await
        .unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    copying(&replicator).await;
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&green).await, Vec::new());
    green.batch_execute("CREATE TABLE writable (id int)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_cannot_go_on_is_failed_and_not_late() {
    let Some((pair, replicator)) = Pair::mirrored("CREATE TABLE t (id int PRIMARY KEY)").await else {
        return;
    };
    let green = pair.client(Color::Green).await;
    green
        .batch_execute("SET default_transaction_read_only = off; SET bluegreen.mend = on")
        .await
        .unwrap();
    green.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    pair.client(Color::Blue)
        .await
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let why = failed(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("apply worker"), "{why}");
    assert!(replicator.arm(Color::Green, common::WITHIN).await.is_err());
    green.batch_execute("DELETE FROM t").await.unwrap();
    // Mended, it goes on by itself.
    let until = Instant::now() + Duration::from_secs(30);
    while !matches!(
        replicator.status(Direction::BlueToGreen).await.unwrap(),
        MirrorStatus::Streaming(lag) if lag.time.is_some()
    ) {
        assert!(Instant::now() < until, "never streams again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Without its slot it is over, and cleaning up works all the same.
    pair.blue
        .execute(
            "postgres",
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots; SELECT pg_sleep(0.2)",
        )
        .await
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while pair
        .client(Color::Blue)
        .await
        .batch_execute("SELECT pg_drop_replication_slot('bluegreen_shop_to_green')")
        .await
        .is_err()
    {
        pair.blue
            .execute(
                "postgres",
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots",
            )
            .await
            .unwrap();
        assert!(Instant::now() < until);
    }
    let why = failed(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("is gone"), "{why}");
    assert_eq!(
        replicator.start(Direction::BlueToGreen).await.unwrap_err().kind(),
        Kind::Diverged
    );
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_is_stuck_is_known_though_it_is_asked_for_before_every_look() {
    let Some((pair, replicator)) = Pair::mirrored("CREATE TABLE t (id int PRIMARY KEY)").await else {
        return;
    };
    let row = "BEGIN READ WRITE; SET LOCAL bluegreen.mend = on; INSERT INTO t VALUES (7); COMMIT";
    pair.client(Color::Green).await.batch_execute(row).await.unwrap();
    pair.client(Color::Blue).await.batch_execute(row).await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let why = loop {
        // As a step does that waits for it.
        replicator.start(Direction::BlueToGreen).await.unwrap();
        if let MirrorStatus::Failed { why, .. } = replicator.status(Direction::BlueToGreen).await.unwrap() {
            break why;
        }
        assert!(Instant::now() < until, "nobody says that it is stuck");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(why.contains("id = 7"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_schema_stops_the_cut_over() {
    let Some((pair, replicator)) = Pair::mirrored("CREATE TABLE t (id int PRIMARY KEY)").await else {
        return;
    };
    let blue = pair.client(Color::Blue).await;
    replicator.arm(Color::Green, common::WITHIN).await.unwrap();
    for (change, back) in [
        ("CREATE TABLE new_one (id int PRIMARY KEY)", "DROP TABLE new_one"),
        ("CREATE SEQUENCE new_one", "DROP SEQUENCE new_one"),
    ] {
        blue.batch_execute(change).await.unwrap();
        let e = replicator.fence(Color::Blue, common::WITHIN).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Diverged, "{e}");
        blue.batch_execute(back).await.unwrap();
    }
    let position = replicator.fence(Color::Blue, common::WITHIN).await.unwrap();
    common::proved(&replicator, &position).await;
    replicator.unfence(Color::Blue).await.unwrap();
    blue.batch_execute("INSERT INTO t VALUES (7)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_bounds_the_slot_and_is_named() {
    let Some(pair) = Pair::start().await else { return };
    let open = pair.client(Color::Blue).await;
    open.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let replicator = pair.builder().slot_wait(Duration::from_millis(500)).build().unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    let why = failed(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("open transactions") && why.contains("pid "), "{why}");
    open.batch_execute("COMMIT").await.unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_work_and_are_never_shown() {
    let Some(pair) = Pair::start().await else { return };
    let secret = "it's a \\ \"geheim\" %40";
    for color in [Color::Blue, Color::Green] {
        pair.client(color)
            .await
            .batch_execute(&format!(
                "CREATE ROLE mover SUPERUSER LOGIN PASSWORD {}",
                bluegreen_pg::ident::literal(secret)
            ))
            .await
            .unwrap();
        pair.cluster(color)
            .execute("postgres", "ALTER SYSTEM SET password_encryption = 'scram-sha-256'")
            .await
            .unwrap();
        demand_passwords(&pair, color).await;
    }
    let url = |color| pair.url(color).replace("user=postgres", "user=mover");
    pair.client(Color::Blue)
        .await
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .unwrap();

    let wrong = PgReplicator::builder("shop", url(Color::Blue), url(Color::Green))
        .password(Color::Blue, "wrong-geheim")
        .password(Color::Green, "wrong-geheim")
        .build()
        .unwrap();
    let e = wrong.start(Direction::BlueToGreen).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated, "{e}");
    assert!(!format!("{e} {e:?} {wrong:?}").contains("geheim"), "{e:?}");

    // The subscription's own way to blue is wrong: the servers' message must not repeat the password.
    let broken = PgReplicator::builder("shop", url(Color::Blue), url(Color::Green))
        .password(Color::Blue, secret)
        .password(Color::Green, secret)
        .database_from_peer(Color::Blue, format!("{} password=other-geheim", url(Color::Blue)))
        .build()
        .unwrap();
    broken.start(Direction::BlueToGreen).await.unwrap();
    let why = failed(&broken, Direction::BlueToGreen).await;
    assert!(
        why.contains("create the subscription") && !why.contains("geheim"),
        "{why}"
    );
    drop(broken);

    let replicator = PgReplicator::builder("shop", url(Color::Blue), url(Color::Green))
        .password(Color::Blue, secret)
        .password(Color::Green, secret)
        .build()
        .unwrap();
    assert!(!format!("{replicator:?}").contains("geheim"));
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    common::cut_over(&replicator, Color::Green).await;
    replicator.stop(Color::Green).await.unwrap();
}

/// The role `mover` must give its password from now on.
async fn demand_passwords(pair: &Pair, color: Color) {
    let client = pair.client(color).await;
    let file: String = client.query_one("SHOW hba_file", &[]).await.unwrap().get(0);
    let rules = "host all mover 127.0.0.1/32 scram-sha-256\nhost replication mover 127.0.0.1/32 scram-sha-256\n";
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{rules}{before}")).unwrap();
    client
        .batch_execute("SELECT pg_reload_conf(), pg_sleep(0.2)")
        .await
        .unwrap();
}

/// A server that is gone, for good perhaps, is no reason to let the other one keep its log for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_server_gone_nothing_is_left_at_the_other() {
    let Some((mut pair, replicator)) = Pair::mirrored("CREATE TABLE t (id int PRIMARY KEY)").await else {
        return;
    };
    pair.green.stop().await.unwrap();
    for replicator in [&replicator, &pair.replicator()] {
        let e = replicator.stop(Color::Blue).await.unwrap_err().to_string();
        assert!(
            e.contains("green is out of reach") && e.contains("at blue nothing of ours is left"),
            "{e}"
        );
        let left = replicator.leftovers().await.unwrap();
        assert!(left.len() == 1 && left[0].starts_with("green: "), "{left:?}");
    }
    let ours = "SELECT count(*) FROM (SELECT slot_name FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication \
                UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'bluegreen') AS ours";
    let left: i64 = pair
        .client(Color::Blue)
        .await
        .query_one(ours, &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 0);
    pair.green.restart().await.unwrap();
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    let green = pair.client(Color::Green).await;
    green.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
}

/// Abandoned with green out of reach, and cleaned by hand but for our schema: what it says there is no part of the next try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_try_left_says_nothing_of_the_next() {
    let Some((mut pair, replicator)) = Pair::mirrored(ROWS).await else {
        return;
    };
    replicator.arm(Color::Green, common::WITHIN).await.unwrap();
    let position = replicator.fence(Color::Blue, common::WITHIN).await.unwrap();
    common::proved(&replicator, &position).await;
    replicator.unfence(Color::Blue).await.unwrap();
    let token = "SELECT token FROM bluegreen.marker";
    let green = pair.client(Color::Green).await;
    assert!(green.query_one(token, &[]).await.unwrap().get::<_, i64>(0) > 0);
    let left = "INSERT INTO bluegreen.made (migration, kind, identity) VALUES ('shop', 'function', 'theirs.f()');
        UPDATE bluegreen.state SET opened_at = now(), gave_up = 'long ago'";
    common::behind_the_mirror(&pair)
        .await
        .batch_execute(left)
        .await
        .unwrap();
    pair.green.stop().await.unwrap();
    replicator.stop(Color::Blue).await.unwrap_err();
    drop(replicator);
    pair.green.restart().await.unwrap();
    common::behind_the_mirror(&pair)
        .await
        .batch_execute(
            "ALTER SUBSCRIPTION bluegreen_shop_to_green DISABLE; ALTER SUBSCRIPTION bluegreen_shop_to_green SET (slot_name = NONE);
             DROP SUBSCRIPTION bluegreen_shop_to_green",
        )
        .await
        .unwrap();
    common::behind_the_mirror(&pair)
        .await
        .batch_execute(
            "DROP SCHEMA s CASCADE; DROP TYPE mood; CREATE SCHEMA theirs; CREATE FUNCTION theirs.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        )
        .await
        .unwrap();

    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    copying(&replicator).await;
    let green = pair.client(Color::Green).await;
    let state = "SELECT stage, shut, opened_at IS NULL AND gave_up IS NULL, token FROM bluegreen.state JOIN bluegreen.marker USING (migration)";
    let state = green.query_one(state, &[]).await.unwrap();
    let state: (&str, bool, bool, i64) = (state.get(0), state.get(1), state.get(2), state.get(3));
    assert_eq!(state, ("copying", false, true, 0));
    // It dies in the midst: that is no copy, and goes; what was never of this migration stays.
    drop(replicator);
    let replicator = pair.replicator();
    let why = failed(&replicator, Direction::BlueToGreen).await;
    assert!(why.contains("interrupted"), "{why}");
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    let green = pair.client(Color::Green).await;
    assert_eq!(digests(&green).await, Vec::new());
    green.batch_execute("SELECT theirs.f()").await.unwrap();
}
