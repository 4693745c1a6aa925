//! `Plan`: the ordered steps of one migration, their fingerprint, and the dry run (`Display`). Pure.

use crate::journal::StepName;
use crate::phase;
use crate::spec::{Spec, WritePath};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
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
    /// What those act on who change something, in their own words.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) acts_on: BTreeMap<String, String>,
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
    /// What it acts on: the name's API, the databases, the gate, each as its provider says it.
    pub acts_on: BTreeMap<String, String>,
    /// The fingerprint of a journal that does not know what it acts on.
    #[serde(skip)]
    unplaced: String,
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
        let fingerprint = |parts: &Parts| {
            let said = serde_json::json!([spec, parts, order]).to_string();
            format!("{:016x}", fnv1a(said.as_bytes()))
        };
        let unplaced = Parts {
            acts_on: BTreeMap::new(),
            ..parts.clone()
        };
        Self {
            name: spec.name.clone(),
            fingerprint: fingerprint(parts),
            steps,
            acts_on: parts.acts_on.clone(),
            unplaced: fingerprint(&unplaced),
        }
    }

    /// What keeps the migration that a journal holds from being gone on with by this plan, if anything does.
    pub(crate) fn refuses(&self, name: &str, fingerprint: &str, acts_on: &BTreeMap<String, String>) -> Option<String> {
        if name != self.name {
            return Some(format!("the journal is of the migration {name}, this is {}", self.name));
        }
        let ours = if acts_on.is_empty() {
            &self.unplaced
        } else {
            &self.fingerprint
        };
        if fingerprint == ours {
            return None;
        }
        let said =
            |of: &BTreeMap<String, String>, part: &str| of.get(part).map_or_else(|| "none".to_owned(), Clone::clone);
        let parts: BTreeSet<&String> = acts_on.keys().chain(self.acts_on.keys()).collect();
        let other: Vec<String> = parts
            .into_iter()
            .filter(|part| !acts_on.is_empty() && acts_on.get(*part) != self.acts_on.get(*part))
            .map(|part| {
                let (theirs, ours) = (said(acts_on, part), said(&self.acts_on, part));
                format!("it was begun with the {part} {theirs}, and is given {ours}")
            })
            .collect();
        Some(match other.as_slice() {
            [] => format!(
                "the journal holds plan {fingerprint} of {name}, this is plan {}: it acts on the same, but its settings, \
                 targets, policy or hooks are others",
                self.fingerprint
            ),
            other => other.join("; "),
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Environment;

    fn plan(acts_on: &[(&str, &str)]) -> Plan {
        let parts = Parts {
            dns: None,
            database: Some("postgres".into()),
            gate: None,
            probe: false,
            policy: "at once".into(),
            deploy: false,
            verify: vec![],
            decommission: false,
            acts_on: acts_on.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        };
        Plan::of(&Spec::new("shop", Environment::none(), Environment::none()), &parts)
    }

    #[test]
    fn a_journal_that_does_not_know_what_it_acts_on_is_gone_on_with() {
        let (now, before) = (plan(&[("database", "a")]), plan(&[]));
        assert_ne!(now.fingerprint, before.fingerprint);
        assert_eq!(now.refuses("shop", &before.fingerprint, &before.acts_on), None);
        assert!(now.refuses("shop", &before.fingerprint, &now.acts_on).is_some());
        assert!(now.refuses("shop", &now.fingerprint, &before.acts_on).is_some());
    }

    #[test]
    fn what_is_another_is_named() {
        let now = plan(&[("database", "a"), ("gate", "g")]);
        let why = |begun: &Plan| now.refuses("shop", &begun.fingerprint, &begun.acts_on);
        assert_eq!(why(&now), None);
        assert_eq!(
            why(&plan(&[("database", "b"), ("gate", "g")])).unwrap(),
            "it was begun with the database b, and is given a"
        );
        assert_eq!(
            why(&plan(&[("database", "a")])).unwrap(),
            "it was begun with the gate none, and is given g"
        );
    }

    #[test]
    fn how_long_the_ttl_is_lowered_beforehand_is_said() {
        let mut spec =
            Spec::new("shop", Environment::none(), Environment::none()).record("example.com", "www.example.com");
        let parts = Parts {
            dns: Some("powerdns".into()),
            database: None,
            gate: None,
            probe: false,
            policy: "at once".into(),
            deploy: false,
            verify: vec![],
            decommission: false,
            acts_on: BTreeMap::new(),
        };
        assert!(!Plan::of(&spec, &parts).to_string().contains("(lead)"));
        spec.lead = std::time::Duration::from_secs(36 * 3600);
        assert!(
            Plan::of(&spec, &parts)
                .to_string()
                .contains("was served for 1d12h (lead)")
        );
    }
}
