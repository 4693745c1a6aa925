//! An application with two databases moves in one cut-over, on real servers: under load, when one of them cannot be fenced,
//! back again, and behind one PgBouncer.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;
mod two;

use async_trait::async_trait;
use bluegreen_core::{
    AllGates, AppGate, Color, Direction, FileJournal, GateState, Kind, MirrorStatus, Note, Outcome, Replicator, Result,
    Status, StepName, WriteGate,
};
use bluegreen_pg::{PgBouncer, Upstream};
use bluegreen_testkit::servers::{PgBouncerServer, PgCluster, available};
use common::writers::LEDGER;
use common::{WITHIN, connect};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use two::{NAMES, Shop, Writers, write};

async fn until(migration: &bluegreen_core::Handle, what: &str, is: impl Fn(&Status) -> bool) {
    let since = Instant::now();
    while !is(&migration.status()) {
        assert!(since.elapsed() < 12 * WITHIN, "never {what}: {}", migration.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn commits(journal: &Path) -> usize {
    let entries = FileJournal::read(journal).unwrap();
    let commit = |e: &&bluegreen_core::Entry| {
        matches!(
            &e.body,
            bluegreen_core::Body::Noted {
                note: Note::Commit { .. },
                ..
            }
        )
    };
    entries.iter().filter(commit).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_move_in_one_cut_over_and_back_under_load() {
    let Some(shop) = Shop::open().await else { return };
    let writers = Writers::start(&shop, 4);
    let migration = shop.migration(shop.gates(), Duration::from_secs(3600));
    let plan = migration.plan().to_string();
    assert!(plan.contains("orders by app, then stock by app"), "{plan}");
    let handle = migration.handle();
    let running = tokio::spawn(async move { migration.run().await });
    let held = |s: &Status| s.step == Some(StepName::Hold) && s.waits.is_some() && s.writer == Color::Green;
    until(&handle, "held", held).await;
    assert_eq!(commits(&shop.journal()), 1, "one commit record for both");
    for gate in &shop.gates {
        assert_eq!(gate.state().await.unwrap().at, Color::Green);
    }
    writers.go_on(100).await;
    handle.go_back();
    let outcome = running.await.unwrap().unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
    assert_eq!(commits(&shop.journal()), 2);
    writers.go_on(20).await;
    shop.check(Color::Blue, writers).await;
}

/// A gate behind which somebody opens a transaction that no gate knows of.
#[derive(Debug)]
struct Bypassed {
    gate: AppGate<String>,
    database: String,
    open: Arc<Mutex<Option<Client>>>,
    tried: AtomicBool,
}

#[async_trait]
impl WriteGate for Bypassed {
    fn name(&self) -> &str {
        "bypassed"
    }
    async fn hold(&self, within: Duration) -> Result<()> {
        self.gate.hold(within).await?;
        if !self.tried.swap(true, Ordering::SeqCst) {
            let client = connect(&self.database).await.unwrap();
            let sql = "BEGIN; INSERT INTO ledger (token) VALUES ('open'); UPDATE balance SET amount = amount + 1 WHERE who = 9";
            client.batch_execute(sql).await.unwrap();
            *self.open.lock().unwrap() = Some(client);
        }
        Ok(())
    }
    async fn point_at(&self, color: Color) -> Result<()> {
        self.gate.point_at(color).await
    }
    async fn release(&self) -> Result<()> {
        self.gate.release().await
    }
    async fn state(&self) -> Result<GateState> {
        self.gate.state().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_cannot_be_fenced_both_go_on_at_blue() {
    let Some(shop) = Shop::open().await else { return };
    let writers = Writers::start(&shop, 3);
    let open = Arc::new(Mutex::new(None));
    let bypassed = Bypassed {
        gate: shop.gates[1].clone(),
        database: shop.blue.url("stock"),
        open: open.clone(),
        tried: AtomicBool::new(false),
    };
    let gates = AllGates::new().with("orders", shop.gates[0].clone()).unwrap();
    let migration = shop.migration(gates.with("stock", bypassed).unwrap(), Duration::ZERO);
    let handle = migration.handle();
    let running = tokio::spawn(async move { migration.run().await });
    let journal = shop.journal();
    let given_up = || {
        let entries = FileJournal::read(&journal).unwrap();
        entries.into_iter().find_map(|e| match e.body {
            bluegreen_core::Body::Noted {
                note: Note::PauseGivenUp { why, .. },
                ..
            } => Some(why),
            _ => None,
        })
    };
    until(&handle, "given up", |_| given_up().is_some()).await;
    let why = given_up().unwrap();
    assert!(why.contains("stock: ") && why.contains("in the way"), "{why}");
    // While the transaction is still open: everybody writes, at blue.
    writers.go_on(100).await;
    assert_eq!((commits(&journal), handle.status().writer), (0, Color::Blue));
    for gate in &shop.gates {
        let state = gate.state().await.unwrap();
        assert_eq!(state.at, Color::Blue);
    }
    let client = open.lock().unwrap().take().unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    drop(client);
    assert_eq!(running.await.unwrap().unwrap(), Outcome::Completed);
    writers.go_on(20).await;
    let there = shop.green.connect("stock").await.unwrap();
    let open = there
        .query("SELECT FROM ledger WHERE token = 'open'", &[])
        .await
        .unwrap();
    assert_eq!(open.len(), 1, "what was open is not lost");
    shop.check(Color::Green, writers).await;
}

/// Two databases of a server whose migrations have one name would meet in one slot: the second is refused, and the first is
/// left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_of_another_database_is_not_ours() {
    let Some(shop) = Shop::open().await else { return };
    let (orders, stock) = (shop.replicator("shop", "orders"), shop.replicator("shop", "stock"));
    orders.start(Direction::BlueToGreen).await.unwrap();
    common::streaming(&orders, Direction::BlueToGreen).await;
    stock.start(Direction::BlueToGreen).await.unwrap();
    let since = Instant::now();
    loop {
        match stock.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Failed { kind, why } => {
                assert_eq!(kind, Kind::Conflict, "{why}");
                assert!(
                    why.contains("the database orders") && why.contains("a name of its own"),
                    "{why}"
                );
                break;
            }
            other => assert!(since.elapsed() < 6 * WITHIN, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stock.stop(Color::Blue).await.unwrap();
    assert_eq!(stock.leftovers().await.unwrap(), Vec::<String>::new());
    common::streaming(&orders, Direction::BlueToGreen).await;
    orders.stop(Color::Blue).await.unwrap();
}

/// The gates of two databases in one PgBouncer rewrite one file: neither undoes what the other did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_databases_behind_one_pgbouncer() {
    let Some(program) = available("PgBouncer", PgBouncerServer::find()) else {
        return;
    };
    let Some(shop) = Shop::open().await else { return };
    let mut bouncer = PgBouncerServer::builder(program);
    for name in NAMES {
        shop.green.execute(name, LEDGER).await.unwrap();
        bouncer = bouncer.database(format!(
            "{name} = host=127.0.0.1 port={} dbname={name}",
            shop.blue.port()
        ));
    }
    let bouncer = bouncer.start().await.unwrap();
    let mut gates = AllGates::new();
    for name in NAMES {
        let at = |cluster: &PgCluster| Upstream::new("127.0.0.1", cluster.port(), name);
        let gate = PgBouncer::new(name, at(&shop.blue), at(&shop.green));
        gates = gates
            .with(name, gate.instance(&bouncer.admin_url(), bouncer.ini()).unwrap())
            .unwrap();
    }
    // Both colours' urls lead through the pooler, which knows better.
    let urls = NAMES.map(|name| bouncer.url("postgres", name));
    let through = urls.each_ref().map(|url| AppGate::new(url.clone(), url.clone()));
    let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..3).map(|n| tokio::spawn(write(n, through.clone(), stop.clone(), acked.clone())));
    let tasks = tasks.collect();
    let writers = Writers { stop, acked, tasks };
    for color in [Color::Green, Color::Blue, Color::Green, Color::Blue] {
        writers.go_on(20).await;
        gates.hold(WITHIN).await.unwrap();
        gates.point_at(color).await.unwrap();
        assert_eq!(gates.state().await.unwrap(), GateState { held: true, at: color });
        gates.release().await.unwrap();
        assert_eq!(gates.state().await.unwrap(), GateState { held: false, at: color });
    }
    for told in writers.end().await {
        assert_eq!(told.failed, 0, "no client sees an error");
    }
    let beside = std::fs::read_dir(bouncer.ini().parent().unwrap()).unwrap();
    let beside: Vec<String> = beside
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!beside.iter().any(|name| name.ends_with(".bluegreen")), "{beside:?}");
}
