//! `soak`: the user's own suites against green, and watching it for a while without users.

use super::step::{Context, Progress, Step};
use crate::duration::format_duration;
use crate::error::Result;
use crate::journal::Note;
use crate::judge::Verdict;
use crate::model::{Color, Direction};
use crate::plan::Parts;
use crate::spec::Spec;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct Soak;

#[async_trait]
impl Step for Soak {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let mut lines: Vec<String> = parts.verify.iter().map(|name| format!("verify: {name}")).collect();
        if !spec.soak.is_zero() {
            lines.push(format!(
                "watch green without users for {}; go on if {}",
                format_duration(spec.soak),
                spec.limits
            ));
        }
        lines
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        for hook in &cx.with.verify {
            if let Some(progress) = cx.run_hook("verify", hook).await? {
                return Ok(progress);
            }
        }
        if cx.spec.soak.is_zero() {
            return Ok(Progress::Done);
        }
        let Some(since) = cx
            .own()
            .last(|n| if let Note::Since { at } = n { Some(*at) } else { None })
        else {
            return Ok(Progress::Note(Note::Since { at: cx.now() }));
        };
        if cx.with.replicator.is_present() {
            cx.mirror(Direction::BlueToGreen).await?;
        }
        cx.probe(Color::Blue).await?;
        cx.probe(Color::Green).await?;
        if !cx.with.probe.is_present() || cx.spec.endpoints(Color::Green).is_empty() {
            // Looked at and not slept through: the mirror must go on meanwhile.
            return Ok(match since + cx.spec.soak > cx.now() {
                true => cx.look("soaking; nothing is probed"),
                false => Progress::Done,
            });
        }
        let verdict = cx.spec.limits.judge(&cx.evidence(Color::Green, since));
        Ok(match &verdict {
            Verdict::Fail { .. } => Progress::GiveUp(format!("green failed without any user on it: {verdict}")),
            Verdict::Pass(_) if cx.now() >= since + cx.spec.soak => Progress::Done,
            Verdict::Pass(_) => cx.look(format!("soaking: {verdict}")),
            Verdict::Inconclusive { .. } => cx.look_patiently("soak", format!("soaking: {verdict}")),
        })
    }

    fn runs_a_hook(&self, cx: &Context<'_>) -> bool {
        cx.with.verify.iter().any(|hook| !cx.passed(&hook.name))
    }

    async fn undo(&self, _: &Context<'_>) -> Result<Progress> {
        Ok(Progress::Done)
    }
}
