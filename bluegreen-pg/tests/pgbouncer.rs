//! The PgBouncer gate on real PgBouncers in front of real clusters, with writers that never stop.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{Color, Kind, Severity, WriteGate};
use bluegreen_pg::{PgBouncer, Upstream};
use bluegreen_testkit::servers::{PgBouncerServer, PgCluster, available};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

const BUDGET: Duration = Duration::from_secs(10);

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Two clusters and a PgBouncer in front of the blue one.
struct Stage {
    bouncer: PgBouncerServer,
    blue: PgCluster,
    green: PgCluster,
}

impl Stage {
    async fn set(line: &str, settings: &[(&str, &str)]) -> Option<Self> {
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

    fn bare(&self) -> PgBouncer {
        let at = |cluster: &PgCluster| Upstream::new("127.0.0.1", cluster.port(), "shop");
        PgBouncer::new("shop", at(&self.blue), at(&self.green))
    }

    fn gate(&self) -> PgBouncer {
        self.bare()
            .instance(&self.bouncer.admin_url(), self.bouncer.ini())
            .unwrap()
    }

    async fn tokens(&self) -> (Vec<String>, Vec<String>) {
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
type Written = (Vec<String>, Vec<String>, Duration);

/// Clients that write until they are stopped, each write with a token of its own.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Written>>,
}

impl Writers {
    async fn start(stage: &Stage, count: usize) -> Self {
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
    async fn finish(self) -> Vec<String> {
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

async fn app_role(stage: &Stage) {
    for cluster in [&stage.blue, &stage.green] {
        let sql = "CREATE ROLE app LOGIN; GRANT ALL ON written TO app";
        cluster.execute("shop", sql).await.unwrap();
    }
}

async fn rest() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_writers_there_and_back_without_a_failure_or_a_lost_write() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    app_role(&stage).await;
    let gate = stage.gate();
    gate.connect().await.unwrap();
    let writers = Writers::start(&stage, 8).await;
    for round in 0..6 {
        rest().await;
        let to = if round % 2 == 0 { Color::Green } else { Color::Blue };
        let started = Instant::now();
        gate.hold(BUDGET).await.unwrap();
        let held = started.elapsed();
        assert!(gate.state().await.unwrap().held);
        let (blue, green) = stage.tokens().await;
        rest().await;
        assert_eq!(stage.tokens().await, (blue, green), "written while the gate was held");
        let moving = Instant::now();
        gate.point_at(to).await.unwrap();
        let pointed = moving.elapsed();
        gate.release().await.unwrap();
        let released = moving.elapsed() - pointed;
        eprintln!("hold {held:?} point {pointed:?} release {released:?}");
        let state = gate.state().await.unwrap();
        assert_eq!((state.held, state.at), (false, to));
    }
    rest().await;
    let acknowledged = writers.finish().await;
    let (blue, green) = stage.tokens().await;
    assert!(!blue.is_empty() && !green.is_empty());
    let mut found = [blue, green].concat();
    found.sort();
    assert_eq!(found, acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_makes_hold_time_out_and_everybody_goes_on() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    app_role(&stage).await;
    let gate = stage.gate();
    let open = connect(&stage.bouncer.url("app", "shop")).await;
    open.batch_execute("BEGIN; INSERT INTO written VALUES ('open')")
        .await
        .unwrap();
    let writers = Writers::start(&stage, 4).await;
    rest().await;
    for _ in 0..2 {
        let error = gate.hold(Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout, "{error}");
        assert!(!gate.state().await.unwrap().held);
    }
    rest().await;
    open.batch_execute("COMMIT").await.unwrap();
    // The same gate can be held afterwards: the pause given up left nothing behind.
    gate.hold(BUDGET).await.unwrap();
    gate.release().await.unwrap();
    let acknowledged = writers.finish().await;
    assert_eq!(stage.tokens().await.0.len(), acknowledged.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_hold_lets_everybody_go_on() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    app_role(&stage).await;
    let gate = stage.gate();
    let open = connect(&stage.bouncer.url("app", "shop")).await;
    open.batch_execute("BEGIN; INSERT INTO written VALUES ('open')")
        .await
        .unwrap();
    for after in [0, 1, 2, 5, 100] {
        let held = tokio::time::timeout(Duration::from_millis(after), gate.hold(BUDGET)).await;
        assert!(held.is_err(), "an open transaction was not waited for");
        let other = connect(&stage.bouncer.url("app", "shop")).await;
        let write = other.batch_execute("INSERT INTO written VALUES ('other')");
        tokio::time::timeout(BUDGET, write).await.expect("still held").unwrap();
    }
    open.batch_execute("COMMIT").await.unwrap();
    // The pauses given up are certain not to come back.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!gate.state().await.unwrap().held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_left_held_is_released_by_the_next_one() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    app_role(&stage).await;
    let writers = Writers::start(&stage, 4).await;
    rest().await;
    let first = stage.gate();
    first.hold(BUDGET).await.unwrap();
    drop(first);
    let second = stage.gate();
    let state = second.state().await.unwrap();
    assert_eq!((state.held, state.at), (true, Color::Blue));
    second.hold(BUDGET).await.unwrap();
    second.point_at(Color::Green).await.unwrap();
    second.point_at(Color::Green).await.unwrap();
    drop(second);
    let third = stage.gate();
    assert_eq!(third.state().await.unwrap().at, Color::Green);
    third.release().await.unwrap();
    third.release().await.unwrap();
    rest().await;
    let acknowledged = writers.finish().await;
    let (blue, green) = stage.tokens().await;
    assert_eq!(blue.len() + green.len(), acknowledged.len());
    assert!(!green.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_one_out_of_reach_none_is_held() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    let other = PgBouncerServer::builder(PgBouncerServer::find().unwrap())
        .database(format!("shop = host=127.0.0.1 port={}", stage.blue.port()));
    let mut other = other.start().await.unwrap();
    let both = stage.gate().instance(&other.admin_url(), other.ini()).unwrap();
    both.hold(BUDGET).await.unwrap();
    both.point_at(Color::Green).await.unwrap();
    both.release().await.unwrap();
    let state = both.state().await.unwrap();
    assert_eq!((state.held, state.at), (false, Color::Green));

    // They disagree: nobody guesses.
    stage.gate().point_at(Color::Blue).await.unwrap();
    assert_eq!(both.state().await.unwrap_err().kind(), Kind::Diverged);
    both.point_at(Color::Blue).await.unwrap();

    // Hung: the one that was held is released.
    other.signal(Signal::SIGSTOP).unwrap();
    let error = both.hold(Duration::from_millis(500)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert!(!stage.gate().state().await.unwrap().held);
    other.signal(Signal::SIGCONT).unwrap();
    assert!(!both.state().await.unwrap().held);

    // Gone.
    let ini = std::fs::read(stage.bouncer.ini()).unwrap();
    other.kill();
    let error = both.hold(BUDGET).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains(&other.port().to_string()), "{error}");
    assert!(!stage.gate().state().await.unwrap().held);
    assert_eq!(std::fs::read(stage.bouncer.ini()).unwrap(), ini);

    // Back again, on the same gate.
    other.restart().await.unwrap();
    both.hold(BUDGET).await.unwrap();
    both.release().await.unwrap();
}

/// PgBouncer opens `min_pool_size` connections while it is paused and cuts them off, which counts as failed logins; for the
/// 15 s of `server_login_retry` nobody would be served.
#[tokio::test(flavor = "multi_thread")]
async fn logins_cut_off_by_the_pause_lock_nobody_out() {
    let Some(stage) = Stage::set("", &[("min_pool_size", "2"), ("server_login_retry", "3000")]).await else {
        return;
    };
    app_role(&stage).await;
    let writers = Writers::start(&stage, 4).await;
    rest().await;
    let gate = stage.gate();
    gate.hold(BUDGET).await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    gate.point_at(Color::Green).await.unwrap();
    gate.release().await.unwrap();
    writers.finish().await;
    assert!(!stage.tokens().await.1.is_empty(), "nobody wrote after the release");

    // And what was shortened for it is as it was.
    let admin = connect(&stage.bouncer.admin_url()).await;
    let since = Instant::now();
    loop {
        let messages = admin.simple_query("SHOW CONFIG").await.unwrap();
        let retry = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("server_login_retry") => row.get(1),
            _ => None,
        });
        if retry == Some("3000") {
            break;
        }
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "server_login_retry is {retry:?}"
        );
        rest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_sees_what_would_go_wrong_and_nothing_when_all_is_well() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    let ids = |findings: &[bluegreen_core::Finding]| -> Vec<(String, Severity)> {
        findings.iter().map(|f| (f.id.clone(), f.severity)).collect()
    };
    let well = stage.gate().preflight().await.unwrap();
    assert!(
        well.iter().all(|finding| finding.severity == Severity::Note),
        "{well:#?}"
    );

    let program = PgBouncerServer::find().unwrap();
    let ill = PgBouncerServer::builder(&program)
        .database(format!(
            "shop = host=127.0.0.1 port={} pool_mode=session min_pool_size=3",
            stage.green.port()
        ))
        .setting("query_wait_timeout", "5");
    let ill = ill.start().await.unwrap();
    let gate = stage.bare().instance(&ill.admin_url(), ill.ini()).unwrap();
    let found = ids(&gate.preflight().await.unwrap());
    for id in ["gate-session-mode", "gate-min-pool-size", "gate-query-wait-timeout"] {
        assert!(found.contains(&(id.into(), Severity::Warning)), "{id}: {found:?}");
    }
    assert!(
        found.contains(&("gate-points-elsewhere".into(), Severity::Blocking)),
        "{found:?}"
    );

    let cases = [
        // A stranger's file, a user who may only look, a console that is not there, and a wildcard line.
        (stage.bouncer.admin_url(), ill.ini(), "gate-other-ini"),
        (
            stage.bouncer.admin_url().replace("admin@", "watcher@"),
            stage.bouncer.ini(),
            "gate-rights",
        ),
        (
            stage.bouncer.admin_url().replace("admin@", "stranger:s3cret@"),
            stage.bouncer.ini(),
            "gate-unreachable",
        ),
        (
            "postgres://admin:s3cret@127.0.0.1:1/pgbouncer".into(),
            stage.bouncer.ini(),
            "gate-unreachable",
        ),
        (
            stage.bouncer.admin_url(),
            stage.bouncer.ini().with_file_name("none.ini"),
            "gate-ini",
        ),
    ];
    for (admin, ini, id) in cases {
        let gate = stage.bare().instance(&admin, ini).unwrap();
        let findings = gate.preflight().await.unwrap();
        assert!(
            ids(&findings).contains(&(id.into(), Severity::Blocking)),
            "{id}: {findings:#?}"
        );
        assert!(!format!("{findings:?} {gate:?}").contains("s3cret"));
    }
    stage.gate().hold(BUDGET).await.unwrap();
    assert!(ids(&stage.gate().preflight().await.unwrap()).contains(&("gate-held".into(), Severity::Warning)));
    stage.gate().release().await.unwrap();
}

#[tokio::test]
async fn a_broken_ini_is_an_error_and_the_gate_stays_held() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    let gate = stage.gate();
    gate.hold(BUDGET).await.unwrap();
    let ini = std::fs::read_to_string(stage.bouncer.ini()).unwrap();
    std::fs::write(stage.bouncer.ini(), format!("this is no setting\n{ini}")).unwrap();
    let error = gate.point_at(Color::Green).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Diverged, "{error}");
    assert!(gate.state().await.unwrap().held);
    let mended = std::fs::read_to_string(stage.bouncer.ini())
        .unwrap()
        .replace("this is no setting\n", "");
    std::fs::write(stage.bouncer.ini(), mended).unwrap();
    gate.point_at(Color::Green).await.unwrap();
    gate.release().await.unwrap();
    let state = gate.state().await.unwrap();
    assert_eq!((state.held, state.at), (false, Color::Green));
}
