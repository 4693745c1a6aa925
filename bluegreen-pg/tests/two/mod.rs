//! An application with two databases on two servers, and writers of both in one unit of work.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use super::common::writers::{LEDGER, Told, check};
use super::common::{WITHIN, connect};
use bluegreen_core::{
    AllDatabases, AllGates, AppGate, AtOnce, Color, Environment, FileJournal, Migration, NoDns, NoProbe, Replicator,
    Spec,
};
use bluegreen_pg::PgReplicator;
use bluegreen_testkit::servers::{PgBinaries, PgCluster, available};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

pub const NAMES: [&str; 2] = ["orders", "stock"];

/// Two servers with two databases each.
pub struct Shop {
    pub blue: PgCluster,
    pub green: PgCluster,
    pub gates: [AppGate<String>; 2],
    folder: tempfile::TempDir,
}

impl Shop {
    pub async fn open() -> Option<Self> {
        available("PostgreSQL", PgBinaries::find())?;
        let start = || {
            PgCluster::builder()
                .setting("wal_retrieve_retry_interval", "500ms")
                .start()
        };
        let (blue, green) = tokio::try_join!(start(), start()).unwrap();
        for name in NAMES {
            blue.create_database(name).await.unwrap();
            green.create_database(name).await.unwrap();
            blue.execute(name, LEDGER).await.unwrap();
        }
        Some(Self {
            gates: NAMES.map(|name| AppGate::new(blue.url(name), green.url(name))),
            blue,
            green,
            folder: tempfile::tempdir().unwrap(),
        })
    }

    pub fn replicator(&self, migration: &str, name: &str) -> PgReplicator {
        let builder = PgReplicator::builder(migration, self.blue.url(name), self.green.url(name));
        builder.copy_jobs(1).build().unwrap()
    }

    pub fn databases(&self) -> AllDatabases {
        let part = |name: &str| self.replicator(&format!("shop-{name}"), name);
        let databases = AllDatabases::new().with("orders", part("orders")).unwrap();
        databases.with("stock", part("stock")).unwrap()
    }

    pub fn migration(&self, gates: AllGates, hold: Duration) -> Migration {
        let mut spec = Spec::new("shop", Environment::none(), Environment::none()).hold(hold);
        spec.look = Duration::from_millis(100);
        spec.watch = Duration::from_millis(300);
        spec.pause_budget = Duration::from_secs(1);
        spec.cut_over_retry = Duration::from_millis(200);
        spec.cut_over_attempts = 100;
        Migration::builder("shop")
            .dns(NoDns)
            .probe(NoProbe)
            .policy(AtOnce::new())
            .replicator(self.databases())
            .gate(gates)
            .journal(FileJournal::open(self.journal()).unwrap())
            .spec(spec)
            .build()
            .unwrap()
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub fn gates(&self) -> AllGates {
        let gates = AllGates::new().with("orders", self.gates[0].clone()).unwrap();
        gates.with("stock", self.gates[1].clone()).unwrap()
    }

    pub fn cluster(&self, color: Color) -> &PgCluster {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// Everything acknowledged is at the writer's side, in both databases, and nothing of ours is left.
    pub async fn check(&self, writer: Color, writers: Writers) {
        let told = writers.end().await;
        for (name, told) in NAMES.into_iter().zip(&told) {
            assert_eq!(told.failed, 0, "with a gate no client of {name} sees an error");
            assert!(told.acked.len() > 50, "{}", told.acked.len());
            check(&self.cluster(writer).connect(name).await.unwrap(), told).await;
        }
        assert_eq!(self.databases().leftovers().await.unwrap(), Vec::<String>::new());
    }
}

/// Writers whose units of work write to orders and, in it, to stock; the first of them to stock alone.
pub struct Writers {
    pub stop: Arc<AtomicBool>,
    pub acked: Arc<AtomicU64>,
    pub tasks: Vec<JoinHandle<[Told; 2]>>,
}

impl Writers {
    pub fn start(shop: &Shop, count: usize) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..count).map(|n| tokio::spawn(write(n, shop.gates.clone(), stop.clone(), acked.clone())));
        let tasks = tasks.collect();
        Self { stop, acked, tasks }
    }

    /// Waits until so many more units of work have ended.
    pub async fn go_on(&self, more: u64) {
        let (from, since) = (self.acked.load(Ordering::SeqCst), Instant::now());
        while self.acked.load(Ordering::SeqCst) < from + more {
            assert!(since.elapsed() < 6 * WITHIN, "nobody writes");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn end(self) -> [Told; 2] {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = [Told::default(), Told::default()];
        for task in self.tasks {
            for (all, told) in all.iter_mut().zip(task.await.unwrap()) {
                all.acked.extend(told.acked);
                all.failed += told.failed;
            }
        }
        all
    }
}

pub async fn write(n: usize, gates: [AppGate<String>; 2], stop: Arc<AtomicBool>, acked: Arc<AtomicU64>) -> [Told; 2] {
    let mut told = [Told::default(), Told::default()];
    let mut open: HashMap<String, Client> = HashMap::new();
    for i in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let parts = if n == 0 { 1..2 } else { 0..2 };
        let mut units = vec![];
        for part in parts {
            let unit = gates[part].enter().await;
            let client = match open.remove(&*unit).filter(|c| !c.is_closed()) {
                Some(client) => client,
                None => connect(&unit).await.unwrap(),
            };
            let token = format!("{n}-{i}");
            let begun = client
                .batch_execute(&format!(
                    "BEGIN; INSERT INTO ledger (token) VALUES ('{token}'); UPDATE balance SET amount = amount + 1 WHERE who = {n}"
                ))
                .await;
            units.push((part, unit, client, token, begun));
        }
        let colors: Vec<Color> = units.iter().map(|(_, unit, ..)| unit.color()).collect();
        assert!(colors.windows(2).all(|w| w[0] == w[1]), "one unit of work at two sides");
        for (part, unit, client, token, begun) in units {
            match (begun, client.batch_execute("COMMIT").await) {
                (Ok(()), Ok(())) => {
                    told[part].acked.push(token);
                    open.insert((*unit).clone(), client);
                }
                _ => told[part].failed += 1,
            }
        }
        acked.fetch_add(1, Ordering::SeqCst);
    }
    told
}
