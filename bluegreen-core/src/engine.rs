//! The one loop: fold the journal, ask what comes next, let a step do a bit of it, make the answer durable.
//!
//! It knows no weight, no log position, no provider. A fresh run is a resume of an empty journal.

use crate::duration::format_duration;
use crate::error::{Error, Kind, Remedy, Result};
use crate::event::{Event, Events};
use crate::journal::entry::FORMAT;
use crate::journal::state::{Next, Stage, State};
use crate::journal::{Body, Entry, Journal, Note, Outcome, Signal, StepName};
use crate::model::Color;
use crate::phase::{self, Collaborators, Context, Live, Progress, Unsettled};
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

/// What became of a commit record.
#[derive(Debug)]
enum Kept {
    /// It is durable.
    Yes,
    /// It is not there, and cannot be.
    No(Error),
    /// It is not there: that the pause was given up stands in its place.
    InItsPlace(Error),
    /// Another runner was here first.
    Another(Error),
    /// It cannot be told.
    Unknown(Error),
}

/// What stands where a record was meant to.
#[derive(Debug)]
enum Found {
    Ours,
    Theirs,
    Nothing,
    Replaced,
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
                let answer = self.ask(step, false).await;
                self.answered(step, answer, false).await
            }
            Next::Undo(step) => {
                let answer = self.ask(step, true).await;
                self.answered(step, answer, true).await
            }
        }
    }

    /// Asks a step for the next bit of it, for a bounded time: every step may be asked again.
    async fn ask(&self, step: StepName, undoing: bool) -> Result<Progress> {
        let cx = self.context(step);
        let deadline = cx.now() + self.spec.step_deadline + self.spec.pause_budget.saturating_mul(8);
        let call = async {
            match undoing {
                true => phase::of(step).undo(&cx).await,
                false => phase::of(step).advance(&cx).await,
            }
        };
        let call = std::pin::pin!(guarded(call));
        let answer = if !undoing && phase::of(step).runs_a_hook(&cx) {
            // A user's suite takes as long as it takes.
            call.await
        } else {
            match select(call, self.with.clock.sleep_until(deadline)).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(Error::new(
                    Kind::Timeout,
                    format!("{step}"),
                    format!(
                        "a provider did not answer within {}",
                        format_duration(self.spec.step_deadline)
                    ),
                )),
            }
        };
        if answer.is_err() && step == StepName::CutOver {
            // Whatever broke may have broken in the middle of a pause.
            self.live.lock().settled = false;
        }
        answer
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
            let way = if self.state.past_no_return() || self.in_pause() {
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
        if matches!(note, Note::Asking { .. }) {
            self.live.lock().patience.clear();
        }
        let Note::Commit { to, parts, .. } = &note else {
            self.append(Body::Noted { step, note }).await?;
            return Ok(Turn::Again);
        };
        let (to, held) = (*to, parts.iter().map(|p| p.took).sum::<Duration>());
        let (kept, why) = match self.commit(Body::Noted { step, note }, held).await {
            Kept::Yes => return Ok(Turn::Again),
            // They have the next word, and settle what is held.
            Kept::Another(error) => return Err(error),
            Kept::No(error) => (false, error),
            Kept::InItsPlace(error) => (true, error),
            Kept::Unknown(error) => {
                // Blue is production: it goes on. Should the record turn up, `promote` refuses it: blue is open again.
                phase::abandon(&self.context(step), to.other()).await?;
                let message = format!(
                    "it cannot be told whether the commit record is in the journal; writes go on at {}. Make the journal \
                     readable before it is run again",
                    to.other()
                );
                return Err(Error::new(Kind::Corrupt, "commit", message).because(error));
            }
        };
        tracing::warn!(migration = %self.spec.name, "the commit record could not be written, writes go on: {why}");
        let undoing = self.state.unwinding.is_some();
        if let Err(e) = phase::abandon(&self.context(step), to.other()).await {
            return Box::pin(self.answered(step, Err(e), undoing)).await;
        }
        if why.kind() == Kind::Conflict {
            // Nothing of theirs is there yet, but it is no longer ours to go on.
            return Err(why);
        }
        if !kept {
            let why = why.to_string();
            let note = Note::PauseGivenUp { held, why };
            self.append(Body::Noted { step, note }).await?;
        }
        Ok(Turn::Again)
    }

    /// Makes the commit record durable, or finds out that it is not and never will be.
    async fn commit(&mut self, body: Body, held: Duration) -> Kept {
        let Body::Noted { step, .. } = body else {
            return Kept::No(Error::new(Kind::Unexpected, "commit", "not a record"));
        };
        let (clock, seq) = (Arc::clone(&self.with.clock), self.state.next_seq);
        let deadline = clock.now() + self.spec.pause_budget;
        let error = match select(
            std::pin::pin!(self.append_once(body.clone())),
            clock.sleep_until(deadline),
        )
        .await
        {
            Either::Left((Ok(()), _)) => return Kept::Yes,
            Either::Left((Err(error), _)) => error,
            Either::Right(_) => Error::new(
                Kind::Corrupt,
                "commit",
                "the journal did not answer within the pause budget",
            ),
        };
        if !matches!(error.kind(), Kind::Corrupt | Kind::Conflict) {
            return Kept::No(error);
        }
        self.loaded = false;
        let deadline = clock.now() + self.spec.pause_budget;
        let mut pause = Duration::from_millis(5);
        loop {
            // A record that is on its way is kept out for good by what takes its place.
            let instead = (error.kind() == Kind::Corrupt).then(|| Note::PauseGivenUp {
                held,
                why: error.to_string(),
            });
            let instead = instead.map(|note| Body::Noted { step, note });
            let look = std::pin::pin!(self.look_for(seq, &body, instead));
            match select(look, clock.sleep_until(deadline)).await {
                Either::Left((Ok(Found::Ours), _)) => return Kept::Yes,
                Either::Left((Ok(Found::Theirs), _)) => return Kept::Another(error),
                Either::Left((Ok(Found::Nothing), _)) => return Kept::No(error),
                Either::Left((Ok(Found::Replaced), _)) => return Kept::InItsPlace(error),
                Either::Left((Err(_), _)) if clock.now() + pause < deadline => {}
                _ => return Kept::Unknown(error),
            }
            clock.sleep_until(clock.now() + pause).await;
            pause *= 2;
        }
    }

    /// What stands at a place of the journal; where nothing does, what is given is put there.
    async fn look_for(&mut self, seq: u64, body: &Body, instead: Option<Body>) -> Result<Found> {
        let entries = self.journal.load().await?;
        let state = State::of(&entries)?;
        let there = usize::try_from(seq).ok().and_then(|at| entries.get(at).cloned());
        match (there, instead) {
            (Some(entry), _) if entry.body == *body && state.next_seq == seq + 1 => {
                self.state = state;
                self.loaded = true;
                self.show();
                self.events.send(|| Event::Entry { entry });
                Ok(Found::Ours)
            }
            (Some(_), _) => Ok(Found::Theirs),
            (None, None) => Ok(Found::Nothing),
            (None, Some(instead)) => {
                self.append_once(instead).await?;
                self.loaded = true;
                Ok(Found::Replaced)
            }
        }
    }

    /// Hears operators, in this process and from others. An order is durable before it is followed.
    async fn hear(&mut self) -> Result<()> {
        if self.state.closed.is_some() || self.in_pause() && self.state.asked.is_none() {
            return Ok(());
        }
        // In a pause that a human was asked about there is one thing to say; the rest is heard after it.
        let heard = |signal: Signal, in_pause: bool| !in_pause || signal == Signal::Resume;
        for signal in self.inbox.take() {
            if !heard(signal, self.in_pause()) {
                self.inbox.send(signal);
            } else if let Err(e) = self.append_if_planned(signal, None).await {
                self.inbox.send(signal);
                return Err(e);
            }
        }
        if self.journal.has_requests() {
            for request in self.journal.requests().await? {
                if !self.state.heard.contains(&request.id) && heard(request.signal, self.in_pause()) {
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
                let cx = self.context(step);
                let watch = guarded(async {
                    phase::of(step).watch(&cx).await;
                    Ok(())
                });
                let limit = self
                    .with
                    .clock
                    .sleep_until(self.with.clock.now() + self.spec.step_deadline);
                let woken = self.inbox.woken.notified();
                // An operator's word, or a look that does not come back, ends the look.
                match select(std::pin::pin!(watch), select(std::pin::pin!(woken), limit)).await {
                    Either::Left((Ok(()), _)) | Either::Right((Either::Right(_), _)) => {}
                    Either::Left((Err(e), _)) => tracing::warn!(migration = %self.spec.name, %step, "a look: {e}"),
                    Either::Right((Either::Left(_), _)) => return Ok(()),
                }
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
