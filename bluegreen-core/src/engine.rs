//! The one loop: fold the journal, ask what comes next, let a step do a bit of it, make the answer durable.
//!
//! It knows no weight, no log position, no provider. A fresh run is a resume of an empty journal.

use crate::error::{Error, Kind, Remedy, Result};
use crate::event::{Event, Events};
use crate::journal::entry::FORMAT;
use crate::journal::state::{Next, Stage, State};
use crate::journal::{Body, Entry, Journal, Note, Outcome, Signal, StepName};
use crate::model::Color;
use crate::phase::{self, Collaborators, Context, Live, Progress};
use crate::plan::Plan;
use crate::spec::Spec;
use crate::time::Timestamp;
use futures::FutureExt;
use futures::future::{Either, select};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What one turn of the loop led to.
#[derive(Debug)]
pub(crate) enum Turn {
    /// There is more to do at once.
    Again,
    /// Nothing before then.
    At(Timestamp),
    /// An operator paused it.
    Paused,
    /// A human is needed.
    Human(String),
    /// It is over.
    Over(Outcome),
}

/// What comes in from outside while the loop runs: operators' signals, and the wish that it stops.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    signals: Mutex<Vec<Signal>>,
    stop: AtomicBool,
    woken: Notify,
}

impl Inbox {
    pub(crate) fn send(&self, signal: Signal) {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).push(signal);
        self.woken.notify_one();
    }

    /// Asks the loop to end where nothing is held.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.woken.notify_one();
    }

    fn take(&self) -> Vec<Signal> {
        std::mem::take(&mut *self.signals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) spec: Arc<Spec>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) with: Arc<Collaborators>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) events: Events,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) shown: Arc<Mutex<State>>,
    live: Live,
    state: State,
    loaded: bool,
}

impl Engine {
    pub(crate) fn new(
        spec: Arc<Spec>,
        plan: Arc<Plan>,
        with: Arc<Collaborators>,
        journal: Arc<dyn Journal>,
        events: Events,
    ) -> Self {
        Self {
            spec,
            plan,
            with,
            journal,
            events,
            inbox: Arc::default(),
            shown: Arc::default(),
            live: Live::default(),
            state: State::default(),
            loaded: false,
        }
    }

    /// Runs until it is over or a human is needed.
    pub(crate) async fn run(&mut self) -> Result<Outcome> {
        self.inbox.stop.store(false, Ordering::SeqCst);
        self.load().await?;
        if self.state.asked.is_some() && self.state.closed.is_none() {
            // Running it again is the answer: what was asked has been mended.
            self.append(Body::Operator {
                signal: Signal::Resume,
                request: None,
            })
            .await?;
        }
        loop {
            match self.turn().await? {
                Turn::Again if !self.inbox.stop.load(Ordering::SeqCst) || self.in_pause() => {}
                Turn::Over(outcome) => return Ok(outcome),
                Turn::Human(why) => {
                    return Err(Error::new(
                        Kind::HumanNeeded,
                        format!("migrate {}", self.spec.name),
                        why,
                    ));
                }
                turn => {
                    if self.inbox.stop.load(Ordering::SeqCst) {
                        let message = "stopped where it can be continued: run it again";
                        return Err(Error::new(
                            Kind::HumanNeeded,
                            format!("migrate {}", self.spec.name),
                            message,
                        ));
                    }
                    let until = if let Turn::At(until) = turn { Some(until) } else { None };
                    self.wait(until).await?;
                }
            }
        }
    }

    /// One turn, for those who bring their own loop.
    pub(crate) async fn tick(&mut self) -> Result<Turn> {
        self.load().await?;
        self.turn().await
    }

    async fn load(&mut self) -> Result<()> {
        if self.loaded {
            return Ok(());
        }
        let entries = self.journal.load().await?;
        let state = State::of(&entries)?;
        if let Some((name, fingerprint, _)) = &state.planned
            && (*fingerprint != self.plan.fingerprint || *name != self.plan.name)
        {
            return Err(Error::new(
                Kind::Diverged,
                "resume",
                format!(
                    "the journal holds plan {fingerprint} of {name}, this is plan {} of {}: resume with the specification \
                     it was begun with, or begin a new journal when that one is over",
                    self.plan.fingerprint, self.plan.name
                ),
            ));
        }
        self.state = state;
        self.show();
        let under_way = self.state.planned.is_some() && self.state.closed.is_none();
        if under_way || self.with.gate.starts_held() {
            self.settle().await?;
        }
        self.loaded = true;
        Ok(())
    }

    /// Before anything else, what an earlier process may have left in the middle of a pause.
    async fn settle(&self) -> Result<()> {
        let touched = self.state.step(StepName::CutOver).stage != Stage::Pending && self.state.closed.is_none();
        match phase::settle(&self.context(StepName::CutOver)).await {
            // A gate out of reach before any cut-over is for the checks to report; after the end it is nobody's business.
            Err(e) if !touched && !self.with.gate.starts_held() => {
                tracing::warn!(migration = %self.spec.name, "the gate could not be looked at: {e}");
                Ok(())
            }
            other => other,
        }
    }

    fn context(&self, step: StepName) -> Context<'_> {
        Context {
            step,
            spec: &self.spec,
            with: &self.with,
            state: &self.state,
            live: &self.live,
            events: &self.events,
        }
    }

    /// Whether the gate is held between two turns: after a commit record, before what follows from it.
    fn in_pause(&self) -> bool {
        // Without a database nothing is paused, and no note of a pause's end follows the commit.
        self.with.replicator.is_present()
            && matches!(
                self.state.step(StepName::CutOver).notes.last(),
                Some((_, Note::Commit { .. }))
            )
    }

    async fn turn(&mut self) -> Result<Turn> {
        self.hear().await?;
        match self.state.next(self.with.clock.now()) {
            Next::Plan => {
                let body = Body::Planned {
                    name: self.plan.name.clone(),
                    fingerprint: self.plan.fingerprint.clone(),
                    steps: self.plan.names(),
                };
                self.append(body).await?;
                Ok(Turn::Again)
            }
            Next::WaitUntil(until, _) => Ok(Turn::At(until)),
            Next::Paused => {
                // Nobody looks while an operator has it paused: that time is not what patience is for.
                self.live.lock().patience.clear();
                Ok(Turn::Paused)
            }
            Next::Ask(step, why) => Ok(Turn::Human(format!("{step}: {why}"))),
            Next::Over(outcome) => Ok(Turn::Over(outcome)),
            Next::Close(outcome) => {
                self.append(Body::Closed {
                    outcome: outcome.clone(),
                })
                .await?;
                Ok(Turn::Over(outcome))
            }
            Next::Advance(step) => {
                if self.state.step(step).stage == Stage::Pending {
                    self.append(Body::Started { step }).await?;
                }
                let answer = guarded(phase::of(step).advance(&self.context(step))).await;
                self.answered(step, answer, false).await
            }
            Next::Undo(step) => {
                let answer = guarded(phase::of(step).undo(&self.context(step))).await;
                self.answered(step, answer, true).await
            }
        }
    }

    /// Turns a step's answer into an entry.
    async fn answered(&mut self, step: StepName, answer: Result<Progress>, undoing: bool) -> Result<Turn> {
        let now = self.with.clock.now();
        let body = match answer {
            Ok(Progress::Done) if undoing => Body::Undone { step },
            Ok(Progress::Done) => Body::Finished { step },
            Ok(Progress::Note(note)) => return self.note(step, note).await,
            Ok(Progress::Wait { until, why }) => Body::Waiting { step, until, why },
            Ok(Progress::Look { after, what }) => {
                let again = now + after;
                self.events.send(|| Event::Looked { step, what, again });
                return Ok(Turn::At(again));
            }
            Ok(Progress::Ask(why)) => Body::Asked { step, why },
            Ok(Progress::GiveUp(why)) => self.give_up(step, why, undoing),
            Err(error) => match error.remedy() {
                Remedy::Retry(after) => {
                    let attempt = self.state.step(step).attempts + 1;
                    if attempt > self.spec.retries {
                        self.give_up(step, format!("{error} (tried {attempt} times)"), undoing)
                    } else {
                        let backoff = self
                            .spec
                            .look
                            .saturating_mul(1 << (attempt - 1).min(6))
                            .min(MAX_BACKOFF);
                        let until = now + after.unwrap_or(Duration::ZERO).max(backoff);
                        Body::Retrying {
                            step,
                            attempt,
                            until,
                            error: error.to_string(),
                        }
                    }
                }
                Remedy::Ask(what) if undoing => Body::UndoFailed {
                    step,
                    error: format!("{error}: {what}"),
                },
                Remedy::Ask(what) => Body::Asked {
                    step,
                    why: format!("{error}: {what}"),
                },
                Remedy::GiveUp => self.give_up(step, error.to_string(), undoing),
            },
        };
        self.append(body).await?;
        Ok(Turn::Again)
    }

    /// Before the commit a failure unwinds by itself; after it both ways are open, and a human says which.
    fn give_up(&self, step: StepName, why: String, undoing: bool) -> Body {
        if undoing {
            let error = format!("{why}. Mend it and run again: it goes on undoing");
            return Body::UndoFailed { step, error };
        }
        if self.state.writer() == Color::Green {
            let way = if self.state.past_no_return() {
                ""
            } else {
                ", or go back"
            };
            return Body::Asked {
                step,
                why: format!("{why}. Green is the writer: mend it and run again{way}"),
            };
        }
        Body::RollbackRequested {
            why: format!("{step}: {why}"),
        }
    }

    async fn note(&mut self, step: StepName, note: Note) -> Result<Turn> {
        let Note::Commit { to, .. } = note else {
            self.append(Body::Noted { step, note }).await?;
            return Ok(Turn::Again);
        };
        let (seq, body) = (self.state.next_seq, Body::Noted { step, note });
        let Err(error) = self.append_once(body.clone()).await else {
            return Ok(Turn::Again);
        };
        // A journal that cannot say whether it has the record, or that somebody else has written, is read.
        let kept = match error.kind() {
            Kind::Corrupt | Kind::Conflict => self.has(seq, &body).await,
            _ => Some((false, to.other())),
        };
        match kept {
            Some((true, _)) => Ok(Turn::Again),
            // Another runner has come to the same end. What is open now is open by its record, and stays so.
            Some((false, writer)) if writer == to => Err(error),
            Some((false, _)) => {
                // The record is not there: the old writer writes on, and only then is the failure anybody's business.
                phase::abandon(&self.context(step), to.other()).await?;
                Err(error)
            }
            // Opening either side could lose what the other has taken by the time that the record is found, or is not.
            None => {
                let message = "it cannot be told whether the commit record is in the journal, and writes wait until it can: \
                               make the journal readable and run it again at once";
                Err(Error::new(error.kind(), "commit", message).because(error))
            }
        }
    }

    /// Whether the journal has this entry, which may or may not have reached it, and who writes by what it has; none when
    /// it cannot be read.
    async fn has(&mut self, seq: u64, body: &Body) -> Option<(bool, Color)> {
        let deadline = self.with.clock.now() + self.spec.pause_budget;
        let mut pause = Duration::from_millis(5);
        loop {
            let read = select(self.journal.load(), self.with.clock.sleep_until(deadline)).await;
            let Either::Left((read, _)) = read else { return None };
            if let Ok((entries, state)) = read.and_then(|entries| State::of(&entries).map(|state| (entries, state))) {
                let writer = state.writer();
                let kept = entries.last().is_some_and(|last| last.seq == seq && last.body == *body);
                if kept {
                    self.state = state;
                    self.loaded = true;
                    self.show();
                    self.events.send(|| Event::Entry {
                        entry: entries[entries.len() - 1].clone(),
                    });
                }
                return Some((kept, writer));
            }
            if self.with.clock.now() + pause >= deadline {
                return None;
            }
            self.with.clock.sleep_until(self.with.clock.now() + pause).await;
            pause *= 2;
        }
    }

    /// Hears operators, in this process and from others. An order is durable before it is followed.
    async fn hear(&mut self) -> Result<()> {
        if self.state.closed.is_some() || self.in_pause() {
            return Ok(());
        }
        for signal in self.inbox.take() {
            self.append_if_planned(signal, None).await?;
        }
        if self.journal.has_requests() {
            for request in self.journal.requests().await? {
                if !self.state.heard.contains(&request.id) {
                    self.append_if_planned(request.signal, Some(request.id)).await?;
                }
            }
        }
        Ok(())
    }

    async fn append_if_planned(&mut self, signal: Signal, request: Option<String>) -> Result<()> {
        if self.state.planned.is_none() {
            let body = Body::Planned {
                name: self.plan.name.clone(),
                fingerprint: self.plan.fingerprint.clone(),
                steps: self.plan.names(),
            };
            self.append(body).await?;
        }
        self.append(Body::Operator { signal, request }).await
    }

    /// Waits until then, or until somebody says something; looks on in between.
    async fn wait(&mut self, until: Option<Timestamp>) -> Result<()> {
        loop {
            let now = self.with.clock.now();
            if until.is_some_and(|until| until <= now) {
                return Ok(());
            }
            let asks = self.journal.has_requests();
            let slice = now
                + if asks {
                    self.spec.look.min(self.spec.watch)
                } else {
                    self.spec.watch
                };
            let slice = until.map_or(slice, |until| until.min(slice));
            let woken = self.inbox.woken.notified();
            if let Either::Left(_) = select(std::pin::pin!(woken), self.with.clock.sleep_until(slice)).await {
                return Ok(());
            }
            if asks
                && self
                    .journal
                    .requests()
                    .await?
                    .iter()
                    .any(|r| !self.state.heard.contains(&r.id))
            {
                return Ok(());
            }
            if until.is_none_or(|until| until > slice)
                && let Some(step) = self.waiting_step()
            {
                phase::of(step).watch(&self.context(step)).await;
            }
        }
    }

    fn waiting_step(&self) -> Option<StepName> {
        self.plan
            .steps
            .iter()
            .map(|s| s.name)
            .find(|s| self.state.step(*s).stage == Stage::Started)
    }

    /// Makes it durable, folds it, publishes it. What may pass is tried again: an append that failed is not in the journal.
    async fn append(&mut self, body: Body) -> Result<()> {
        let mut attempt = 0;
        loop {
            match self.append_once(body.clone()).await {
                Err(e) if e.is_transient() && attempt < self.spec.retries => {
                    attempt += 1;
                    tracing::warn!(migration = %self.spec.name, attempt, "the journal could not be written: {e}");
                    let backoff = self.spec.look.saturating_mul(attempt);
                    self.with.clock.sleep_until(self.with.clock.now() + backoff).await;
                }
                other => return other,
            }
        }
    }

    async fn append_once(&mut self, body: Body) -> Result<()> {
        let entry = Entry {
            v: FORMAT,
            seq: self.state.next_seq,
            at: self.with.clock.now(),
            body,
        };
        if let Err(e) = self.journal.append(&entry).await {
            // What the journal holds is not what we think: look again before anything else is done.
            self.loaded = false;
            return Err(e);
        }
        self.state.apply(&entry)?;
        tracing::debug!(migration = %self.spec.name, seq = entry.seq, body = ?entry.body, "entry");
        self.show();
        self.events.send(|| Event::Entry { entry });
        Ok(())
    }

    fn show(&self) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = self.state.clone();
    }
}

const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// A provider that panics is a failed step, not a dead engine.
async fn guarded(step: impl Future<Output = Result<Progress>>) -> Result<Progress> {
    AssertUnwindSafe(step).catch_unwind().await.unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".into());
        Err(Error::new(
            Kind::Unexpected,
            "take a step",
            format!("a provider panicked: {what}"),
        ))
    })
}
