//! `prepare`: checks everything, remembers the record, adopts it as weighted with everything at blue, lowers its TTL.

use super::step::{Context, Progress, Step};
use super::traffic::{self, Driven};
use crate::duration::format_duration;
use crate::error::{Error, Kind, Result};
use crate::journal::state::State;
use crate::journal::{Note, StepName};
use crate::model::{Color, Share};
use crate::plan::Parts;
use crate::provider::{Finding, Severity, Shape, Snapshot};
use crate::spec::{Spec, WritePath};
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct Prepare;

#[async_trait]
impl Step for Prepare {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let mut lines = vec!["check everything; stop before anything changes if something is in the way".to_owned()];
        if let (Some(record), Some(dns)) = (&spec.record, &parts.dns) {
            lines.push(format!(
                "adopt {record} at {dns} as weighted, 100 % blue, with a TTL of {}",
                format_duration(spec.ttl)
            ));
            if !spec.lead.is_zero() && spec.write_path != Some(WritePath::NoLiveTraffic) {
                let lead = format_duration(spec.lead);
                lines.push(format!("no user is moved before that TTL was served for {lead} (lead)"));
            }
        }
        lines
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        if !is_checked(cx.state) {
            let findings = examine(cx).await?;
            let blocking: Vec<String> = findings
                .iter()
                .filter(|f| f.severity == Severity::Blocking)
                .map(ToString::to_string)
                .collect();
            if blocking.is_empty() {
                return Ok(Progress::Note(Note::Checked { findings }));
            }
            return Ok(Progress::Ask(format!(
                "nothing was changed; mend this first:\n{}",
                blocking.join("\n")
            )));
        }
        if !cx.with.dns.is_present() {
            return Ok(Progress::Done);
        }
        if cx.state.traffic.before.is_none() {
            let snapshot = plain_record(cx).await?;
            return Ok(Progress::Note(Note::RecordBefore {
                snapshot: Box::new(snapshot),
            }));
        }
        Ok(
            match traffic::drive(cx, Share::ZERO, "adopt the record with everything at blue").await? {
                Driven::Not(progress) => progress,
                // The wait for the old TTL is awaited where it matters: before the first share.
                Driven::Served(_) => Progress::Done,
            },
        )
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Progress> {
        Ok(traffic::release(cx, Color::Blue).await?.unwrap_or(Progress::Done))
    }
}

/// Whether the checks have seen that nothing was in the way: blue is production, and the gate points there.
pub(super) fn is_checked(state: &State) -> bool {
    let checked = |n: &Note| matches!(n, Note::Checked { .. }).then_some(());
    state.step(StepName::Prepare).last(checked).is_some()
}

/// The record as it is before we touch it, if it is what the specification says.
async fn plain_record(cx: &Context<'_>) -> Result<Snapshot> {
    let (record, blue, green) = traffic::named(cx)?;
    let snapshot = cx.with.dns.read(record).await?;
    let wrong = |what: String| Err(Error::invalid("read the record", what).provider(cx.with.dns.name()));
    match &snapshot.shape {
        Shape::Simple if snapshot.color_of(blue, green) == Some(Color::Blue) => Ok(snapshot),
        Shape::Simple => {
            let now: Vec<&str> = snapshot
                .sets
                .iter()
                .flat_map(|s| &s.values)
                .map(String::as_str)
                .collect();
            wrong(format!(
                "{record} points at {}, not at blue ({blue}): correct blue's target",
                now.join(", ")
            ))
        }
        Shape::Absent => wrong(format!(
            "there is no record {record}: create it, pointing at blue ({blue})"
        )),
        Shape::Weighted { .. } => wrong(format!(
            "{record} is already weighted by migration {}: end that one first",
            snapshot.owner.as_deref().unwrap_or("(unknown)")
        )),
        Shape::Foreign(what) => wrong(format!(
            "{record} is {what}, which is not ours to change: make it plain records that point at blue"
        )),
    }
}

/// What is found here and by no provider; all of it blocks. `docs/preflight.md` publishes the list. The gate's is also its own.
const FINDINGS: [&str; 6] = [
    "gate-points-elsewhere",
    "dns-record",
    "dns-authorities",
    "blue-ill",
    "green-ill",
    "production-ill",
];

/// Every check there is. Changes nothing.
pub(crate) async fn examine(cx: &Context<'_>) -> Result<Vec<Finding>> {
    let mut findings = cx.with.replicator.preflight().await?;
    findings.extend(cx.with.gate.preflight().await?);
    let blocks = |id: &str, seen: String, why: &str, mend: &str| {
        debug_assert!(FINDINGS.contains(&id), "{id} is not in the list of findings");
        Finding {
            id: id.into(),
            severity: Severity::Blocking,
            seen,
            why: why.into(),
            mend: mend.into(),
        }
    };
    if !is_checked(cx.state)
        && let Some(seen) = gate_astray(cx, &findings).await?
    {
        let why = "writes must go to blue when the migration starts, or it would move a database that nobody writes to";
        let mend = "point it at blue, or correct what blue and green are in the migration";
        findings.push(blocks("gate-points-elsewhere", seen, why, mend));
    }
    // Once it is ours, the steps themselves see that it stays so.
    if cx.with.dns.is_present() && cx.state.traffic.before.is_none() {
        let checked = match plain_record(cx).await {
            Ok(snapshot) => dry_run(cx, &snapshot),
            Err(e) => Err(e),
        };
        if let Err(e) = checked {
            let mend = "correct the record or what the specification says of it";
            findings.push(blocks(
                "dns-record",
                e.to_string(),
                "the share could not be moved, or not put back",
                mend,
            ));
        } else {
            let (record, ..) = traffic::named(cx)?;
            let asked = cx.with.dns.ask_authorities(record, 1).await;
            if let Err(what) = asked
                .map_err(|e| e.to_string())
                .and_then(|answers| match answers.as_slice() {
                    [] => Err("none was found".into()),
                    answers => answers.iter().try_for_each(|a| match &a.answer {
                        crate::provider::Answer::Serving { .. } => Ok(()),
                        other => Err(format!("{} answers {other}", a.server)),
                    }),
                })
            {
                let why = "a share is effective only when every authority serves it";
                findings.push(blocks(
                    "dns-authorities",
                    what,
                    why,
                    "make every authority of the zone answer from here",
                ));
            }
        }
    }
    if let Some(ill) = cx.probe(Color::Blue).await? {
        let why = "a migration from an ill production cannot tell whose fault an error is";
        findings.push(blocks(
            "blue-ill",
            ill,
            why,
            "bring blue in order, or correct its url and health paths",
        ));
    }
    // What deploys green has not run yet; without it, an address that is wrong is better known before anything changes.
    if cx.with.deploy.is_none()
        && let Some(ill) = cx.probe(Color::Green).await?
    {
        let why = "without a deploy hook green must be up before the migration begins";
        let mend = "bring green in order, correct its url and health paths, or give a deploy hook";
        findings.push(blocks("green-ill", ill, why, mend));
    }
    if let Some(ill) = cx.check(&cx.spec.production_endpoints(Color::Blue), None).await? {
        let why = "it is asked after the cut-over, when it could no longer be corrected";
        let mend = "correct production_url: it must lead to production from here";
        findings.push(blocks("production-ill", ill, why, mend));
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.id.cmp(&b.id)));
    Ok(findings)
}

/// Where the gate points before anything has begun, if not at blue and if it has not said so itself.
async fn gate_astray(cx: &Context<'_>, findings: &[Finding]) -> Result<Option<String>> {
    let gate = &cx.with.gate;
    let said = |f: &Finding| f.severity == Severity::Blocking && f.id.starts_with("gate-");
    if !gate.is_present() || !cx.with.replicator.is_present() || findings.iter().any(said) {
        return Ok(None);
    }
    match gate.state().await {
        Ok(state) if state.at == Color::Blue => Ok(None),
        Ok(state) => Ok(Some(format!("{} points at {}", gate.name(), state.at))),
        Err(e) if e.kind() == Kind::Diverged => Ok(Some(e.to_string())),
        Err(e) => Err(e),
    }
}

/// Whether every share that the policy may ask for can be compiled.
fn dry_run(cx: &Context<'_>, snapshot: &Snapshot) -> Result<()> {
    for share in [Share::ZERO].into_iter().chain(cx.with.policy.shares()) {
        cx.with.dns.compile(snapshot, &traffic::weighted(cx, share)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_published_list_is_this_one() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/preflight.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, published) = page.split_once("## The name and the application").unwrap();
        let published: Vec<&str> = published
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | blocks |"))
            .map(|(id, _)| id)
            .collect();
        assert_eq!(published, FINDINGS[1..]);
        assert!(page.contains(&format!("| `{}` | blocks |", FINDINGS[0])));
    }
}
