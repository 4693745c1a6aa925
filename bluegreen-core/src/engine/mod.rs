//! The one loop: fold the journal, ask what comes next, let a step do a bit of it, make the answer durable.
//!
//! It knows no weight, no log position, no provider. A fresh run is a resume of an empty journal.

mod answer;
mod commit;
mod inbox;
mod ours;

pub(crate) use inbox::Inbox;
pub(crate) use ours::guarded_by;

use crate::error::{Error, Kind, Result};
use crate::event::{Event, Events};
use crate::journal::entry::FORMAT;
use crate::journal::state::{Next, Stage, State};
use crate::journal::{Body, Entry, Journal, Note, Outcome, StepName};
use crate::model::Color;
use crate::phase::{self, Collaborators, Context, Live, Unsettled};
use crate::plan::Plan;
use crate::spec::Spec;
use crate::time::Timestamp;
use futures::FutureExt;
use futures::future::{Either, select};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

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
            // Running it again is the answer: what was asked has been mended. What an operator said otherwise stands.
            self.append(Body::Resumed { answers: true }).await?;
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
                    if self.inbox.stop.load(Ordering::SeqCst) && !self.in_pause() {
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
            && let Some(why) = self.plan.refuses(name, fingerprint, &state.acts_on)
        {
            let mend = "resume with the specification it was begun with, or begin a new journal when that one is over";
            return Err(Error::new(Kind::Diverged, "resume", format!("{why}: {mend}")));
        }
        self.state = state;
        self.show();
        self.live.lock().settled = false;
        self.loaded = true;
        Ok(())
    }

    /// Before anything else, what an earlier process may have left in the middle of a pause. The journal is asked first: a
    /// runner that is not the next one stops there, before it has any effect.
    async fn put_right(&mut self) -> Result<Option<Turn>> {
        let own = self.state.step(StepName::CutOver);
        let (touched, retry) = (own.stage != Stage::Pending && self.state.closed.is_none(), own.retry_at);
        if self.live.lock().settled || self.state.planned.is_none() {
            return Ok(None);
        }
        let asked = self.state.asked.is_some();
        if let Some(retry) = retry.filter(|at| *at > self.with.clock.now() && !asked) {
            return Ok(Some(Turn::At(retry)));
        }
        let settled = match guarded(phase::unsettled(&self.context(StepName::CutOver))).await {
            Ok(Unsettled::No) => Ok(()),
            Ok(what) => {
                if self.state.closed.is_none() {
                    self.append(Body::Resumed { answers: false }).await?;
                }
                guarded(phase::settle(&self.context(StepName::CutOver), &what)).await
            }
            // What nobody knows yet is for the checks to report, and an abort has nothing to undo; until they are done it is asked
            // again, for what begins held is to be released then.
            Err(e) if !touched && !phase::knows_who_writes(&self.state) => {
                tracing::warn!(migration = %self.spec.name, "the gate was left as it is: {e}");
                return Ok(None);
            }
            // A gate out of reach before any cut-over is for the checks to report; after the end it is nobody's business.
            Err(e) if !touched && !self.with.gate.starts_held() => {
                tracing::warn!(migration = %self.spec.name, "the gate could not be looked at: {e}");
                Ok(())
            }
            Err(e) => Err(e),
        };
        match settled {
            Ok(()) => {
                self.live.lock().settled = true;
                Ok(None)
            }
            // A human is asked already; what can be seen of it is asked for again with the next run.
            Err(e) if asked => {
                tracing::warn!(migration = %self.spec.name, "what was left of a pause could not be put right: {e}");
                Ok(None)
            }
            Err(e) if self.state.closed.is_some() => Err(e),
            Err(e) => {
                let undoing = self.state.unwinding.is_some();
                self.answered(StepName::CutOver, Err(e), undoing).await.map(Some)
            }
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
        if let Some(turn) = self.put_right().await? {
            return Ok(turn);
        }
        match self.state.next(self.with.clock.now()) {
            Next::Plan => {
                self.write_plan().await?;
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
                let answer = self.ask(step, false).await;
                self.answered(step, answer, false).await
            }
            Next::Undo(step) => {
                let answer = self.ask(step, true).await;
                self.answered(step, answer, true).await
            }
        }
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
            if asks && self.requests().await?.iter().any(|r| !self.state.heard.contains(&r.id)) {
                return Ok(());
            }
            if until.is_none_or(|until| until > slice) && self.look_on().await? {
                return Ok(());
            }
        }
    }

    /// Lets the step that waits look on. Whether there is something new to act on: what it saw, or an operator's word.
    async fn look_on(&mut self) -> Result<bool> {
        let Some(step) = self.waiting_step() else {
            return Ok(false);
        };
        let cx = self.context(step);
        let watch = guarded(async { Ok(phase::of(step).watch(&cx).await) });
        let limit = self
            .with
            .clock
            .sleep_until(self.with.clock.now() + self.spec.step_deadline);
        let woken = self.inbox.woken.notified();
        // An operator's word, or a look that does not come back, ends the look.
        let note = match select(std::pin::pin!(watch), select(std::pin::pin!(woken), limit)).await {
            Either::Left((Ok(note), _)) => note,
            Either::Left((Err(e), _)) => {
                tracing::warn!(migration = %self.spec.name, %step, "a look: {e}");
                None
            }
            Either::Right((Either::Right(_), _)) => None,
            Either::Right((Either::Left(_), _)) => return Ok(true),
        };
        self.pass_on_warnings(step);
        let Some(note) = note else { return Ok(false) };
        self.append(Body::Noted { step, note }).await?;
        Ok(true)
    }

    /// The step that waits; where none has begun, as after switching back, the mirror is what must go on.
    fn waiting_step(&self) -> Option<StepName> {
        let is = |stage| move |s: &StepName| self.state.step(*s).stage == stage;
        let mut steps = self.plan.steps.iter().map(|s| s.name);
        // What is being taken back is not looked after: a look may ask for a mirror again.
        if self.state.unwinding.is_some() {
            return None;
        }
        let follows = self.state.writer() == Color::Blue;
        let mirror = Some(StepName::Mirror).filter(is(Stage::Finished)).filter(|_| follows);
        steps.find(is(Stage::Started)).or(mirror)
    }

    /// Writes down the plan: the first entry of every journal.
    async fn write_plan(&mut self) -> Result<()> {
        let body = Body::Planned {
            name: self.plan.name.clone(),
            fingerprint: self.plan.fingerprint.clone(),
            steps: self.plan.names(),
            acts_on: self.plan.acts_on.clone(),
        };
        self.append(body).await
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

/// A provider that panics is a failed step, not a dead engine.
async fn guarded<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
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
