//! A change of a name: what it should become, what was sent, how far it has come, and what an authority says of it.

use super::{Record, RecordSet, Snapshot, Target};
use crate::model::Share;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What a record should become. Declarative: the whole desired state, so that saying it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// Both targets with weights: adopting a plain record, lowering its TTL and moving the share are all this.
    Weighted {
        /// Where blue answers.
        blue: Target,
        /// Where green answers.
        green: Target,
        /// How much goes to green.
        share: Share,
        /// The time to live in seconds.
        ttl: u32,
        /// The migration that owns the shape.
        owner: String,
    },
    /// Plain records, and no owner: exactly these sets of the types that steer, and none other of them.
    Plain {
        /// What to leave at the name.
        sets: Vec<RecordSet>,
        /// The provider's exact form of them, from an earlier snapshot's [`Snapshot::raw`], where they are put back.
        #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
        raw: serde_json::Value,
    },
}

/// What would be sent to the provider, compiled from a snapshot and an intent. Its `Display` is the dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePlan {
    /// The name.
    pub record: Record,
    /// What it is meant to become.
    pub intent: Intent,
    /// The share it will really be, after the provider's weights have rounded it.
    pub share: Option<Share>,
    /// The snapshot it was compiled from: what a compare-and-swap compares.
    pub before: Snapshot,
    /// Whether anything has to be sent at all.
    pub changes: bool,
    /// The provider's own request.
    pub body: serde_json::Value,
    /// A line a change, for people.
    pub lines: Vec<String>,
}

impl fmt::Display for ChangePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return write!(f, "{}: nothing to change", self.record);
        }
        f.write_str(&self.lines.join("\n"))
    }
}

/// A provider's handle on an accepted change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt(pub String);

/// How applying a plan went. An error that leaves it open whether it happened is `Unknown`, never `Err`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The provider took it.
    Accepted(Receipt),
    /// Somebody changed the record since the snapshot; here is what it is now.
    Conflict(Box<Snapshot>),
    /// The provider refused it, and says why. Nothing changed.
    Rejected(String),
    /// It may or may not have happened (a timeout, a broken connection): read back.
    Unknown(String),
}

/// How far an accepted change has come, as the provider's API tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeStatus {
    /// Not on all servers yet.
    Pending,
    /// Submitted; the API cannot tell more.
    Submitted,
    /// On every server of the provider.
    InSync,
}

/// One authoritative server, asked directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityAnswer {
    /// The server.
    pub server: SocketAddr,
    /// What it said, or why it said nothing.
    pub answer: Answer,
}

/// What an authoritative server said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Answered, with authority.
    Serving {
        /// How often each value came (a value a record; an A and AAAA pair count separately), over the samples asked.
        seen: BTreeMap<String, u32>,
        /// How many times it was asked.
        samples: u32,
        /// The TTL served, in seconds (the largest seen).
        ttl: u32,
        /// The zone's serial there.
        serial: Option<u32>,
    },
    /// Answered, but it is no good: no authority, SERVFAIL, no such name. Says what.
    Wrong(String),
    /// No answer, or none that could be read.
    Silent(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving { seen, samples, ttl, .. } => {
                write!(f, "serves {seen:?} in {samples} answers, TTL {ttl}")
            }
            Self::Wrong(what) => f.write_str(what),
            Self::Silent(what) => write!(f, "nothing: {what}"),
        }
    }
}

/// A duration in whole seconds, rounded up, as a TTL.
pub(crate) fn ttl_seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
