//! The demo's promise, as it is run by people: whatever the gate, the name server and the direction, and however often the
//! migrating process is killed, no request fails, no write is lost or doubled, and nothing is left behind.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_testkit::servers::{PgBinaries, PgBouncerServer, PowerDnsBinaries, available};
use std::process::Command;

fn demo(arguments: &[&str], outcome: &str) -> Option<serde_json::Value> {
    available("PostgreSQL", PgBinaries::find())?;
    available("PgBouncer", PgBouncerServer::find())?;
    available("PowerDNS", PowerDnsBinaries::find())?;
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--json", "--rows", "3000", "--writers", "4", "--think", "5"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let last = stdout
        .lines()
        .last()
        .unwrap_or_else(|| panic!("it said nothing: {said}"));
    let summary: serde_json::Value = serde_json::from_str(last).unwrap();
    for none in ["failed", "lost", "doubled", "unbalanced"] {
        assert_eq!(summary[none], 0, "{none}: {summary}\n{said}");
    }
    assert_eq!(summary["leftovers"], serde_json::json!([]), "{summary}\n{said}");
    assert_eq!(summary["outcome"], outcome, "{summary}\n{said}");
    assert!(summary["acked"].as_u64().unwrap() > 100, "{summary}");
    assert!(output.status.success(), "{summary}\n{said}");
    Some(summary)
}

#[test]
fn an_application_moves_with_the_gate_inside_it() {
    let Some(summary) = demo(&[], "completed") else { return };
    assert!(summary["to_green"].as_u64().unwrap() > 0, "{summary}");
    assert!(summary["write_pause_ms"].as_f64().unwrap() > 0.0, "{summary}");
}

#[test]
fn an_application_moves_with_pgbouncer_and_powerdns() {
    demo(&["--gate", "pgbouncer", "--dns", "powerdns"], "completed");
}

#[test]
fn an_application_goes_back_after_the_cut_over() {
    let Some(summary) = demo(&["--go-back"], "rolled-back") else {
        return;
    };
    assert_eq!(
        summary["pauses"].as_array().unwrap().len(),
        2,
        "there and back: {summary}"
    );
}

#[test]
fn an_application_goes_back_with_pgbouncer_and_powerdns() {
    demo(
        &["--go-back", "--gate", "pgbouncer", "--dns", "powerdns"],
        "rolled-back",
    );
}

#[test]
fn migrations_that_are_killed_a_hundred_times_still_end_whole() {
    let mut kills = 0;
    // Each ends when it does, with some of the kills that were meant for it left.
    for _ in 0..10 {
        let Some(summary) = demo(&["--kill", "--kills", "50"], "completed") else {
            return;
        };
        kills += summary["kills"].as_u64().unwrap();
        if kills >= 100 {
            return;
        }
    }
    panic!("killed {kills} times only");
}

#[test]
fn a_migration_that_is_killed_on_its_way_back_still_ends_whole() {
    demo(
        &["--kill", "--kills", "25", "--go-back", "--dns", "powerdns"],
        "rolled-back",
    );
}
