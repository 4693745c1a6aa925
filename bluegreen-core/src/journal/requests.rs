//! What operators ask for from other processes: lines in `<journal>.requests`, read by whoever runs the migration.

use super::disk::{beside, failed, private, sync_folder};
use super::entry::Signal;
use super::line;
use super::store::Request;
use crate::error::{Error, Kind, Result};
use crate::time::{Clock, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Serialize, Deserialize)]
struct Asked {
    id: String,
    at: Timestamp,
    signal: Signal,
}

const LEAVING: &str = "leave a request";

pub(super) fn leave(journal: &Path, signal: Signal) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let path = beside(journal, ".requests");
    let io = |e| failed(LEAVING, &path, e);
    if !journal.try_exists().map_err(io)? {
        let message = format!("{}: no migration was ever started with this journal", journal.display());
        return Err(Error::new(Kind::NotFound, LEAVING, message));
    }
    let at = SystemClock.now();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = format!("{}-{}-{count}", std::process::id(), at.as_micros());
    let line = line::encode(&Asked { id, at, signal })?;

    let mut file = private().read(true).append(true).create(true).open(&path).map_err(io)?;
    file.lock().map_err(io)?;
    let mut before = Vec::new();
    file.read_to_end(&mut before).map_err(io)?;
    // What an operator's process left half-written when it died must not swallow this one.
    let mut bytes = if before.last().is_some_and(|b| *b != b'\n') {
        vec![b'\n']
    } else {
        vec![]
    };
    bytes.extend(line);
    file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(io)?;
    if before.is_empty() {
        sync_folder(&path).map_err(io)
    } else {
        Ok(())
    }
}

pub(super) fn forget(journal: &Path) -> Result<()> {
    let path = beside(journal, ".requests");
    match std::fs::remove_file(&path) {
        Ok(()) => sync_folder(&path).map_err(|e| failed("forget old requests", &path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("forget old requests", &path, e)),
    }
}

/// Reads them, again and again.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    /// How many damaged lines were already told of.
    told: AtomicUsize,
}

impl Reader {
    pub(super) fn new(journal: &Path) -> Self {
        Self {
            path: beside(journal, ".requests"),
            told: AtomicUsize::new(0),
        }
    }

    pub(super) async fn read(&self) -> Result<Vec<Request>> {
        let bytes = match tokio::fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(failed("look for requests", &self.path, e)),
        };
        let mut heard = Vec::new();
        let mut damaged = 0;
        // The last piece is empty, or a line that is being written this moment.
        let lines = bytes.split(|b| *b == b'\n').rev().skip(1).collect::<Vec<_>>();
        for line in lines.into_iter().rev() {
            match line::decode::<Asked>(line) {
                Some(Asked { id, signal, .. }) => heard.push(Request { id, signal }),
                None => damaged += 1,
            }
        }
        // Nobody was told that such a request was heard: it was never durable.
        if damaged > self.told.swap(damaged, Ordering::Relaxed) {
            tracing::warn!(requests = %self.path.display(), damaged, "requests that were never written to their end");
        }
        Ok(heard)
    }
}
