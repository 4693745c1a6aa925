//! The pause: held, fenced, proven, handed over; after the commit record opened, pointed and released. Whatever happens in it,
//! it has an end, and where each millisecond went is told.

use super::step::{Context, Progress};
use crate::duration::format_duration;
use crate::error::{Error, Kind, Result};
use crate::journal::{Note, PausePart};
use crate::model::{Color, Position};
use crate::time::Timestamp;
use futures::FutureExt;
use futures::future::{Either, join, select};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// How many budgets a pause and the way out of it may take, should the journal fall silent when it begins: the pause itself
/// (`stop_and_prove`), its record (`Engine::commit`), giving the fence back and releasing the gate (`abandon`) have one each.
/// For so long the journal is asked beforehand to stay ours, so that nothing on the way out needs its word.
pub(crate) const BUDGETS_OUT: u32 = 4;

/// The pause, up to the commit record. Whatever happens in it, writes go on.
pub(super) async fn pause(cx: &Context<'_>, to: Color) -> Result<Progress> {
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
pub(super) fn unfinished_commit<'a>(cx: &'a Context<'_>) -> Option<(Timestamp, &'a [PausePart])> {
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
pub(super) async fn go_through(cx: &Context<'_>, to: Color, commit: (Timestamp, &[PausePart])) -> Result<Progress> {
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
pub(super) async fn insist<F>(cx: &Context<'_>, what: &str, call: impl Fn() -> F + Sync) -> Result<()>
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

/// A call that must not outlive the pause's budget.
pub(super) async fn within<T>(
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
