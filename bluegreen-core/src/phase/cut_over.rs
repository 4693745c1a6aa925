//! `cut_over`: makes green the writer, and in undoing it, blue again. One procedure for both, with one commit record.
//!
//! Before the record is durable every way out gives the writing back to the old writer; after it, every way leads on to
//! the new one. Inside the pause there is one durable append and no other.

use super::step::{Context, Progress, Step};
use super::{mirror, prepare, traffic};
use crate::duration::format_duration;
use crate::error::{Error, Kind, Result};
use crate::journal::state::{Stage, State};
use crate::journal::{Note, PausePart, StepName};
use crate::model::{Color, Direction, Position, Share};
use crate::plan::Parts;
use crate::provider::MirrorStatus;
use crate::spec::Spec;
use crate::time::Timestamp;
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{Either, join, select};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct CutOver;

#[async_trait]
impl Step for CutOver {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let mut lines = Vec::new();
        if parts.database.is_some() {
            lines.push(match &parts.gate {
                Some(gate) => format!(
                    "hold writes at {gate}, for {} at most; past it they go on at blue",
                    format_duration(spec.pause_budget)
                ),
                None => format!(
                    "without a gate: clients see errors, for {} at most",
                    format_duration(spec.pause_budget)
                ),
            });
            lines.push("fence blue, prove that green has everything, carry sequences, arm the way back".to_owned());
        }
        lines.push("commit: green is the writer".to_owned());
        if let (Some(_), Some(record)) = (&parts.dns, &spec.record) {
            lines.push(format!("all of {record} to green, until users see it"));
        }
        let endpoints = asked_after(spec, Color::Green);
        if parts.probe && !endpoints.is_empty() {
            let urls: Vec<&str> = endpoints.iter().map(|e| e.url.as_str()).collect();
            lines.push(format!("verify: {}", urls.join(", ")));
        }
        lines
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        switch(cx, Color::Green).await
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Progress> {
        let moved = |n: &Note| matches!(n, Note::Commit { .. }).then_some(());
        if cx.own().last(moved).is_some() {
            return switch(cx, Color::Blue).await;
        }
        // What may have been held was settled before this step was asked.
        Ok(Progress::Done)
    }

    async fn watch(&self, cx: &Context<'_>) -> Option<Note> {
        if cx.with.replicator.is_present() {
            // Only for those who look on: what fails here is met again, and answered, by the step itself.
            let _ = cx.mirror(Direction::from(cx.state.writer())).await;
        }
        None
    }
}

/// Makes `to` the writer, from wherever the journal says it was left.
async fn switch(cx: &Context<'_>, to: Color) -> Result<Progress> {
    if cx.state.writer() != to {
        return lead_up(cx, to).await;
    }
    if let Some(commit) = unfinished_commit(cx) {
        return go_through(cx, to, commit).await;
    }
    // Going back ends with every mirror taken away: only a way on from here needs one behind it.
    if cx.with.replicator.is_present()
        && (to == Color::Green || cx.state.turning)
        && let Some(progress) = mirror::run(cx, Direction::from(to)).await?
    {
        return Ok(progress);
    }
    if cx.with.dns.is_present()
        && let Some(progress) = traffic::drive_until_effective(cx, Share::all(to), "the writer has moved").await?
    {
        return Ok(progress);
    }
    let endpoints = asked_after(cx.spec, to);
    match cx.well_in_a_row(&endpoints, None).await? {
        None => {
            cx.came("after");
            Ok(Progress::Done)
        }
        Some(what) => Ok(cx.look_patiently("after", format!("{to} is the writer, but not well: {what}"))),
    }
}

/// What users would ask, through the production name where we may.
fn asked_after(spec: &Spec, to: Color) -> Vec<crate::model::Endpoint> {
    let production = spec.production_endpoints(to);
    if production.is_empty() {
        spec.endpoints(to)
    } else {
        production
    }
}

/// All that is slow, while writes still flow; then the pause.
async fn lead_up(cx: &Context<'_>, to: Color) -> Result<Progress> {
    if !cx.with.replicator.is_present() {
        return Ok(Progress::Note(Note::Commit {
            to,
            position: None,
            parts: vec![],
        }));
    }
    // Going back needs the way back to run, also when it was asked for before anybody had started it.
    if to == Color::Blue
        && let Some(progress) = mirror::run(cx, Direction::to(to)).await?
    {
        return Ok(progress);
    }
    let given_up = cx.own().given_up;
    let last = cx.own().notes.iter().rev().find_map(|(at, n)| match n {
        Note::PauseGivenUp { why, .. } if given_up > 0 => Some((*at, why.as_str())),
        _ => None,
    });
    if let Some((at, why)) = last {
        if given_up >= cx.spec.cut_over_attempts {
            return Ok(Progress::GiveUp(format!(
                "the cut-over was tried {given_up} times; last: {why}"
            )));
        }
        let until = at + cx.spec.cut_over_retry;
        if until > cx.now() {
            return Ok(Progress::Look {
                after: until.since(cx.now()),
                what: format!("the cut-over is tried again: {why}"),
            });
        }
    }
    if let Some(ill) = cx.probe(to).await? {
        return Ok(cx.look_patiently(
            "before",
            format!("{to} must be well before it becomes the writer: {ill}"),
        ));
    }
    match cx.mirror(Direction::to(to)).await? {
        MirrorStatus::Streaming(lag) if lag.bytes <= cx.spec.max_lag_bytes => cx.came("before"),
        status => return Ok(cx.look_patiently("before", format!("{to} must follow closely first: {status}"))),
    }
    if cx.with.gate.is_present() {
        // Opens what the gate needs to be quick, and finds out while nobody waits that it is not where we think.
        match cx.with.gate.state().await {
            Ok(state) if state.at == to => {
                let message = format!(
                    "it points at {to} already, and {} writes: point it back first",
                    to.other()
                );
                return Err(Error::new(Kind::Diverged, "look at the gate", message).provider(cx.with.gate.name()));
            }
            Ok(_) => {}
            // A part of it only, as after the restart of an instance: nobody wants that.
            Err(e) if e.kind() == Kind::Diverged => {
                cx.warn(format!("pointed back at {}: {e}", to.other()));
                cx.with.gate.point_at(to.other()).await?;
            }
            Err(e) => return Err(e),
        }
    }
    let forecast = cx.with.replicator.arm(to, cx.spec.pause_budget).await?;
    if let Some(why) = forecast.against(cx.spec.pause_budget) {
        return Ok(cx.look_patiently("forecast", why));
    }
    cx.came("forecast");
    pause(cx, to).await
}

/// The pause, up to the commit record. Whatever happens in it, writes go on.
async fn pause(cx: &Context<'_>, to: Color) -> Result<Progress> {
    let mut watch = Stopwatch::start(cx);
    let attempt = AssertUnwindSafe(stop_and_prove(cx, to, &mut watch))
        .catch_unwind()
        .await;
    let why = match attempt {
        Ok(Ok(position)) => {
            return Ok(Progress::Note(Note::Commit {
                to,
                position: Some(position),
                parts: watch.parts,
            }));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a provider panicked".to_owned(),
    };
    abandon(cx, to.other()).await?;
    let held = cx.now().since(watch.started);
    tracing::warn!(migration = %cx.spec.name, ?held, "the cut-over was given up, writes go on at {}: {why}", to.other());
    Ok(Progress::Note(Note::PauseGivenUp { held, why }))
}

async fn stop_and_prove(cx: &Context<'_>, to: Color, watch: &mut Stopwatch<'_, '_>) -> Result<Position> {
    let (replicator, from) = (&cx.with.replicator, to.other());
    let deadline = watch.started + cx.spec.pause_budget;
    // Less than is left: who says in time what was in the way is heard, and not cut off by the budget.
    let left = || deadline.since(cx.now()) * 9 / 10;
    within(cx, deadline, "hold the gate", cx.with.gate.hold(left())).await?;
    watch.lap("gate held");
    let position = within(cx, deadline, "fence", replicator.fence(from, left())).await?;
    watch.lap("fenced");
    within(cx, deadline, "prove that everything has arrived", async {
        for poll in 0_u32.. {
            if replicator.caught_up(&position).await? {
                break;
            }
            // Each poll is a round trip of its own; only a proof that takes long is asked for more slowly.
            if poll >= 20 {
                cx.with.clock.sleep_until(cx.now() + Duration::from_millis(1)).await;
            }
        }
        Ok(())
    })
    .await?;
    watch.lap("proven");
    within(cx, deadline, "hand over", replicator.hand_over(to)).await?;
    watch.lap("handed over");
    Ok(position)
}

/// The commit record whose consequences are not all there yet, and when it became durable.
fn unfinished_commit<'a>(cx: &'a Context<'_>) -> Option<(Timestamp, &'a [PausePart])> {
    for (at, note) in cx.own().notes.iter().rev() {
        match note {
            Note::Pause { .. } => return None,
            Note::Commit { parts, .. } if cx.with.replicator.is_present() => return Some((*at, parts)),
            _ => {}
        }
    }
    None
}

/// After the commit record: the new writer is opened, the gate pointed at it and released.
async fn go_through(cx: &Context<'_>, to: Color, commit: (Timestamp, &[PausePart])) -> Result<Progress> {
    let (committed, before) = commit;
    let mut watch = Stopwatch {
        cx,
        started: committed,
        last: committed,
        parts: before.to_vec(),
    };
    watch.lap("commit record");
    let deadline = cx.now() + cx.spec.pause_budget;
    let both = async {
        let opened = insist(cx, "open the new writer", || cx.with.replicator.promote(to));
        let pointed = insist(cx, "point the gate", || cx.with.gate.point_at(to));
        let (opened, pointed) = join(opened, pointed).await;
        opened.and(pointed)
    };
    within(cx, deadline, "open the new writer", both).await?;
    watch.lap("opened and pointed");
    insist(cx, "release the gate", || cx.with.gate.release()).await?;
    watch.lap("gate released");
    let length = watch.parts.iter().map(|p| p.took).sum();
    Ok(Progress::Note(Note::Pause {
        to,
        length,
        parts: watch.parts,
    }))
}

/// Gives the writing back to `color` and lets everything through, before a commit record is durable.
pub(crate) async fn abandon(cx: &Context<'_>, color: Color) -> Result<()> {
    cx.live.lock().settled = false;
    let replicator = &cx.with.replicator;
    let unfenced = insist(cx, "unfence", || replicator.unfence(color)).await;
    // Released whatever became of the fence: clients that wait for ever are worse off than clients that see an error.
    let released = insist(cx, "release the gate", || cx.with.gate.release()).await;
    unfenced.and(released)?;
    cx.live.lock().settled = true;
    Ok(())
}

/// A call on the way out of a pause: what may pass is tried again at once, until the budget is used up.
async fn insist<F>(cx: &Context<'_>, what: &str, call: impl Fn() -> F + Sync) -> Result<()>
where
    F: Future<Output = Result<()>> + Send,
{
    let deadline = cx.now() + cx.spec.pause_budget;
    let mut pause = Duration::from_millis(5);
    loop {
        let answer = within(cx, deadline, what, call()).await;
        match answer {
            Err(error) if error.is_transient() && cx.now() + pause < deadline => {
                tracing::warn!(migration = %cx.spec.name, "on the way out of the pause, tried again: {error}");
                cx.with.clock.sleep_until(cx.now() + pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
}

/// What an earlier process, or an attempt that could not be taken back whole, may have left in the middle of a pause.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsettled {
    /// Nothing.
    No,
    /// A gate that is held or points elsewhere, and nothing else.
    Gate,
    /// A fence too.
    Fence,
}

/// Whether there may be something to put right; no effect. A commit whose consequences are not all there is left to the
/// step itself, and what others hold is left to them.
pub(crate) async fn unsettled(cx: &Context<'_>) -> Result<Unsettled> {
    let own = cx.state.step(StepName::CutOver);
    let under_way = cx.state.planned.is_some() && cx.state.closed.is_none();
    let touched = own.stage == Stage::Started || cx.state.unwinding.is_some() && own.stage == Stage::Finished;
    if unfinished_commit(cx).is_some() {
        return Ok(Unsettled::No);
    }
    if under_way && touched && cx.with.replicator.is_present() {
        return Ok(Unsettled::Fence);
    }
    let nobodys = !under_way && !cx.with.gate.starts_held();
    if nobodys || !cx.with.gate.is_present() {
        return Ok(Unsettled::No);
    }
    let deadline = cx.now() + cx.spec.pause_budget;
    let (writer, gate) = (cx.state.writer(), &cx.with.gate);
    let seen = within(cx, deadline, "look at the gate", gate.state()).await;
    let known = knows_who_writes(cx.state);
    match seen {
        Ok(state) if state.at == writer || known && !under_way => {
            Ok(if state.held { Unsettled::Gate } else { Unsettled::No })
        }
        Ok(_) if known => Ok(Unsettled::Gate),
        Ok(state) => {
            let message = format!(
                "it points at {}, and this journal does not know who writes: point it at {writer} first, if {writer} writes",
                state.at
            );
            Err(Error::new(Kind::Diverged, "look at the gate", message).provider(gate.name()))
        }
        Err(e) if e.kind() == Kind::Diverged && known && under_way => {
            cx.warn(format!("pointed at {writer}: {e}"));
            Ok(Unsettled::Gate)
        }
        Err(e) => Err(e),
    }
}

/// One commit record, or having seen the gate at blue, is what a journal knows of where writes go.
pub(crate) fn knows_who_writes(state: &State) -> bool {
    state.committed.is_some() || prepare::is_checked(state)
}

/// Puts it right: the writer of the journal writes, and nothing waits.
pub(crate) async fn settle(cx: &Context<'_>, what: &Unsettled) -> Result<()> {
    let (writer, gate) = (cx.state.writer(), &cx.with.gate);
    let unfenced = match what {
        Unsettled::Fence => insist(cx, "unfence", || cx.with.replicator.unfence(writer)).await,
        _ => Ok(()),
    };
    if !gate.is_present() || *what == Unsettled::No {
        return unfenced;
    }
    let pointed = insist(cx, "point the gate", || gate.point_at(writer)).await;
    // Released whatever became of the fence: clients that wait for ever are worse off than clients that see an error.
    let released = match &pointed {
        Ok(()) => insist(cx, "release the gate", || gate.release()).await,
        Err(_) => Ok(()),
    };
    unfenced.and(pointed).and(released)
}

/// A call that must not outlive the pause's budget.
async fn within<T>(
    cx: &Context<'_>,
    deadline: Timestamp,
    what: &str,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    match select(std::pin::pin!(call), cx.with.clock.sleep_until(deadline)).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => Err(Error::new(
            Kind::Timeout,
            what,
            format!(
                "the pause budget of {} ran out; find what is slow, or raise pause_budget",
                format_duration(cx.spec.pause_budget)
            ),
        )),
    }
}

/// Where each millisecond of the pause went.
#[derive(Debug)]
struct Stopwatch<'a, 'b> {
    cx: &'a Context<'b>,
    started: Timestamp,
    last: Timestamp,
    parts: Vec<PausePart>,
}

impl<'a, 'b> Stopwatch<'a, 'b> {
    fn start(cx: &'a Context<'b>) -> Self {
        let now = cx.now();
        Self {
            cx,
            started: now,
            last: now,
            parts: Vec::with_capacity(8),
        }
    }

    fn lap(&mut self, name: &str) {
        let now = self.cx.now();
        self.parts.push(PausePart {
            name: name.into(),
            took: now.since(self.last),
        });
        self.last = now;
    }
}
