//! A journal on a disk that fails, and the laws of its lines.
#![allow(clippy::unwrap_used)]

use super::super::entry::{Body, FORMAT, Note, Outcome, StepName};
use super::*;
use crate::time::Timestamp;
use proptest::prelude::*;

/// A disk in memory that fails when told to.
#[derive(Default)]
struct Fake {
    bytes: Vec<u8>,
    /// How many bytes of the next append arrive before it fails.
    stop_after: Option<usize>,
    fail_sync: bool,
    fail_cut: bool,
    replaced: bool,
}

fn broken() -> io::Error {
    io::Error::other("broken disk")
}

impl Disk for Fake {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.bytes.clone())
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stop_after.take() {
            Some(n) => {
                self.bytes.extend(&bytes[..n]);
                Err(io::ErrorKind::StorageFull.into())
            }
            None => {
                self.bytes.extend(bytes);
                Ok(())
            }
        }
    }
    fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fail_sync) {
            Err(broken())
        } else {
            Ok(())
        }
    }
    fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.fail_cut {
            return Err(broken());
        }
        self.bytes.truncate(usize::try_from(len).unwrap());
        Ok(())
    }
    fn len_at_path(&self) -> io::Result<Option<u64>> {
        Ok((!self.replaced).then_some(self.bytes.len() as u64))
    }
}

fn entry(seq: u64, why: &str) -> Entry {
    Entry {
        v: FORMAT,
        seq,
        at: Timestamp::from_micros(1_800_000_000_000_000 + seq as i64),
        body: Body::Asked {
            step: StepName::Shift,
            why: why.into(),
        },
    }
}

fn tail() -> Tail<Fake> {
    let mut tail = Tail::new(Fake::default(), Path::new("test.journal"));
    tail.append(&entry(0, "first")).unwrap();
    tail
}

#[test]
fn a_failed_append_leaves_nothing_and_may_be_made_again() {
    for part in [0, 1, 30] {
        let mut tail = tail();
        let before = tail.disk.bytes.clone();
        tail.disk.stop_after = Some(part);
        let error = tail.append(&entry(1, "second")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(tail.disk.bytes, before);
        tail.append(&entry(1, "second")).unwrap();
        assert_eq!(tail.load().unwrap().len(), 2);
    }
}

#[test]
fn an_entry_that_could_not_be_synced_is_taken_back() {
    let mut tail = tail();
    tail.disk.fail_sync = true;
    assert_eq!(tail.append(&entry(1, "second")).unwrap_err().kind(), Kind::Unexpected);
    assert_eq!(tail.load().unwrap().len(), 1);
    tail.append(&entry(1, "again")).unwrap();
}

#[test]
fn a_journal_that_cannot_be_taken_back_says_so_until_it_can() {
    let mut tail = tail();
    tail.disk.stop_after = Some(12);
    tail.disk.fail_cut = true;
    assert_eq!(tail.append(&entry(1, "second")).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(tail.append(&entry(1, "second")).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(tail.load().unwrap_err().kind(), Kind::Corrupt);
    tail.disk.fail_cut = false;
    assert_eq!(tail.load().unwrap(), [entry(0, "first")]);
    tail.append(&entry(1, "again")).unwrap();
    assert_eq!(tail.load().unwrap().len(), 2);
}

#[test]
fn appends_only_what_is_next_and_only_to_its_own_file() {
    let mut tail = tail();
    for seq in [0, 2, 7] {
        assert_eq!(tail.append(&entry(seq, "no")).unwrap_err().kind(), Kind::Conflict);
    }
    tail.disk
        .bytes
        .extend(line::encode(&entry(1, "somebody else")).unwrap());
    assert_eq!(tail.append(&entry(1, "mine")).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(tail.load().unwrap().len(), 2);
    tail.disk.replaced = true;
    assert_eq!(tail.append(&entry(2, "gone")).unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn an_entry_whose_newline_is_missing_is_kept() {
    let mut tail = tail();
    tail.disk.bytes.pop();
    assert_eq!(tail.load().unwrap().len(), 1);
    tail.append(&entry(1, "second")).unwrap();
    assert_eq!(tail.load().unwrap(), [entry(0, "first"), entry(1, "second")]);
}

#[test]
fn blocks_that_never_reached_the_disk_are_a_torn_line() {
    let mut tail = tail();
    let mut second = line::encode(&entry(1, "second")).unwrap();
    second[10..40].fill(0);
    tail.disk.bytes.extend(second);
    assert_eq!(tail.load().unwrap().len(), 1);
    tail.append(&entry(1, "again")).unwrap();
    assert_eq!(tail.load().unwrap().len(), 2);
}

#[test]
fn a_newer_format_and_a_gap_are_told_apart() {
    let mut newer = entry(1, "from the future");
    newer.v = FORMAT + 1;
    let kinds = [(newer, Kind::Unsupported), (entry(2, "gap"), Kind::Corrupt)];
    for (second, kind) in kinds {
        let bytes = [line::encode(&entry(0, "a")).unwrap(), line::encode(&second).unwrap()].concat();
        let error = line::scan(&bytes).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains("line 2"), "{error}");
    }
}

fn bodies() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::Started { step: StepName::Mirror }),
        ".{0,40}".prop_map(|why| Body::RollbackRequested { why }),
        ".{0,40}".prop_map(|hook| Body::Noted {
            step: StepName::Soak,
            note: Note::Passed { hook }
        }),
        Just(Body::Closed {
            outcome: Outcome::Completed
        }),
    ]
}

fn journals() -> impl Strategy<Value = (Vec<Entry>, Vec<u8>)> {
    prop::collection::vec(bodies(), 1..5).prop_map(|bodies| {
        let numbered = bodies.into_iter().zip(0..);
        let entries: Vec<Entry> = numbered.map(|(body, seq)| Entry { body, ..entry(seq, "") }).collect();
        let bytes = entries.iter().flat_map(|e| line::encode(e).unwrap()).collect();
        (entries, bytes)
    })
}

/// Found by the property below: the first line's newline turned into a zero byte.
#[test]
fn a_newline_that_became_zero_is_damage_and_not_a_torn_line() {
    let mut bytes: Vec<u8> = (0..2).flat_map(|seq| line::encode(&entry(seq, "e")).unwrap()).collect();
    let newline = bytes.iter().position(|b| *b == b'\n').unwrap();
    bytes[newline] = 0;
    assert_eq!(line::scan(&bytes).unwrap_err().kind(), Kind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cut_anywhere_it_is_a_prefix_and_goes_on((entries, bytes) in journals()) {
        for cut in 0..=bytes.len() {
            let mut tail = Tail::new(Fake { bytes: bytes[..cut].to_vec(), ..Fake::default() }, Path::new("cut"));
            let left = tail.load().unwrap();
            let whole = bytes[..cut].iter().filter(|b| **b == b'\n').count();
            // A line without only its newline is whole.
            prop_assert!(left.len() == whole || left.len() == whole + 1 && bytes.get(cut) == Some(&b'\n'));
            prop_assert_eq!(&left[..], &entries[..left.len()]);
            tail.append(&entry(left.len() as u64, "went on")).unwrap();
            prop_assert_eq!(tail.load().unwrap().len(), left.len() + 1);
        }
    }

    #[test]
    fn a_changed_byte_is_never_read_as_something_else((entries, bytes) in journals(), mask in 1u8..) {
        let last_line = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            match line::scan(&changed) {
                Ok(found) => {
                    prop_assert!(at >= last_line, "an earlier line was dropped");
                    prop_assert!(changed[at] == 0 || at == bytes.len() - 1);
                    prop_assert_eq!(&found.entries[..], &entries[..entries.len() - 1]);
                }
                Err(e) => prop_assert_eq!(e.kind(), Kind::Corrupt),
            }
        }
    }
}
