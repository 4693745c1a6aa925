//! `MemoryJournal`: entries in memory, with the compare-and-append that every journal owes.

use async_trait::async_trait;
use bluegreen_core::{Clock, Entry, Error, Journal, Kind, Request, Result, Signal, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A journal in memory. Clones are the same one, so it outlives the "process" that wrote it.
///
/// Entries pass through their stored form (JSON), so what could not be read back fails here as it would on a disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<String>,
    requests: Vec<Request>,
    taken: bool,
    lease: Option<Lease>,
}

/// What a journal that can be taken over knows of itself while nobody can be asked.
#[derive(Debug)]
struct Lease {
    clock: Arc<dyn Clock>,
    length: Duration,
    assured: Timestamp,
    down_since: Option<Timestamp>,
}

impl Lease {
    /// Ours from memory until then: it was renewed until it went down.
    fn until(&self) -> Timestamp {
        let renewed = self.down_since.unwrap_or_else(|| self.clock.now()) + self.length;
        renewed.max(self.assured)
    }
}

impl Inner {
    fn is_down(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.down_since.is_some())
    }

    fn reach(&self) -> Result<()> {
        if self.is_down() {
            let message = "its server is out of reach";
            return Err(Error::new(Kind::Unavailable, "reach the journal", message).provider("memory journal"));
        }
        Ok(())
    }
}

impl MemoryJournal {
    /// An empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().lines.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries, for those who need not wait for an answer.
    ///
    /// # Errors
    /// `Corrupt` when one cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let inner = self.lock();
        let parsed = inner.lines.iter().enumerate().map(|(seq, line)| {
            serde_json::from_str(line).map_err(|e| {
                let message = format!("entry {seq} is damaged: {e}");
                Error::new(Kind::Corrupt, "load the journal", message).provider("memory journal")
            })
        });
        parsed.collect()
    }

    /// Damages an entry, as a bad disk would.
    pub fn damage(&self, seq: usize) {
        if let Some(line) = self.lock().lines.get_mut(seq) {
            line.truncate(line.len() / 2);
        }
    }

    /// Whether another runner has taken the migration over: whoever runs it now may append nothing and begin nothing.
    pub fn set_taken_over(&self, taken: bool) {
        self.lock().taken = taken;
    }

    /// A journal that can be out of reach: its lease, renewed until then, is known to be the runner's for so long after it.
    pub fn lease(&self, clock: impl Clock, length: Duration) {
        self.lock().lease = Some(Lease {
            assured: clock.now(),
            clock: Arc::new(clock),
            length,
            down_since: None,
        });
    }

    /// Out of reach from now on, or within reach again. Nothing without a [`lease`](Self::lease).
    pub fn set_down(&self, down: bool) {
        if let Some(lease) = &mut self.lock().lease {
            lease.down_since = down.then(|| lease.clock.now());
        }
    }

    /// Asks something of the runner, as an operator in another process would.
    pub fn request(&self, id: impl Into<String>, signal: Signal) {
        let id = id.into();
        self.lock().requests.push(Request { id, signal });
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn load(&self) -> Result<Vec<Entry>> {
        self.lock().reach()?;
        self.entries()
    }

    async fn append(&self, entry: &Entry) -> Result<()> {
        const APPEND: &str = "append to the journal";
        let line = serde_json::to_string(entry)
            .map_err(|e| Error::new(Kind::Corrupt, APPEND, e.to_string()).provider("memory journal"))?;
        let mut inner = self.lock();
        inner.reach()?;
        if inner.taken {
            return Err(taken_over());
        }
        let next = inner.lines.len() as u64;
        if entry.seq != next {
            let message = format!(
                "entry {} is not the next one ({next}): another runner was here",
                entry.seq
            );
            return Err(Error::new(Kind::Conflict, APPEND, message).provider("memory journal"));
        }
        inner.lines.push(line);
        Ok(())
    }

    async fn confirm(&self) -> Result<()> {
        let inner = self.lock();
        if inner.taken {
            return Err(taken_over());
        }
        match &inner.lease {
            Some(lease) if lease.clock.now() < lease.until() => Ok(()),
            _ => inner.reach(),
        }
    }

    async fn assure(&self, lasting: Duration) -> Result<()> {
        let mut inner = self.lock();
        inner.reach()?;
        if inner.taken {
            return Err(taken_over());
        }
        if let Some(lease) = &mut inner.lease {
            lease.assured = lease.clock.now() + lasting;
        }
        Ok(())
    }

    async fn requests(&self) -> Result<Vec<Request>> {
        let inner = self.lock();
        inner.reach()?;
        Ok(inner.requests.clone())
    }

    fn has_requests(&self) -> bool {
        true
    }
}

fn taken_over() -> Error {
    let message = "another runner has taken the migration over";
    Error::new(Kind::Conflict, "append to the journal", message).provider("memory journal")
}
