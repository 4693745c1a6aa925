//! Keeps the idle slot of the way back at the end of the log: it must not hold log, and a long advance would land in
//! the pause.

use crate::error::describe;
use crate::ident::mirror_name;
use crate::replicator::Context;
use crate::slot;
use bluegreen_core::Direction;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;

/// While it is only log that must not be held.
pub(crate) const AT_EASE: Duration = Duration::from_secs(2);

/// While a cut-over is armed: the advance in its pause reads the log of about two of these.
pub(crate) const ARMED: Duration = Duration::from_millis(150);

/// A task that advances the idle slot of a direction. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    paused: AtomicBool,
    /// Held during an advance: a slot can be advanced by one session at a time.
    busy: tokio::sync::Mutex<()>,
}

impl Keeper {
    /// Starts it.
    pub(crate) fn spawn(context: Arc<Context>, direction: Direction, every: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(keep(context, direction, every, shared.clone()));
        Self { shared, task }
    }

    /// From now on it leaves the slot alone, but for an advance that is under way.
    pub(crate) fn pause(&self) -> Pause {
        self.shared.paused.store(true, Ordering::SeqCst);
        Pause(self.shared.clone())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The keeper keeps off until this is dropped.
#[derive(Debug)]
pub(crate) struct Pause(Arc<Shared>);

impl Pause {
    /// Waits until an advance that was under way has ended.
    pub(crate) async fn quiet(&self) {
        drop(self.0.busy.lock().await);
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.paused.store(false, Ordering::SeqCst);
    }
}

async fn keep(context: Arc<Context>, direction: Direction, every: Duration, shared: Arc<Shared>) {
    let slot = mirror_name(&context.settings.name, direction);
    let mut session = None;
    loop {
        tokio::time::sleep(every).await;
        if session.is_none() {
            match context.settings.connect(direction.origin()).await {
                Ok(new) => session = Some(new),
                Err(e) => {
                    tracing::warn!(error = %e, slot, "the idle slot cannot be advanced now");
                    continue;
                }
            }
        }
        let Some(open) = &session else { continue };
        if shared.paused.load(Ordering::SeqCst) {
            continue;
        }
        // Without it the advance still works, only longer.
        if let Err(e) = slot::mark_restart(open, &slot).await {
            tracing::debug!(error = %e, slot, "no point to decode from was written");
        }
        let advanced = {
            let _busy = shared.busy.lock().await;
            if shared.paused.load(Ordering::SeqCst) {
                continue;
            }
            slot::advance_unless_open(open, &slot).await
        };
        match advanced {
            Ok(Some(_)) => {}
            Ok(None) => {
                tracing::debug!(slot, "its side takes writes now: nobody may advance it any more");
                return;
            }
            // Its mirror runs again, or is gone: nothing to keep.
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_OBJECT) => return,
            Err(e) if e.code() == Some(&SqlState::OBJECT_IN_USE) => {
                tracing::debug!(slot, "the slot is in use");
            }
            Err(e) => {
                tracing::warn!(error = %describe(&e), slot, "the idle slot was not advanced");
                session = None;
            }
        }
    }
}
