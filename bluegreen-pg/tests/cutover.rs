//! The pause: nothing lost while clients write, no write where it must not be, and a way out of every step.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, Replicator};
use common::writers::{LEDGER, Writers, check};
use common::{Pair, WITHIN, connect, digests, proved, streaming};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_again_without_losing_a_write() {
    there_and_back(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_again_behind_a_gate() {
    let Some(failed) = there_and_back(true).await else {
        return;
    };
    assert_eq!(failed, 0, "with a gate no client sees an error");
}

/// Four cut-overs with eight writers; how many of their transactions failed.
async fn there_and_back(gated: bool) -> Option<u64> {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init()
            .ok();
    }
    let (pair, replicator) = Pair::mirrored(LEDGER).await?;
    let writers = Writers::start(&pair, 8);
    let mut writer = Color::Blue;
    eprintln!("to      fence  proof  hand-over  promote    all (ms)");
    for _ in 0..4 {
        let to = writer.other();
        tokio::time::sleep(Duration::from_millis(500)).await;
        replicator.arm(to, WITHIN).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let gate = if gated { Some(writers.hold().await) } else { None };
        let started = Instant::now();
        let position = replicator.fence(writer, WITHIN).await.unwrap();
        let fenced = started.elapsed();
        proved(&replicator, &position).await;
        let caught_up = started.elapsed();
        replicator.hand_over(to).await.unwrap();
        let handed = started.elapsed();
        replicator.promote(to).await.unwrap();
        let all = started.elapsed();
        writers.point_at(to);
        drop(gate);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        eprintln!(
            "{to:6} {:6.1} {:6.1} {:10.1} {:8.1} {:6.1}",
            ms(fenced),
            ms(caught_up - fenced),
            ms(handed - caught_up),
            ms(all - handed),
            ms(all)
        );
        replicator.start(Direction::from(to)).await.unwrap();
        streaming(&replicator, Direction::from(to)).await;
        writer = to;
    }
    let told = writers.end().await;
    eprintln!(
        "{} acknowledged, {} failed, longest {:?}",
        told.acked.len(),
        told.failed,
        told.longest
    );
    assert!(told.acked.len() > 500);
    streaming(&replicator, Direction::from(writer)).await;
    let (at_writer, at_other) = (pair.client(writer).await, pair.client(writer.other()).await);
    check(&at_writer, &told).await;
    assert_eq!(digests(&at_writer).await, digests(&at_other).await);
    replicator.stop(writer).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    Some(told.failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_makes_the_fence_give_up_and_let_go() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let open = pair.client(Color::Blue).await;
    open.batch_execute("BEGIN; INSERT INTO ledger (token) VALUES ('open')")
        .await
        .unwrap();
    let e = replicator
        .fence(Color::Blue, Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout, "{e}");
    assert!(e.message().contains("pid "), "the culprit is named: {e}");
    let other = pair.client(Color::Blue).await;
    other
        .batch_execute("INSERT INTO ledger (token) VALUES ('goes on')")
        .await
        .unwrap();
    replicator.unfence(Color::Blue).await.unwrap();
    open.batch_execute("COMMIT").await.unwrap();
    // Nobody was sent away by a fence that was given up.
    other.batch_execute("SELECT 1").await.unwrap();

    // A transaction that wrote elsewhere, and one that is prepared.
    open.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
    let e = replicator
        .fence(Color::Blue, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout, "{e}");
    open.batch_execute("COMMIT; BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'two'")
        .await
        .unwrap();
    let e = replicator
        .fence(Color::Blue, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert!(e.message().contains("two"), "{e}");
    other
        .batch_execute("INSERT INTO ledger (token) VALUES ('still goes on')")
        .await
        .unwrap();
    open.batch_execute("ROLLBACK PREPARED 'two'").await.unwrap();

    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    proved(&replicator, &position).await;
    let n: i64 = pair
        .client(Color::Green)
        .await
        .query_one("SELECT count(*) FROM ledger", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 3);
    replicator.unfence(Color::Blue).await.unwrap();
    other
        .batch_execute("INSERT INTO ledger (token) VALUES ('and on')")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_queued_behind_the_lock_commits_nowhere() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let early = connect(&pair.url(Color::Blue)).await.unwrap();
    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    let queued: Vec<_> = (0..6)
        .map(|n| {
            let url = pair.url(Color::Blue);
            tokio::spawn(async move {
                let client = connect(&url).await.unwrap();
                // One in two says that it wants to write, whatever the default.
                let begin = if n % 2 == 0 { "BEGIN READ WRITE" } else { "BEGIN" };
                client
                    .batch_execute(&format!("{begin}; INSERT INTO ledger (token) VALUES ('q{n}'); COMMIT"))
                    .await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    proved(&replicator, &position).await;
    replicator.hand_over(Color::Green).await.unwrap();
    // Comes after the hand-over and insists: it waits for the lock and is ended before the lock goes.
    let url = pair.url(Color::Blue);
    let late = tokio::spawn(async move {
        let client = connect(&url).await.unwrap();
        client
            .batch_execute("BEGIN READ WRITE; INSERT INTO ledger (token) VALUES ('late'); COMMIT")
            .await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    replicator.promote(Color::Green).await.unwrap();
    for task in queued {
        assert!(task.await.unwrap().is_err(), "a queued writer committed");
    }
    assert!(late.await.unwrap().is_err(), "a late writer committed");
    assert!(
        early.batch_execute("SELECT 1").await.is_err(),
        "an old session is still there"
    );
    let blue = pair.client(Color::Blue).await;
    assert!(
        blue.batch_execute("INSERT INTO ledger (token) VALUES ('no')")
            .await
            .is_err()
    );
    let n: i64 = blue.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap().get(0);
    assert_eq!(n, 0);
    pair.client(Color::Green)
        .await
        .batch_execute("INSERT INTO ledger (token) VALUES ('yes')")
        .await
        .unwrap();
}

/// Clients that were silent are ended after the pause, by blue's server; until then the tables stay locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_that_wakes_up_later_commits_nowhere() {
    for (dies, wakes) in [(false, false), (false, true), (true, false), (true, true)] {
        let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
            return;
        };
        let silent = connect(&pair.url(Color::Blue)).await.unwrap();
        let mut sleeper = Some(connect(&pair.url(Color::Blue)).await.unwrap());
        replicator.arm(Color::Green, WITHIN).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
        proved(&replicator, &position).await;
        replicator.hand_over(Color::Green).await.unwrap();
        silent.batch_execute("SELECT nextval('ledger_id_seq')").await.unwrap();
        let write = |client: tokio_postgres::Client, what: &'static str| {
            tokio::spawn(async move {
                client
                    .batch_execute(&format!(
                        "BEGIN READ WRITE; INSERT INTO ledger (token) VALUES ('{what}'); COMMIT"
                    ))
                    .await
            })
        };
        let mut tasks = Vec::new();
        if wakes {
            tasks.extend(sleeper.take().map(|client| write(client, "woke up")));
            tasks.push(write(connect(&pair.url(Color::Blue)).await.unwrap(), "late"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let promoter = if dies {
            // Nobody promotes yet: blue's server does it all by itself.
            drop(replicator);
            for task in tasks.drain(..) {
                assert!(task.await.unwrap().is_err(), "a write got through after the death");
            }
            pair.replicator()
        } else {
            replicator
        };
        promoter.promote(Color::Green).await.unwrap();
        for task in tasks {
            assert!(task.await.unwrap().is_err(), "a write got through");
        }
        let until = Instant::now() + WITHIN;
        while silent.batch_execute("SELECT 1").await.is_ok() {
            assert!(Instant::now() < until, "an old session lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
        let n: i64 = blue.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap().get(0);
        assert_eq!(n, 0);
        // The number that was taken after the hand-over is not given out again.
        green
            .batch_execute("INSERT INTO ledger (token) VALUES ('first')")
            .await
            .unwrap();
        let id: i64 = green.query_one("SELECT id FROM ledger", &[]).await.unwrap().get(0);
        assert!(id > 1, "{id}");
        promoter.start(Direction::GreenToBlue).await.unwrap();
        streaming(&promoter, Direction::GreenToBlue).await;
    }
}

/// The guard is called off when the cut-over is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_hand_over_can_be_given_up_and_tried_again() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    for _ in 0..2 {
        let _silent = connect(&pair.url(Color::Blue)).await.unwrap();
        replicator.arm(Color::Green, WITHIN).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
        proved(&replicator, &position).await;
        replicator.hand_over(Color::Green).await.unwrap();
        replicator.unfence(Color::Blue).await.unwrap();
        let blue = pair.client(Color::Blue).await;
        blue.batch_execute("INSERT INTO ledger (token) VALUES ('back')")
            .await
            .unwrap();
    }
    common::cut_over(&replicator, Color::Green).await;
    let green = pair.client(Color::Green).await;
    let n: i64 = green
        .query_one("SELECT count(*) FROM ledger", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_in_the_fence_lets_writes_go_on() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let writers = Writers::start(&pair, 4);
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    let client = pair.client(Color::Blue).await;
    client.batch_execute("SET statement_timeout = '200ms'").await.unwrap();
    assert!(
        client
            .batch_execute("INSERT INTO ledger (token) VALUES ('x')")
            .await
            .is_err()
    );
    drop(replicator);
    client
        .batch_execute("SET statement_timeout = '5s'; INSERT INTO ledger (token) VALUES ('after')")
        .await
        .unwrap();

    // A new process goes on from there: unfences what it never fenced, and cuts over.
    let replicator = pair.replicator();
    replicator.unfence(Color::Blue).await.unwrap();
    assert!(
        replicator.hand_over(Color::Green).await.is_err(),
        "nothing is fenced in this process"
    );
    proved(&replicator, &position).await;
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;

    // A fence whose future is dropped lets go as well.
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let open = pair.client(Color::Blue).await;
    open.batch_execute("BEGIN; INSERT INTO ledger (token) VALUES ('slow')")
        .await
        .unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(50), replicator.fence(Color::Blue, WITHIN))
            .await
            .is_err()
    );
    open.batch_execute("COMMIT").await.unwrap();
    client
        .batch_execute("INSERT INTO ledger (token) VALUES ('goes on')")
        .await
        .unwrap();

    common::cut_over(&replicator, Color::Green).await;
    writers.point_at(Color::Green);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let told = writers.end().await;
    let green = pair.client(Color::Green).await;
    green
        .batch_execute("DELETE FROM ledger WHERE token !~ '-'")
        .await
        .unwrap();
    check(&green, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_is_given_up_opens_the_old_writer_again() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    proved(&replicator, &position).await;
    replicator.hand_over(Color::Green).await.unwrap();
    // In half of the cases it is another process that gives up.
    let other = pair.replicator();
    drop(replicator);
    let blue = pair.client(Color::Blue).await;
    assert!(
        blue.batch_execute("INSERT INTO ledger (token) VALUES ('no')")
            .await
            .is_err()
    );
    other.unfence(Color::Blue).await.unwrap();
    other.unfence(Color::Blue).await.unwrap();
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("INSERT INTO ledger (token) VALUES ('yes')")
        .await
        .unwrap();
    let green = pair.client(Color::Green).await;
    assert!(
        green
            .batch_execute("INSERT INTO ledger (token) VALUES ('no')")
            .await
            .is_err()
    );
    // And it can be tried again, to the end.
    common::cut_over(&other, Color::Green).await;
    let green = pair.client(Color::Green).await;
    green
        .batch_execute("INSERT INTO ledger (token) VALUES ('now')")
        .await
        .unwrap();
    let tokens: Vec<String> = green
        .query("SELECT token FROM ledger ORDER BY id", &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_eq!(tokens, ["yes", "now"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_before_the_mirror_turns_round_reaches_the_old_writer() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    common::cut_over(&replicator, Color::Green).await;
    let green = pair.client(Color::Green).await;
    // Longer than the interval at which the idle slot is advanced.
    for n in 0..25 {
        green
            .batch_execute(&format!("INSERT INTO ledger (token) VALUES ('{n}')"))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        replicator.arm(Color::Green, WITHIN).await.is_err(),
        "green is the writer already"
    );
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let blue = pair.client(Color::Blue).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_promotes_and_turns_the_mirror_round() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let stale = pair.client(Color::Green).await;
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    proved(&replicator, &position).await;
    replicator.hand_over(Color::Green).await.unwrap();
    drop(replicator);
    let other = pair.replicator();
    other.promote(Color::Green).await.unwrap();
    assert!(
        stale.batch_execute("SELECT 1").await.is_err(),
        "it would still be read-only"
    );
    let green = pair.client(Color::Green).await;
    green
        .batch_execute("INSERT INTO ledger (token) VALUES ('one')")
        .await
        .unwrap();
    // Repeated, it leaves the clients of the new writer alone.
    pair.replicator().promote(Color::Green).await.unwrap();
    green
        .batch_execute("INSERT INTO ledger (token) VALUES ('two')")
        .await
        .unwrap();
    // Late: what is written between the promotion and the start must reach blue all the same.
    drop(other);
    let third = pair.replicator();
    third.start(Direction::GreenToBlue).await.unwrap();
    drop(third);
    let fourth = pair.replicator();
    fourth.start(Direction::GreenToBlue).await.unwrap();
    streaming(&fourth, Direction::GreenToBlue).await;
    let blue = pair.client(Color::Blue).await;
    assert_eq!(digests(&blue).await, digests(&green).await);
    drop(fourth);
    // The end, with a slot that somebody took away already.
    let fifth = pair.replicator();
    blue.execute("SELECT pg_drop_replication_slot('bluegreen_shop_to_green')", &[])
        .await
        .unwrap();
    assert!(!fifth.leftovers().await.unwrap().is_empty());
    fifth.stop(Color::Green).await.unwrap();
    assert_eq!(fifth.leftovers().await.unwrap(), Vec::<String>::new());
    assert!(
        pair.client(Color::Blue)
            .await
            .batch_execute("INSERT INTO ledger (token) VALUES ('no')")
            .await
            .is_err(),
        "blue stays read-only"
    );
}
