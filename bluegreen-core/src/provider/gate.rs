//! `WriteGate`: makes new writes wait instead of fail, and `AppGate`, the gate inside an application that embeds us.

use crate::error::{Error, Kind, Result};
use crate::model::Color;
use crate::provider::Finding;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What a gate does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateState {
    /// Whether new writes wait.
    pub held: bool,
    /// Where writes go when it is released.
    pub at: Color,
}

/// Makes new units of work wait, lets running ones end, and sends the waiting ones to the other side.
///
/// A gate that is held is released on every way out. `release` of what is not held is success; so is `point_at` where it
/// points already.
#[async_trait]
pub trait WriteGate: fmt::Debug + Send + Sync + 'static {
    /// A short name for messages: `pgbouncer`.
    fn name(&self) -> &str;

    /// What it acts on, in one line and always in the same form: a migration is only resumed with what it was begun with.
    /// No secret, and nothing that may change meanwhile, such as a user or a timeout. Its name where nothing tells more.
    fn acts_on(&self) -> String {
        self.name().to_owned()
    }

    /// Whether writes wait at all. Only [`NoGate`](crate::NoGate) answers false: clients then see errors in the pause.
    fn is_present(&self) -> bool {
        true
    }

    /// Whether it may begin held with its process and then waits to be told where writes go, as [`AppGate::held`] does. Any
    /// other gate that is held while no migration is under way was held by somebody else, and is left alone.
    fn starts_held(&self) -> bool {
        false
    }

    /// Looks for what would make the pause fail or last: instances out of reach, a configuration that cannot be
    /// rewritten. Changes nothing.
    ///
    /// # Errors
    /// Only when it could not look; an instance that cannot be reached is a blocking finding.
    async fn preflight(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// New units of work wait from now on; returns when the running ones have ended.
    ///
    /// # Errors
    /// `Timeout` when they did not end `within` so long. On any error, nothing waits any more: the gate is released
    /// before the call returns. A gate of several instances is held on all or on none.
    async fn hold(&self, within: Duration) -> Result<()>;

    /// Sends what comes through the gate to `color` from its release on. Returns when that is certain.
    ///
    /// # Errors
    /// When it is not certain; the gate stays held if it was.
    async fn point_at(&self, color: Color) -> Result<()>;

    /// Lets everything through.
    ///
    /// # Errors
    /// It is called again until it works.
    async fn release(&self) -> Result<()>;

    /// What it does now, read from the gate itself.
    ///
    /// # Errors
    /// `Diverged` when its instances are apart: some point at blue and some at green. Where the journal knows which side
    /// writes, all of them are then pointed there. Any other kind when it cannot be told; `Conflict` when somebody pointed it
    /// at neither.
    async fn state(&self) -> Result<GateState>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: WriteGate + ?Sized> WriteGate for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn acts_on(&self) -> String {
        (**self).acts_on()
    }
    fn is_present(&self) -> bool {
        (**self).is_present()
    }
    fn starts_held(&self) -> bool {
        (**self).starts_held()
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        (**self).preflight().await
    }
    async fn hold(&self, within: Duration) -> Result<()> {
        (**self).hold(within).await
    }
    async fn point_at(&self, color: Color) -> Result<()> {
        (**self).point_at(color).await
    }
    async fn release(&self) -> Result<()> {
        (**self).release().await
    }
    async fn state(&self) -> Result<GateState> {
        (**self).state().await
    }
}

/// The gate inside a Rust service that embeds the migration: a guard around each unit of work, which also hands out the
/// right side's pool. No proxy, no error, no extra hop.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use bluegreen_core::AppGate;
/// let gate = AppGate::new("blue pool", "green pool");
/// let pool = gate.enter().await; // waits while the gate is held
/// assert_eq!(*pool, "blue pool");
/// drop(pool); // the unit of work has ended
/// # });
/// ```
///
/// A service that restarts in the middle of a migration begins with [`AppGate::held`]: its first unit of work then waits
/// until the migration has said which side writes.
pub struct AppGate<P>(Arc<Shared<P>>);

struct Shared<P> {
    blue: P,
    green: P,
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    state: GateState,
    running: usize,
}

impl<P> Clone for AppGate<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> fmt::Debug for AppGate<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.0.lock();
        f.debug_struct("AppGate")
            .field("state", &inner.state)
            .field("running", &inner.running)
            .finish_non_exhaustive()
    }
}

impl<P> Shared<P> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every critical section below is a few assignments: a poisoned lock still holds a whole state.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Send + Sync + 'static> AppGate<P> {
    /// An open gate that points at blue.
    pub fn new(blue: P, green: P) -> Self {
        Self::at(
            blue,
            green,
            GateState {
                held: false,
                at: Color::Blue,
            },
        )
    }

    /// A gate at which everything waits until a migration settles where writes go.
    pub fn held(blue: P, green: P) -> Self {
        Self::at(
            blue,
            green,
            GateState {
                held: true,
                at: Color::Blue,
            },
        )
    }

    fn at(blue: P, green: P, state: GateState) -> Self {
        let inner = Mutex::new(Inner { state, running: 0 });
        Self(Arc::new(Shared {
            blue,
            green,
            inner,
            changed: Notify::new(),
        }))
    }

    /// Begins a unit of work: waits while the gate is held, and gives the pool of the side that writes. The work counts as
    /// running until the guard is dropped. Dropping the future leaves nothing behind.
    pub async fn enter(&self) -> AppGuard<P> {
        loop {
            let changed = self.0.changed.notified();
            {
                let mut inner = self.0.lock();
                if !inner.state.held {
                    inner.running += 1;
                    return AppGuard {
                        shared: Arc::clone(&self.0),
                        at: inner.state.at,
                    };
                }
            }
            changed.await;
        }
    }
}

#[async_trait]
impl<P: Send + Sync + 'static> WriteGate for AppGate<P> {
    fn name(&self) -> &str {
        "app"
    }

    fn starts_held(&self) -> bool {
        true
    }

    async fn hold(&self, within: Duration) -> Result<()> {
        self.0.lock().state.held = true;
        let drained = async {
            loop {
                let changed = self.0.changed.notified();
                if self.0.lock().running == 0 {
                    return;
                }
                changed.await;
            }
        };
        // The drain is bounded by real time: units of work are the application's, not the engine's clock's.
        if tokio::time::timeout(within, drained).await.is_err() {
            let running = self.0.lock().running;
            self.release().await?;
            return Err(Error::new(
                Kind::Timeout,
                "hold the gate",
                format!("{running} units of work still ran after {within:?}: find what keeps them, or raise the pause budget"),
            )
            .provider("app"));
        }
        Ok(())
    }

    async fn point_at(&self, color: Color) -> Result<()> {
        self.0.lock().state.at = color;
        Ok(())
    }

    async fn release(&self) -> Result<()> {
        self.0.lock().state.held = false;
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn state(&self) -> Result<GateState> {
        Ok(self.0.lock().state)
    }
}

/// A running unit of work: dereferences to the pool of the side that writes.
pub struct AppGuard<P> {
    shared: Arc<Shared<P>>,
    at: Color,
}

impl<P> fmt::Debug for AppGuard<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppGuard").field("at", &self.at).finish_non_exhaustive()
    }
}

impl<P> AppGuard<P> {
    /// The side this unit of work writes to.
    #[must_use]
    pub fn color(&self) -> Color {
        self.at
    }
}

impl<P> Deref for AppGuard<P> {
    type Target = P;
    fn deref(&self) -> &P {
        match self.at {
            Color::Blue => &self.shared.blue,
            Color::Green => &self.shared.green,
        }
    }
}

impl<P> Drop for AppGuard<P> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.running -= 1;
        let last = inner.running == 0;
        drop(inner);
        if last {
            self.shared.changed.notify_waiters();
        }
    }
}
