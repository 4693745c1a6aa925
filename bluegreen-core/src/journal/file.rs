//! `FileJournal`: entries as checksummed lines of one file, locked against a second runner. Its form is in `line.rs`, the
//! door for other processes in `requests.rs`.

use super::disk::{Disk, RealFile, beside, failed, private, sync_folder};
use super::entry::{Entry, Signal};
use super::line::{self, Scan};
use super::requests;
use super::store::{Journal, Request};
use crate::error::{Error, Kind, Result};
use crate::time::{Clock, SystemClock};
use async_trait::async_trait;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A journal in a file: one readable line an entry, each with its checksum, synced before an append returns.
///
/// Whoever has it open holds it: a second opener, in this process or another, gets `Conflict`. A killed process lets go
/// by itself. Beside the file lie `<path>.lock`, which says who holds it, and `<path>.requests`, what operators asked
/// for from other processes ([`FileJournal::request`]).
///
/// ```
/// use bluegreen_core::{FileJournal, Kind};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("shop.journal");
/// let journal = FileJournal::open(&path)?;
/// assert_eq!(FileJournal::open(&path).unwrap_err().kind(), Kind::Conflict);
/// assert!(FileJournal::read(&path)?.is_empty());
/// # drop(journal);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileJournal {
    path: PathBuf,
    tail: Arc<Mutex<Tail<RealFile>>>,
    requests: requests::Reader,
    _lock: File,
}

impl fmt::Debug for FileJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileJournal").field(&self.path).finish()
    }
}

impl FileJournal {
    /// Opens the journal, makes it when there is none, and holds it until it is dropped.
    ///
    /// # Errors
    /// `Conflict` when somebody holds it already, and who; `NotFound` when its folder is missing; `PermissionDenied`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        const OPENING: &str = "open the journal";
        let io = |e| failed(OPENING, path.as_ref(), e);
        // A process that changes its folder still means this file.
        let path = &std::path::absolute(path.as_ref()).map_err(io)?;
        // The lock is a file of its own: it holds even when the journal is moved or replaced, and can say whose it is.
        let mut lock = private()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(beside(path, ".lock"))
            .map_err(io)?;
        hold(&lock, path, || who_holds(path))?;
        lock.set_len(0).map_err(io)?;
        writeln!(lock, "process {} since {}", std::process::id(), SystemClock.now()).map_err(io)?;

        let is_new = !path.try_exists().map_err(io)?;
        if is_new {
            // What was asked of an earlier migration must not be heard by this one.
            requests::forget(path)?;
        }
        let file = private().read(true).append(true).create(true).open(path).map_err(io)?;
        // Found by another name (a symbolic link), the same journal has another lock beside it: so it is locked too.
        hold(&file, path, || "another runner, which opened it by another name".into())?;
        if is_new {
            file.sync_all().and_then(|()| sync_folder(path)).map_err(io)?;
        }
        Ok(Self {
            path: path.to_owned(),
            tail: Arc::new(Mutex::new(Tail::new(RealFile::new(file, path), path))),
            requests: requests::Reader::new(path),
            _lock: lock,
        })
    }

    /// Reads the entries without holding the journal, for a look from outside while a migration runs.
    ///
    /// # Errors
    /// `NotFound` when there is no journal, `Corrupt` when it is damaged, `Unsupported` when a newer version wrote it.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Entry>> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| failed("read the journal", path, e))?;
        Ok(line::scan(&bytes).map_err(|e| at(path, e))?.entries)
    }

    /// Leaves a request for whoever runs the migration, durably; it is heard at the runner's next look.
    ///
    /// # Errors
    /// `NotFound` when there is no journal at `path`; otherwise when it could not be written.
    pub fn request(path: impl AsRef<Path>, signal: Signal) -> Result<()> {
        requests::leave(path.as_ref(), signal)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn load(&self) -> Result<Vec<Entry>> {
        let (tail, path) = (Arc::clone(&self.tail), self.path.clone());
        let load = move || {
            // Whoever only looks (a report, a status) does not keep an append in the pause waiting for the parsing.
            let known = locked(&tail)?.read_known()?;
            match known {
                Some(bytes) => Ok(line::scan(&bytes).map_err(|e| at(&path, e))?.entries),
                None => locked(&tail)?.load(),
            }
        };
        tokio::task::spawn_blocking(load)
            .await
            .map_err(|e| Error::new(Kind::Unexpected, "read the journal", "the reading task died").because(e))?
    }

    // On this thread: a hop to another and back would be paid inside the write pause, and a write once begun is not
    // left half-way by a caller that stops waiting.
    async fn append(&self, entry: &Entry) -> Result<()> {
        locked(&self.tail)?.append(entry)
    }

    async fn requests(&self) -> Result<Vec<Request>> {
        self.requests.read().await
    }

    fn has_requests(&self) -> bool {
        true
    }
}

/// The end of the file, where entries are added.
struct Tail<D> {
    disk: D,
    path: PathBuf,
    state: State,
}

enum State {
    /// Nothing is known yet.
    Unread,
    Ready(End),
    /// An append failed, and so did taking it back: what the file holds is not known until that works.
    Lost(End, String),
}

#[derive(Clone, Copy)]
struct End {
    /// The next entry's place.
    next: u64,
    /// The bytes of whole entries.
    whole: u64,
    /// The bytes of the file; more than `whole` when a torn line is to be cut away.
    len: u64,
    /// The last newline is missing.
    unended: bool,
}

impl<D: Disk> Tail<D> {
    fn new(disk: D, path: &Path) -> Self {
        Self {
            disk,
            path: path.to_owned(),
            state: State::Unread,
        }
    }

    /// The bytes, when they are what this process left there; none when what they mean must be found out.
    fn read_known(&mut self) -> Result<Option<Vec<u8>>> {
        let State::Ready(end) = self.state else {
            return Ok(None);
        };
        let bytes = self.read()?;
        Ok((bytes.len() as u64 == end.len).then_some(bytes))
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        self.disk.read().map_err(|e| failed("read the journal", &self.path, e))
    }

    fn load(&mut self) -> Result<Vec<Entry>> {
        self.recover()?;
        let bytes = self.read()?;
        let Scan {
            entries,
            whole,
            unended,
            torn,
        } = line::scan(&bytes).map_err(|e| at(&self.path, e))?;
        if let Some(line) = torn {
            tracing::warn!(
                journal = %self.path.display(), line, bytes = bytes.len() as u64 - whole,
                "the last line was never written to its end and is dropped"
            );
        }
        self.state = State::Ready(End {
            next: entries.len() as u64,
            whole,
            len: bytes.len() as u64,
            unended,
        });
        Ok(entries)
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        if !matches!(self.state, State::Ready(_)) {
            self.load()?;
        }
        let State::Ready(mut end) = self.state else {
            unreachable!("loading makes it ready, or fails");
        };
        if entry.seq != end.next {
            let message = format!("entry {} was to be written, and entry {} is next", entry.seq, end.next);
            return Err(self.conflict(message));
        }
        let there = self.disk.len_at_path().map_err(|e| failed(WRITING, &self.path, e))?;
        match there {
            Some(now) if now == end.len => {}
            Some(now) => {
                let message = format!("it was {} bytes long and is {now}, by another's hand", end.len);
                return Err(self.conflict(message));
            }
            None => return Err(self.conflict("it was moved, removed or replaced while it was open".into())),
        }
        let mut bytes = if end.unended { vec![b'\n'] } else { vec![] };
        bytes.extend(line::encode(entry)?);
        if end.len > end.whole {
            self.disk.cut(end.whole).map_err(|e| failed(WRITING, &self.path, e))?;
            end.len = end.whole;
            self.state = State::Ready(end);
        }
        if let Err(e) = self.disk.append(&bytes).and_then(|()| self.disk.sync()) {
            return Err(self.take_back(end, e));
        }
        let len = end.len + bytes.len() as u64;
        self.state = State::Ready(End {
            next: end.next + 1,
            whole: len,
            len,
            unended: false,
        });
        Ok(())
    }

    /// The entry is either durable or not there: what was written of it goes, and only then the error is an answer.
    fn take_back(&mut self, end: End, cause: io::Error) -> Error {
        match self.disk.cut(end.whole).and_then(|()| self.disk.sync()) {
            Ok(()) => failed(WRITING, &self.path, cause),
            Err(e) => {
                let why = format!("writing failed ({cause}), and so did taking it back ({e})");
                let error = self.lost(&why).because(cause);
                self.state = State::Lost(end, why);
                error
            }
        }
    }

    /// Takes back what could not be taken back before.
    fn recover(&mut self) -> Result<()> {
        if let State::Lost(end, why) = &self.state {
            if self.disk.cut(end.whole).and_then(|()| self.disk.sync()).is_err() {
                return Err(self.lost(why));
            }
            self.state = State::Ready(*end);
        }
        Ok(())
    }

    fn lost(&self, why: &str) -> Error {
        let message = format!(
            "{}: {why}: whether the last entry is there is not known; mend the disk and start again",
            self.path.display()
        );
        Error::new(Kind::Corrupt, WRITING, message)
    }

    fn conflict(&self, why: String) -> Error {
        Error::new(Kind::Conflict, WRITING, format!("{}: {why}", self.path.display()))
    }
}

const WRITING: &str = "write the journal";

fn locked<D>(tail: &Mutex<Tail<D>>) -> Result<std::sync::MutexGuard<'_, Tail<D>>> {
    tail.lock()
        .map_err(|_| Error::new(Kind::Corrupt, WRITING, "an earlier write panicked: start again"))
}

fn hold(file: &File, path: &Path, who: impl FnOnce() -> String) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "{} is held by {}: this migration runs there; let it finish, or stop it first",
                path.display(),
                who()
            );
            Err(Error::new(Kind::Conflict, "open the journal", message))
        }
        Err(TryLockError::Error(e)) => Err(failed("lock the journal", path, e)),
    }
}

/// Who holds it is a courtesy to people; not being able to say so changes nothing.
fn who_holds(path: &Path) -> String {
    let who = std::fs::read_to_string(beside(path, ".lock")).unwrap_or_default();
    match who.trim() {
        "" => "another runner".into(),
        who => who.into(),
    }
}

fn at(path: &Path, error: Error) -> Error {
    let named = Error::new(
        error.kind(),
        error.operation(),
        format!("{}: {}", path.display(), error.message()),
    );
    named.because(error)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
