//! A day: two servers, an application that writes through a gate, a migration with short settings, and the ledger at its end.

use super::meddle::Meddling;
use bluegreen_core::{
    AppGate, AtOnce, Color, Environment, Event, FileJournal, Kind, Migration, NoDns, NoProbe, Outcome, Replicator, Spec,
};
use bluegreen_pg::{PgReplicator, PgReplicatorBuilder};
use bluegreen_testkit::app::{Acked, Database, Order, OrderError, Pool, ledger, schema};
use bluegreen_testkit::servers::{PgBinaries, PgCluster, PgClusterBuilder, available};
use futures::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

const DATABASE: &str = "shop";
/// Nothing here may take longer; a test that hangs says where.
const WITHIN: Duration = Duration::from_secs(120);

pub struct Day {
    servers: [Arc<Mutex<PgCluster>>; 2],
    urls: [String; 2],
    pub gate: AppGate<Pool>,
    folder: tempfile::TempDir,
}

impl Day {
    /// None where PostgreSQL is not installed. Servers that survive a crash, and notice soon that a peer is gone.
    pub async fn begin(rows: u64) -> Option<Self> {
        Self::with(rows, |cluster| cluster).await
    }

    pub async fn with(rows: u64, more: impl Fn(PgClusterBuilder) -> PgClusterBuilder) -> Option<Self> {
        available("PostgreSQL", PgBinaries::find())?;
        let cluster = || {
            more(
                PgCluster::builder()
                    .fsync(true)
                    .setting("wal_retrieve_retry_interval", "500ms")
                    .setting("wal_receiver_timeout", "3s")
                    .setting("wal_sender_timeout", "3s"),
            )
            .start()
        };
        let (blue, green) = tokio::join!(cluster(), cluster());
        let (blue, green) = (blue.unwrap(), green.unwrap());
        blue.create_database(DATABASE).await.unwrap();
        green.create_database(DATABASE).await.unwrap();
        schema::create(&blue.url(DATABASE), rows).await.unwrap();
        let urls = [blue.url(DATABASE), green.url(DATABASE)];
        let pool = |url: &String| Pool::new(url, 8);
        Some(Self {
            gate: AppGate::new(pool(&urls[0]), pool(&urls[1])),
            servers: [blue, green].map(|c| Arc::new(Mutex::new(c))),
            urls,
            folder: tempfile::tempdir().unwrap(),
        })
    }

    pub fn server(&self, color: Color) -> Arc<Mutex<PgCluster>> {
        Arc::clone(&self.servers[index(color)])
    }

    pub fn url(&self, color: Color) -> &str {
        &self.urls[index(color)]
    }

    pub async fn client(&self, color: Color) -> tokio_postgres::Client {
        connect(self.url(color)).await
    }

    pub fn builder(&self) -> PgReplicatorBuilder {
        PgReplicator::builder("shop", self.url(Color::Blue), self.url(Color::Green))
            .copy_jobs(2)
            .slot_wait(Duration::from_secs(10))
    }

    pub fn replicator(&self) -> PgReplicator {
        self.builder().build().unwrap()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("shop.journal")
    }

    /// A database that moves, with short settings.
    pub fn migration(&self, replicator: impl Replicator) -> Migration {
        self.migration_with(replicator, |_| {})
    }

    pub fn migration_with(&self, replicator: impl Replicator, change: impl FnOnce(&mut Spec)) -> Migration {
        let mut spec = Spec::new("shop", Environment::none(), Environment::none()).hold(Duration::from_secs(1));
        spec.look = Duration::from_millis(50);
        spec.watch = Duration::from_millis(200);
        spec.pause_budget = Duration::from_secs(2);
        spec.cut_over_retry = Duration::from_millis(500);
        spec.patience = Duration::from_secs(60);
        // A slow machine's server takes its time to start.
        spec.retries = 30;
        change(&mut spec);
        Migration::builder("shop")
            .dns(NoDns)
            .replicator(replicator)
            .probe(NoProbe)
            .policy(AtOnce::new())
            .gate(self.gate.clone())
            .journal(FileJournal::open(self.journal()).unwrap())
            .spec(spec)
            .build()
            .unwrap()
    }

    /// Applications that write until they are stopped.
    pub fn writers(&self, count: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let database = Database::Gated(self.gate.clone());
        let tasks = (0..count)
            .map(|n| tokio::spawn(write(n, database.clone(), stop.clone(), acked.clone())))
            .collect();
        Writers { stop, acked, tasks }
    }

    /// All that must be true at the end: every acknowledged write is at the writer, the writer takes writes, nothing of the
    /// migration is left on either side.
    pub async fn check(&self, outcome: &Outcome, writers: Writers) -> Vec<Acked> {
        let writer = match outcome {
            Outcome::Completed => Color::Green,
            Outcome::RolledBack { .. } => Color::Blue,
        };
        // Writes flow: not only the ones that were under way.
        let before = writers.acked();
        let until = Instant::now() + WITHIN;
        while writers.acked() < before + 50 {
            assert!(Instant::now() < until, "writes do not flow after {outcome}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let acked = writers.end().await;
        let found = ledger::check(&acked, self.url(writer)).await.unwrap();
        assert!(found.is_clean(), "{found:?} of {} after {outcome}", acked.len());
        let left = self.replicator().leftovers().await.unwrap();
        // With green the writer, blue stays read-only on purpose.
        assert_eq!(left, Vec::<String>::new(), "after {outcome}");
        acked
    }
}

fn index(color: Color) -> usize {
    usize::from(color == Color::Green)
}

pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(async move {
        // Its end is seen by the client's next statement.
        let _ended = connection.await;
    });
    client
}

/// A day's application.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Vec<Acked>>>,
}

impl Writers {
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    async fn end(self) -> Vec<Acked> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

/// What fails is given up and never sent again: only what was acknowledged is promised.
async fn write(n: usize, database: Database, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Vec<Acked> {
    let mut acked = Vec::new();
    for i in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let order = Order {
            token: format!("{n}-{i}"),
            acct: i32::try_from(i % 1000).unwrap() + 1,
            amount: 1,
        };
        match database.write(&order).await {
            Ok(()) => {
                count.fetch_add(1, Ordering::SeqCst);
                acked.push(Acked { order, by: None });
            }
            Err(OrderError::NoAccount(_)) => panic!("the accounts are gone"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acked
}

/// A migration under way, and what it said.
pub struct Course {
    running: JoinHandle<(Migration, Result<Outcome, bluegreen_core::Error>)>,
    events: Arc<std::sync::Mutex<Vec<Event>>>,
}

impl Course {
    pub fn start(migration: Migration) -> Self {
        let events = Arc::<std::sync::Mutex<Vec<Event>>>::default();
        let (mut stream, seen) = (migration.events(), events.clone());
        tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                seen.lock().unwrap().push(event);
            }
        });
        let running = tokio::spawn(async move {
            let ended = migration.run().await;
            (migration, ended)
        });
        Self { running, events }
    }

    /// Everything it said so far, as text.
    pub fn said(&self) -> String {
        let events = self.events.lock().unwrap();
        let lines: Vec<String> = events.iter().map(|e| format!("{e:?}")).collect();
        lines.join("\n")
    }

    /// Waits until it said something that holds this.
    pub async fn says(&self, wanted: &str) {
        self.says_one(&[wanted]).await;
    }

    pub async fn says_one(&self, wanted: &[&str]) {
        let until = Instant::now() + WITHIN;
        loop {
            let said = self.said();
            if wanted.iter().any(|w| said.contains(w)) {
                return;
            }
            assert!(
                !self.running.is_finished(),
                "it ended and never said {wanted:?}: {}",
                last(&said)
            );
            assert!(Instant::now() < until, "it never said {wanted:?}: {}", last(&said));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Its end. Where it asks for a human, `mend` is called, and it is run again.
    pub async fn end<F: Future<Output = ()>>(self, mend: impl Fn(String) -> F) -> (Outcome, String) {
        let events = self.events.clone();
        let ended = tokio::time::timeout(WITHIN, self.running).await;
        let text = || {
            let all: Vec<String> = events.lock().unwrap().iter().map(|e| format!("{e:?}")).collect();
            all.join("\n")
        };
        let (migration, mut ended) = ended
            .unwrap_or_else(|_| panic!("it does not end: {}", last(&text())))
            .unwrap();
        let mut asked = String::new();
        for _ in 0..3 {
            match ended {
                Ok(outcome) => return (outcome, format!("{asked}\n{}", text())),
                Err(e) if e.kind() == Kind::HumanNeeded => {
                    asked = format!("{asked}\nasked: {e}");
                    mend(e.to_string()).await;
                    ended = tokio::time::timeout(WITHIN, migration.run())
                        .await
                        .unwrap_or_else(|_| panic!("run again, it does not end: {}", last(&text())));
                }
                Err(e) => panic!("{e}"),
            }
        }
        panic!("it still asks: {asked}");
    }

    /// Its end, where nobody is to be asked.
    pub async fn ends(self) -> (Outcome, String) {
        self.end(async |why: String| panic!("it asks: {why}")).await
    }
}

fn last(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The same replicator, with somebody who meddles at one of its calls.
pub fn meddle(replicator: PgReplicator) -> Meddling {
    Meddling::new(replicator)
}
