//! `mirror`: blue's database mirrored to green, until it streams with little lag; and taken away again.

use super::step::{Context, Progress, Step};
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::journal::Note;
use crate::model::{Color, Direction};
use crate::plan::Parts;
use crate::provider::MirrorStatus;
use crate::spec::Spec;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct Mirror;

#[async_trait]
impl Step for Mirror {
    fn describe(&self, spec: &Spec, parts: &Parts) -> Vec<String> {
        let by = parts.database.as_deref().unwrap_or("nobody");
        vec![format!(
            "mirror blue's database to green ({by}): schema, data, then its changes, until at most {} KiB behind",
            spec.max_lag_bytes / 1024
        )]
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        Ok(match run(cx, Direction::BlueToGreen).await? {
            Some(progress) => progress,
            None => Progress::Done,
        })
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Progress> {
        take_away(cx, Color::Blue).await
    }

    async fn watch(&self, cx: &Context<'_>) -> Option<Note> {
        see_green_follow(cx).await;
        None
    }
}

/// Whether green follows, said where it does not.
pub(super) async fn see_green_follow(cx: &Context<'_>) {
    let what = match look_on(cx, Direction::BlueToGreen).await {
        Ok(MirrorStatus::Streaming(_)) => return,
        Ok(other) => format!("green does not follow: {other}"),
        Err(e) => format!("it is not known whether green follows: {e}"),
    };
    cx.warn(what);
}

/// Where a mirror is that ran already, during a long wait. A process that finds it running still has to ask for it once: what
/// goes with it (its slots' log) needs somebody who looks after it.
pub(super) async fn look_on(cx: &Context<'_>, direction: Direction) -> Result<MirrorStatus> {
    if !cx.live.lock().started.contains(&direction) {
        cx.with.replicator.start(direction).await?;
        cx.live.lock().started.push(direction);
    }
    let status = cx.with.replicator.status(direction).await?;
    cx.events.send(|| Event::Mirror {
        direction,
        status: status.clone(),
    });
    Ok(status)
}

/// Makes a mirror run and follow closely; none when it does.
pub(super) async fn run(cx: &Context<'_>, direction: Direction) -> Result<Option<Progress>> {
    let intended = |n: &Note| matches!(n, Note::Mirror { direction: d } if *d == direction).then_some(());
    if cx.own().last(intended).is_none() {
        return Ok(Some(Progress::Note(Note::Mirror { direction })));
    }
    if !cx.live.lock().started.contains(&direction) {
        cx.with.replicator.start(direction).await?;
        cx.live.lock().started.push(direction);
    }
    let status = cx.mirror(direction).await?;
    Ok(match status {
        MirrorStatus::Streaming(lag) if lag.bytes <= cx.spec.max_lag_bytes => {
            cx.came("mirror");
            None
        }
        // A copy takes as long as it takes; its own failure ends it, not our patience.
        MirrorStatus::Copying { stage, rows, left, .. } => {
            cx.came("mirror");
            let left = left.map_or_else(String::new, |left| format!(", about {} s to go", left.as_secs() + 1));
            Some(cx.look(format!("{stage}: {} of {} rows{left}", rows.done, rows.total)))
        }
        MirrorStatus::Streaming(lag) => Some(cx.look_patiently("mirror", format!("{} bytes behind", lag.bytes))),
        // What fails in it says so by itself. Asked for again it would begin anew, and its failure would never be heard.
        ref preparing @ MirrorStatus::Preparing(_) => {
            Some(cx.look_patiently("mirror", format!("the mirror {direction} is {preparing}")))
        }
        other => {
            // It may need to be asked again (the other direction's worker had to go first).
            cx.live.lock().started.retain(|d| *d != direction);
            Some(cx.look_patiently("mirror", format!("the mirror {direction} is {other}")))
        }
    })
}

/// Takes every mirror away and proves that nothing is left.
pub(super) async fn take_away(cx: &Context<'_>, writer: Color) -> Result<Progress> {
    cx.with.replicator.stop(writer).await?;
    cx.live.lock().started.clear();
    let left = cx.with.replicator.leftovers().await?;
    if left.is_empty() {
        return Ok(Progress::Done);
    }
    let message = format!("still there: {}", left.join(", "));
    Err(Error::new(Kind::Unavailable, "take the mirror away", message).provider(cx.with.replicator.name()))
}
