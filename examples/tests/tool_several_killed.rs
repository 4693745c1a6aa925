//! `bluegreen run` with two databases behind one PgBouncer, killed by SIGKILL at random instants and started again until it
//! is done, while units of work write to both. `BLUEGREEN_KILLS` says how many kills in all (30), `BLUEGREEN_SEED` repeats a
//! run's choices.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_core::{Clock, Color, SystemClock};
use bluegreen_testkit::app::{Acked, Database, Order, Pool, ledger, schema};
use bluegreen_testkit::servers::{PgBinaries, PgBouncerServer, PgCluster, available};
use rand::rngs::StdRng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tool::Tool;
use tool::kill::{Plan, all_kills, until_over};
use tool::world::{check_line, check_side, paused};

const NAMES: [&str; 2] = ["orders", "stock"];

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_both_end_at_one_side_and_nothing_is_lost() {
    // Every second one is sent back from its hold, and killed on that way too.
    all_kills(30, 2, one_migration).await;
}

/// One migration in a world of its own, killed at most so many times; how often it was.
async fn one_migration(rng: &mut StdRng, at_most: u64, goes_back: bool) -> Option<u64> {
    let world = World::start(5_000).await?;
    let tool = world.tool();
    let writers = Writers::start(&world, 3);
    let plan = Plan {
        at_most: at_most.min(15),
        goes_back,
        pause_may_come: |status| match status.contains("undoing") {
            false => {
                status.contains("blue writes") && [": mirror", ": cut-over"].iter().any(|step| status.contains(step))
            }
            true => status.contains("green writes") && status.contains("undoing cut-over"),
        },
    };
    let (writer, kills) = until_over(&tool, rng, &plan).await;
    world.check_end(writer, writers).await;
    Some(kills)
}

/// Two servers with two databases each, behind one PgBouncer.
struct World {
    blue: PgCluster,
    green: PgCluster,
    pooler: PgBouncerServer,
}

impl World {
    /// None when a server is not installed here.
    async fn start(rows: u64) -> Option<Self> {
        available("PostgreSQL", PgBinaries::find())?;
        let program = available("PgBouncer", PgBouncerServer::find())?;
        let cluster = || {
            PgCluster::builder()
                .setting("wal_retrieve_retry_interval", "500ms")
                .start()
        };
        let (blue, green) = tokio::try_join!(cluster(), cluster()).unwrap();
        let mut pooler = PgBouncerServer::builder(program);
        for name in NAMES {
            blue.create_database(name).await.unwrap();
            green.create_database(name).await.unwrap();
            schema::create(&blue.url(name), rows).await.unwrap();
            pooler = pooler.database(format!("{name} = host=127.0.0.1 port={} dbname={name}", blue.port()));
        }
        let pooler = pooler.start().await.unwrap();
        Some(Self { blue, green, pooler })
    }

    /// The tool with a file for this world; short settings.
    fn tool(&self) -> Tool {
        let table = |name: &str| {
            format!(
                "[[database]]\nname = \"{name}\"\nblue.database_env = \"BLUE_{name}\"\ngreen.database_env = \"GREEN_{name}\"\n\
                 gate = {{ kind = \"pgbouncer\", admin = \"{}\", config = \"{}\", database = \"{name}\" }}\n",
                self.pooler.admin_url(),
                self.pooler.ini().display()
            )
        };
        let mut tool = Tool::new(&format!(
            "[migration]\nname = \"shop\"\njournal = \"shop.journal\"\npause_budget = \"5s\"\nhold = \"1s\"\nlook = \"50ms\"\n\
             watch = \"100ms\"\ncut_over_retry = \"200ms\"\n{}{}",
            table("orders"),
            table("stock")
        ));
        for name in NAMES {
            tool = tool.env(&format!("BLUE_{name}"), &self.blue.url(name));
            tool = tool.env(&format!("GREEN_{name}"), &self.green.url(name));
        }
        tool
    }

    /// Everything that was acknowledged is in both databases of one side, once; only that side takes writes, both lines lead
    /// there, nobody waits, and nothing is left.
    async fn check_end(&self, writer: Color, writers: Writers) {
        let acked = writers.end().await;
        let there = match writer {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        };
        for (name, acked) in NAMES.into_iter().zip(acked) {
            for (color, cluster) in [(Color::Blue, &self.blue), (Color::Green, &self.green)] {
                check_side(cluster, name, color, writer).await;
            }
            check_line(&self.pooler, name, there);
            assert_eq!(
                paused(&self.pooler, name).await,
                "0",
                "PgBouncer's paused flag of {name}"
            );
            assert!(acked.len() > 50, "{} writes to {name}", acked.len());
            let ledger = ledger::check(&acked, &there.url(name)).await.unwrap();
            assert!(
                ledger.is_clean(),
                "{name}: {ledger:?} of {} acknowledged writes",
                acked.len()
            );
        }
        let beside = std::fs::read_dir(self.pooler.ini().parent().unwrap()).unwrap();
        let beside: Vec<_> = beside.map(|e| e.unwrap().file_name()).collect();
        let staged = beside.iter().any(|name| name.to_string_lossy().contains("bluegreen"));
        assert!(!staged, "left beside PgBouncer's file: {beside:?}");
    }
}

/// Writers whose units of work write the same order to one database and then to the other.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<[Vec<Acked>; 2]>>,
}

impl Writers {
    fn start(world: &World, count: u32) -> Self {
        let databases = NAMES.map(|name| Database::Pooled(Pool::new(world.pooler.url("postgres", name), 8)));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..count).map(|n| tokio::spawn(write(n, databases.clone(), Arc::clone(&stop))));
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    /// What was acknowledged in each database; that a client saw an error is a failure.
    async fn end(self) -> [Vec<Acked>; 2] {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = [vec![], vec![]];
        for task in self.tasks {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            for (all, acked) in all.iter_mut().zip(ended.expect("a writer waits for ever").unwrap()) {
                all.extend(acked);
            }
        }
        all
    }
}

async fn write(n: u32, databases: [Database; 2], stop: Arc<AtomicBool>) -> [Vec<Acked>; 2] {
    let mut acked = [vec![], vec![]];
    for i in 0_u32.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let order = Order {
            token: format!("{n}-{i}"),
            acct: i32::try_from((i * 3 + n) % 1000).unwrap() + 1,
            amount: i64::from(i % 7) + 1,
        };
        for (name, (database, acked)) in NAMES.into_iter().zip(databases.iter().zip(&mut acked)) {
            if let Err(error) = database.write(&order).await {
                panic!("{}: a client of {name} saw {error}", SystemClock.now());
            }
            acked.push(Acked {
                order: order.clone(),
                by: None,
            });
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acked
}
