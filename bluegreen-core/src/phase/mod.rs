//! The steps, a file each, and what they share: the contract between a step and the engine.
//!
//! A step never sees the journal: it is given the folded state and answers with data. It never sleeps: it says when to be
//! asked again. Asked again after a crash, it must come to the same end.

mod clean_up;
mod compare;
mod cut_over;
mod deploy;
mod hold;
mod mirror;
mod pause;
mod prepare;
mod settle;
mod shift;
mod soak;
mod step;
mod traffic;

pub(crate) use pause::{BUDGETS_OUT, abandon};
pub(crate) use prepare::examine;
pub(crate) use settle::{Unsettled, knows_who_writes, settle, unsettled};
pub(crate) use step::{Collaborators, Context, Hook, Live, Progress, Step};

use crate::journal::StepName;

/// The step of a name.
pub(crate) fn of(name: StepName) -> &'static dyn Step {
    match name {
        StepName::Prepare => &prepare::Prepare,
        StepName::Deploy => &deploy::Deploy,
        StepName::Mirror => &mirror::Mirror,
        StepName::Soak => &soak::Soak,
        StepName::Compare => &compare::Compare,
        StepName::Shift => &shift::Shift,
        StepName::CutOver => &cut_over::CutOver,
        StepName::Hold => &hold::Hold,
        StepName::CleanUp => &clean_up::CleanUp,
    }
}
