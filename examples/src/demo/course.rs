//! What happens while it runs: events and counters brought to the screen, and remembered for the summary.

use super::show::Show;
use bluegreen_core::{Body, Clock, Event, MirrorStatus, SystemClock, Timestamp};
use bluegreen_testkit::app::Clients;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

pub(super) struct Course {
    show: Show,
    stages: Mutex<Vec<Stage>>,
    ticker: JoinHandle<()>,
}

/// What was going on from a moment on, to say later what a stall fell into.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    pub(super) at: Timestamp,
    pub(super) what: String,
}

impl Course {
    pub(super) fn new(show: &Show, clients: &Clients) -> Self {
        let (look, shown) = (clients.monitor(), show.clone());
        let ticker = tokio::spawn(async move {
            loop {
                shown.clients(&look());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let course = Self {
            show: show.clone(),
            stages: Mutex::default(),
            ticker,
        };
        course.enters("before the migration".into());
        course
    }

    /// Takes an event of the migration.
    pub(super) fn saw(&self, event: &Event) {
        self.show.event(event);
        match event {
            Event::Entry { entry } => match &entry.body {
                Body::Started { step } => self.enters(step.to_string()),
                Body::RollbackRequested { why } => self.enters(format!("unwinding: {why}")),
                Body::Undone { step } => self.enters(format!("after undoing {step}")),
                Body::Finished { step } => self.enters(format!("after {step}")),
                Body::Noted { step, note } => {
                    let note = serde_json::to_value(note).ok();
                    let name = note.as_ref().and_then(|note| note["note"].as_str()).unwrap_or("note");
                    self.enters(format!("{step}, after {name}"));
                }
                _ => {}
            },
            Event::Mirror { direction, status } => {
                let what = match status {
                    MirrorStatus::Copying { stage, .. } => stage.as_str(),
                    MirrorStatus::Preparing(what) => what.as_str(),
                    MirrorStatus::Streaming(_) => return,
                    MirrorStatus::Absent => "absent",
                    MirrorStatus::Armed => "armed",
                    MirrorStatus::Failed { why, .. } => why.as_str(),
                };
                self.enters(format!("mirror {direction}: {what}"));
            }
            _ => {}
        }
    }

    /// Notes something that the demo itself does.
    pub(super) fn enters(&self, what: String) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        if stages.last().is_none_or(|last| last.what != what) {
            stages.push(Stage {
                at: SystemClock.now(),
                what,
            });
        }
    }

    /// Says something beside the bars.
    pub(super) fn say(&self, what: &str) {
        self.show.say(what);
    }

    pub(super) async fn rest(&self, length: Duration) {
        self.enters("after the migration".into());
        tokio::time::sleep(length).await;
    }

    /// Ends the watching; gives what was remembered.
    pub(super) fn end(self) -> Vec<Stage> {
        self.ticker.abort();
        self.stages.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
