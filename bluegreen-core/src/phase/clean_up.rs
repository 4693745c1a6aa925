//! `clean_up`: the point of no return. Takes both mirrors away, leaves a plain record at green, and proves it.

use super::step::{Context, Progress, Step};
use super::{mirror, traffic};
use crate::error::{Error, Kind, Result};
use crate::journal::Note;
use crate::model::Color;
use crate::plan::Parts;
use crate::spec::Spec;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct CleanUp;

const MIRROR_GONE: &str = "mirror taken away";
const RELEASED: &str = "record released";

#[async_trait]
impl Step for CleanUp {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let mut lines = Vec::new();
        if parts.database.is_some() {
            lines.push("take both mirrors away and prove that nothing is left; blue stays read-only".to_owned());
        }
        if let (Some(_), Some(record)) = (&parts.dns, &spec.record) {
            lines.push(format!("leave {record} as a plain record at green, with its first TTL"));
        }
        if parts.decommission {
            lines.push("run the decommission hook".to_owned());
        }
        lines
    }

    fn undoable(&self) -> bool {
        false
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        let passed = |hook: &str| Progress::Note(Note::Passed { hook: hook.into() });
        if cx.with.replicator.is_present() && !cx.passed(MIRROR_GONE) {
            return Ok(match mirror::take_away(cx, Color::Green).await? {
                Progress::Done => passed(MIRROR_GONE),
                other => other,
            });
        }
        if cx.with.dns.is_present() && !cx.passed(RELEASED) {
            return Ok(traffic::release(cx, Color::Green)
                .await?
                .unwrap_or_else(|| passed(RELEASED)));
        }
        if let Some(hook) = &cx.with.decommission
            && !cx.passed(&hook.name)
        {
            // Nothing can be unwound any more: a failing hook is a human's, not a rollback.
            return Ok(match (hook.call)().await? {
                Ok(()) => passed(&hook.name),
                Err(error) => Progress::Ask(format!("the decommission hook failed: {error}. Mend it and run again")),
            });
        }
        Ok(Progress::Done)
    }

    fn runs_a_hook(&self, cx: &Context<'_>) -> bool {
        let gone = !cx.with.replicator.is_present() || cx.passed(MIRROR_GONE);
        let released = !cx.with.dns.is_present() || cx.passed(RELEASED);
        gone && released && cx.with.decommission.is_some()
    }

    async fn undo(&self, _: &Context<'_>) -> Result<Progress> {
        Err(Error::new(
            Kind::PastNoReturn,
            "undo the clean-up",
            "the mirrors back to blue are gone",
        ))
    }
}
