//! What observers see while it runs: durable entries as they become durable, and passing observations in between.

use crate::journal::{Entry, StepName};
use crate::model::{Color, Direction, Share};
use crate::provider::MirrorStatus;
use crate::time::Timestamp;
use futures::Stream;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::broadcast;

/// Something to see. Only [`Event::Entry`] is durable; the others pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// An entry became durable.
    Entry {
        /// It.
        entry: Entry,
    },
    /// A step looked, and says what it waits for.
    Looked {
        /// Which.
        step: StepName,
        /// What it saw or waits for.
        what: String,
        /// When it will look again.
        again: Timestamp,
    },
    /// Where a mirror is.
    Mirror {
        /// Which way.
        direction: Direction,
        /// Where.
        status: MirrorStatus,
    },
    /// An endpoint was probed.
    Probed {
        /// Whose; none through the production name.
        color: Option<Color>,
        /// Whether it is well.
        healthy: bool,
        /// How long it took.
        latency: Duration,
        /// What was seen.
        seen: String,
    },
    /// What the judge says.
    Judged {
        /// The share it says it of.
        share: Share,
        /// What, for people.
        verdict: String,
        /// What the policy says, for people.
        decision: String,
    },
    /// Something a human should know, that does not stop anything.
    Warned {
        /// Which step.
        step: StepName,
        /// What.
        what: String,
    },
}

const KEPT: usize = 4096;

/// Where events come out. A receiver that is too slow misses the oldest; nothing ever waits for it.
/// Its buffer is made for the first receiver: thousands of migrations that nobody looks at need none.
#[derive(Debug, Clone)]
pub(crate) struct Events(Arc<OnceLock<broadcast::Sender<Event>>>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn send(&self, event: impl FnOnce() -> Event) {
        if let Some(sender) = self.0.get()
            && sender.receiver_count() > 0
        {
            // No receiver is no failure: nobody has to look.
            let _ = sender.send(event());
        }
    }

    pub(crate) fn stream(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        let receiver = self.0.get_or_init(|| broadcast::Sender::new(KEPT)).subscribe();
        Box::pin(futures::stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        }))
    }
}
