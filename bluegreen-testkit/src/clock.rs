//! `VirtualClock`: time that moves when everybody waits, or when it is told. 48 hours cost microseconds.

use async_trait::async_trait;
use bluegreen_core::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often the first sleeper lets everybody else run before it takes it that they all wait.
const YIELDS: u8 = 3;

/// 2026-01-01T00:00:00Z: any fixed day will do, as long as it is the same one in every run.
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

type Event = Box<dyn FnOnce() + Send>;
type Key = (Timestamp, u64);

/// A clock for tests. Clones are the same clock.
///
/// An automatic clock jumps to the earliest deadline as soon as everything that uses it sleeps; on a current-thread
/// runtime it does so in the same order in every run. It cannot see work that waits for something else (a socket, a
/// blocking thread): with those, use a [manual](Self::manual) one or the real clock.
///
/// What should happen at a given time, a user's request or a broken wire, is put on the clock with [`at`](Self::at). It
/// happens while something sleeps past that time, and everybody may react to it before time goes on. One that panics may do
/// so in anybody's task, who may take it for something else: so every clone of the clock panics again when it is dropped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use bluegreen_core::Clock;
/// use bluegreen_testkit::VirtualClock;
/// use std::time::Duration;
/// let clock = VirtualClock::new();
/// let start = clock.now();
/// clock.sleep_until(start + Duration::from_secs(48 * 3600)).await; // returns at once
/// assert_eq!(clock.now().since(start), Duration::from_secs(48 * 3600));
/// # });
/// ```
#[derive(Clone)]
pub struct VirtualClock(Arc<Mutex<State>>);

struct State {
    now: Timestamp,
    auto: bool,
    next: u64,
    sleepers: BTreeMap<Key, Option<Waker>>,
    events: BTreeMap<Key, Event>,
    /// Whether an event panicked.
    failed: bool,
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("VirtualClock")
            .field("now", &state.now)
            .field("auto", &state.auto)
            .field("sleepers", &state.sleepers.len())
            .field("events", &state.events.len())
            .finish()
    }
}

impl VirtualClock {
    /// A clock that jumps when everybody sleeps.
    #[must_use]
    pub fn new() -> Self {
        Self::with(true)
    }

    /// A clock that moves only by [`advance`](Self::advance).
    #[must_use]
    pub fn manual() -> Self {
        Self::with(false)
    }

    fn with(auto: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: START,
            auto,
            next: 0,
            sleepers: BTreeMap::new(),
            events: BTreeMap::new(),
            failed: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs under this lock, so a poisoned one still holds a whole state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something on the clock: it happens when time passes `when`, or at the next move when that is past.
    pub fn at(&self, when: Timestamp, event: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        let key = state.key(when);
        state.events.insert(key, Box::new(event));
    }

    /// Like [`at`](Self::at), so long from now.
    pub fn after(&self, delay: Duration, event: impl FnOnce() + Send + 'static) {
        let when = self.now() + delay;
        self.at(when, event);
    }

    /// Moves time on by `by`, with all that is on the clock until then, and wakes who has slept long enough.
    pub fn advance(&self, by: Duration) {
        let to = self.now() + by;
        while self.run_event(to) {}
        let mut state = self.lock();
        state.now = state.now.max(to);
        let now = state.now;
        for (key, waker) in &mut state.sleepers {
            if key.0 > now {
                break;
            }
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// Sleeps for `delay`.
    pub async fn sleep(&self, delay: Duration) {
        let deadline = self.now() + delay;
        self.sleep_until(deadline).await;
    }

    /// How many sleep now.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.lock().sleepers.len()
    }

    /// Forgets everything that was put on the clock and has not happened.
    pub fn clear_events(&self) {
        let dropped = std::mem::take(&mut self.lock().events);
        drop(dropped);
    }

    /// Lets the earliest event until `until` happen; false when there is none.
    fn run_event(&self, until: Timestamp) -> bool {
        let event = {
            let mut state = self.lock();
            match state.events.first_key_value() {
                Some((&key, _)) if key.0 <= until => {
                    state.now = state.now.max(key.0);
                    state.events.remove(&key)
                }
                _ => None,
            }
        };
        let Some(event) = event else { return false };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(event)) {
            self.lock().failed = true;
            resume_unwind(panic);
        }
        true
    }
}

impl Drop for VirtualClock {
    fn drop(&mut self) {
        let failed = self.lock().failed;
        assert!(
            !failed || std::thread::panicking(),
            "something that was put on the clock panicked: its message is above"
        );
    }
}

impl State {
    fn key(&mut self, when: Timestamp) -> Key {
        self.next += 1;
        (when, self.next)
    }

    fn wake_first(&mut self) {
        if let Some(mut entry) = self.sleepers.first_entry()
            && let Some(waker) = entry.get_mut().take()
        {
            waker.wake();
        }
    }
}

#[async_trait]
impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        Sleep {
            clock: self,
            deadline,
            key: None,
            yields: 0,
        }
        .await;
    }
}

/// One sleeper. The one with the earliest deadline moves the clock.
struct Sleep<'a> {
    clock: &'a VirtualClock,
    deadline: Timestamp,
    key: Option<Key>,
    yields: u8,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut state = this.clock.lock();
        if state.now >= this.deadline {
            return Poll::Ready(());
        }
        let deadline = this.deadline;
        let key = *this.key.get_or_insert_with(|| state.key(deadline));
        state.sleepers.insert(key, Some(cx.waker().clone()));
        if !state.auto || state.sleepers.first_key_value().map(|(first, _)| *first) != Some(key) {
            this.yields = 0;
            return Poll::Pending;
        }
        if this.yields < YIELDS {
            this.yields += 1;
            drop(state);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        drop(state);
        if this.clock.run_event(deadline) {
            // Whoever waits for what just happened goes first.
            this.yields = YIELDS - 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut state = this.clock.lock();
        state.now = state.now.max(deadline);
        Poll::Ready(())
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut state = self.clock.lock();
            state.sleepers.remove(&key);
            state.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn sleepers_wake_in_the_order_of_their_deadlines() {
        let clock = VirtualClock::new();
        let order = Arc::new(Mutex::new(vec![]));
        let sleepers = [3, 1, 2].map(|hours| {
            let (clock, order) = (clock.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                clock.sleep(HOUR * hours).await;
                order.lock().unwrap().push(hours);
            })
        });
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
        assert_eq!(clock.now(), START + HOUR * 3);
    }

    #[tokio::test]
    async fn what_happens_during_a_sleep_can_end_it() {
        let clock = VirtualClock::new();
        let bell = Arc::new(tokio::sync::Notify::new());
        let rings = Arc::clone(&bell);
        clock.after(HOUR, move || rings.notify_one());
        tokio::select! {
            () = bell.notified() => {}
            () = clock.sleep(HOUR * 48) => panic!("slept through it"),
        }
        assert_eq!(clock.now(), START + HOUR);
        assert_eq!(clock.sleepers(), 0);
    }

    #[tokio::test]
    async fn a_dropped_sleeper_leaves_the_clock_to_the_next() {
        let clock = VirtualClock::new();
        let second = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(HOUR * 2).await }
        });
        let first = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(HOUR).await }
        });
        tokio::task::yield_now().await;
        first.abort();
        second.await.unwrap();
        assert_eq!(clock.now(), START + HOUR * 2);
    }

    #[test]
    fn an_event_that_panics_is_heard_by_whoever_holds_the_clock() {
        let clock = VirtualClock::manual();
        clock.after(HOUR, || panic!("on purpose"));
        let advanced = catch_unwind(AssertUnwindSafe(|| clock.advance(HOUR)));
        assert!(advanced.is_err());
        let dropped = catch_unwind(AssertUnwindSafe(move || drop(clock)));
        assert!(dropped.is_err());
    }

    #[tokio::test]
    async fn a_manual_clock_waits_to_be_told() {
        let clock = VirtualClock::manual();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(HOUR).await }
        });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(!sleeper.is_finished());
        clock.advance(HOUR);
        sleeper.await.unwrap();
        assert_eq!(clock.now(), START + HOUR);
    }
}
