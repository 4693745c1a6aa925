//! `FakeGate`: a gate whose held flag outlives the process that held it, as a pooler's does, or one that dies with it.

use async_trait::async_trait;
use bluegreen_core::{Clock, Color, Error, GateState, Kind, Result, Timestamp, WriteGate};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often `hold` looks whether the running units of work have ended.
const LOOK: Duration = Duration::from_millis(1);

/// A gate in memory. Clones are the same gate.
#[derive(Clone)]
pub struct FakeGate {
    clock: Arc<dyn Clock>,
    fleeting: bool,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    state: GateState,
    running: usize,
    held_since: Option<Timestamp>,
    longest: Duration,
    holds: u32,
}

impl fmt::Debug for FakeGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("FakeGate")
            .field("fleeting", &self.fleeting)
            .field("state", &inner.state)
            .field("running", &inner.running)
            .finish_non_exhaustive()
    }
}

/// A unit of work inside the gate: it counts as running until this is dropped.
#[derive(Debug)]
pub struct FakeUnit {
    gate: FakeGate,
    at: Color,
}

impl FakeUnit {
    /// The side that this unit of work writes to.
    #[must_use]
    pub fn color(&self) -> Color {
        self.at
    }
}

impl Drop for FakeUnit {
    fn drop(&mut self) {
        self.gate.lock().running -= 1;
    }
}

impl FakeGate {
    /// An open gate that points at blue; what it is told outlives the process that told it, like a pooler's.
    pub fn new(clock: impl Clock) -> Self {
        Self::with(clock, false)
    }

    /// A gate inside the process: after [`crash`](Self::crash) it is held and points at blue, as
    /// [`AppGate::held`](bluegreen_core::AppGate::held) begins.
    pub fn fleeting(clock: impl Clock) -> Self {
        Self::with(clock, true)
    }

    fn with(clock: impl Clock, fleeting: bool) -> Self {
        let state = GateState {
            held: false,
            at: Color::Blue,
        };
        Self {
            clock: Arc::new(clock),
            fleeting,
            inner: Arc::new(Mutex::new(Inner {
                state,
                running: 0,
                held_since: None,
                longest: Duration::ZERO,
                holds: 0,
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that drives it dies.
    pub fn crash(&self) {
        if self.fleeting {
            let now = self.clock.now();
            let mut inner = self.lock();
            inner.state.at = Color::Blue;
            inner.set_held(true, now);
        }
    }

    /// Begins a unit of work; none when it has to wait.
    #[must_use]
    pub fn try_enter(&self) -> Option<FakeUnit> {
        let mut inner = self.lock();
        if inner.state.held {
            return None;
        }
        inner.running += 1;
        let at = inner.state.at;
        drop(inner);
        Some(FakeUnit { gate: self.clone(), at })
    }

    /// The longest time that it was held without a break, up to now.
    #[must_use]
    pub fn longest_hold(&self) -> Duration {
        let now = self.clock.now();
        let inner = self.lock();
        let running = inner.held_since.map_or(Duration::ZERO, |since| now.since(since));
        inner.longest.max(running)
    }

    /// How often it was held.
    #[must_use]
    pub fn holds(&self) -> u32 {
        self.lock().holds
    }

    /// What it does now, for those who need not wait for an answer.
    #[must_use]
    pub fn look(&self) -> GateState {
        self.lock().state
    }
}

impl Inner {
    fn set_held(&mut self, held: bool, now: Timestamp) {
        self.state.held = held;
        match (held, self.held_since) {
            (true, None) => {
                self.held_since = Some(now);
                self.holds += 1;
            }
            (false, Some(since)) => {
                self.longest = self.longest.max(now.since(since));
                self.held_since = None;
            }
            _ => {}
        }
    }
}

#[async_trait]
impl WriteGate for FakeGate {
    fn name(&self) -> &str {
        "fake gate"
    }

    fn starts_held(&self) -> bool {
        self.fleeting
    }

    async fn hold(&self, within: Duration) -> Result<()> {
        let deadline = self.clock.now() + within;
        loop {
            let now = self.clock.now();
            {
                let mut inner = self.lock();
                inner.set_held(true, now);
                if inner.running == 0 {
                    return Ok(());
                }
                if now >= deadline {
                    inner.set_held(false, now);
                    let message = format!("{} units of work still ran after {within:?}", inner.running);
                    return Err(Error::new(Kind::Timeout, "hold the gate", message).provider("fake gate"));
                }
            }
            self.clock.sleep_until(deadline.min(now + LOOK)).await;
        }
    }

    async fn point_at(&self, color: Color) -> Result<()> {
        self.lock().state.at = color;
        Ok(())
    }

    async fn release(&self) -> Result<()> {
        let now = self.clock.now();
        self.lock().set_held(false, now);
        Ok(())
    }

    async fn state(&self) -> Result<GateState> {
        Ok(self.look())
    }
}
