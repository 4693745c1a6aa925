//! The PgBouncer gate on real PgBouncers in front of real clusters, with writers that never stop.
#![allow(clippy::unwrap_used)]

mod bouncer;

use bluegreen_core::{Color, Kind, Severity, WriteGate};
use bluegreen_pg::{PgBouncer, Upstream};
use bluegreen_testkit::servers::PgBouncerServer;
use bouncer::{BUDGET, Stage, Writers, app_role, connect, rest};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

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

/// A client that comes while the gate is held makes PgBouncer open a server connection, which the pause cuts off.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_during_the_pause_lock_nobody_out() {
    let Some(stage) = Stage::set("", &[("server_login_retry", "3000")]).await else {
        return;
    };
    app_role(&stage).await;
    let writers = Writers::start(&stage, 4).await;
    rest().await;
    let gate = stage.gate();
    gate.hold(BUDGET).await.unwrap();
    gate.point_at(Color::Green).await.unwrap();
    let url = stage.bouncer.url("app", "shop");
    let newcomer = tokio::spawn(async move { connect(&url).await.batch_execute("SELECT 1").await });
    rest().await;
    gate.release().await.unwrap();
    let served = tokio::time::timeout(BUDGET, newcomer).await;
    served.expect("the newcomer waits on").unwrap().unwrap();
    rest().await;
    writers.finish().await;
    assert!(!stage.tokens().await.1.is_empty(), "nobody wrote after the release");
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
        let retry = login_retry(&admin).await;
        if retry == "3000" {
            break;
        }
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "server_login_retry is {retry}"
        );
        rest().await;
    }
}

async fn login_retry(admin: &tokio_postgres::Client) -> String {
    let messages = admin.simple_query("SHOW CONFIG").await.unwrap();
    let retry = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("server_login_retry") => row.get(1),
        _ => None,
    });
    retry.unwrap().to_owned()
}

/// A process that was killed between the release and what comes a second after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_short_is_put_right_by_the_next() {
    let Some(stage) = Stage::set("", &[("server_login_retry", "7")]).await else {
        return;
    };
    let admin = connect(&stage.bouncer.admin_url()).await;
    admin.simple_query("SET server_login_retry = '0.001'").await.unwrap();
    assert_eq!(login_retry(&admin).await, "0.001");
    // Not before it is known what becomes of the pause.
    admin.simple_query("PAUSE shop").await.unwrap();
    assert!(stage.gate().state().await.unwrap().held);
    assert_eq!(login_retry(&admin).await, "0.001");
    admin.simple_query("RESUME shop").await.unwrap();
    stage.gate().state().await.unwrap();
    assert_eq!(login_retry(&admin).await, "7");
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
        .database(format!(
            "shop_too = host=127.0.0.1 port={} dbname=shop",
            stage.green.port()
        ))
        .setting("so_reuseport", "1")
        .setting("query_wait_timeout", "5");
    let ill = ill.start().await.unwrap();
    let gate = stage.bare().instance(&ill.admin_url(), ill.ini()).unwrap();
    let found = ids(&gate.preflight().await.unwrap());
    for id in [
        "gate-session-mode",
        "gate-min-pool-size",
        "gate-query-wait-timeout",
        "gate-so-reuseport",
        "gate-other-names",
    ] {
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

/// Not a test: the process that the next one kills. It moves the gate to and fro for ever.
#[tokio::test]
#[ignore = "started by another test"]
async fn mover() {
    let Ok(admin) = std::env::var("MOVER_ADMIN") else {
        return;
    };
    let var = |name: &str| std::env::var(name).unwrap();
    let at = |name: &str| Upstream::new("127.0.0.1", var(name).parse().unwrap(), "shop");
    let gate = PgBouncer::new("shop", at("MOVER_BLUE"), at("MOVER_GREEN"));
    let gate = gate.instance(&admin, var("MOVER_INI")).unwrap();
    for to in [Color::Green, Color::Blue].into_iter().cycle() {
        rest().await;
        gate.hold(BUDGET).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        gate.point_at(to).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        gate.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_the_next_process_releases_and_nothing_is_lost() {
    let Some(stage) = Stage::set("", &[]).await else { return };
    app_role(&stage).await;
    let writers = Writers::start(&stage, 4).await;
    let mut left_held = 0;
    for kill in 0..20_u64 {
        let mut mover = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "mover", "--ignored"])
            .env("MOVER_ADMIN", stage.bouncer.admin_url())
            .env("MOVER_INI", stage.bouncer.ini())
            .env("MOVER_BLUE", stage.blue.port().to_string())
            .env("MOVER_GREEN", stage.green.port().to_string())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300 + kill * 37 % 300)).await;
        mover.kill().await.unwrap();
        let next = stage.gate();
        left_held += usize::from(next.state().await.unwrap().held);
        next.release().await.unwrap();
        assert!(!next.state().await.unwrap().held);
        let beside: Vec<_> = std::fs::read_dir(stage.bouncer.ini().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("bluegreen"))
            .collect();
        assert!(beside.is_empty(), "{beside:?}");
    }
    eprintln!("killed 20 times, {left_held} of them while it was held");
    rest().await;
    let acknowledged = writers.finish().await;
    let (blue, green) = stage.tokens().await;
    assert!(
        left_held > 0 && !green.is_empty(),
        "the killed process never moved the gate"
    );
    let mut found = [blue, green].concat();
    found.sort();
    assert_eq!(found, acknowledged);
}
