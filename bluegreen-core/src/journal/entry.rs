//! What a journal holds: entries. Data only; what they mean together is `state.rs`'s business.

use crate::judge::{Evidence, Verdict};
use crate::model::{Color, Direction, Position, Share};
use crate::provider::{Compared, Finding, Snapshot};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The format version that this code writes. Every released one stays readable.
pub const FORMAT: u32 = 1;

/// One durable fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The format version it was written in.
    pub v: u32,
    /// Its place: 0, 1, 2 without a gap.
    pub seq: u64,
    /// When it was written, for people.
    pub at: Timestamp,
    /// What happened.
    pub body: Body,
}

/// The steps of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepName {
    /// Check everything; remember the record, adopt it, lower its TTL.
    Prepare,
    /// Deploy green and see it healthy.
    Deploy,
    /// Mirror the database.
    Mirror,
    /// Test green without users.
    Soak,
    /// Compare the data of both sides.
    Compare,
    /// Move the share.
    Shift,
    /// Make green the writer.
    CutOver,
    /// Keep blue as a way back.
    Hold,
    /// Take everything away.
    CleanUp,
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Prepare => "prepare",
            Self::Deploy => "deploy",
            Self::Mirror => "mirror",
            Self::Soak => "soak",
            Self::Compare => "compare",
            Self::Shift => "shift",
            Self::CutOver => "cut-over",
            Self::Hold => "hold",
            Self::CleanUp => "clean-up",
        })
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Body {
    /// The migration exists, with this plan. Always the first entry.
    Planned {
        /// The migration's name.
        name: String,
        /// The fingerprint of its plan.
        fingerprint: String,
        /// Its steps, in order.
        steps: Vec<StepName>,
        /// What it acts on, a part each: a resume must be given the same. Journals of earlier versions do not say.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        acts_on: BTreeMap<String, String>,
    },
    /// A step is about to have effects.
    Started {
        /// Which.
        step: StepName,
    },
    /// Something a step must remember before it goes on.
    Noted {
        /// Which.
        step: StepName,
        /// What.
        note: Note,
    },
    /// A step has nothing to do before `until`.
    Waiting {
        /// Which.
        step: StepName,
        /// Until when.
        until: Timestamp,
        /// What for.
        why: String,
    },
    /// A step failed in a way that may pass; it is tried again at `until`.
    Retrying {
        /// Which.
        step: StepName,
        /// How often it failed in a row.
        attempt: u32,
        /// When it is tried again.
        until: Timestamp,
        /// How it failed.
        error: String,
    },
    /// A step needs a human.
    Asked {
        /// Which.
        step: StepName,
        /// What the human should know and do.
        why: String,
    },
    /// A step is done.
    Finished {
        /// Which.
        step: StepName,
    },
    /// From here on it is unwound.
    RollbackRequested {
        /// Why.
        why: String,
    },
    /// A step was undone.
    Undone {
        /// Which.
        step: StepName,
    },
    /// Undoing a step failed: the run stops, and a human reads this.
    UndoFailed {
        /// Which.
        step: StepName,
        /// How, and what to do.
        error: String,
    },
    /// A runner took it over: whoever ran it before is no longer next, and must stop.
    Resumed {
        /// Whether running it again is the answer to what a human was asked.
        answers: bool,
    },
    /// An operator said something.
    Operator {
        /// What.
        signal: Signal,
        /// The request it came with, so that it is heard once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
    },
    /// It is over. Always the last entry.
    Closed {
        /// How it ended.
        outcome: Outcome,
    },
}

/// What steps remember.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "kebab-case")]
pub enum Note {
    /// What the checks saw.
    Checked {
        /// The findings.
        findings: Vec<Finding>,
    },
    /// The record as it was before anything changed it: the before-image.
    RecordBefore {
        /// What the provider had.
        snapshot: Box<Snapshot>,
    },
    /// A share is about to be asked for.
    Asking {
        /// The share.
        share: Share,
        /// The TTL it is asked for with, in seconds.
        ttl: u32,
        /// The TTL that users may still have cached when it is served, in seconds.
        ttl_before: u32,
        /// Why.
        reason: String,
    },
    /// Every authority serves it since now.
    Served {
        /// The share.
        share: Share,
        /// When users see it: the old TTL later.
        effective: Timestamp,
    },
    /// The judge and the policy spoke, and something follows from it.
    Judged {
        /// The share judged.
        share: Share,
        /// The verdict.
        verdict: Verdict,
        /// What was seen of blue meanwhile.
        #[serde(default, skip_serializing_if = "Evidence::is_empty")]
        blue: Evidence,
        /// How far the mirror was behind, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lag: Option<u64>,
        /// What the policy said.
        decision: crate::policy::Decision,
    },
    /// A mirror was asked for.
    Mirror {
        /// Which way.
        direction: Direction,
    },
    /// A hook ran to its end and need not run again.
    Passed {
        /// Its name.
        hook: String,
    },
    /// Both databases were compared, and are alike.
    Compared {
        /// How much was compared.
        compared: Compared,
    },
    /// Looking on began: how long it takes is counted from here.
    Since {
        /// When.
        at: Timestamp,
    },
    /// **The commit record**: from here on this colour is the writer.
    Commit {
        /// The writer.
        to: Color,
        /// The position up to which everything was proven to be there; none without a database.
        position: Option<Position>,
        /// What the pause was made of so far.
        parts: Vec<PausePart>,
    },
    /// A cut-over was given up within its budget; the old writer writes again.
    PauseGivenUp {
        /// How long writes waited.
        held: Duration,
        /// Why.
        why: String,
    },
    /// Whether the way back to blue is there, where that changed while blue was held as one.
    WayBack {
        /// What is wrong with it; none when it is there again.
        broken: Option<String>,
        /// Whether nobody can mend it. Journals of earlier versions do not say.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        for_good: bool,
    },
    /// The pause is over: writes go on at the new writer.
    Pause {
        /// Who writes.
        to: Color,
        /// From gate held to gate released.
        length: Duration,
        /// What it was made of, in order.
        parts: Vec<PausePart>,
    },
}

/// A part of the write pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausePart {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub took: Duration,
}

/// What an operator can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// Begin nothing new.
    Pause,
    /// Go on.
    Resume,
    /// What waits for an approval may happen.
    Approve,
    /// Take the share back to zero, and stay there.
    Retreat,
    /// Give up and unwind; refused after the cut-over, where it is [`GoBack`](Self::GoBack).
    Abort,
    /// After the cut-over: make blue the writer again, and unwind.
    GoBack,
    /// After the cut-over: make blue the writer again with green as its mirror, and wait: to go forward again, or to abort.
    SwitchBack,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::Retreat => "retreat",
            Self::Abort => "abort",
            Self::GoBack => "go-back",
            Self::SwitchBack => "switch-back",
        })
    }
}

/// How a migration ended, with nobody needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Green is production, and nothing is left of the migration.
    Completed,
    /// Blue is production, and nothing is left of the migration.
    RolledBack {
        /// Why.
        why: String,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::RolledBack { why } => write!(f, "rolled back: {why}"),
        }
    }
}
