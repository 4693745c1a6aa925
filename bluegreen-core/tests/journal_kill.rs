//! A process that appends is killed at random instants: what it said was durable is there, whole and in order, and the next
//! process goes on at once.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use bluegreen_core::journal::entry::FORMAT;
use bluegreen_core::{Body, Entry, FileJournal, Journal, StepName, Timestamp};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const JOURNAL: &str = "BLUEGREEN_TEST_JOURNAL";

fn entry(seq: u64) -> Entry {
    Entry {
        v: FORMAT,
        seq,
        at: Timestamp::EPOCH,
        body: Body::Asked {
            step: StepName::Shift,
            why: "something long enough to be torn ".repeat(300),
        },
    }
}

/// The process that is killed; nothing when it is run as a test.
#[test]
fn appends_until_it_is_killed() {
    let Some(path) = std::env::var_os(JOURNAL).map(PathBuf::from) else {
        return;
    };
    let journal = FileJournal::open(path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut next = runtime.block_on(journal.load()).unwrap().len() as u64;
    loop {
        runtime.block_on(journal.append(&entry(next))).unwrap();
        next += 1;
        // Not `println!`: the harness captures that.
        writeln!(std::io::stdout().lock(), "durable {next}").unwrap();
    }
}

#[test]
fn what_was_durable_survives_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    let mut durable = 0;
    for round in 0..25_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "appends_until_it_is_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(JOURNAL, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let told = |line: String| line.rsplit_once("durable ").and_then(|(_, n)| n.parse::<u64>().ok());
        let first = said
            .by_ref()
            .find_map(told)
            .expect("it went on where the last one was killed");
        assert!(first > durable, "{first} after {durable}");
        std::thread::sleep(Duration::from_micros(round * 733 % 5_000));
        child.kill().unwrap();
        child.wait().unwrap();
        durable = said.filter_map(told).last().unwrap_or(first);

        let entries = FileJournal::read(&path).unwrap();
        assert!(entries.len() as u64 >= durable, "{} of {durable}", entries.len());
        assert!(entries.iter().zip(0..).all(|(found, seq)| *found == entry(seq)));
    }
}
