//! The file journal on a real file system.
#![allow(clippy::unwrap_used)]

use bluegreen_core::journal::entry::FORMAT;
use bluegreen_core::{Body, Entry, FileJournal, Journal, Kind, Outcome, Signal, StepName, Timestamp};
use std::path::Path;

fn entry(seq: u64) -> Entry {
    Entry {
        v: FORMAT,
        seq,
        at: Timestamp::from_micros(1_800_000_000_000_000),
        body: Body::Started { step: StepName::Mirror },
    }
}

fn fixture() -> String {
    format!("{}/tests/fixtures/journal-v1.journal", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn what_was_appended_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    let journal = FileJournal::open(&path).unwrap();
    assert!(journal.load().await.unwrap().is_empty());
    for seq in 0..3 {
        journal.append(&entry(seq)).await.unwrap();
    }
    assert_eq!(FileJournal::read(&path).unwrap().len(), 3);
    drop(journal);
    let again = FileJournal::open(&path).unwrap();
    again.append(&entry(3)).await.unwrap();
    assert_eq!(again.load().await.unwrap(), [entry(0), entry(1), entry(2), entry(3)]);
}

#[tokio::test]
async fn one_runner_holds_it_whatever_name_it_goes_by() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    let journal = FileJournal::open(&path).unwrap();
    let refused = FileJournal::open(&path).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(
        refused.to_string().contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    // Moved away under the runner: its place is still held, and nothing is written where nobody looks.
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    assert_eq!(FileJournal::open(&path).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(journal.append(&entry(0)).await.unwrap_err().kind(), Kind::Conflict);
    assert!(!path.exists());
    drop(journal);
    FileJournal::open(&path).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn is_private_and_held_through_a_link() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    let _journal = FileJournal::open(&path).unwrap();
    FileJournal::request(&path, Signal::Pause).unwrap();
    for name in ["shop.journal", "shop.journal.lock", "shop.journal.requests"] {
        assert_eq!(
            folder.path().join(name).metadata().unwrap().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
    let link = folder.path().join("link.journal");
    symlink(&path, &link).unwrap();
    let held = FileJournal::open(&link).unwrap_err();
    assert_eq!(held.kind(), Kind::Conflict);
    // What lies beside the link says who opened that: we did, just now.
    assert!(held.message().contains("by another name"), "{held}");
    assert!(!held.message().contains(&std::process::id().to_string()), "{held}");
}

#[tokio::test]
async fn a_torn_tail_is_cut_by_the_next_append_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    std::fs::write(&path, "").unwrap();
    let journal = FileJournal::open(&path).unwrap();
    journal.append(&entry(0)).await.unwrap();
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    let torn = [&whole[..], b"0123abcd {\"v\":1,\"se"].concat();
    std::fs::write(&path, &torn).unwrap();

    let journal = FileJournal::open(&path).unwrap();
    assert_eq!(journal.load().await.unwrap(), [entry(0)]);
    assert_eq!(std::fs::read(&path).unwrap(), torn);
    journal.append(&entry(1)).await.unwrap();
    assert_eq!(FileJournal::read(&path).unwrap(), [entry(0), entry(1)]);
}

#[tokio::test]
async fn a_damaged_line_is_named_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    let damaged = std::fs::read_to_string(fixture())
        .unwrap()
        .replacen("deploy", "destroy", 1);
    std::fs::write(&path, &damaged).unwrap();
    let journal = FileJournal::open(&path).unwrap();
    let error = journal.load().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("line 1 "), "{error}");
    assert_eq!(journal.append(&entry(0)).await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(FileJournal::read(&path).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
}

#[tokio::test]
async fn requests_from_other_processes_are_heard_with_an_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    assert_eq!(
        FileJournal::request(&path, Signal::Abort).unwrap_err().kind(),
        Kind::NotFound
    );
    let journal = FileJournal::open(&path).unwrap();
    assert!(journal.has_requests());
    assert!(journal.requests().await.unwrap().is_empty());

    FileJournal::request(&path, Signal::Pause).unwrap();
    // An operator's process that died half-way swallows nothing of the next.
    let requests = folder.path().join("shop.journal.requests");
    let half = [std::fs::read(&requests).unwrap(), b"89ab {\"id\"".to_vec()].concat();
    std::fs::write(&requests, half).unwrap();
    assert_eq!(journal.requests().await.unwrap().len(), 1);
    FileJournal::request(&path, Signal::Resume).unwrap();

    let heard = journal.requests().await.unwrap();
    let signals: Vec<_> = heard.iter().map(|r| r.signal).collect();
    assert_eq!(signals, [Signal::Pause, Signal::Resume]);
    assert_ne!(heard[0].id, heard[1].id);
    assert_eq!(journal.requests().await.unwrap(), heard);
}

#[tokio::test]
async fn a_new_migration_does_not_hear_what_was_asked_of_an_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.journal");
    drop(FileJournal::open(&path).unwrap());
    FileJournal::request(&path, Signal::Abort).unwrap();
    drop(FileJournal::open(&path).unwrap());
    let kept = FileJournal::open(&path).unwrap();
    assert_eq!(kept.requests().await.unwrap().len(), 1);
    drop(kept);
    std::fs::remove_file(&path).unwrap();
    assert!(FileJournal::open(&path).unwrap().requests().await.unwrap().is_empty());
}

#[test]
fn a_folder_that_is_not_there_is_said() {
    let error = FileJournal::open(Path::new("no/such/folder/shop.journal")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}

#[test]
fn format_1_stays_readable() {
    let entries = FileJournal::read(fixture()).unwrap();
    assert!(matches!(&entries[0].body, Body::Planned { name, steps, .. } if name == "shop" && steps.len() == 8));
    assert_eq!(
        entries.last().unwrap().body,
        Body::Closed {
            outcome: Outcome::Completed
        }
    );
    let as_written = std::fs::read_to_string(fixture()).unwrap();
    for (line, entry) in as_written.lines().zip(&entries) {
        assert_eq!(
            &line[9..],
            serde_json::to_string(entry).unwrap(),
            "what was written then is written now"
        );
    }
}
