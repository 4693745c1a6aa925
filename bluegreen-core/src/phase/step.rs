//! The private trait of a step, what it answers, and what it is given.

use crate::duration::format_duration;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::journal::state::{State, StepState};
use crate::journal::{Note, StepName};
use crate::judge::{Evidence, Feed, Window};
use crate::model::{Color, Direction, Endpoint};
use crate::plan::Parts;
use crate::policy::TrafficPolicy;
use crate::provider::{DnsProvider, Health, HealthProbe, MirrorStatus, Receipt, Replicator, WriteGate};
use crate::spec::Spec;
use crate::time::{Clock, Timestamp};
use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a step answers.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It is done (or undone).
    Done,
    /// Make this durable, then ask again.
    Note(Note),
    /// There is nothing to do before then. Made durable: it survives a restart.
    Wait { until: Timestamp, why: String },
    /// Look again after so long. Not made durable.
    Look { after: Duration, what: String },
    /// A human is needed.
    Ask(String),
    /// It will not work: unwind.
    GiveUp(String),
}

/// A step of a migration.
#[async_trait]
pub(crate) trait Step: Send + Sync {
    /// What it will do, for the plan; never empty.
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String>;

    /// Whether there is a way back from it.
    fn undoable(&self) -> bool {
        true
    }

    /// Does the next bit of it.
    async fn advance(&self, cx: &Context<'_>) -> Result<Progress>;

    /// Takes the next bit of it back. Asked of a finished step and of one whose effects may have happened.
    async fn undo(&self, cx: &Context<'_>) -> Result<Progress>;

    /// Whether what it would do next is to run a user's hook, which takes as long as it takes.
    fn runs_a_hook(&self, _: &Context<'_>) -> bool {
        false
    }

    /// Looks on during a long wait, and keeps running what runs. What it sees goes to observers; what must be remembered of
    /// it is answered.
    async fn watch(&self, _: &Context<'_>) -> Option<Note> {
        None
    }
}

/// A call of a user's hook: its own failure, or that it was not begun.
pub(crate) type Call = BoxFuture<'static, Result<Result<(), String>>>;

/// A user's hook. Its own failure is a sentence, and final; an error is of what stands around it: it was not begun.
#[derive(Clone)]
pub(crate) struct Hook {
    pub(crate) name: String,
    pub(crate) call: Arc<dyn Fn() -> Call + Send + Sync>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hook({:?})", self.name)
    }
}

/// Who takes part.
#[derive(Debug)]
pub(crate) struct Collaborators {
    pub(crate) dns: Arc<dyn DnsProvider>,
    pub(crate) replicator: Arc<dyn Replicator>,
    pub(crate) probe: Arc<dyn HealthProbe>,
    pub(crate) policy: Arc<dyn TrafficPolicy>,
    pub(crate) gate: Arc<dyn WriteGate>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) feed: Option<Feed>,
    pub(crate) deploy: Option<Hook>,
    pub(crate) verify: Vec<Hook>,
    pub(crate) decommission: Option<Hook>,
}

/// What this process knows and may forget: everything in it can be found out again.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<Forgettable>);

#[derive(Debug, Default)]
pub(crate) struct Forgettable {
    blue: Window,
    green: Window,
    /// Probes of green in a row that were well.
    pub(crate) well: u32,
    /// The mirrors that this process has asked for.
    pub(crate) started: Vec<Direction>,
    /// The provider's handle on the change that is on its way.
    pub(crate) receipt: Option<Receipt>,
    /// Since when a step waits for something that should come soon, and when it last looked.
    pub(crate) patience: BTreeMap<&'static str, (Timestamp, Timestamp)>,
    /// Since when users' requests are watched without a gap, and when that was last done.
    watching: Option<(Timestamp, Timestamp)>,
    /// When the record was last read to see that it is still ours.
    pub(crate) record_read: Option<Timestamp>,
    /// Whether no gate or fence of an earlier attempt can still be in place.
    pub(crate) settled: bool,
    /// Whether a step has answered since one last failed: the next failure begins a new row.
    pub(crate) answered: bool,
    /// Judgements in a row that failed, and the request count of the last one.
    pub(crate) failures: (u32, u64),
}

impl Live {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Forgettable> {
        // All of it can be found out again, so a panic elsewhere does not make it unusable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Forgettable {
    pub(crate) fn window(&mut self, color: Color) -> &mut Window {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }
}

/// What a step is given.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) step: StepName,
    pub(crate) spec: &'a Spec,
    pub(crate) with: &'a Collaborators,
    pub(crate) state: &'a State,
    pub(crate) live: &'a Live,
    pub(crate) events: &'a Events,
}

impl Context<'_> {
    pub(crate) fn now(&self) -> Timestamp {
        self.with.clock.now()
    }

    /// What this step remembers.
    pub(crate) fn own(&self) -> &StepState {
        self.state.step(self.step)
    }

    /// Look again soon.
    pub(crate) fn look(&self, what: impl Into<String>) -> Progress {
        Progress::Look {
            after: self.spec.look,
            what: what.into(),
        }
    }

    /// Look again soon, but give up when that has gone on for longer than the user's patience.
    pub(crate) fn look_patiently(&self, key: &'static str, what: impl Into<String>) -> Progress {
        let (now, what) = (self.now(), what.into());
        let since = self.gapless(self.live.lock().patience.entry(key).or_insert((now, now)));
        if now.since(since) > self.spec.patience {
            self.came(key);
            return Progress::GiveUp(format!("{what}: no change in {}", format_duration(self.spec.patience)));
        }
        self.look(what)
    }

    /// Since when something has been looked at without a gap. Time in which nobody looked does not count.
    fn gapless(&self, (since, last): &mut (Timestamp, Timestamp)) -> Timestamp {
        let now = self.now();
        let gap = (self.spec.look + self.spec.probe_deadline)
            .saturating_mul(4)
            .max(self.spec.watch.saturating_mul(2));
        if now.since(*last) > gap {
            *since = now;
        }
        *last = now;
        *since
    }

    /// Something a human should know, that does not stop anything.
    pub(crate) fn warn(&self, what: String) {
        tracing::warn!(migration = %self.spec.name, step = %self.step, "{what}");
        self.events.send(|| Event::Warned { step: self.step, what });
    }

    /// For how long something has been in doubt, looked at without a gap.
    pub(crate) fn in_doubt(&self, key: &'static str) -> Duration {
        let now = self.now();
        now.since(self.gapless(self.live.lock().patience.entry(key).or_insert((now, now))))
    }

    /// Since when users' requests are watched without a gap.
    pub(crate) fn watching_since(&self) -> Timestamp {
        let now = self.now();
        self.gapless(self.live.lock().watching.get_or_insert((now, now)))
    }

    /// What was waited for patiently has come.
    pub(crate) fn came(&self, key: &'static str) {
        self.live.lock().patience.remove(key);
    }

    /// Whether a hook has run to its end.
    pub(crate) fn passed(&self, name: &str) -> bool {
        self.own()
            .last(|note| matches!(note, Note::Passed { hook } if hook == name).then_some(()))
            .is_some()
    }

    /// Runs a hook that has not yet run to its end; none when there is nothing to run.
    pub(crate) async fn run_hook(&self, kind: &str, hook: &Hook) -> Result<Option<Progress>> {
        if self.passed(&hook.name) {
            return Ok(None);
        }
        Ok(Some(match (hook.call)().await? {
            Ok(()) => Progress::Note(Note::Passed {
                hook: hook.name.clone(),
            }),
            Err(error) => Progress::GiveUp(format!("{kind} {:?} failed: {error}", hook.name)),
        }))
    }

    /// Probes every endpoint of a colour, side by side, and remembers what it saw. Says what was ill, if anything.
    pub(crate) async fn probe(&self, color: Color) -> Result<Option<String>> {
        self.check(&self.spec.endpoints(color), Some(color)).await
    }

    /// Probes endpoints side by side. Says what was ill, if anything.
    pub(crate) async fn check(&self, endpoints: &[Endpoint], color: Option<Color>) -> Result<Option<String>> {
        if !self.with.probe.is_present() {
            return Ok(None);
        }
        let answers = join_all(endpoints.iter().map(|endpoint| self.within_deadline(endpoint))).await;
        let mut ill = None;
        for (endpoint, health) in endpoints.iter().zip(answers) {
            let Health { healthy, latency, seen } = health?;
            if let Some(color) = color {
                let now = self.now();
                self.live.lock().window(color).record(now, healthy, latency);
            }
            if !healthy {
                ill = Some(format!("{}: {seen}", endpoint.url));
            }
            self.events.send(|| Event::Probed {
                color,
                healthy,
                latency,
                seen,
            });
        }
        Ok(ill)
    }

    /// Whether green was well the required number of times in a row: none when it was, else what to say meanwhile.
    pub(crate) async fn well_in_a_row(&self, endpoints: &[Endpoint], color: Option<Color>) -> Result<Option<String>> {
        let needed = self.spec.healthy_in_a_row;
        let ill = self.check(endpoints, color).await?;
        let mut live = self.live.lock();
        live.well = if ill.is_none() { live.well + 1 } else { 0 };
        if live.well >= needed || !self.with.probe.is_present() || endpoints.is_empty() {
            live.well = 0;
            return Ok(None);
        }
        Ok(Some(ill.unwrap_or_else(|| {
            format!("well {} of {needed} times in a row", live.well)
        })))
    }

    /// A probe that forgets its deadline must not stop the migration.
    async fn within_deadline(&self, endpoint: &Endpoint) -> Result<Health> {
        let grace = endpoint.deadline + Duration::from_secs(1);
        let timer = self.with.clock.sleep_until(self.now() + grace);
        match futures::future::select(self.with.probe.check(endpoint), timer).await {
            futures::future::Either::Left((health, _)) => health,
            futures::future::Either::Right(_) => Ok(Health::ill(grace, "no answer within the deadline")),
        }
    }

    /// What has been seen of a colour since then: by probes, and by the application where it feeds us.
    pub(crate) fn evidence(&self, color: Color, since: Timestamp) -> Evidence {
        let mut live = self.live.lock();
        if let Some(feed) = &self.with.feed {
            let now = self.now();
            for (color, at, ok, latency) in feed.drain(now) {
                live.window(color).record(at, ok, latency);
            }
        }
        live.window(color).evidence(since)
    }

    /// Where a mirror is; observers see it too. A mirror that failed is an error that says so.
    pub(crate) async fn mirror(&self, direction: Direction) -> Result<MirrorStatus> {
        let status = self.with.replicator.status(direction).await?;
        self.events.send(|| Event::Mirror {
            direction,
            status: status.clone(),
        });
        if let MirrorStatus::Failed { kind, why } = &status {
            // Asked for again, if it is tried again at all: it may begin anew.
            self.live.lock().started.retain(|d| *d != direction);
            let error = Error::new(*kind, format!("mirror {direction}"), why.clone());
            return Err(error.provider(self.with.replicator.name()));
        }
        Ok(status)
    }
}
