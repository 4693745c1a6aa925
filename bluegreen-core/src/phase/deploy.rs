//! `deploy`: runs the user's hook and sees green healthy, before any user does.

use super::step::{Context, Progress, Step};
use crate::error::Result;
use crate::model::Color;
use crate::plan::Parts;
use crate::spec::Spec;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct Deploy;

#[async_trait]
impl Step for Deploy {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let mut lines = Vec::new();
        if parts.deploy {
            lines.push("run the deploy hook".to_owned());
        }
        let asked = spec.endpoints(Color::Green);
        if parts.probe && !asked.is_empty() {
            let urls: Vec<&str> = asked.iter().map(|e| e.url.as_str()).collect();
            lines.push(format!(
                "green is well {} times in a row: {}",
                spec.healthy_in_a_row,
                urls.join(", ")
            ));
        }
        if lines.is_empty() {
            lines.push("green is already deployed; nothing of it is probed".to_owned());
        }
        lines
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        if let Some(hook) = &cx.with.deploy
            && let Some(progress) = cx.run_hook("the deploy hook", hook).await?
        {
            return Ok(progress);
        }
        match cx
            .well_in_a_row(&cx.spec.endpoints(Color::Green), Some(Color::Green))
            .await?
        {
            None => {
                cx.came("green");
                Ok(Progress::Done)
            }
            Some(what) => Ok(cx.look_patiently("green", format!("green is not healthy yet: {what}"))),
        }
    }

    fn runs_a_hook(&self, cx: &Context<'_>) -> bool {
        cx.with.deploy.as_ref().is_some_and(|hook| !cx.passed(&hook.name))
    }

    async fn undo(&self, _: &Context<'_>) -> Result<Progress> {
        // What was deployed stays: it serves nobody, and only its owner knows how to take it away.
        Ok(Progress::Done)
    }
}
