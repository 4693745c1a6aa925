//! Two PgBouncers of one gate that are not alike when a process begins, as a death, a restart with an old file or a hand
//! leaves them: by the journal they are put right, and nobody is asked.
#![allow(clippy::unwrap_used)]

mod bouncer;

use bluegreen_core::{
    AtOnce, Body, Color, Environment, FileJournal, Handle, Kind, Migration, NoDns, NoProbe, Note, Outcome, Result,
    Spec, StepName, WriteGate,
};
use bluegreen_pg::{PgBouncer, PgReplicator, Upstream};
use bluegreen_testkit::servers::PgBouncerServer;
use bouncer::{BUDGET, Stage, connect};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::SimpleQueryMessage;

/// A gate of two PgBouncers, and a migration through it.
struct Pair {
    stage: Stage,
    other: PgBouncerServer,
    folder: tempfile::TempDir,
}

impl Pair {
    async fn set() -> Option<Self> {
        let stage = Stage::set("", &[]).await?;
        for cluster in [&stage.blue, &stage.green] {
            // The green one is filled by the migration.
            cluster.execute("shop", "DROP TABLE written").await.unwrap();
        }
        let sql = "CREATE TABLE written (token text PRIMARY KEY)";
        stage.blue.execute("shop", sql).await.unwrap();
        let other = PgBouncerServer::builder(PgBouncerServer::find().unwrap())
            .database(format!("shop = host=127.0.0.1 port={}", stage.blue.port()));
        let other = other.start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Some(Self { stage, other, folder })
    }

    fn second(&self) -> PgBouncer {
        let gate = self.stage.bare();
        gate.instance(&self.other.admin_url(), self.other.ini()).unwrap()
    }

    fn gate(&self) -> PgBouncer {
        let gate = self.stage.gate();
        gate.instance(&self.other.admin_url(), self.other.ini()).unwrap()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn migration(&self, gate: impl WriteGate) -> Migration {
        let mut spec = Spec::new("shop", Environment::none(), Environment::none()).hold(Duration::from_secs(3600));
        spec.look = Duration::from_millis(50);
        spec.watch = Duration::from_millis(200);
        let (blue, green) = (self.stage.blue.url("shop"), self.stage.green.url("shop"));
        Migration::builder("shop")
            .dns(NoDns)
            .probe(NoProbe)
            .policy(AtOnce::new())
            .replicator(PgReplicator::new("shop", &blue, &green).unwrap())
            .gate(gate)
            .journal(FileJournal::open(self.journal()).unwrap())
            .spec(spec)
            .build()
            .unwrap()
    }

    /// A process that runs the migration.
    fn process(&self) -> Process {
        let migration = self.migration(self.gate());
        let handle = migration.handle();
        // A runtime of its own: with it every task of the process is gone.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let running = runtime.spawn(async move { migration.run().await });
        Process {
            runtime,
            running,
            handle,
        }
    }

    /// Runs it until the journal has such an entry, and then no further.
    async fn dies_at(&self, is: impl Fn(&Body) -> bool) {
        let mut process = self.process();
        let journal = self.journal();
        process.until(async || has(&journal, &is)).await;
        process.kill().await;
    }

    /// Whether both of them lead to that side, and nobody waits.
    async fn is(&self, color: Color) -> bool {
        let state = self.gate().state().await.map(|s| (s.held, s.at));
        state.ok() == Some((false, color))
    }

    /// Whoever comes through either of them is served by that side.
    async fn serves(&self, color: Color) {
        let port = match color {
            Color::Blue => self.stage.blue.port(),
            Color::Green => self.stage.green.port(),
        };
        let state = self.gate().state().await.unwrap();
        assert_eq!((state.held, state.at), (false, color));
        for bouncer in [&self.stage.bouncer, &self.other] {
            let client = connect(&bouncer.url("postgres", "shop")).await;
            let sql = format!("INSERT INTO written SELECT gen_random_uuid()::text WHERE inet_server_port() = {port}");
            let written = tokio::time::timeout(BUDGET, client.simple_query(&sql)).await;
            let written = written.expect("it waits").unwrap();
            let one = written
                .iter()
                .any(|m| matches!(m, SimpleQueryMessage::CommandComplete(1)));
            assert!(one, "served by the other side: {written:?}");
        }
    }
}

/// A process with a migration in it.
struct Process {
    runtime: Runtime,
    running: JoinHandle<Result<Outcome>>,
    handle: Handle,
}

impl Process {
    async fn until(&mut self, is: impl AsyncFn() -> bool) {
        let since = Instant::now();
        while !is().await {
            assert!(
                !self.running.is_finished(),
                "it is over: {:?}",
                (&mut self.running).await
            );
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "it never came: {}",
                self.handle.status()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn kill(self) {
        assert!(!self.running.is_finished(), "it was over before");
        let runtime = self.runtime;
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
        ended.await.unwrap();
    }

    async fn end(self) -> Result<Outcome> {
        let outcome = tokio::time::timeout(Duration::from_secs(60), self.running).await;
        let outcome = outcome.expect("it goes on").unwrap();
        self.runtime.shutdown_background();
        outcome
    }
}

fn has(journal: &Path, is: impl Fn(&Body) -> bool) -> bool {
    // It may not be there yet, or be written to now.
    FileJournal::read(journal).is_ok_and(|entries| entries.iter().any(|e| is(&e.body)))
}

fn noted(note: &Body, is: fn(&Note) -> bool) -> bool {
    matches!(note, Body::Noted { note, .. } if is(note))
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_commit_record_all_go_back_to_blue_and_after_it_all_to_green() {
    let Some(pair) = Pair::set().await else { return };
    // Before anything is known, a human is asked, and nothing is touched.
    pair.second().point_at(Color::Green).await.unwrap();
    let asked = pair.process().end().await.unwrap_err();
    assert_eq!(asked.kind(), Kind::HumanNeeded, "{asked}");
    assert!(asked.to_string().contains("nothing was changed"), "{asked}");
    assert_eq!(pair.second().state().await.unwrap().at, Color::Green);
    pair.second().point_at(Color::Blue).await.unwrap();

    // The mirror is there, and no commit record.
    pair.dies_at(|body| noted(body, |note| matches!(note, Note::Mirror { .. })))
        .await;
    pair.second().point_at(Color::Green).await.unwrap();
    pair.second().hold(BUDGET).await.unwrap();
    assert_eq!(pair.gate().state().await.unwrap_err().kind(), Kind::Diverged);
    let mut process = pair.process();
    // It is to go no further than that.
    process.handle.pause();
    process.until(async || pair.is(Color::Blue).await).await;
    process.kill().await;
    pair.serves(Color::Blue).await;
    let mut process = pair.process();
    process.handle.resume();
    let paused = |body: &Body| noted(body, |note| matches!(note, Note::Pause { .. }));
    process.until(async || has(&pair.journal(), paused)).await;
    process.kill().await;
    pair.serves(Color::Green).await;

    // Green writes, and somebody who knows nothing of it starts one with the file of yesterday.
    for held in [false, true] {
        pair.second().point_at(Color::Blue).await.unwrap();
        if held {
            pair.stage.gate().hold(BUDGET).await.unwrap();
        }
        assert_eq!(pair.gate().state().await.unwrap_err().kind(), Kind::Diverged);
        let mut process = pair.process();
        process.until(async || pair.is(Color::Green).await).await;
        pair.serves(Color::Green).await;
        if held {
            process.handle.go_back();
            let outcome = process.end().await.unwrap();
            assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
        } else {
            process.kill().await;
        }
    }
    pair.serves(Color::Blue).await;
}

/// One that leads to neither is somebody's doing: a human is asked, also where the journal knows who writes.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_leads_elsewhere_is_left_alone() {
    let Some(pair) = Pair::set().await else { return };
    pair.dies_at(|body| matches!(body, Body::Started { step: StepName::Hold }))
        .await;
    let stranger = PgBouncer::new(
        "shop",
        Upstream::new("127.0.0.1", 1, "shop"),
        Upstream::new("127.0.0.1", 2, "shop"),
    );
    let stranger = stranger.instance(&pair.other.admin_url(), pair.other.ini()).unwrap();
    stranger.point_at(Color::Blue).await.unwrap();
    let asked = pair.process().end().await.unwrap_err();
    assert_eq!(asked.kind(), Kind::HumanNeeded, "{asked}");
    assert!(asked.to_string().contains("neither blue nor green"), "{asked}");
    let ini = std::fs::read_to_string(pair.other.ini()).unwrap();
    assert!(ini.contains("port=1"), "{ini}");
}
