//! What a process that died in a pause may have left, and how it is put right: the writer of the journal writes, and
//! nothing waits.

use super::pause::{insist, unfinished_commit, within};
use super::prepare;
use super::step::Context;
use crate::error::{Error, Kind, Result};
use crate::journal::StepName;
use crate::journal::state::{Stage, State};

/// What an earlier process, or an attempt that could not be taken back whole, may have left in the middle of a pause.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsettled {
    /// Nothing.
    No,
    /// A gate that is held or points elsewhere, and nothing else.
    Gate,
    /// A fence too.
    Fence,
}

/// Whether there may be something to put right; no effect. A commit whose consequences are not all there is left to the
/// step itself, and what others hold is left to them.
pub(crate) async fn unsettled(cx: &Context<'_>) -> Result<Unsettled> {
    let own = cx.state.step(StepName::CutOver);
    let under_way = cx.state.planned.is_some() && cx.state.closed.is_none();
    let touched = own.stage == Stage::Started || cx.state.unwinding.is_some() && own.stage == Stage::Finished;
    if unfinished_commit(cx).is_some() {
        return Ok(Unsettled::No);
    }
    if under_way && touched && cx.with.replicator.is_present() {
        return Ok(Unsettled::Fence);
    }
    let nobodys = !under_way && !cx.with.gate.starts_held();
    if nobodys || !cx.with.gate.is_present() {
        return Ok(Unsettled::No);
    }
    let deadline = cx.now() + cx.spec.pause_budget;
    let (writer, gate) = (cx.state.writer(), &cx.with.gate);
    let seen = within(cx, deadline, "look at the gate", gate.state()).await;
    let known = knows_who_writes(cx.state);
    match seen {
        Ok(state) if state.at == writer || known && !under_way => {
            Ok(if state.held { Unsettled::Gate } else { Unsettled::No })
        }
        Ok(_) if known => Ok(Unsettled::Gate),
        Ok(state) => {
            let message = format!(
                "it points at {}, and this journal does not know who writes: point it at {writer} first, if {writer} writes",
                state.at
            );
            Err(Error::new(Kind::Diverged, "look at the gate", message).provider(gate.name()))
        }
        Err(e) if e.kind() == Kind::Diverged && known && under_way => {
            cx.warn(format!("pointed at {writer}: {e}"));
            Ok(Unsettled::Gate)
        }
        Err(e) => Err(e),
    }
}

/// One commit record, or having seen the gate at blue, is what a journal knows of where writes go.
pub(crate) fn knows_who_writes(state: &State) -> bool {
    state.committed.is_some() || prepare::is_checked(state)
}

/// Puts it right: the writer of the journal writes, and nothing waits.
pub(crate) async fn settle(cx: &Context<'_>, what: &Unsettled) -> Result<()> {
    let (writer, gate) = (cx.state.writer(), &cx.with.gate);
    let unfenced = match what {
        Unsettled::Fence => insist(cx, "unfence", || cx.with.replicator.unfence(writer)).await,
        _ => Ok(()),
    };
    if !gate.is_present() || *what == Unsettled::No {
        return unfenced;
    }
    let pointed = insist(cx, "point the gate", || gate.point_at(writer)).await;
    // Released whatever became of the fence: clients that wait for ever are worse off than clients that see an error.
    let released = match &pointed {
        Ok(()) => insist(cx, "release the gate", || gate.release()).await,
        Err(_) => Ok(()),
    };
    unfenced.and(pointed).and(released)
}
