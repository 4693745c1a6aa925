//! `hold`: blue stays read-only and mirrored back, as a way back of one call.

use super::mirror;
use super::step::{Context, Progress, Step};
use crate::duration::format_duration;
use crate::error::{Error, Kind, Remedy, Result};
use crate::journal::Note;
use crate::model::Direction;
use crate::plan::Parts;
use crate::provider::MirrorStatus;
use crate::spec::Spec;
use async_trait::async_trait;
use futures::future::{Either, select};

#[derive(Debug)]
pub(super) struct Hold;

const DOUBT: &str = "way back";

/// How a way back is lost.
enum Loss {
    Doubt,
    UntilMended,
    ForGood,
}

/// A gate that somebody led back to blue, or that began anew with an old file, sends clients where nobody may write. The journal
/// knows who writes, so it is pointed there, as the next start would; what somebody holds stays held.
async fn keep_gate(cx: &Context<'_>) {
    let (gate, writer) = (&cx.with.gate, cx.state.writer());
    if !gate.is_present() || cx.state.committed.is_none() {
        return;
    }
    let astray = match gate.state().await {
        Ok(state) if state.at == writer => {
            if state.held {
                cx.warn(format!("{} is held, and clients wait: release it", gate.name()));
            }
            return;
        }
        Ok(state) => format!("it led to {}", state.at),
        Err(e) if e.kind() == Kind::Diverged => e.to_string(),
        Err(e) => return cx.warn(format!("clients may not reach {writer}: {e}")),
    };
    match gate.point_at(writer).await {
        Ok(()) => cx.warn(format!("{} was pointed at {writer} again: {astray}", gate.name())),
        Err(e) => cx.warn(format!("{} leads clients astray ({astray}): {e}", gate.name())),
    }
}

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

    async fn watch(&self, cx: &Context<'_>) -> Option<Note> {
        let late = cx.with.clock.sleep_until(cx.now() + cx.spec.watch);
        if let Either::Right(_) = select(std::pin::pin!(keep_gate(cx)), late).await {
            cx.warn(format!("{} does not answer", cx.with.gate.name()));
        }
        if !cx.with.replicator.is_present() {
            return None;
        }
        let (what, loss) = match mirror::look_on(cx, Direction::GreenToBlue).await {
            Ok(MirrorStatus::Streaming(_)) => {
                cx.came(DOUBT);
                let back = cx.state.way_back_broken.is_some();
                return back.then_some(Note::WayBack {
                    broken: None,
                    for_good: false,
                });
            }
            Ok(MirrorStatus::Failed { kind, why }) => {
                let loss = match Error::new(kind, "mirror", "").remedy() {
                    Remedy::Retry(_) => Loss::Doubt,
                    Remedy::Ask(_) => Loss::UntilMended,
                    Remedy::GiveUp => Loss::ForGood,
                };
                (format!("the way back is broken: {why}"), loss)
            }
            Ok(MirrorStatus::Absent) => ("the way back is gone: there is no mirror".to_owned(), Loss::ForGood),
            Ok(other) => (format!("the way back does not stream: {other}"), Loss::Doubt),
            Err(e) if e.kind() == Kind::Diverged => (format!("the way back is broken: {e}"), Loss::UntilMended),
            Err(e) => (format!("the way back is not sure: {e}"), Loss::Doubt),
        };
        cx.warn(what.clone());
        let known = cx.state.way_back_broken.is_some();
        let told = |n: &Note| match n {
            Note::WayBack { for_good, .. } => Some(*for_good),
            _ => None,
        };
        let known_for_good = known && cx.own().last(told) == Some(true);
        let for_good = matches!(loss, Loss::ForGood);
        let news = match loss {
            // What passes by itself (a server that is restarted) is no news; what lasts is.
            Loss::Doubt => cx.in_doubt(DOUBT) >= cx.spec.watch && !known,
            Loss::UntilMended => !known,
            // It may have begun as a doubt; why it ended is what counts. That another of several is ill beside it, now and
            // then, changes nothing.
            Loss::ForGood => !known_for_good,
        };
        news.then_some(Note::WayBack {
            broken: Some(what),
            for_good,
        })
    }
}
