//! Faults around any provider: scripted for an operation or for a certain call, or drawn from a seed.
//!
//! Everything that one "process" calls is wrapped with the same [`Faults`]: calls are counted over all of it, and when it is
//! killed, all of it is dead.

mod faulty;

pub use faulty::Faulty;

use bluegreen_core::{Clock, Error, Kind, Result, Timestamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this kind, and nothing happened.
    Reject(Kind),
    /// It happens, and then fails with this kind: the caller must not think that it did not.
    FailAfter(Kind),
    /// It is never answered, and has no effect before [`Faults::release`].
    Hold,
    /// It takes so much longer, before its effect.
    Slow(Duration),
    /// The process dies before it.
    KillBefore,
    /// It happens, and the process dies before it hears so.
    KillAfter,
}

/// Whether a watcher is called before or after a call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Nothing has happened yet.
    Before,
    /// It has happened; nobody has heard so.
    After,
}

/// How often what happens, in per mille of all calls, until so many faults have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Failures without effect that may pass.
    pub reject: u16,
    /// Failures after the effect.
    pub fail_after: u16,
    /// Failures that will not pass by themselves.
    pub refuse: u16,
    /// Calls without an answer.
    pub hold: u16,
    /// Calls that take up to 3 s longer.
    pub slow: u16,
    /// Deaths, before or after the effect.
    pub kill: u16,
    /// After so many faults nothing goes wrong any more.
    pub limit: u32,
}

type Watcher = Arc<dyn Fn(&'static str, Point) + Send + Sync>;

/// The faults of one process. Clones are the same ones.
#[derive(Clone)]
pub struct Faults {
    clock: Arc<dyn Clock>,
    inner: Arc<Mutex<Inner>>,
    released: Arc<Notify>,
    died: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    calls: Vec<&'static str>,
    scripts: HashMap<String, VecDeque<Option<Fault>>>,
    numbered: HashMap<usize, Fault>,
    random: Option<(SmallRng, Rates)>,
    happened: Vec<(usize, &'static str, Fault)>,
    watcher: Option<Watcher>,
    on_kill: Vec<Box<dyn FnOnce() + Send>>,
    releases: u64,
    assured: Option<Timestamp>,
    dead: bool,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Faults")
            .field("calls", &inner.calls.len())
            .field("happened", &inner.happened)
            .field("dead", &inner.dead)
            .finish_non_exhaustive()
    }
}

impl Faults {
    /// No faults yet; slow calls are slow by this clock.
    pub fn new(clock: impl Clock) -> Self {
        Self {
            clock: Arc::new(clock),
            inner: Arc::default(),
            released: Arc::default(),
            died: Arc::default(),
        }
    }

    /// Faults drawn from a seed, beside what is scripted.
    #[must_use]
    pub fn seeded(self, seed: u64, rates: Rates) -> Self {
        self.lock().random = Some((SmallRng::seed_from_u64(seed), rates));
        self
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues what happens to the next calls of an operation (`dns.apply`, `journal.append`); `None` lets one pass.
    pub fn script(&self, operation: &str, faults: impl IntoIterator<Item = Option<Fault>>) {
        let mut inner = self.lock();
        inner.scripts.entry(operation.to_owned()).or_default().extend(faults);
    }

    /// What happens to the call with this number, counted from 0 over all operations.
    pub fn at_call(&self, number: usize, fault: Fault) {
        self.lock().numbered.insert(number, fault);
    }

    /// Is called before and after the effect of every call.
    pub fn watch(&self, watcher: impl Fn(&'static str, Point) + Send + Sync + 'static) {
        self.lock().watcher = Some(Arc::new(watcher));
    }

    /// What to do when the process dies: drop what it held.
    pub fn on_kill(&self, bury: impl FnOnce() + Send + 'static) {
        self.lock().on_kill.push(Box::new(bury));
    }

    /// The operations called so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    /// What went wrong so far: the call's number, its operation and the fault.
    #[must_use]
    pub fn happened(&self) -> Vec<(usize, &'static str, Fault)> {
        self.lock().happened.clone()
    }

    fn count(&self) -> usize {
        self.lock().happened.len()
    }

    /// The journal has said that it stays this process's for so long.
    fn assured_for(&self, lasting: Duration) {
        self.lock().assured = Some(self.clock.now() + lasting);
    }

    fn is_assured(&self) -> bool {
        let until = self.lock().assured;
        until.is_some_and(|until| self.clock.now() < until)
    }

    /// The first fault of an operation after so many of all.
    fn since(&self, count: usize, operation: &str) -> Option<Fault> {
        let inner = self.lock();
        let found = inner
            .happened
            .iter()
            .skip(count)
            .find(|(_, called, _)| *called == operation);
        found.map(|(_, _, fault)| *fault)
    }

    /// Lets every held call go on.
    pub fn release(&self) {
        self.lock().releases += 1;
        self.released.notify_waiters();
    }

    /// Whether the process was killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Kills the process: what it held is gone, and every call of it fails from now on.
    pub fn kill(&self) {
        let buried = {
            let mut inner = self.lock();
            inner.dead = true;
            std::mem::take(&mut inner.on_kill)
        };
        buried.into_iter().for_each(|bury| bury());
        self.died.notify_waiters();
    }

    /// Runs what the process does until its end or its death. `None` is death: the rest of it is dropped, as it would be.
    pub async fn until_killed<T>(&self, process: impl Future<Output = T>) -> Option<T> {
        let killed = async {
            loop {
                let died = self.died.notified();
                if self.is_dead() {
                    return;
                }
                died.await;
            }
        };
        tokio::select! {
            biased;
            () = killed => None,
            answer = process => Some(answer),
        }
    }

    /// One call, with what goes wrong with it.
    ///
    /// # Errors
    /// The call's own, or the fault's.
    pub async fn around<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let fault = self.begin(operation)?;
        match fault {
            Some(Fault::Reject(kind)) => return Err(failed(operation, kind, "it did not happen")),
            Some(Fault::Hold) => self.held().await,
            Some(Fault::Slow(delay)) => self.clock.sleep_until(self.clock.now() + delay).await,
            Some(Fault::KillBefore) => self.die().await,
            Some(Fault::FailAfter(_) | Fault::KillAfter) | None => {}
        }
        let answer = call.await;
        self.watched(operation, Point::After);
        match fault {
            Some(Fault::FailAfter(kind)) => Err(failed(operation, kind, "nobody knows whether it happened")),
            Some(Fault::KillAfter) => {
                self.die().await;
                answer
            }
            _ => answer,
        }
    }

    fn begin(&self, operation: &'static str) -> Result<Option<Fault>> {
        self.watched(operation, Point::Before);
        let mut inner = self.lock();
        if inner.dead {
            return Err(failed(operation, Kind::Unavailable, "this process is dead"));
        }
        let number = inner.calls.len();
        inner.calls.push(operation);
        let scripted = inner.scripts.get_mut(operation).and_then(VecDeque::pop_front).flatten();
        let numbered = inner.numbered.remove(&number);
        let fault = scripted.or(numbered).or_else(|| inner.draw());
        if let Some(fault) = fault {
            inner.happened.push((number, operation, fault));
        }
        Ok(fault)
    }

    fn watched(&self, operation: &'static str, point: Point) {
        let watcher = self.lock().watcher.clone();
        if let Some(watcher) = watcher {
            watcher(operation, point);
        }
    }

    async fn held(&self) {
        let before = self.lock().releases;
        loop {
            let released = self.released.notified();
            if self.lock().releases > before {
                return;
            }
            released.await;
        }
    }

    async fn die(&self) {
        self.kill();
        // A dead process never comes back from its last call; whoever races it sees `until_killed` answer.
        std::future::pending::<()>().await;
    }
}

impl Inner {
    fn draw(&mut self) -> Option<Fault> {
        let (rng, rates) = self.random.as_mut()?;
        if self.happened.len() >= rates.limit as usize {
            return None;
        }
        let mut at = rng.random_range(0..1000_u16);
        let mut hits = |rate: u16| {
            let hit = at < rate;
            at = at.wrapping_sub(rate);
            hit
        };
        let transient = [Kind::Unavailable, Kind::Timeout, Kind::RateLimited];
        let lasting = [Kind::Unexpected, Kind::PermissionDenied, Kind::Unsupported];
        if hits(rates.reject) {
            Some(Fault::Reject(transient[rng.random_range(0..3)]))
        } else if hits(rates.fail_after) {
            Some(Fault::FailAfter(transient[rng.random_range(0..2)]))
        } else if hits(rates.refuse) {
            Some(Fault::Reject(lasting[rng.random_range(0..3)]))
        } else if hits(rates.hold) {
            Some(Fault::Hold)
        } else if hits(rates.slow) {
            Some(Fault::Slow(Duration::from_millis(rng.random_range(1..3000))))
        } else if hits(rates.kill) {
            Some(if rng.random() {
                Fault::KillAfter
            } else {
                Fault::KillBefore
            })
        } else {
            None
        }
    }
}

fn failed(operation: &'static str, kind: Kind, what: &str) -> Error {
    Error::new(kind, operation, format!("injected fault: {what}")).provider("fault")
}
