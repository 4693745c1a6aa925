//! What befalls between the hand-over and the opening of the new writer, and after it: a process that dies, one that comes late, a
//! client that insists on writing where nobody may.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Environment, Kind, Replicator, Spec};
use common::writers::LEDGER;
use common::{Pair, WITHIN, connect, digests, handed_over, proved, streaming};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use tokio_postgres::Client;

async fn write(client: &Client, token: &str) -> Result<(), tokio_postgres::Error> {
    let sql = format!("INSERT INTO ledger (token) VALUES ('{token}')");
    client.batch_execute(&sql).await
}

async fn insist(client: &Client, token: &str) -> Result<(), tokio_postgres::Error> {
    let sql = format!("BEGIN READ WRITE; INSERT INTO ledger (token) VALUES ('{token}'); COMMIT");
    client.batch_execute(&sql).await
}

async fn tokens(client: &Client) -> Vec<String> {
    let rows = client
        .query("SELECT token FROM ledger ORDER BY token", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The fence dies with its process, and until the next start a client that says that it wants to write can: what it wrote comes
/// to green before green is opened, with its numbers, and is no obstacle to the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_nobody_runs_it_is_brought_over() {
    let Some((pair, first)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    handed_over(&first, Color::Green).await;
    drop(first);
    let client = pair.client(Color::Blue).await;
    assert!(write(&client, "refused").await.is_err(), "the default holds");
    let mut wrote = insist(&client, "stray").await;
    for _ in 0..100 {
        if wrote.is_ok() {
            break;
        }
        // The server has not heard of the death yet, or ended who was there before it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        wrote = insist(&pair.client(Color::Blue).await, "stray").await;
    }
    wrote.unwrap();
    let next = pair.replicator();
    next.promote(Color::Green).await.unwrap();
    assert!(
        insist(&pair.client(Color::Blue).await, "late").await.is_err(),
        "its tables are shut"
    );
    write(&pair.client(Color::Green).await, "application").await.unwrap();
    next.start(Direction::GreenToBlue).await.unwrap();
    streaming(&next, Direction::GreenToBlue).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(tokens(&green).await, ["application", "stray"]);
    assert_eq!(digests(&blue).await, digests(&green).await);
}

/// Who slept from the hand-over on, while another process gave the writing back and cut over in earnest, gives nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfence_that_comes_late_opens_nothing() {
    let Some((pair, slept)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    handed_over(&slept, Color::Green).await;
    let next = pair.replicator();
    next.unfence(Color::Blue).await.unwrap();
    common::cut_over(&next, Color::Green).await;
    write(&pair.client(Color::Green).await, "acknowledged").await.unwrap();
    let late = slept.unfence(Color::Blue).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Diverged, "{late}");
    assert!(write(&pair.client(Color::Blue).await, "nowhere").await.is_err());
    write(&pair.client(Color::Green).await, "and on").await.unwrap();
}

/// A table that a silent client would make after the last look waits until that client is ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_after_the_last_look_is_made_nowhere() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let silent = connect(&pair.url(Color::Blue)).await.unwrap();
    // Its end needs the catalogue: a temporary table is dropped then.
    let drops = connect(&pair.url(Color::Blue)).await.unwrap();
    drops.batch_execute("CREATE TEMP TABLE mine (id int)").await.unwrap();
    handed_over(&replicator, Color::Green).await;
    let makes = tokio::spawn(async move {
        let made = "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)";
        silent.batch_execute(made).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!makes.is_finished(), "it was made behind our back");
    replicator.promote(Color::Green).await.unwrap();
    assert!(makes.await.unwrap().is_err(), "acknowledged, and at blue only");
    write(&pair.client(Color::Green).await, "on").await.unwrap();
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let blue = pair.client(Color::Blue).await;
    let late: bool = blue
        .query_one("SELECT to_regclass('late') IS NULL", &[])
        .await
        .unwrap()
        .get(0);
    assert!(late);
    assert!(drops.batch_execute("SELECT 1").await.is_err());
}

/// No lock on a catalogue lasts longer than a statement: a table that was made before the last look, and is not committed, would be
/// filled and acknowledged after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_not_committed_at_the_last_look_stops_the_cut_over() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let silent = pair.client(Color::Blue).await;
    let (blue, green) = (
        pair.blue.connect("postgres").await.unwrap(),
        pair.green.connect("postgres").await.unwrap(),
    );
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    proved(&replicator, &position).await;
    // It is held up at green, between the question who is silent and the guard.
    let ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'bluegreen_shop'";
    let held_up: Vec<Pid> = green
        .query(ours, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| Pid::from_raw(row.get(0)))
        .collect();
    let all = |signal| held_up.iter().for_each(|pid| kill(*pid, signal).unwrap());
    all(Signal::SIGSTOP);
    let hands_over = tokio::spawn(async move { (replicator.hand_over(Color::Green).await, replicator) });
    let asked =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%state_change > $2%' AND state = 'idle')";
    for _ in 0..500 {
        if blue.query_one(asked, &[]).await.unwrap().get(0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let made = silent
        .batch_execute("BEGIN; CREATE TABLE late (id int PRIMARY KEY)")
        .await;
    all(Signal::SIGCONT);
    made.unwrap();
    let (handed, replicator) = hands_over.await.unwrap();
    let refused = handed.unwrap_err();
    assert!(refused.to_string().contains("pid "), "it says who: {refused}");
    replicator.unfence(Color::Blue).await.unwrap();
    // Its session may be ended now, as everybody's that does not know that blue writes again: what it hears is true.
    let kept = silent
        .batch_execute("INSERT INTO late VALUES (1); COMMIT")
        .await
        .is_ok();
    let blue = pair.client(Color::Blue).await;
    let there = blue.query_one("SELECT to_regclass('late') IS NOT NULL", &[]).await;
    assert_eq!(there.unwrap().get::<_, bool>(0), kept);
    blue.batch_execute("DROP TABLE IF EXISTS late").await.unwrap();
    common::cut_over(&replicator, Color::Green).await;
}

/// Nor does one find its way past the guard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_made_after_the_last_look_is_made_nowhere() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let silent = pair.client(Color::Blue).await;
    handed_over(&replicator, Color::Green).await;
    let makes = tokio::spawn(async move { silent.batch_execute("SELECT lo_from_bytea(0, 'acknowledged')").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!makes.is_finished(), "it was made behind our back");
    replicator.promote(Color::Green).await.unwrap();
    assert!(makes.await.unwrap().is_err(), "acknowledged, and at blue only");
    let blue = pair.client(Color::Blue).await;
    let made = "SELECT count(*) FROM pg_largeobject_metadata";
    assert_eq!(blue.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// The guard ended before its time, and with it the lock; its session is there as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_after_a_guard_ended_is_brought_over() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    let _silent = pair.client(Color::Blue).await;
    handed_over(&replicator, Color::Green).await;
    let admin = pair.blue.connect("postgres").await.unwrap();
    let guard = "FROM pg_stat_activity WHERE application_name = 'bluegreen_shop_guard'";
    let cancelled = admin
        .query(&format!("SELECT pg_cancel_backend(pid) {guard}"), &[])
        .await;
    assert_eq!(cancelled.unwrap().len(), 1);
    let stray = pair.client(Color::Blue).await;
    insist(&stray, "stray").await.unwrap();
    let there = admin
        .query(&format!("SELECT {guard} AND state LIKE 'idle%'"), &[])
        .await;
    assert_eq!(there.unwrap().len(), 1);
    replicator.promote(Color::Green).await.unwrap();
    write(&pair.client(Color::Green).await, "application").await.unwrap();
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(tokens(&green).await, ["application", "stray"]);
    assert_eq!(digests(&blue).await, digests(&green).await);
}

/// The mirror brings nothing any more when the runner has died: green is opened within a budget all the same, and where a budget is
/// short, within a few of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_does_not_wait_for_a_mirror_that_brings_nothing() {
    let budget = Spec::new("shop", Environment::at("http://a"), Environment::at("http://b")).pause_budget;
    for (budget, tries) in [(budget, 1), (Duration::from_secs(1), 8)] {
        let Some((pair, first)) = Pair::mirrored(LEDGER).await else {
            return;
        };
        handed_over(&first, Color::Green).await;
        drop(first);
        let green = pair.client(Color::Green).await;
        let elsewhere =
            "BEGIN READ WRITE; ALTER SUBSCRIPTION bluegreen_shop_to_green CONNECTION 'host=127.0.0.1 port=1'; COMMIT";
        green.batch_execute(elsewhere).await.unwrap();
        if tries > 1 {
            // Nothing can be written at blue either.
            let locks = "BEGIN READ WRITE; LOCK TABLE ledger, bluegreen.state, bluegreen.marker IN EXCLUSIVE MODE; PREPARE TRANSACTION 'stays'";
            for n in 0.. {
                match pair.client(Color::Blue).await.batch_execute(locks).await {
                    Ok(()) => break,
                    // Until the server hears of the death.
                    Err(e) => assert!(n < 100, "{e:?}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let next = pair.replicator();
        let mut opened = false;
        for _ in 0..tries {
            if let Ok(promoted) = tokio::time::timeout(budget, next.promote(Color::Green)).await {
                promoted.unwrap();
                opened = true;
                break;
            }
        }
        assert!(opened, "with a budget of {budget:?} it is never opened");
        write(&pair.client(Color::Green).await, "application").await.unwrap();
    }
}

/// The preflight refuses those that are there; one made afterwards would be at blue only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_made_on_the_way_stops_the_cut_over() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("SELECT lo_create(4711)").await.unwrap();
    let refused = replicator.fence(Color::Blue, WITHIN).await.unwrap_err();
    assert!(refused.to_string().contains("large objects were made"), "{refused}");
    write(&pair.client(Color::Blue).await, "blue writes on").await.unwrap();
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("SELECT lo_unlink(4711)").await.unwrap();
    common::cut_over(&replicator, Color::Green).await;
}

/// While green is a mirror nobody writes into it, whatever the client says; who mends something there can, and says so. Once it
/// is the writer, no trigger is in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writes_into_a_mirror() {
    let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
        return;
    };
    write(&pair.client(Color::Blue).await, "before").await.unwrap();
    let stranger = pair.client(Color::Green).await;
    for sql in [
        "INSERT INTO ledger (token) VALUES ('stranger')",
        "UPDATE ledger SET token = 'other'",
        "DELETE FROM ledger",
        "TRUNCATE ledger",
    ] {
        let refused = stranger
            .batch_execute(&format!("BEGIN READ WRITE; {sql}; COMMIT"))
            .await;
        let refused = refused.unwrap_err();
        let said = refused.as_db_error().unwrap().message().to_owned();
        assert!(said.contains("is not the writer"), "{said}");
        stranger.batch_execute("ROLLBACK").await.unwrap();
    }
    let mends = "BEGIN READ WRITE; SET LOCAL bluegreen.mend = on; INSERT INTO ledger (id, token) OVERRIDING SYSTEM VALUE VALUES (-1, 'mended'); \
                 DELETE FROM ledger WHERE id = -1; COMMIT";
    stranger.batch_execute(mends).await.unwrap();
    common::cut_over(&replicator, Color::Green).await;
    let green = pair.client(Color::Green).await;
    write(&green, "after").await.unwrap();
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let enabled = "SELECT count(*) FROM pg_trigger WHERE tgname ~ '^bluegreen_.*_shut$' AND tgenabled <> 'D'";
    let at = async |client: &Client| client.query_one(enabled, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(at(&green).await, 0, "each write of the application would pay for it");
    assert!(at(&pair.client(Color::Blue).await).await > 0);
    // Back, and the other way round.
    common::cut_over(&replicator, Color::Blue).await;
    write(&pair.client(Color::Blue).await, "at blue again").await.unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    assert!(insist(&pair.client(Color::Green).await, "nowhere").await.is_err());
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    assert_eq!(at(&blue).await, 0);
    assert!(at(&green).await > 0);
    assert_eq!(digests(&blue).await, digests(&green).await);
}
