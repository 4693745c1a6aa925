//! `cut_over`: makes green the writer, and in undoing it, blue again. One procedure for both, with one commit record; the
//! pause itself is in `pause`.
//!
//! Before the record is durable every way out gives the writing back to the old writer; after it, every way leads on to
//! the new one. Inside the pause there is one durable append and no other.

use super::pause::{go_through, pause, unfinished_commit};
use super::step::{Context, Progress, Step};
use super::{mirror, traffic};
use crate::duration::format_duration;
use crate::error::{Error, Kind, Result};
use crate::journal::Note;
use crate::model::{Color, Direction, Share};
use crate::plan::Parts;
use crate::provider::MirrorStatus;
use crate::spec::Spec;
use async_trait::async_trait;

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
