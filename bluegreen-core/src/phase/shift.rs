//! `shift`: the policy is asked, the share moved, waited for until users see it, baked and judged; again until all is at
//! green. The engine's own rules stand above every policy and are kept here.

use super::mirror;
use super::step::{Context, Progress, Step};
use super::traffic::{self, Driven};
use crate::error::Result;
use crate::event::Event;
use crate::journal::Note;
use crate::judge::Verdict;
use crate::model::{Color, Direction, Share};
use crate::plan::Parts;
use crate::policy::{Action, Decision, Observation};
use crate::provider::MirrorStatus;
use crate::spec::{Spec, WritePath};
use crate::time::Timestamp;
use async_trait::async_trait;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Shift;

#[async_trait]
impl Step for Shift {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let writes = match spec.write_path {
            Some(WritePath::ReadOnlyGreen) => "green only reads until the cut-over",
            _ => "green's application writes to blue's database until the cut-over",
        };
        vec![
            format!("shift: {}", parts.policy),
            format!(
                "each share counts when every authority serves it and the old TTL is over; go on if {}",
                spec.limits
            ),
            writes.to_owned(),
        ]
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        let share = cx.state.traffic.share();
        if cx.state.retreated && share > Share::ZERO {
            // Before anything else: whatever is ill must not keep users there.
            return Ok(ask_for(cx, Share::ZERO, "the operator took the share back"));
        }
        if let Some(wait) = before_the_first_share(cx) {
            return Ok(wait);
        }
        if let Some(progress) = follow_what_was_judged(cx) {
            return Ok(progress);
        }
        let lag = match cx.with.replicator.is_present() {
            true => match cx.mirror(Direction::BlueToGreen).await? {
                MirrorStatus::Streaming(lag) => Some(lag.bytes),
                _ => None,
            },
            false => None,
        };
        let blue_ill = cx.probe(Color::Blue).await?;
        cx.probe(Color::Green).await?;

        let driven = traffic::drive(cx, share, "keep the share").await?;
        if let Driven::Served(_) = driven
            && let Some(given_up) = traffic::watch_record(cx, share).await?
        {
            return Ok(given_up);
        }
        let effective = match driven {
            Driven::Served(at) if cx.now() >= at => Some(at),
            Driven::Served(_) => None,
            // Durable facts first; while authorities are slow the share is still judged below.
            Driven::Not(Progress::Look { .. }) => None,
            Driven::Not(progress) => return Ok(progress),
        };
        let seen = observe(cx, share, effective, blue_ill.is_none());
        if cx.state.retreated {
            return Ok(cx.look("the operator took the share back; resume to go on"));
        }
        let decision = lawful(cx.with.policy.decide(&seen), &seen);
        cx.events.send(|| Event::Judged {
            share,
            verdict: seen.verdict.to_string(),
            decision: format!("{}: {}", decision.action, decision.reason),
        });
        follow(cx, seen, decision, lag)
    }

    async fn watch(&self, cx: &Context<'_>) -> Option<Note> {
        if cx.with.replicator.is_present() {
            mirror::see_green_follow(cx).await;
        }
        None
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Progress> {
        if cx.state.traffic.before.is_none() {
            return Ok(Progress::Done);
        }
        Ok(traffic::drive_until_effective(cx, Share::ZERO, "unwinding")
            .await?
            .unwrap_or(Progress::Done))
    }
}

/// The lowered TTL must be effective before anybody is moved, and lowered for as long as the specification says.
fn before_the_first_share(cx: &Context<'_>) -> Option<Progress> {
    let traffic = &cx.state.traffic;
    if traffic.share() > Share::ZERO || traffic.history.len() > 1 {
        return None;
    }
    let lead = traffic
        .asked
        .map(|a| a.at + cx.spec.lead)
        .into_iter()
        .chain(traffic.effective)
        .max()?;
    (lead > cx.now()).then(|| Progress::Wait {
        until: lead,
        why: "the lowered TTL is not everywhere yet".into(),
    })
}

fn observe(cx: &Context<'_>, share: Share, effective: Option<Timestamp>, blue_well: bool) -> Observation {
    let traffic = &cx.state.traffic;
    let since = traffic.asked.map_or(cx.now(), |a| a.at);
    // A share that fails before it counts still fails; one that passes counts only from where users see it.
    // Nor does what nobody watched: a bake begins again after a pause or a death.
    let effective = effective.map(|at| at.max(cx.watching_since()));
    let verdict = cx
        .spec
        .limits
        .judge(&cx.evidence(Color::Green, effective.unwrap_or(since)));
    let failures = count_failures(cx, &verdict);
    let known = cx.with.probe.is_present() && !cx.spec.endpoints(Color::Blue).is_empty();
    let mut seen = Observation::new(cx.now(), share);
    seen.started = cx.own().started.unwrap_or(since);
    seen.since = since;
    seen.effective_since = effective;
    seen.verdict = verdict;
    seen.blue_healthy = known.then_some(blue_well);
    seen.failures = failures;
    seen.authority = cx.state.writer();
    seen.approved = cx.state.approved.then(|| next_share(cx, share));
    seen.history = traffic.history.clone();
    seen
}

/// An approval is for the next share up.
fn next_share(cx: &Context<'_>, share: Share) -> Share {
    cx.with
        .policy
        .shares()
        .into_iter()
        .find(|s| *s > share)
        .unwrap_or(Share::FULL)
}

/// A failed judgement counts again only when it rests on something new.
fn count_failures(cx: &Context<'_>, verdict: &Verdict) -> u32 {
    let requests = verdict.evidence().requests;
    let mut live = cx.live.lock();
    let (count, of) = live.failures;
    live.failures = match verdict {
        Verdict::Fail { .. } if requests != of => (count + 1, requests),
        Verdict::Fail { .. } => (count, of),
        _ => (0, 0),
    };
    live.failures.0
}

/// What the engine holds to, whatever the policy answers.
fn lawful(decision: Decision, seen: &Observation) -> Decision {
    let stay = |why: &str| {
        Decision::new(
            Action::Stay(None),
            format!("{why} (the policy said: {})", decision.reason),
        )
    };
    let ready = seen.verdict.is_pass() || seen.share == Share::ZERO && !seen.verdict.is_fail();
    match decision.action {
        Action::Advance(_) | Action::Complete if seen.effective_since.is_none() => {
            stay("users do not see the share yet")
        }
        Action::Advance(_) | Action::Complete if !ready => stay("the verdict is no pass"),
        Action::Advance(to) if to <= seen.share => stay("that share is not further"),
        Action::Complete if seen.share < Share::FULL => stay("not everything is at green"),
        Action::Retreat(_) if seen.authority == Color::Green => stay("green has written; that is going back"),
        Action::Retreat(to) if to >= seen.share => stay("that share is not back"),
        _ => decision,
    }
}

/// What follows from a decision: one that moves something is durable, with what it rests on, before it is followed.
fn follow(cx: &Context<'_>, seen: Observation, decision: Decision, lag: Option<u64>) -> Result<Progress> {
    Ok(match decision.action {
        Action::Stay(_) => cx.look(decision.reason),
        Action::Advance(_) | Action::Retreat(_) | Action::Complete => {
            let since = seen.effective_since.unwrap_or(seen.since);
            Progress::Note(Note::Judged {
                share: seen.share,
                verdict: seen.verdict,
                blue: cx.evidence(Color::Blue, since),
                lag,
                decision,
            })
        }
        Action::Hold => Progress::Ask(format!(
            "the policy holds at {}: {} ({}). Resume, retreat or abort",
            seen.share, decision.reason, seen.verdict
        )),
        Action::Abort => Progress::GiveUp(format!("the policy gave up at {}: {}", seen.share, decision.reason)),
    })
}

/// Makes it durable that a share is about to be asked for.
fn ask_for(cx: &Context<'_>, share: Share, reason: &str) -> Progress {
    let asked = cx.state.traffic.asked;
    let ttl = asked.map_or(0, |a| a.ttl);
    // What is not served yet may have replaced an older answer with an older TTL.
    let before = asked
        .filter(|_| cx.state.traffic.effective.is_none())
        .map_or(ttl, |a| a.ttl_before.max(ttl));
    cx.live.lock().failures = (0, 0);
    Progress::Note(Note::Asking {
        share,
        ttl,
        ttl_before: before,
        reason: reason.into(),
    })
}

/// A judgement is followed at once, or, after a death in between, made anew.
const FRESH: Duration = Duration::from_secs(10);

fn follow_what_was_judged(cx: &Context<'_>) -> Option<Progress> {
    let (at, Note::Judged { decision, .. }) = cx.own().notes.last()? else {
        return None;
    };
    if cx.now().since(*at) > FRESH || cx.state.retreated {
        return None;
    }
    match decision.action {
        Action::Advance(share) | Action::Retreat(share) => Some(ask_for(cx, share, &decision.reason)),
        Action::Complete => Some(Progress::Done),
        Action::Stay(_) | Action::Hold | Action::Abort => None,
    }
}
