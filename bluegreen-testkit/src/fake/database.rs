//! Two simulated databases and the mirrors between them: an ordered log each, applied at the other side after a delay.
//! Flags and rows outlive a process; locks and a first copy die with the one that holds them.

use bluegreen_core::{Clock, Color, Direction, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
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

#[derive(Debug, Default)]
pub(super) struct Database {
    /// Identifier to token.
    pub(super) rows: BTreeMap<u64, u64>,
    log: Vec<Logged>,
    open: BTreeMap<u64, (u64, u64)>,
    sequence: u64,
    pub(super) read_only: bool,
    /// The process that holds the fence.
    pub(super) lock: Option<u64>,
}

impl Database {
    /// Whether an application's write is taken now.
    pub(super) fn accepts(&self) -> bool {
        !self.read_only && self.lock.is_none()
    }

    pub(super) fn log_end(&self) -> usize {
        self.log.len()
    }

    pub(super) fn open_transactions(&self) -> usize {
        self.open.len()
    }

    pub(super) fn terminate_all(&mut self) {
        self.open.clear();
    }
}

#[derive(Debug)]
struct Logged {
    at: Timestamp,
    id: u64,
    token: u64,
}

/// Where a mirror is. `from` is a place in its origin's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mirror {
    Absent,
    /// The first copy, of the rows up to `from`; it dies with its process.
    Copying {
        from: usize,
        done: Timestamp,
        process: u64,
    },
    Armed {
        from: usize,
    },
    Streaming {
        from: usize,
    },
    Failed(String),
}

pub(super) struct Both {
    blue: Database,
    green: Database,
    forward: Mirror,
    reverse: Mirror,
    delay: Duration,
    pub(super) copy: Duration,
    stalled_until: Timestamp,
    next: u64,
    writer: Color,
    /// Since when both sides accept writes, while a mirror ties them together.
    two_writers_since: Option<Timestamp>,
    two_writers: Duration,
    pub(super) violations: Vec<String>,
    decided: Option<Arc<dyn Fn(Color) -> bool + Send + Sync>>,
    /// Ends of the log that `caught_up` said yes to.
    pub(super) proven: BTreeSet<(Color, usize)>,
}

impl Databases {
    /// Two empty databases that live by `clock`; a change is at the other side 3 ms later, a first copy takes 10 s.
    pub fn new(clock: impl Clock) -> Self {
        let start = clock.now();
        Self {
            clock: Arc::new(clock),
            both: Arc::new(Mutex::new(Both {
                blue: Database::default(),
                green: Database::default(),
                forward: Mirror::Absent,
                reverse: Mirror::Absent,
                delay: Duration::from_millis(3),
                copy: Duration::from_secs(10),
                stalled_until: start,
                next: 0,
                writer: Color::Blue,
                two_writers_since: None,
                two_writers: Duration::ZERO,
                violations: vec![],
                decided: None,
                proven: BTreeSet::new(),
            })),
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

    /// Breaks a mirror that exists, for good.
    pub fn break_mirror(&self, direction: Direction, why: &str) {
        let mut both = self.lock();
        if *both.mirror(direction) != Mirror::Absent {
            *both.mirror(direction) = Mirror::Failed(why.to_owned());
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

impl Both {
    pub(super) fn side(&mut self, color: Color) -> &mut Database {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }

    pub(super) fn mirror(&mut self, direction: Direction) -> &mut Mirror {
        match direction {
            Direction::BlueToGreen => &mut self.forward,
            Direction::GreenToBlue => &mut self.reverse,
        }
    }

    pub(super) fn fresh_process(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn writer(&self) -> Color {
        self.writer
    }

    pub(super) fn set_writer(&mut self, color: Color) {
        self.writer = color;
    }

    /// Whether the promotion of a side was decided durably, as far as anybody here can tell.
    pub(super) fn is_decided(&self, color: Color) -> bool {
        self.decided.as_ref().is_none_or(|decided| decided(color))
    }

    pub(super) fn violated(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// The lag that a monitoring query would show: bytes of log not applied.
    pub(super) fn lag(&mut self, direction: Direction) -> u64 {
        let end = self.side(direction.origin()).log_end();
        match *self.mirror(direction) {
            Mirror::Streaming { from } => (end - from) as u64 * 100,
            _ => 0,
        }
    }

    pub(super) fn carry_sequence(&mut self, to: Color) {
        let value = self.side(to.other()).sequence;
        let sequence = &mut self.side(to).sequence;
        *sequence = value.max(*sequence);
    }

    /// Forgets what a dead process held.
    pub(super) fn bury(&mut self, process: u64, now: Timestamp) {
        for color in [Color::Blue, Color::Green] {
            let lock = &mut self.side(color).lock;
            *lock = lock.filter(|owner| *owner != process);
        }
        for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
            if matches!(self.mirror(direction), Mirror::Copying { process: owner, .. } if *owner == process) {
                *self.mirror(direction) = Mirror::Failed("the first copy died with its process".into());
            }
        }
        self.watch_writers(now);
    }

    /// Keeps the time with two writers; called after every change of who accepts writes.
    pub(super) fn watch_writers(&mut self, now: Timestamp) {
        let tied = self.forward != Mirror::Absent || self.reverse != Mirror::Absent;
        let two = tied && self.blue.accepts() && self.green.accepts();
        match (two, self.two_writers_since) {
            (true, None) => self.two_writers_since = Some(now),
            (false, Some(since)) => {
                self.two_writers += now.since(since);
                self.two_writers_since = None;
                self.violated(format!("two writers until {now}, since {since}"));
            }
            _ => {}
        }
    }

    /// Ends copies that are done and applies changes that are due.
    fn pump(&mut self, now: Timestamp) {
        for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
            if let Mirror::Copying { from, done, .. } = *self.mirror(direction)
                && done <= now
            {
                let copied: Vec<(u64, u64)> = self.side(direction.origin()).log[..from]
                    .iter()
                    .map(|change| (change.id, change.token))
                    .collect();
                self.side(direction.follower()).rows = copied.into_iter().collect();
                *self.mirror(direction) = Mirror::Streaming { from };
            }
            self.apply_due(direction, now);
        }
    }

    fn apply_due(&mut self, direction: Direction, now: Timestamp) {
        let delay = self.delay;
        if self.stalled_until > now {
            return;
        }
        let Mirror::Streaming { mut from } = *self.mirror(direction) else {
            return;
        };
        loop {
            let Some(change) = self.side(direction.origin()).log.get(from) else {
                break;
            };
            if change.at + delay > now {
                break;
            }
            let (id, token) = (change.id, change.token);
            let follower = self.side(direction.follower());
            if follower.rows.contains_key(&id) {
                *self.mirror(direction) = Mirror::Failed(format!("duplicate key {id} at {}", direction.follower()));
                return;
            }
            follower.rows.insert(id, token);
            // What is applied is in the follower's own log too: a mirror back that runs at the same time would loop.
            follower.log.push(Logged { at: now, id, token });
            from += 1;
        }
        *self.mirror(direction) = Mirror::Streaming { from };
    }
}
