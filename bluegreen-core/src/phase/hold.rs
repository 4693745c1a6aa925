//! `hold`: blue stays read-only and mirrored back, as a way back of one call.

use super::step::{Context, Progress, Step};
use crate::duration::format_duration;
use crate::error::Result;
use crate::event::Event;
use crate::journal::Note;
use crate::model::Direction;
use crate::plan::Parts;
use crate::provider::MirrorStatus;
use crate::spec::Spec;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct Hold;

#[async_trait]
impl Step for Hold {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let blue = if parts.database.is_some() {
            "blue stays read-only and mirrors green"
        } else {
            "blue stays"
        };
        vec![format!(
            "{blue}; going back is one call for {}",
            format_duration(spec.hold)
        )]
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        let Some(since) = cx
            .own()
            .last(|n| if let Note::Since { at } = n { Some(*at) } else { None })
        else {
            return Ok(Progress::Note(Note::Since { at: cx.now() }));
        };
        let until = since + cx.spec.hold;
        if cx.now() < until {
            return Ok(Progress::Wait {
                until,
                why: "blue is kept as a way back".into(),
            });
        }
        Ok(Progress::Done)
    }

    async fn undo(&self, _: &Context<'_>) -> Result<Progress> {
        Ok(Progress::Done)
    }

    async fn watch(&self, cx: &Context<'_>) {
        if !cx.with.replicator.is_present() {
            return;
        }
        let what = match cx.mirror(Direction::GreenToBlue).await {
            Ok(MirrorStatus::Streaming(_)) => return,
            Ok(other) => format!("the way back does not stream: {other}"),
            Err(e) => format!("the way back is not sure: {e}"),
        };
        tracing::warn!(migration = %cx.spec.name, "{what}");
        cx.events.send(|| Event::Warned { step: cx.step, what });
    }
}
