//! `Plan`: the ordered steps of one migration, their fingerprint, and the dry run (`Display`). Pure.

use crate::journal::StepName;
use crate::phase;
use crate::spec::{Spec, WritePath};
use serde::Serialize;
use std::fmt;

/// What takes part besides the specification: which providers there are and what hooks are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Parts {
    /// Whether a name moves, and by whom.
    pub(crate) dns: Option<String>,
    /// Whether a database moves, and by whom.
    pub(crate) database: Option<String>,
    /// What makes writes wait.
    pub(crate) gate: Option<String>,
    /// Whether health is probed.
    pub(crate) probe: bool,
    /// What the policy says of itself.
    pub(crate) policy: String,
    /// Whether there is a deploy hook.
    pub(crate) deploy: bool,
    /// The verify hooks.
    pub(crate) verify: Vec<String>,
    /// Whether there is a decommission hook.
    pub(crate) decommission: bool,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// Which.
    pub name: StepName,
    /// What it will do, a line each.
    pub lines: Vec<String>,
    /// Whether it can be undone. The first that cannot is the point of no return.
    pub undoable: bool,
}

/// What a migration will do, in order. The run is made of the same steps by the same code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The migration's name.
    pub name: String,
    /// Changes with everything that decides what will be done.
    pub fingerprint: String,
    /// The steps.
    pub steps: Vec<PlannedStep>,
}

impl Plan {
    pub(crate) fn of(spec: &Spec, parts: &Parts) -> Self {
        use StepName::{CleanUp, Compare, CutOver, Deploy, Hold, Mirror, Prepare, Shift, Soak};
        let live = parts.dns.is_some() && spec.write_path != Some(WritePath::NoLiveTraffic);
        let names = [
            (Prepare, true),
            (Deploy, parts.deploy || parts.probe),
            (Mirror, parts.database.is_some()),
            (Soak, !parts.verify.is_empty() || !spec.soak.is_zero()),
            (Compare, spec.compare),
            (Shift, live),
            (CutOver, true),
            (Hold, !spec.hold.is_zero()),
            (CleanUp, true),
        ];
        let steps: Vec<PlannedStep> = names
            .into_iter()
            .filter(|(_, planned)| *planned)
            .map(|(name, _)| PlannedStep {
                name,
                lines: phase::of(name).describe(spec, parts),
                undoable: phase::of(name).undoable(),
            })
            .collect();
        // What will be done, not how it is worded: a later version must be able to go on.
        let order: Vec<StepName> = steps.iter().map(|s| s.name).collect();
        let said = serde_json::json!([spec, parts, order]).to_string();
        Self {
            name: spec.name.clone(),
            fingerprint: format!("{:016x}", fnv1a(said.as_bytes())),
            steps,
        }
    }

    /// The step after which there is no way back.
    #[must_use]
    pub fn point_of_no_return(&self) -> Option<StepName> {
        self.steps.iter().find(|s| !s.undoable).map(|s| s.name)
    }

    pub(crate) fn names(&self) -> Vec<StepName> {
        self.steps.iter().map(|s| s.name).collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "migration {} (plan {})", self.name, self.fingerprint)?;
        let last = self.point_of_no_return();
        for (i, step) in self.steps.iter().enumerate() {
            if Some(step.name) == last {
                writeln!(f, "     ---- point of no return ----")?;
            }
            for (j, line) in step.lines.iter().enumerate() {
                if j == 0 {
                    writeln!(f, "  {}. {:<9} {line}", i + 1, step.name)?;
                } else {
                    writeln!(f, "               {line}")?;
                }
            }
        }
        Ok(())
    }
}

/// FNV-1a, 64 bits: stable over versions and machines, which the standard hasher does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
