//! What the preflight says of the servers' own defaults, of synchronous standbys, and of streams of changes that are there already.
//! On real clusters, with the fault, and after the command that mends it.

use crate::common::findings::{find, ids, run, troubles};
use crate::common::mover::{fill, mover, roles};
use crate::common::secure::ask_for_password;
use crate::common::{Pair, connect, streaming};
use bluegreen_core::{Color, Direction, Finding, Replicator, Severity};
use bluegreen_pg::PgReplicator;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio_postgres::Client;

async fn notes(replicator: &PgReplicator) -> Vec<Finding> {
    let mut findings = replicator.preflight().await.unwrap();
    findings.retain(|finding| finding.severity == Severity::Note);
    findings
}

async fn set(client: &Client, settings: &[&str]) {
    for setting in settings {
        client
            .batch_execute(&format!("ALTER SYSTEM SET {setting}"))
            .await
            .unwrap();
    }
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Asks until the answer is true.
async fn until(client: &Client, what: &str) {
    for _ in 0..600 {
        if client.query_one(what, &[]).await.unwrap().get(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// What receives a server's whole log and confirms it, as a synchronous standby does.
struct Standby(Child, #[allow(dead_code, reason = "it goes with us")] tempfile::TempDir);

impl Standby {
    fn start(pair: &Pair, color: Color, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = pair.cluster(color);
        let child = Command::new(cluster.binaries().dir().join("pg_receivewal"))
            .args(["--synchronous", "--no-loop", "--directory"])
            .arg(folder.path())
            .arg("--dbname")
            .arg(format!(
                "host=127.0.0.1 port={} user=postgres application_name={name}",
                cluster.port()
            ))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child, folder)
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_mirror_is_no_synchronous_standby() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let standby = Standby::start(&pair, Color::Blue, "'the s1'");
    until(&blue, "SELECT count(*) = 1 FROM pg_stat_replication").await;
    set(&blue, &["synchronous_standby_names = '*'"]).await;
    until(
        &blue,
        "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'",
    )
    .await;
    // A name that the user gives to the connection is not the walsender's: this one is the standby's.
    let from_green = format!("{} application_name='the s1'", pair.url(Color::Blue));
    let replicator = pair
        .builder()
        .database_from_peer(Color::Blue, from_green)
        .build()
        .unwrap();
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["synchronous-mirror"], "{seen:#?}");
    let evidence = ["of blue", "\"*\"", "bluegreen_shop_to_green"];
    let blocked = find(&seen, "synchronous-mirror", Severity::Blocking, &evidence);
    assert!(blocked.mend.contains("'FIRST 1 (\"the s1\")'"), "{blocked}");

    // It would be one by any name; and is none any more when it is not meant.
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let priority = "SELECT sync_priority FROM pg_stat_replication WHERE application_name = 'bluegreen_shop_to_green'";
    let taken: i32 = blue.query_one(priority, &[]).await.unwrap().get(0);
    assert_eq!(taken, 1);
    run(&blue, blocked, "at blue: ").await;
    until(&blue, &format!("SELECT ({priority}) = 0")).await;
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");

    standby.end();
    until(&blue, "SELECT count(*) = 1 FROM pg_stat_replication").await;
    let seen = troubles(&replicator).await;
    let missing = find(
        &seen,
        "synchronous-standby-missing",
        Severity::Blocking,
        &["of blue", "1 must confirm", "0 can"],
    );
    run(&blue, missing, "at blue: ").await;
    // In the pause and in the hold it would be green that waits. Its clients from before the mirror were ended.
    let green = pair.client(Color::Green).await;
    set(
        &green,
        &["synchronous_standby_names = 'ANY 1 (BlueGreen_shop_to_blue)'"],
    )
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["synchronous-mirror"], "{seen:#?}");
    let blocked = find(&seen, "synchronous-mirror", Severity::Blocking, &["of green"]);
    run(&green, blocked, "at green: ").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn servers_with_other_defaults() {
    let Some(mut pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let settings = [
        "TimeZone = 'Europe/Rome'",
        "DateStyle = 'German, DMY'",
        "search_path = '$user', 'public', 'Odd, one'",
        "statement_timeout = '1h'",
        "session_preload_libraries = 'auto_explain'",
    ];
    set(&blue, &settings).await;
    // What is set for the database is looked at with the database; and 14 spells the locale as it likes.
    set(&blue, &["bytea_output = 'escape'", "lc_time = 'C.UTF-8'"]).await;
    set(&green, &["max_connections = 150", "lc_time = 'C.utf8'"]).await;
    for client in [&blue, &green] {
        let same = "ALTER DATABASE \"shop \"\"ü\"\"\" SET bytea_output = 'hex'";
        client.batch_execute(same).await.unwrap();
    }
    pair.green.restart().await.unwrap();
    let replicator = pair.replicator();
    let seen = troubles(&replicator).await;
    assert_eq!(
        ids(&seen),
        ["less-room", "preload-libraries", "server-defaults"],
        "{seen:#?}"
    );
    let evidence = [
        "4 defaults",
        "TimeZone ('Europe/Rome' on blue, 'UTC' on green)",
        "DateStyle ('German, DMY' on blue",
        "search_path",
        "statement_timeout ('1h' on blue, '0' on green)",
    ];
    let defaults = find(&seen, "server-defaults", Severity::Warning, &evidence);
    let room = find(
        &seen,
        "less-room",
        Severity::Warning,
        &["max_connections (200 on blue, 150 on green)"],
    );
    let loaded = find(
        &seen,
        "preload-libraries",
        Severity::Warning,
        &["auto_explain (session_preload_libraries)"],
    );
    let green = pair.client(Color::Green).await;
    for finding in [defaults, room, loaded] {
        run(&green, finding, "at green: ").await;
    }
    pair.green.restart().await.unwrap();
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
    let green = pair.client(Color::Green).await;
    let path: String = green.query_one("SHOW search_path", &[]).await.unwrap().get(0);
    assert_eq!(path, "\"$user\", public, \"Odd, one\"");

    // Who may not see a setting says so.
    let shown = notes(&replicator).await;
    assert!(!ids(&shown).contains(&"preload-libraries"), "{shown:#?}");
    let blue = pair.client(Color::Blue).await;
    for client in [&blue, &green] {
        client.batch_execute("CREATE ROLE mover LOGIN").await.unwrap();
    }
    let url = |color| pair.url(color).replace("user=postgres", "user=mover");
    let mover = pair.builder_of(url(Color::Blue), url(Color::Green)).build().unwrap();
    let seen = notes(&mover).await;
    let hidden = find(&seen, "preload-libraries", Severity::Note, &["at blue and green"]);
    blue.batch_execute("GRANT pg_read_all_settings TO mover").await.unwrap();
    run(&green, hidden, "at green: ").await;
    assert!(!ids(&notes(&mover).await).contains(&"preload-libraries"));
}

#[tokio::test]
async fn streams_that_are_there_already() {
    let Some(pair) = Pair::start().await else { return };
    pair.green.create_database("third").await.unwrap();
    let third = connect(&pair.green.url("third")).await.unwrap();
    let blue = pair.client(Color::Blue).await;
    let table = "CREATE TABLE fed (id int PRIMARY KEY)";
    third.batch_execute(table).await.unwrap();
    third.batch_execute("CREATE PUBLICATION feed").await.unwrap();
    blue.batch_execute(table).await.unwrap();
    blue.batch_execute("CREATE PUBLICATION reports").await.unwrap();
    let subscribe = |name: &str, from: &str| {
        format!("CREATE SUBSCRIPTION \"{name}\" CONNECTION '{from}' PUBLICATION reports, feed")
    };
    let from = format!("host=127.0.0.1 port={} user=postgres dbname=third", pair.green.port());
    blue.batch_execute(&subscribe("the feed", &from).replace("reports, feed", "feed WITH (slot_name = 'it_feeds')"))
        .await
        .unwrap();
    let from = pair.url(Color::Blue).replace('\'', "''");
    third
        .batch_execute(&subscribe("reader", &from).replace("reports, feed", "reports"))
        .await
        .unwrap();
    until(
        &blue,
        "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = 'reader' AND active",
    )
    .await;
    let replicator = pair.replicator();
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["foreign-subscriptions", "other-consumers"], "{seen:#?}");
    let evidence = ["slot reader", "publication reports"];
    find(&seen, "other-consumers", Severity::Warning, &evidence);
    let feed = find(
        &seen,
        "foreign-subscriptions",
        Severity::Blocking,
        &["at blue: ", "subscription the feed"],
    );
    run(&blue, feed, "at blue: ").await;
    until(
        &third,
        "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = 'it_feeds' AND NOT active",
    )
    .await;

    // It rests, and its slot is read by nobody.
    let seen = troubles(&replicator).await;
    assert_eq!(
        ids(&seen),
        ["foreign-subscriptions", "idle-slots", "other-consumers"],
        "{seen:#?}"
    );
    let resting = find(
        &seen,
        "foreign-subscriptions",
        Severity::Warning,
        &["at blue, disabled: "],
    );
    run(&blue, resting, "at blue: ").await;
    run(&third, resting, "at the server each comes from: ").await;
    third.batch_execute("DROP SUBSCRIPTION reader").await.unwrap();
    blue.batch_execute("DROP PUBLICATION reports").await.unwrap();
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn what_only_18_can_be_told() {
    let Some(mut pair) = Pair::of_majors(18, 18).await else {
        return;
    };
    let replicator = pair.builder().build().unwrap();
    let clean = ids(&troubles(&replicator).await).join(" ");
    assert!(
        !clean.contains("idle-slot-timeout") && !clean.contains("origins") && !clean.contains("output-plugin"),
        "{clean}"
    );
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let at_blue = [
        "idle_replication_slot_timeout = '1h'",
        "output_plugin_libraries = 'test_decoding'",
    ];
    set(&blue, &at_blue).await;
    set(&green, &["max_active_replication_origins = 0"]).await;
    pair.green.restart().await.unwrap();
    let seen = troubles(&replicator).await;
    let timeout = find(&seen, "idle-slot-timeout", Severity::Warning, &["of blue is 1h"]);
    let origins = find(
        &seen,
        "max-active-replication-origins",
        Severity::Blocking,
        &["of green is 0", "1 more"],
    );
    let plugin = find(&seen, "output-plugin", Severity::Blocking, &["test_decoding"]);
    for finding in [timeout, plugin] {
        run(&blue, finding, "at blue: ").await;
    }
    let (_, more) = origins.mend.split_once("at green: ").unwrap();
    let more = more.split(" and restart").next().unwrap();
    pair.client(Color::Green).await.batch_execute(more).await.unwrap();
    pair.green.restart().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ids(&troubles(&replicator).await).join(" "), clean);
}

#[tokio::test]
async fn blue_comes_back_to_green_with_a_password() {
    let Some(pair) = Pair::of_majors(16, 16).await else {
        return;
    };
    roles(&pair).await;
    fill(&pair).await;
    ask_for_password(&pair, Color::Blue, "mover", false).await;
    let replicator = pair
        .builder_of(mover(&pair, Color::Blue), mover(&pair, Color::Green))
        .build()
        .unwrap();
    // Green lets everybody in without one.
    let seen = troubles(&replicator).await;
    let asked = find(&seen, "blue-needs-a-password", Severity::Blocking, &["to green"]);
    assert!(asked.mend.contains("host all \"mover\" all scram-sha-256"), "{asked}");
    ask_for_password(&pair, Color::Green, "mover", false).await;
    let left = troubles(&replicator).await;
    assert!(!ids(&left).contains(&"blue-needs-a-password"), "{left:#?}");
}

#[tokio::test]
async fn a_log_without_a_bound_gets_one() {
    let Some(pair) = Pair::start().await else { return };
    let replicator = pair.builder().free_disk(Color::Blue, 10_000_000_000).build().unwrap();
    let of = |color: &'static str, all: &[Finding]| -> Vec<Finding> {
        let here = |f: &&Finding| f.id == "unbounded-wal" && f.seen.contains(&format!("of {color} is -1"));
        all.iter().filter(here).cloned().collect()
    };
    let seen = notes(&replicator).await;
    // Half of what was told; where nothing was, that is said.
    let [at_blue] = &of("blue", &seen)[..] else {
        panic!("{seen:#?}")
    };
    assert!(at_blue.mend.contains("max_slot_wal_keep_size = '4768MB'"), "{at_blue}");
    let [at_green] = &of("green", &seen)[..] else {
        panic!("{seen:#?}")
    };
    assert!(at_green.mend.contains("half of what is free"), "{at_green}");
    for (color, finding) in [(Color::Blue, at_blue), (Color::Green, at_green)] {
        let client = pair.client(color).await;
        let (_, commands) = finding.mend.split_once(&format!("at {color}: ")).unwrap();
        for command in commands.split_inclusive(';') {
            client.batch_execute(command).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = notes(&replicator).await;
    assert!(!ids(&left).contains(&"unbounded-wal"), "{left:#?}");
}
