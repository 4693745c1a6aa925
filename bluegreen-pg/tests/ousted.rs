//! A process that hangs and is not dead, schema changes in the pause, and clients that will not give up.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, Replicator};
use common::writers::LEDGER;
use common::{Pair, WITHIN, digests, handed_over, proved, streaming};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Writes, and fails when it has to wait for long.
async fn write(pair: &Pair, color: Color, token: &str) {
    let client = pair.client(color).await;
    client.batch_execute("SET statement_timeout = '2s'").await.unwrap();
    client
        .batch_execute(&format!("INSERT INTO ledger (token) VALUES ('{token}')"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_hangs_in_the_pause_keeps_nobody_from_writing() {
    let Some((pair, first)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let mut hung = first;
    for guarded in [true, false] {
        let _silent = if guarded {
            Some(pair.client(Color::Blue).await)
        } else {
            None
        };
        handed_over(&hung, Color::Green).await;
        let next = pair.replicator();
        next.unfence(Color::Blue).await.unwrap();
        write(&pair, Color::Blue, &format!("goes on {guarded}")).await;
        // It wakes up, and may do nothing.
        let e = hung.promote(Color::Green).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Diverged, "{e}");
        hung = next;
    }
    for guarded in [true, false] {
        let (writer, to) = if guarded {
            (Color::Blue, Color::Green)
        } else {
            (Color::Green, Color::Blue)
        };
        let _silent = if guarded { Some(pair.client(writer).await) } else { None };
        handed_over(&hung, to).await;
        let next = pair.replicator();
        next.promote(to).await.unwrap();
        write(&pair, to, &format!("at {to}")).await;
        next.start(Direction::from(to)).await.unwrap();
        streaming(&next, Direction::from(to)).await;
        hung.promote(to).await.unwrap();
        write(&pair, to, &format!("still at {to}")).await;
        hung = next;
    }
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(digests(&blue).await, digests(&green).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_died_in_the_pause_is_no_reason_to_wait_for_the_other_server_too() {
    let Some((mut pair, first)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    handed_over(&first, Color::Green).await;
    drop(first);
    pair.green.stop().await.unwrap();
    let next = pair.replicator();
    next.unfence(Color::Blue).await.unwrap();
    write(&pair, Color::Blue, "green is down").await;
    pair.green.restart().await.unwrap();
    streaming(&next, Direction::BlueToGreen).await;
    next.unfence(Color::Blue).await.unwrap();
    handed_over(&next, Color::Green).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(digests(&blue).await, digests(&green).await);
    next.unfence(Color::Blue).await.unwrap();
}

/// A replicator that somebody still holds after another process took the migration on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_lives_on_takes_nothing_from_the_way_back() {
    let Some((pair, first)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    first.arm(Color::Green, WITHIN).await.unwrap();
    let next = pair.replicator();
    common::cut_over(&next, Color::Green).await;
    for n in 0..10 {
        write(&pair, Color::Green, &n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    next.start(Direction::GreenToBlue).await.unwrap();
    streaming(&next, Direction::GreenToBlue).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(digests(&blue).await, digests(&green).await);
    drop(first);
}

/// A lock on the tables keeps nobody from making a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_while_the_fence_is_taken_stops_the_cut_over() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let make = "CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made VALUES (1)";
    for after_the_fence in [false, true] {
        replicator.arm(Color::Green, WITHIN).await.unwrap();
        let client = pair.client(Color::Blue).await;
        let position = if after_the_fence {
            let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
            client.batch_execute(make).await.unwrap();
            position
        } else {
            client.batch_execute(&format!("BEGIN; {make}")).await.unwrap();
            let commits = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                client.batch_execute("COMMIT").await.unwrap();
            });
            let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
            commits.await.unwrap();
            position
        };
        proved(&replicator, &position).await;
        let e = replicator.hand_over(Color::Green).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Diverged, "{e}");
        replicator.unfence(Color::Blue).await.unwrap();
        pair.client(Color::Blue)
            .await
            .batch_execute("INSERT INTO made VALUES (2); DROP TABLE made")
            .await
            .unwrap();
    }
    common::cut_over(&replicator, Color::Green).await;
}

/// Who logs in while the opening commits has read the old settings, and must not keep them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_while_the_new_writer_opens_can_write() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    handed_over(&replicator, Color::Green).await;
    let admin = pair.green.connect("postgres").await.unwrap();
    let standby = |name: &'static str| format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    // Its commit waits for a standby that is not there, so that it takes as long as we like.
    admin.batch_execute(&standby("nobody")).await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let promotes = tokio::spawn(async move {
        replicator.promote(Color::Green).await.unwrap();
        replicator
    });
    let until = Instant::now() + WITHIN;
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
    while !admin.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until, "it does not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let early = pair.client(Color::Green).await;
    admin.batch_execute("SET synchronous_commit = local").await.unwrap();
    admin.batch_execute(&standby("")).await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let _replicator = promotes.await.unwrap();
    let until = Instant::now() + WITHIN;
    loop {
        match early.batch_execute("INSERT INTO ledger (token) VALUES ('early')").await {
            Ok(()) => break,
            Err(_) if early.is_closed() => break,
            Err(e) => assert!(Instant::now() < until, "it stays read-only: {e:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    write(&pair, Color::Green, "after").await;
}

/// The guard ends whom it was set for. Others who queue at the tables do not keep it at work without end: here one that
/// cannot go, elsewhere many that come again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_queues_for_ever_does_not_keep_the_tables_locked() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let _silent = pair.client(Color::Blue).await;
    handed_over(&replicator, Color::Green).await;
    let late = pair.client(Color::Blue).await;
    let pid: i32 = late.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let queued = tokio::spawn(async move {
        late.batch_execute("BEGIN READ WRITE; INSERT INTO ledger (token) VALUES ('late'); COMMIT")
            .await
    });
    let blue = pair.client(Color::Blue).await;
    let until = Instant::now() + WITHIN;
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)";
    while !blue.query_one(waits, &[&pid]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until, "it does not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let promoted = replicator.promote(Color::Green).await;
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    promoted.unwrap();
    assert!(queued.await.unwrap().is_err(), "a late writer committed");
    write(&pair, Color::Green, "first").await;
}

/// An administrator who ends what the pause holds does not make two writers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_was_cancelled_is_not_relied_on() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let silent = pair.client(Color::Blue).await;
    handed_over(&replicator, Color::Green).await;
    let admin = pair.blue.connect("postgres").await.unwrap();
    let cancelled = admin
        .query(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'bluegreen_shop_guard'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(cancelled.len(), 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    replicator.promote(Color::Green).await.unwrap();
    write(&pair, Color::Green, "at green").await;
    let at_blue = silent
        .batch_execute("INSERT INTO ledger (token) VALUES ('at blue')")
        .await;
    assert!(at_blue.is_err(), "both accept writes");
}

/// What a role says for itself counts more than what its database says, however it is spelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_a_setting_of_its_own_is_refused() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("CREATE ROLE app LOGIN").await.unwrap();
    for value in ["off", "'OFF'", "'f'", "False", "'n'"] {
        let set = format!("ALTER ROLE app SET default_transaction_read_only = {value}");
        blue.batch_execute(&set).await.unwrap();
        let e = replicator.arm(Color::Green, WITHIN).await.unwrap_err();
        assert!(e.message().contains("app"), "{value}: {e}");
    }
    blue.batch_execute("ALTER ROLE app SET default_transaction_read_only = 'TRUE'")
        .await
        .unwrap();
    replicator.arm(Color::Green, WITHIN).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_insists_on_writing_at_the_old_writer_is_refused() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    common::cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let old = pair.client(Color::Blue).await;
    old.batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    for sql in [
        "INSERT INTO ledger (token) VALUES ('astray')",
        "UPDATE balance SET amount = 7",
        "DELETE FROM balance",
        "TRUNCATE ledger",
    ] {
        let e = old
            .batch_execute(&format!("BEGIN READ WRITE; {sql}; COMMIT"))
            .await
            .unwrap_err();
        assert_eq!(
            e.code(),
            Some(&tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION),
            "{sql}: {e}"
        );
        old.batch_execute("ROLLBACK").await.unwrap();
    }
    // What green writes still arrives, and blue, made the writer again, takes writes at once.
    write(&pair, Color::Green, "at green").await;
    common::cut_over(&replicator, Color::Blue).await;
    write(&pair, Color::Blue, "at blue again").await;
    let tokens: i64 = pair
        .client(Color::Blue)
        .await
        .query_one(
            "SELECT count(*) FROM ledger WHERE token IN ('at green', 'at blue again')",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(tokens, 2);
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    let triggers: i64 = pair
        .client(Color::Blue)
        .await
        .query_one("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(triggers, 0);
}

/// A process may be dead while the server still runs what it said last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_still_takes_away_is_no_failure() {
    let Some(pair) = Pair::start().await else { return };
    let left = "CREATE SCHEMA bluegreen; CREATE TABLE bluegreen.marker (migration text);
        CREATE TABLE bluegreen.state (migration text, stage text, proof bigint, shut boolean); CREATE TABLE bluegreen.made (migration text);
        CREATE TABLE bluegreen.copied (migration text); INSERT INTO bluegreen.state VALUES ('shop', 'ready')";
    let last_words =
        "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('bluegreen', 0)); DROP SCHEMA bluegreen CASCADE";
    let mut dying = Vec::new();
    for color in [Color::Green, Color::Blue] {
        let client = pair.client(color).await;
        client.batch_execute(left).await.unwrap();
        client.batch_execute(last_words).await.unwrap();
        // A transaction sees what others do as it saw it first.
        dying.push((client, pair.client(color).await));
    }
    let next = pair.replicator();
    let cleans_up = tokio::spawn(async move {
        next.stop(Color::Blue).await?;
        next.leftovers().await
    });
    for (client, beside) in &dying {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let until = Instant::now() + Duration::from_secs(20);
        while beside.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(Instant::now() < until && !cleans_up.is_finished(), "nobody waits");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.batch_execute("COMMIT").await.unwrap();
    }
    assert_eq!(cleans_up.await.unwrap().unwrap(), Vec::<String>::new());
}
