//! The log guard: what our slots keep of a server's log, watched for as long as there is one, and ended before the disk is
//! full. A task a direction, so that a server that hangs hides nothing of the other; it goes on while nobody asks for a
//! status. What each file knows: `guard` the task, `judge` how much is too much, `units` how it is said.

mod guard;
mod judge;
pub(crate) mod units;

use crate::progress::Work;
use crate::replicator::Context;
use bluegreen_core::Direction;
use guard::Guard;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// So many sentences are kept for somebody who asks.
const SAID: usize = 32;

/// The background work of each direction.
pub(crate) type Works = Mutex<HashMap<Direction, Work>>;

/// The guards of a migration. Dropping them ends them.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    tasks: Mutex<HashMap<Direction, JoinHandle<()>>>,
    pub(crate) shared: Arc<Shared>,
}

/// What the guards tell the rest.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    said: Mutex<Vec<String>>,
    given_up: Mutex<HashMap<Direction, String>>,
    short: [AtomicBool; 2],
    /// Held while a mirror is given up, in the pause of a cut-over, and while everything is taken away.
    pub(crate) busy: Arc<tokio::sync::Mutex<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whether what reads beside a mirror is to yield.
    pub(crate) fn is_short(&self) -> bool {
        self.short.iter().any(|s| s.load(Ordering::Relaxed))
    }

    fn set_short(&self, direction: Direction, short: bool) {
        self.short[usize::from(direction == Direction::GreenToBlue)].store(short, Ordering::Relaxed);
    }

    /// To whoever asks for warnings.
    pub(crate) fn say(&self, what: String) {
        let mut said = locked(&self.said);
        if said.len() == SAID {
            said.remove(0);
        }
        said.push(what);
    }
}

impl Guards {
    /// Makes sure that both directions' slots are guarded; a guard without anything to guard ends by itself.
    pub(crate) fn watch(&self, context: &Arc<Context>, works: &Arc<Works>) {
        let mut tasks = locked(&self.tasks);
        for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
            if tasks.get(&direction).is_none_or(JoinHandle::is_finished) {
                let guard = Guard::new(context.clone(), direction, self.shared.clone(), Arc::downgrade(works));
                tasks.insert(direction, tokio::spawn(guard.run()));
            }
        }
    }

    /// Why the mirror was given up in this process, if it was.
    pub(crate) fn given_up(&self, direction: Direction) -> Option<String> {
        locked(&self.shared.given_up).get(&direction).cloned()
    }

    /// What there is to say since this was last asked.
    pub(crate) fn said(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.shared.said))
    }

    /// Ends them: nothing is left that they could guard.
    pub(crate) fn end(&self) {
        for (direction, task) in locked(&self.tasks).drain() {
            task.abort();
            self.shared.set_short(direction, false);
        }
        locked(&self.shared.given_up).clear();
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        self.end();
    }
}
