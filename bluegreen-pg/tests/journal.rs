//! The journal in PostgreSQL: the suite that every journal passes, and what a network and a server can do to it.
#![allow(clippy::unwrap_used, missing_docs)]

mod cut;

use async_trait::async_trait;
use bluegreen_core::{Body, Entry, Journal, Kind, Replicator, Result, Severity, Signal, StepName, Timestamp};
use bluegreen_pg::{PgJournal, PgJournalBuilder, PgReplicator};
use bluegreen_testkit::conformance::journal::JournalHarness;
use bluegreen_testkit::servers::{PgBinaries, PgCluster, available};
use cut::{Cut, Proxy};
use nix::sys::signal::{Signal as Unix, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Short, so that a takeover is not waited for.
const LEASE: Duration = Duration::from_millis(600);

struct Harness(PgCluster);

async fn harness() -> Option<Harness> {
    available("PostgreSQL", PgBinaries::find())?;
    Some(Harness(PgCluster::start().await.unwrap()))
}

impl Harness {
    fn builder(&self) -> PgJournalBuilder {
        builder(&self.0.url("postgres"))
    }

    async fn sql(&self, sql: &str) {
        self.0.execute("postgres", sql).await.unwrap();
    }

    async fn stored(&self) -> usize {
        match self.builder().read().await {
            Ok(entries) => entries.len(),
            Err(e) if e.kind() == Kind::NotFound => 0,
            Err(e) => panic!("{e}"),
        }
    }
}

fn builder(url: &str) -> PgJournalBuilder {
    PgJournal::builder(url, "shop \"ü\"").lease(LEASE)
}

#[async_trait]
impl JournalHarness for Harness {
    async fn open(&self) -> Result<Arc<dyn Journal>> {
        // One that was dropped a moment ago is given back by a task of its own.
        Ok(Arc::new(self.builder().wait(Duration::from_secs(1)).open().await?))
    }

    async fn request(&self, signal: Signal) -> bool {
        self.builder().request(signal).await.unwrap();
        true
    }
}

bluegreen_testkit::journal_conformance!(postgres, harness());

fn entry(seq: u64) -> Entry {
    Entry {
        v: bluegreen_core::journal::entry::FORMAT,
        seq,
        at: Timestamp::from_micros(1_800_000_000_000_000),
        body: Body::Started { step: StepName::Mirror },
    }
}

#[tokio::test]
async fn what_an_operator_meets() {
    let Some(h) = harness().await else { return };
    assert_eq!(h.builder().read().await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(
        h.builder().request(Signal::Abort).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let journal = h.builder().open().await.unwrap();
    // Somebody else, and who.
    let refused = h.builder().open().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(
        refused
            .to_string()
            .contains(&format!("process {} on", std::process::id())),
        "{refused}"
    );
    // Other migrations have nothing to do with it.
    let other = PgJournal::open(&h.0.url("postgres"), "other").await.unwrap();
    journal.append(&entry(0)).await.unwrap();
    assert_eq!(other.load().await.unwrap(), []);
    other.close().await.unwrap();
    // What was asked of an earlier migration of this name is not heard by a new one.
    h.builder().request(Signal::Abort).await.unwrap();
    assert_eq!(journal.requests().await.unwrap().len(), 1);
    // A newer version's word ends nobody, and hides no other.
    h.sql("INSERT INTO bluegreen_journal.request (migration, signal) SELECT migration, 'dance' FROM bluegreen_journal.request")
        .await;
    h.builder().request(Signal::Pause).await.unwrap();
    let heard: Vec<Signal> = journal.requests().await.unwrap().iter().map(|r| r.signal).collect();
    assert_eq!(heard, [Signal::Abort, Signal::Pause]);
    journal.close().await.unwrap();
    h.sql("DELETE FROM bluegreen_journal.entry").await;
    let journal = h.builder().open().await.unwrap();
    assert_eq!(journal.requests().await.unwrap(), []);
    // Damage is not read over.
    journal.append(&entry(0)).await.unwrap();
    h.sql("UPDATE bluegreen_journal.entry SET line = replace(line, 'mirror', 'mirrot')")
        .await;
    assert_eq!(journal.load().await.unwrap_err().kind(), Kind::Corrupt);
    drop(journal);
    h.sql("UPDATE bluegreen_journal.format SET version = 2").await;
    assert_eq!(h.builder().open().await.unwrap_err().kind(), Kind::Unsupported);
    // Blue's and green's own databases are no place for it: preflight says so, and so does the journal once it can tell.
    h.0.create_database("blue").await.unwrap();
    h.sql("UPDATE bluegreen_journal.format SET version = 1").await;
    let journal = h.builder().open().await.unwrap();
    let preflight = async |name: &str, blue: &str| {
        let replicator = PgReplicator::new(name, h.0.url(blue), h.0.url("template1")).unwrap();
        let found = replicator.preflight().await.unwrap();
        found
            .iter()
            .any(|f| f.id == "journal-in-migrated-database" && f.severity == Severity::Blocking)
    };
    assert!(preflight("shop \"ü\"", "postgres").await && preflight("another", "postgres").await);
    assert!(!preflight("shop \"ü\"", "blue").await);
    journal.close().await.unwrap();
    assert!(preflight("shop \"ü\"", "postgres").await && !preflight("another", "postgres").await);
    // What is not whole, and a name that is wrong, are not what a journal that was never begun is.
    h.sql("DROP TABLE bluegreen_journal.entry CASCADE").await;
    let broken = h.builder().read().await.unwrap_err();
    assert_eq!(broken.kind(), Kind::Corrupt, "{broken}");
    assert!(broken.to_string().contains("is not whole"), "{broken}");
    let nowhere = PgJournal::builder(&h.0.url("postgers"), "shop")
        .read()
        .await
        .unwrap_err();
    assert_eq!(nowhere.kind(), Kind::InvalidInput, "{nowhere}");
    assert!(nowhere.to_string().contains("\"postgers\" does not exist"), "{nowhere}");
    h.sql("DROP SCHEMA bluegreen_journal CASCADE; CREATE SCHEMA bluegreen; CREATE TABLE bluegreen.state ()")
        .await;
    assert_eq!(h.builder().open().await.unwrap_err().kind(), Kind::InvalidInput);
}

/// The statement arrived and its answer did not, or it did not arrive: either way it is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_answer_was_lost_is_there_once() {
    let Some(h) = harness().await else { return };
    let proxy = Proxy::start(h.0.port()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    // Long, so that nothing else is said meanwhile.
    let journal = builder(&url).lease(Duration::from_secs(60)).open().await.unwrap();
    journal.append(&entry(0)).await.unwrap();
    for seq in 1..12 {
        proxy.next(if seq % 2 == 0 { Cut::Question } else { Cut::Answer });
        journal.append(&entry(seq)).await.unwrap();
        assert_eq!(h.stored().await as u64, seq + 1);
    }
    assert!(proxy.cuts() >= 11, "only {} cuts", proxy.cuts());
    // Another's entry in that place is not taken for our own.
    h.sql("UPDATE bluegreen_journal.lease SET holder = 'another', token = token + 1")
        .await;
    h.sql("INSERT INTO bluegreen_journal.entry SELECT migration, 12, line, 'another' FROM bluegreen_journal.entry WHERE seq = 11").await;
    proxy.next(Cut::Question);
    assert_eq!(journal.append(&entry(12)).await.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
async fn nothing_is_begun_once_another_has_taken_it_over() {
    let Some(h) = harness().await else { return };
    let journal = h.builder().open().await.unwrap();
    // Its renewals keep it ours far beyond its length.
    tokio::time::sleep(LEASE * 3).await;
    journal.confirm().await.unwrap();
    let other = h.builder().wait(LEASE * 2).open().await;
    assert_eq!(other.unwrap_err().kind(), Kind::Conflict);
    h.sql("UPDATE bluegreen_journal.lease SET holder = 'another', token = token + 1")
        .await;
    tokio::time::sleep(LEASE).await;
    assert_eq!(journal.confirm().await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(journal.append(&entry(0)).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(journal.load().await.unwrap_err().kind(), Kind::Conflict);
    // Who only waits hears of it too.
    assert_eq!(journal.requests().await.unwrap_err().kind(), Kind::Conflict);
    // A journal out of reach is no yes either, once what was known has run out.
    let Harness(mut cluster) = h;
    cluster
        .execute("postgres", "DELETE FROM bluegreen_journal.lease")
        .await
        .unwrap();
    let journal = builder(&cluster.url("postgres")).open().await.unwrap();
    cluster.stop().await.unwrap();
    tokio::time::sleep(LEASE).await;
    assert!(journal.confirm().await.unwrap_err().is_transient());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_ended_are_opened_again() {
    let Some(mut h) = harness().await else { return };
    let journal = h.builder().lease(Duration::from_secs(20)).open().await.unwrap();
    let client = h.0.connect("postgres").await.unwrap();
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name LIKE 'bluegreen_%' AND pid <> pg_backend_pid()";
    for seq in 0..60 {
        // At any moment of the append, and before it.
        let ending = async {
            tokio::time::sleep(Duration::from_micros(seq * 97 % 3_000)).await;
            client.query_one(ended, &[]).await.unwrap();
        };
        let entry = entry(seq);
        let (appended, ()) = tokio::join!(journal.append(&entry), ending);
        appended.unwrap();
    }
    drop(client);
    h.0.restart().await.unwrap();
    journal.append(&entry(60)).await.unwrap();
    journal.confirm().await.unwrap();
    let expected: Vec<Entry> = (0..61).map(entry).collect();
    assert_eq!(journal.load().await.unwrap(), expected);
}

#[tokio::test]
async fn durable_whatever_the_servers_default() {
    if available("PostgreSQL", PgBinaries::find()).is_none() {
        return;
    }
    let cluster = PgCluster::builder()
        .fsync(true)
        .setting("synchronous_commit", "off")
        .setting("wal_writer_delay", "10s");
    let mut h = Harness(cluster.start().await.unwrap());
    let journal = h.builder().open().await.unwrap();
    for seq in 0..5 {
        journal.append(&entry(seq)).await.unwrap();
    }
    h.0.crash().await.unwrap();
    h.0.restart().await.unwrap();
    assert_eq!(h.stored().await, 5);
}

const URL: &str = "BLUEGREEN_TEST_JOURNAL_URL";

/// The child of the tests below.
#[test]
fn appends_until_it_is_ended() {
    let Ok(url) = std::env::var(URL) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let say = |line: String| {
        // Not `println!`: the harness captures that.
        let mut out = std::io::stdout().lock();
        writeln!(out, "said {line}").unwrap();
        out.flush().unwrap();
    };
    runtime.block_on(async {
        let journal = builder(&url).wait(Duration::from_secs(60)).open().await.unwrap();
        let mut next = journal.load().await.unwrap().len() as u64;
        say(format!("holds {next}"));
        loop {
            match journal.append(&entry(next)).await {
                Ok(()) => say(format!("durable {next}")),
                Err(e) => {
                    say(format!("refused {:?}", e.kind()));
                    say(format!("may {:?}", journal.confirm().await.map_err(|e| e.kind())));
                    return;
                }
            }
            next += 1;
        }
    });
}

struct Runner {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Runner {
    fn start(h: &Harness) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "appends_until_it_is_ended",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(URL, h.0.url("postgres"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let lines = lines.filter_map(|l| l.rsplit_once("said ").map(|(_, said)| said.to_owned()));
        Self {
            child,
            lines: Box::new(lines),
        }
    }

    fn next(&mut self) -> String {
        self.lines.next().expect("it says more")
    }

    fn signal(&self, signal: Unix) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_frozen_has_no_more_say() {
    let Some(h) = harness().await else { return };
    let mut frozen = Runner::start(&h);
    assert_eq!(frozen.next(), "holds 0");
    assert_eq!(frozen.next(), "durable 0");
    frozen.signal(Unix::SIGSTOP);
    let other = h.builder().wait(Duration::from_secs(30)).open().await.unwrap();
    let before = other.load().await.unwrap().len();
    // It wrote nothing itself yet: what keeps the other out is the lease, not the place of an entry.
    frozen.signal(Unix::SIGCONT);
    let said: Vec<String> = frozen.lines.by_ref().collect();
    assert!(
        said.ends_with(&["refused Conflict".into(), "may Err(Conflict)".into()]),
        "{said:?}"
    );
    assert_eq!(h.stored().await, before);
    other.append(&entry(before as u64)).await.unwrap();
    assert_eq!(h.stored().await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_runners_the_next_takes_over_when_one_is_killed() {
    let Some(h) = harness().await else { return };
    let mut durable = 0;
    let mut waiting = Runner::start(&h);
    for round in 0..8_u64 {
        let mut running = waiting;
        let said = running.next();
        // Only now, so that it is known which of them waits.
        waiting = Runner::start(&h);
        let held: u64 = said.strip_prefix("holds ").expect(&said).parse().unwrap();
        assert!(held >= durable, "{held} after {durable}");
        durable = held;
        for _ in 0..5 {
            assert_eq!(running.next(), format!("durable {durable}"));
            durable += 1;
        }
        std::thread::sleep(Duration::from_micros(round * 733 % 5_000));
        running.signal(Unix::SIGKILL);
        let last = running.lines.by_ref().last();
        durable = last.map_or(durable, |l| {
            l.strip_prefix("durable ").expect(&l).parse::<u64>().unwrap() + 1
        });
    }
    drop(waiting);
    let entries = h.builder().read().await.unwrap();
    assert!(entries.len() as u64 >= durable);
    assert!(entries.iter().zip(0..).all(|(found, seq)| *found == entry(seq)));
}
