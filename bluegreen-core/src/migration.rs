//! `Migration`: what an embedding service keeps, runs and asks. Made by its builder; everything behind it is erased.

use crate::builder::MigrationBuilder;
use crate::engine::{Engine, Inbox, Turn, guarded_by};
use crate::error::{Error, Kind, Result};
use crate::event::{Event, Events};
use crate::journal::state::State;
use crate::journal::{Journal, Outcome, Signal, StepName};
use crate::phase::{self, Collaborators, Context, Live};
use crate::plan::Plan;
use crate::provider::Finding;
use crate::report::Report;
use crate::spec::Spec;
use crate::status::Status;
use crate::time::Timestamp;
use futures::Stream;
use std::sync::{Arc, Mutex, PoisonError};

/// One migration: a plan, the providers that carry it out, and the journal that remembers how far it is.
#[derive(Debug)]
pub struct Migration {
    spec: Arc<Spec>,
    plan: Arc<Plan>,
    with: Arc<Collaborators>,
    journal: Arc<dyn Journal>,
    events: Events,
    engine: Arc<tokio::sync::Mutex<Engine>>,
    handle: Handle,
}

/// What [`Migration::tick`] led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tick {
    /// Call again at this time, or when an operator has said something.
    Again(Timestamp),
    /// Paused by an operator: call again when it was resumed.
    Paused,
    /// A human is needed: the sentence says what for.
    HumanNeeded(String),
    /// It is over.
    Over(Outcome),
}

impl Migration {
    /// Begins to describe a migration of this name.
    ///
    /// What is missing is missed at compile time: this one has no policy, and the compiler says which call is.
    ///
    /// ```compile_fail,E0277
    /// use bluegreen_core::{Migration, NoDatabase, NoDns, NoProbe};
    /// let migration = Migration::builder("shop").dns(NoDns).replicator(NoDatabase).probe(NoProbe).build();
    /// ```
    ///
    /// What types cannot know, `build` says:
    ///
    /// ```
    /// use bluegreen_core::{AtOnce, Migration, NoDatabase, NoDns, NoProbe};
    /// let error = Migration::builder("shop").dns(NoDns).replicator(NoDatabase).probe(NoProbe).policy(AtOnce::new()).build();
    /// assert!(error.unwrap_err().to_string().contains("nothing would move"));
    /// ```
    pub fn builder(name: impl Into<String>) -> MigrationBuilder {
        MigrationBuilder::new(name)
    }

    pub(crate) fn assemble(spec: Spec, plan: Plan, with: Collaborators, journal: Arc<dyn Journal>) -> Self {
        let with = Arc::new(guarded_by(&journal, with));
        let (spec, plan, events) = (Arc::new(spec), Arc::new(plan), Events::new());
        let engine = Engine::new(
            spec.clone(),
            plan.clone(),
            with.clone(),
            Arc::clone(&journal),
            events.clone(),
        );
        let handle = Handle {
            inbox: Arc::clone(&engine.inbox),
            shown: Arc::clone(&engine.shown),
            events: events.clone(),
        };
        Self {
            spec,
            plan,
            with,
            journal,
            events,
            engine: Arc::new(tokio::sync::Mutex::new(engine)),
            handle,
        }
    }

    /// What it will do, before it does it. Printing it is the dry run.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Looks for everything that would be in the way. Changes nothing, and writes nothing to the journal.
    ///
    /// # Errors
    /// When a provider could not look at all.
    pub async fn preflight(&self) -> Result<Vec<Finding>> {
        let live = Live::default();
        let state = self.handle.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let cx = Context {
            step: StepName::Prepare,
            spec: &self.spec,
            with: &self.with,
            state: &state,
            live: &live,
            events: &self.events,
        };
        phase::examine(&cx).await
    }

    /// Runs it to its end, from wherever its journal says it is.
    ///
    /// Dropping the future asks it to stop at the next point where nothing is held: a pause that has begun is brought to
    /// its end first. What it has come to is in the journal; running it again continues.
    ///
    /// # Errors
    /// `HumanNeeded` when only a human can say how to go on (the message says what is asked; running it again is the
    /// answer), the journal's own error when it cannot be read or written, `Conflict` when another runner holds the journal, `Diverged` when the journal holds another plan,
    /// `Corrupt` when it is damaged.
    pub async fn run(&self) -> Result<Outcome> {
        let engine = Arc::clone(&self.engine);
        let mut held = engine.try_lock_owned().map_err(|_| busy())?;
        let mut stop = StopOnDrop(Some(Arc::clone(&self.handle.inbox)));
        // A task of its own, so that nobody can drop it in the middle of a pause.
        let ended = tokio::spawn(async move { held.run().await }).await;
        stop.0 = None;
        ended.map_err(|e| Error::new(Kind::Unexpected, "run", format!("the engine ended: {e}")))?
    }

    /// Goes as far as it can without waiting, and says when to be called again: for an operator's reconcile loop, or a
    /// service with a scheduler of its own. What was seen of health is kept in this `Migration` between two calls: one that
    /// is made anew for each call begins its counts anew, and never counts to the end.
    ///
    /// # Errors
    /// See [`run`](Self::run); what needs a human is [`Tick::HumanNeeded`] here.
    pub async fn tick(&self) -> Result<Tick> {
        let engine = Arc::clone(&self.engine);
        let mut held = engine.try_lock_owned().map_err(|_| busy())?;
        let ended = tokio::spawn(async move {
            loop {
                match held.tick().await? {
                    Turn::Again => {}
                    Turn::At(at) => return Ok(Tick::Again(at)),
                    Turn::Paused => return Ok(Tick::Paused),
                    Turn::Human(why) => return Ok(Tick::HumanNeeded(why)),
                    Turn::Over(outcome) => return Ok(Tick::Over(outcome)),
                }
            }
        });
        ended
            .await
            .map_err(|e| Error::new(Kind::Unexpected, "tick", format!("the engine ended: {e}")))?
    }

    /// Goes back to blue and unwinds: before the cut-over an abort, after it a cut-over in the other direction.
    ///
    /// # Errors
    /// `PastNoReturn` when the clean-up has begun, `Diverged` when the way back is broken; else see [`run`](Self::run).
    pub async fn roll_back(&self) -> Result<Outcome> {
        let state = State::of(&self.journal.load().await?)?;
        if state.past_no_return() {
            let message = "the clean-up has begun: the mirror back to blue may be gone";
            return Err(Error::new(Kind::PastNoReturn, "go back", message));
        }
        if let Some(why) = state.no_way_back() {
            let message = format!("{why}. Mend it and run it: when it streams again, it can go back");
            return Err(Error::new(Kind::Diverged, "go back", message));
        }
        self.handle.signal(Signal::GoBack);
        self.run().await.map_err(|e| match e.kind() {
            Kind::Conflict if self.engine.try_lock().is_err() => Error::new(
                Kind::Conflict,
                "go back",
                "it is running: the run in progress goes back",
            )
            .because(e),
            _ => e,
        })
    }

    /// Where it is, as this process last knew it; before the first run, from nothing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.handle.status()
    }

    /// What it has been through, from its journal.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn report(&self) -> Result<Report> {
        Ok(Report::of(&self.journal.load().await?))
    }

    /// Everything that happens from now on. A receiver that is too slow misses the oldest; nothing waits for it.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        self.events.stream()
    }

    /// What an operator steers it by, while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

struct StopOnDrop(Option<Arc<Inbox>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(inbox) = &self.0 {
            inbox.stop();
        }
    }
}

fn busy() -> Error {
    Error::new(
        Kind::Conflict,
        "run",
        "this migration is already running in this process",
    )
}

/// What an operator steers a running migration by. Cheap to clone; signals are heard at the next turn, made durable, and
/// only then followed.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: Arc<Inbox>,
    shown: Arc<Mutex<State>>,
    events: Events,
}

impl Handle {
    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        self.inbox.send(signal);
    }

    /// Asks a run in this process to end at the next point where nothing is held; its future then answers, and running it
    /// again goes on. What a process that is told to end does before it ends.
    pub fn stop(&self) {
        self.inbox.stop();
    }

    /// Begin nothing new. A pause that has begun is brought to its end.
    pub fn pause(&self) {
        self.signal(Signal::Pause);
    }

    /// Go on, and try again what a human was asked about.
    pub fn resume(&self) {
        self.signal(Signal::Resume);
    }

    /// The share that waits for an approval may be asked for.
    pub fn approve(&self) {
        self.signal(Signal::Approve);
    }

    /// Take the share back to zero, and stay there until resumed.
    pub fn retreat(&self) {
        self.signal(Signal::Retreat);
    }

    /// Give up and unwind. Has no effect after the cut-over: see [`go_back`](Self::go_back).
    pub fn abort(&self) {
        self.signal(Signal::Abort);
    }

    /// Make blue the writer again, and unwind. Has no effect past the point of no return, nor while the way back is broken.
    pub fn go_back(&self) {
        self.signal(Signal::GoBack);
    }

    /// Make blue the writer again, let green follow it, and wait: [`resume`](Self::resume) goes forward again from there,
    /// without copying anything anew, [`abort`](Self::abort) unwinds. Has no effect before the cut-over, nor past the point
    /// of no return.
    pub fn switch_back(&self) {
        self.signal(Signal::SwitchBack);
    }

    /// Where it is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::of(&self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        self.events.stream()
    }
}
