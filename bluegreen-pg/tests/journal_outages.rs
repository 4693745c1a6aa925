//! The journal's server fails, freezes, or is another one afterwards: nothing hangs, and nobody is taken for who he is not.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{Body, Entry, Journal, Kind, StepName, Timestamp};
use bluegreen_pg::{PgJournal, PgJournalBuilder};
use bluegreen_testkit::servers::{PgBinaries, PgCluster, available};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// Short, so that what has run out is not waited for.
const LEASE: Duration = Duration::from_millis(600);
/// Longer than any test: who waits for it has hung.
const LONG: Duration = Duration::from_secs(600);

async fn cluster() -> Option<PgCluster> {
    available("PostgreSQL", PgBinaries::find())?;
    Some(PgCluster::start().await.unwrap())
}

fn builder(cluster: &PgCluster) -> PgJournalBuilder {
    PgJournal::builder(&cluster.url("postgres"), "shop").lease(LEASE)
}

fn entry(seq: u64) -> Entry {
    Entry {
        v: bluegreen_core::journal::entry::FORMAT,
        seq,
        at: Timestamp::from_micros(1_800_000_000_000_000),
        body: Body::Started { step: StepName::Mirror },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_assured_is_known_without_the_server() {
    let Some(mut cluster) = cluster().await else { return };
    let journal = builder(&cluster).open().await.unwrap();
    journal.assure(LONG).await.unwrap();
    // What renews it later does not take that back.
    tokio::time::sleep(LEASE).await;
    journal.append(&entry(0)).await.unwrap();
    cluster.stop().await.unwrap();
    tokio::time::sleep(LEASE * 2).await;
    journal.confirm().await.unwrap();
    // And it is never assured from memory.
    assert!(journal.assure(LEASE).await.unwrap_err().is_transient());
    // The server knows it too: nobody else takes it over meanwhile.
    cluster.restart().await.unwrap();
    let sql = "UPDATE bluegreen_journal.lease SET process = 'elsewhere'";
    cluster.execute("postgres", sql).await.unwrap();
    let other = builder(&cluster).wait(LEASE * 2).open().await.unwrap_err();
    assert_eq!(other.kind(), Kind::Conflict, "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_not_waited_for_without_end() {
    let Some(cluster) = cluster().await else { return };
    let journal = builder(&cluster)
        .lease(LONG)
        .patience(Duration::ZERO)
        .open()
        .await
        .unwrap();
    journal.append(&entry(0)).await.unwrap();
    assert_eq!(journal.requests().await.unwrap(), []);
    let client = cluster.connect("postgres").await.unwrap();
    let ours = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'bluegreen_%'";
    let rows = client.query(ours, &[]).await.unwrap();
    let mut pids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    pids.push(i32::try_from(cluster.pid().unwrap()).unwrap());
    let signal = |signal| pids.iter().for_each(|pid| kill(Pid::from_raw(*pid), signal).unwrap());
    signal(Signal::SIGSTOP);
    let asked = async {
        tokio::join!(
            async { journal.requests().await.map(|_| ()) },
            async { builder(&cluster).read().await.map(|_| ()) },
            async { builder(&cluster).request(bluegreen_core::Signal::Abort).await },
            async { builder(&cluster).open().await.map(|_| ()) },
            journal.assure(LEASE),
            journal.close(),
        )
    };
    let answers = tokio::time::timeout(Duration::from_secs(60), Box::pin(asked)).await;
    signal(Signal::SIGCONT);
    let (a, b, c, d, e, f) = answers.expect("nothing waits without end");
    for answer in [a, b, c, d, e, f] {
        assert!(answer.as_ref().unwrap_err().is_transient(), "{answer:?}");
    }
}

/// The port answers, and is a standby's until it is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_answers_first_is_not_another_runner() {
    let Some(mut cluster) = cluster().await else { return };
    let journal = builder(&cluster).patience(Duration::ZERO).open().await.unwrap();
    journal.append(&entry(0)).await.unwrap();
    cluster.stop().await.unwrap();
    let data = cluster.log().unwrap().with_file_name("data");
    std::fs::write(data.join("standby.signal"), "").unwrap();
    cluster.restart().await.unwrap();
    let refused = journal.append(&entry(1)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
    // The keeper meets it too.
    tokio::time::sleep(LEASE * 2).await;
    cluster.execute("postgres", "SELECT pg_promote()").await.unwrap();
    journal.append(&entry(1)).await.unwrap();
    tokio::time::sleep(LEASE * 2).await;
    let client = cluster.connect("postgres").await.unwrap();
    let kept = "SELECT expires_at > clock_timestamp() FROM bluegreen_journal.lease";
    assert!(
        client.query_one(kept, &[]).await.unwrap().get::<_, bool>(0),
        "it is kept no more"
    );
    journal.close().await.unwrap();
}

/// What raised the token was given up, and arrived all the same.
#[tokio::test]
async fn a_late_question_of_our_own_is_not_another_runner() {
    let Some(cluster) = cluster().await else { return };
    let journal = builder(&cluster).open().await.unwrap();
    for seq in 0..3 {
        let late = "UPDATE bluegreen_journal.lease SET token = token + 1";
        cluster.execute("postgres", late).await.unwrap();
        journal.append(&entry(seq)).await.unwrap();
    }
    assert_eq!(journal.load().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_holder_outlasts_a_restart_of_the_server() {
    let Some(mut cluster) = cluster().await else { return };
    let holder = builder(&cluster).lease(LONG).open().await.unwrap();
    let waits = tokio::spawn(builder(&cluster).wait(LONG).open());
    tokio::time::sleep(LEASE).await;
    cluster.stop().await.unwrap();
    tokio::time::sleep(LEASE).await;
    cluster.restart().await.unwrap();
    holder.close().await.unwrap();
    waits.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_be_opened_whole_is_given_back() {
    let Some(cluster) = cluster().await else { return };
    builder(&cluster).open().await.unwrap().close().await.unwrap();
    let sql = "ALTER TABLE bluegreen_journal.request RENAME TO elsewhere";
    cluster.execute("postgres", sql).await.unwrap();
    builder(&cluster).lease(LONG).open().await.unwrap_err();
    let sql = "ALTER TABLE bluegreen_journal.elsewhere RENAME TO request";
    cluster.execute("postgres", sql).await.unwrap();
    builder(&cluster).open().await.unwrap();
}

/// A schema made for the role, by who may make one.
#[tokio::test]
async fn a_schema_of_its_own_is_all_that_a_role_needs() {
    let Some(cluster) = cluster().await else { return };
    let sql = "CREATE ROLE mover LOGIN; REVOKE CREATE ON DATABASE postgres FROM PUBLIC";
    cluster.execute("postgres", sql).await.unwrap();
    let url = cluster.url("postgres").replace("postgres@", "mover@");
    let refused = PgJournal::open(&url, "shop").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::PermissionDenied, "{refused}");
    let sql = "CREATE SCHEMA bluegreen_journal AUTHORIZATION mover";
    cluster.execute("postgres", sql).await.unwrap();
    let journal = PgJournal::open(&url, "shop").await.unwrap();
    journal.append(&entry(0)).await.unwrap();
}
