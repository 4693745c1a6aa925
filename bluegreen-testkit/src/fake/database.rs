//! Two simulated databases and the mirrors between them: an ordered log each, applied at the other side after a delay.
//! Flags and rows outlive a process; locks and a first copy die with the one that holds them.

use super::both::{Both, Logged, Mirror};
use bluegreen_core::{Clock, Color, Direction, Kind};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why a database did not take a write. It did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The database is read-only.
    #[error("cannot execute INSERT in a read-only transaction")]
    ReadOnly,
    /// A lock is in the way; a patient client would wait.
    #[error("canceling statement due to lock timeout")]
    Locked,
    /// Its identifier is taken: a sequence was not carried.
    #[error("duplicate key value violates unique constraint")]
    Duplicate,
    /// The transaction was ended from outside.
    #[error("terminating connection due to administrator command")]
    Terminated,
}

/// An open transaction that has one row to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Where it writes.
    pub color: Color,
    id: u64,
}

/// Both databases. Clones are the same ones.
#[derive(Clone)]
pub struct Databases {
    pub(super) clock: Arc<dyn Clock>,
    both: Arc<Mutex<Both>>,
}

impl fmt::Debug for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = self.lock();
        f.debug_struct("Databases")
            .field("blue", &both.blue)
            .field("green", &both.green)
            .finish_non_exhaustive()
    }
}

impl Databases {
    /// Two empty databases that live by `clock`; a change is at the other side 3 ms later, a first copy takes 10 s.
    pub fn new(clock: impl Clock) -> Self {
        let start = clock.now();
        Self {
            clock: Arc::new(clock),
            both: Arc::new(Mutex::new(Both::new(start))),
        }
    }

    /// A change is at the other side so much later.
    #[must_use]
    pub fn with_delay(self, delay: Duration) -> Self {
        self.lock().delay = delay;
        self
    }

    /// The first copy takes so long.
    #[must_use]
    pub fn with_copy(self, copy: Duration) -> Self {
        self.lock().copy = copy;
        self
    }

    /// The state, with everything applied that is due.
    pub(super) fn lock(&self) -> MutexGuard<'_, Both> {
        let now = self.clock.now();
        let mut both = self.both.lock().unwrap_or_else(PoisonError::into_inner);
        both.pump(now);
        both
    }

    /// Like [`with_delay`](Self::with_delay), later.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Like [`with_copy`](Self::with_copy), later.
    pub fn set_copy(&self, copy: Duration) {
        self.lock().copy = copy;
    }

    /// Is asked when a side is made the writer, whether that was decided durably; if not, it is a violation.
    pub fn on_promote(&self, decided: impl Fn(Color) -> bool + Send + Sync + 'static) {
        self.lock().decided = Some(Arc::new(decided));
    }

    /// Whether blue was made read-only for a successor: between a hand-over and what follows from it.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.lock().blue.read_only
    }

    /// Nothing more is applied at the other side for so long.
    pub fn stall(&self, lasting: Duration) {
        let until = self.clock.now() + lasting;
        let mut both = self.lock();
        both.stalled_until = both.stalled_until.max(until);
    }

    /// What every forecast from now on says is in the way of a pause; nothing, when it is empty.
    pub fn obstruct(&self, in_the_way: impl IntoIterator<Item = impl Into<String>>) {
        self.lock().in_the_way = in_the_way.into_iter().map(Into::into).collect();
    }

    /// Changes a row of one side behind the mirror's back: its token is another from now on. False when there is none.
    pub fn tamper(&self, color: Color, token: u64, instead: u64) -> bool {
        let mut both = self.lock();
        let row = both.side(color).rows.values_mut().find(|t| **t == token);
        row.map(|t| *t = instead).is_some()
    }

    /// Breaks a mirror that exists, for good.
    pub fn break_mirror(&self, direction: Direction, why: &str) {
        let mut both = self.lock();
        if *both.mirror(direction) != Mirror::Absent {
            *both.mirror(direction) = Mirror::Failed(Kind::Unexpected, why.to_owned());
        }
    }

    /// Begins a transaction that writes one row, and takes its identifier from the sequence.
    ///
    /// # Errors
    /// When the database does not take it now.
    pub fn begin(&self, color: Color, token: u64) -> Result<Transaction, Refused> {
        let mut both = self.lock();
        let database = both.side(color);
        if database.read_only {
            return Err(Refused::ReadOnly);
        }
        if database.lock.is_some() {
            return Err(Refused::Locked);
        }
        database.sequence += 1;
        let row = (database.sequence, token);
        both.next += 1;
        let id = both.next;
        both.side(color).open.insert(id, row);
        Ok(Transaction { color, id })
    }

    /// Commits it; when this returns the write is acknowledged. A read-only flag that came after its begin does not
    /// stop it, as in the real thing.
    ///
    /// # Errors
    /// When it was terminated, or its identifier is taken.
    pub fn commit(&self, transaction: Transaction) -> Result<(), Refused> {
        let now = self.clock.now();
        let mut both = self.lock();
        let database = both.side(transaction.color);
        let (id, token) = database.open.remove(&transaction.id).ok_or(Refused::Terminated)?;
        if database.rows.contains_key(&id) {
            return Err(Refused::Duplicate);
        }
        database.rows.insert(id, token);
        database.log.push(Logged { at: now, id, token });
        Ok(())
    }

    /// Gives a transaction up.
    pub fn roll_back(&self, transaction: Transaction) {
        self.lock().side(transaction.color).open.remove(&transaction.id);
    }

    /// One write, begun and committed.
    ///
    /// # Errors
    /// When the database does not take it now.
    pub fn write(&self, color: Color, token: u64) -> Result<(), Refused> {
        let transaction = self.begin(color, token)?;
        self.commit(transaction)
    }

    /// The tokens that are there now, in the order of their identifiers.
    #[must_use]
    pub fn tokens(&self, color: Color) -> Vec<u64> {
        self.lock().side(color).rows.values().copied().collect()
    }

    /// How many rows are there now.
    #[must_use]
    pub fn count(&self, color: Color) -> usize {
        self.lock().side(color).rows.len()
    }

    /// Whether an application's write would be taken now.
    #[must_use]
    pub fn accepts(&self, color: Color) -> bool {
        self.lock().side(color).accepts()
    }

    /// The side that was last made the writer.
    #[must_use]
    pub fn writer(&self) -> Color {
        self.lock().writer
    }

    /// How long both sides took writes while a mirror tied them together.
    #[must_use]
    pub fn time_with_two_writers(&self) -> Duration {
        let now = self.clock.now();
        let both = self.lock();
        both.two_writers + both.two_writers_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// What was asked of the replicator that no sound engine asks.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }
}
