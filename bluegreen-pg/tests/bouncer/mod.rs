//! Two clusters with a PgBouncer in front of the blue one, and writers that never stop.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use bluegreen_pg::{PgBouncer, Upstream};
use bluegreen_testkit::servers::{PgBouncerServer, PgCluster, available};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

pub const BUDGET: Duration = Duration::from_secs(10);

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Two clusters and a PgBouncer in front of the blue one.
pub struct Stage {
    pub bouncer: PgBouncerServer,
    pub blue: PgCluster,
    pub green: PgCluster,
}

impl Stage {
    pub async fn set(line: &str, settings: &[(&str, &str)]) -> Option<Self> {
        let program = available("PgBouncer", PgBouncerServer::find())?;
        available("PostgreSQL", bluegreen_testkit::servers::PgBinaries::find())?;
        let (blue, green) = tokio::try_join!(PgCluster::start(), PgCluster::start()).unwrap();
        for cluster in [&blue, &green] {
            cluster.create_database("shop").await.unwrap();
            cluster
                .execute("shop", "CREATE TABLE written (token text)")
                .await
                .unwrap();
        }
        let mut builder = PgBouncerServer::builder(program);
        builder = builder.database(format!("shop = host=127.0.0.1 port={} {line}", blue.port()));
        for (name, value) in settings {
            builder = builder.setting(*name, *value);
        }
        let bouncer = builder.start().await.unwrap();
        Some(Self { bouncer, blue, green })
    }

    pub fn bare(&self) -> PgBouncer {
        let at = |cluster: &PgCluster| Upstream::new("127.0.0.1", cluster.port(), "shop");
        PgBouncer::new("shop", at(&self.blue), at(&self.green))
    }

    pub fn gate(&self) -> PgBouncer {
        self.bare()
            .instance(&self.bouncer.admin_url(), self.bouncer.ini())
            .unwrap()
    }

    pub async fn tokens(&self) -> (Vec<String>, Vec<String>) {
        let mut sides = Vec::new();
        for cluster in [&self.blue, &self.green] {
            let client = cluster.connect("shop").await.unwrap();
            let rows = client.query("SELECT token FROM written", &[]).await.unwrap();
            sides.push(rows.iter().map(|row| row.get(0)).collect());
        }
        let green = sides.pop().unwrap();
        (sides.pop().unwrap(), green)
    }
}

/// What was acknowledged, what failed, and the longest wait.
pub type Written = (Vec<String>, Vec<String>, Duration);

/// Clients that write until they are stopped, each write with a token of its own.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Written>>,
}

impl Writers {
    pub async fn start(stage: &Stage, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for writer in 0..count {
            let client = connect(&stage.bouncer.url("app", "shop")).await;
            let stop = Arc::clone(&stop);
            tasks.push(tokio::spawn(async move {
                let (mut acknowledged, mut failed, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let token = format!("{writer}-{n}");
                    let since = Instant::now();
                    // Three round trips, so that a pause meets open transactions.
                    let done = async {
                        client.simple_query("BEGIN").await?;
                        client
                            .simple_query(&format!("INSERT INTO written VALUES ('{token}')"))
                            .await?;
                        client.simple_query("COMMIT").await
                    };
                    match done.await {
                        Ok(_) => acknowledged.push(token),
                        Err(error) => {
                            failed.push(format!("{token}: {error:?}"));
                            break;
                        }
                    }
                    longest = longest.max(since.elapsed());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (acknowledged, failed, longest)
            }));
        }
        Self { stop, tasks }
    }

    /// Stops them; the acknowledged tokens, after it was checked that nothing failed and nobody was locked out.
    pub async fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            let (acknowledged, failed, longest) = ended.expect("a writer is stuck").unwrap();
            assert!(failed.is_empty(), "{failed:?}");
            eprintln!("{} writes, longest {longest:?}", acknowledged.len());
            all.extend(acknowledged);
        }
        all.sort();
        all
    }
}

pub async fn app_role(stage: &Stage) {
    for cluster in [&stage.blue, &stage.green] {
        let sql = "CREATE ROLE app LOGIN; GRANT ALL ON written TO app";
        cluster.execute("shop", sql).await.unwrap();
    }
}

pub async fn rest() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}
