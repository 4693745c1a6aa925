//! `DnsProvider`: a name's records read, changed and asked for, and the data that travels with it.
//! What "effective" means is decided by the engine from what a provider reports here.

use crate::error::Result;
use crate::model::{Color, Share};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The production name, and the zone it lives in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The zone, without a trailing dot: `example.com`.
    pub zone: String,
    /// The full name, without a trailing dot: `app.example.com`.
    pub name: String,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The types of records that steer users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordKind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Another name.
    Cname,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
        })
    }
}

/// All records of one type at the name, as plain values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSet {
    /// Their type.
    pub kind: RecordKind,
    /// Their time to live in seconds.
    pub ttl: u32,
    /// Their values: addresses in canonical form, names without a trailing dot; sorted.
    pub values: Vec<String>,
}

/// Where an environment answers: addresses of both families, or another name; never both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Addresses: A and AAAA are one unit and move together.
    Addresses {
        /// IPv4 addresses.
        v4: Vec<std::net::Ipv4Addr>,
        /// IPv6 addresses.
        v6: Vec<std::net::Ipv6Addr>,
    },
    /// Another name, without a trailing dot.
    Name(String),
}

impl Target {
    /// The target of one address.
    #[must_use]
    pub fn address(ip: std::net::IpAddr) -> Self {
        match ip {
            std::net::IpAddr::V4(ip) => Self::Addresses {
                v4: vec![ip],
                v6: vec![],
            },
            std::net::IpAddr::V6(ip) => Self::Addresses {
                v4: vec![],
                v6: vec![ip],
            },
        }
    }

    /// The record types this target needs.
    #[must_use]
    pub fn kinds(&self) -> Vec<RecordKind> {
        match self {
            Self::Name(_) => vec![RecordKind::Cname],
            Self::Addresses { v4, v6 } => [(!v4.is_empty(), RecordKind::A), (!v6.is_empty(), RecordKind::Aaaa)]
                .into_iter()
                .filter_map(|(has, kind)| has.then_some(kind))
                .collect(),
        }
    }

    /// The values of one record type, canonical and sorted.
    #[must_use]
    pub fn values(&self, kind: RecordKind) -> Vec<String> {
        let mut values: Vec<String> = match (self, kind) {
            (Self::Name(name), RecordKind::Cname) => vec![name.trim_end_matches('.').to_ascii_lowercase()],
            (Self::Addresses { v4, .. }, RecordKind::A) => v4.iter().map(ToString::to_string).collect(),
            (Self::Addresses { v6, .. }, RecordKind::Aaaa) => v6.iter().map(ToString::to_string).collect(),
            _ => vec![],
        };
        values.sort();
        values.dedup();
        values
    }

    /// This target as plain records.
    #[must_use]
    pub fn record_sets(&self, ttl: u32) -> Vec<RecordSet> {
        self.kinds()
            .into_iter()
            .map(|kind| RecordSet {
                kind,
                ttl,
                values: self.values(kind),
            })
            .collect()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.kinds().into_iter().flat_map(|kind| self.values(kind)).collect();
        f.write_str(&all.join(", "))
    }
}

/// What a record is, for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Nothing at the name.
    Absent,
    /// Plain records of one target.
    Simple,
    /// Ours: two targets with weights.
    Weighted {
        /// The share that goes to green, as the weights really say it.
        share: Share,
    },
    /// Something that is not ours to touch (latency or geo routing, foreign Lua, another migration's). Says what.
    Foreign(String),
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Simple => f.write_str("plain"),
            Self::Weighted { share } => write!(f, "weighted, {share} to green"),
            Self::Foreign(what) => f.write_str(what),
        }
    }
}

/// What the provider has at a name now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The name.
    pub record: Record,
    /// What it is.
    pub shape: Shape,
    /// The plain records (for [`Shape::Simple`]); for a weighted shape the values and TTL it may answer with.
    pub sets: Vec<RecordSet>,
    /// The largest TTL of the records, in seconds; none when absent.
    pub ttl: Option<u32>,
    /// The migration that owns the weighted shape (the TXT record `_bluegreen.<name>`).
    pub owner: Option<String>,
    /// Something that changes with every change: an etag, a serial, a digest of the exact values.
    pub version: String,
    /// The provider's own exact form, for putting back exactly what was there. Never holds a secret.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub raw: serde_json::Value,
}

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

/// Which weights a provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// None: all to blue or all to green.
    Switch,
    /// Whole numbers that add up to this at most (Route 53: 255 a side; PowerDNS: any, we use 1000).
    UpTo(u16),
}

impl Weights {
    /// The share that can really be had nearest to `share`, never 0 or 100 % unless that was asked for.
    ///
    /// ```
    /// use bluegreen_core::{Share, Weights};
    /// let tenth = Share::percent(10).unwrap();
    /// assert_eq!(Weights::UpTo(1000).quantise(tenth), Some(tenth));
    /// assert_eq!(Weights::Switch.quantise(tenth), None);
    /// ```
    #[must_use]
    pub fn quantise(self, share: Share) -> Option<Share> {
        if share == Share::ZERO || share == Share::FULL {
            return Some(share);
        }
        match self {
            Self::Switch => None,
            Self::UpTo(total) => {
                let total = u32::from(total.max(2));
                let green = (u32::from(share.as_per_mille()) * total + 500) / 1000;
                let green = green.clamp(1, total - 1);
                Share::per_mille(
                    u16::try_from((green * 1000 + total / 2) / total)
                        .unwrap_or(1000)
                        .clamp(1, 999),
                )
            }
        }
    }
}

/// What a provider can do; the plan is checked against it when it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsCapabilities {
    /// Which weights it has.
    pub weights: Weights,
    /// The smallest TTL it takes, in seconds.
    pub min_ttl: u32,
    /// Whether a change is refused when the record changed since the snapshot.
    pub compare_and_swap: bool,
    /// Whether [`DnsProvider::poll`] tells when a change is on every server.
    pub change_status: bool,
    /// Whether a client keeps the answer it got, so that asking again and again from one place tells nothing of weights.
    pub sticky: bool,
}

impl DnsCapabilities {
    /// Capabilities with these weights; no TTL floor, no compare-and-swap, no change status.
    #[must_use]
    pub const fn new(weights: Weights) -> Self {
        Self {
            weights,
            min_ttl: 0,
            compare_and_swap: false,
            change_status: false,
            sticky: false,
        }
    }

    /// Refuses a change when the record changed since the snapshot.
    #[must_use]
    pub const fn with_compare_and_swap(mut self) -> Self {
        self.compare_and_swap = true;
        self
    }

    /// Tells when a change is on every server.
    #[must_use]
    pub const fn with_change_status(mut self) -> Self {
        self.change_status = true;
        self
    }

    /// A client keeps the answer it got.
    #[must_use]
    pub const fn with_sticky_clients(mut self) -> Self {
        self.sticky = true;
        self
    }

    /// The smallest TTL it takes, in seconds.
    #[must_use]
    pub const fn with_min_ttl(mut self, seconds: u32) -> Self {
        self.min_ttl = seconds;
        self
    }
}

/// Steers a name between two targets. See the [module](crate::provider) for what every provider owes.
///
/// The engine's flow is `read`, `compile`, `apply`, `poll`, then `ask_authorities` until every one serves it, then the
/// old TTL. On [`Applied::Unknown`] or [`Applied::Conflict`] it reads back: what it meant is success, what was before is
/// a retry, anything else is a foreign writer, and it stops.
#[async_trait]
#[diagnostic::on_unimplemented(
    message = "the migration has no DNS provider: call `.dns(..)` before `.build()`",
    label = "`{Self}` is no `DnsProvider`",
    note = "a migration that moves no name says so: `.dns(NoDns)`"
)]
pub trait DnsProvider: fmt::Debug + Send + Sync + 'static {
    /// A short name for messages: `powerdns`.
    fn name(&self) -> &str;

    /// What it acts on, in one line and always in the same form: a migration is only resumed with what it was begun with.
    /// No secret, and nothing that may change meanwhile, such as a user or a timeout. Its name where nothing tells more.
    fn acts_on(&self) -> String {
        self.name().to_owned()
    }

    /// Whether there is a name to move at all. Only [`NoDns`](crate::NoDns) answers false.
    fn is_present(&self) -> bool {
        true
    }

    /// What it can do.
    fn capabilities(&self) -> DnsCapabilities;

    /// What is at the name now.
    ///
    /// # Errors
    /// When it cannot be read; a name that does not exist is [`Shape::Absent`], not an error.
    async fn read(&self, record: &Record) -> Result<Snapshot>;

    /// What to send to turn `snapshot` into `intent`. Pure: no I/O, the same answer for the same arguments.
    ///
    /// # Errors
    /// A foreign shape, another owner, a share or TTL the provider cannot have.
    fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan>;

    /// Sends it. Applying a plan without changes is success without a request.
    ///
    /// # Errors
    /// Only when it is certain that nothing was changed.
    async fn apply(&self, plan: &ChangePlan) -> Result<Applied>;

    /// How far an accepted change has come.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn poll(&self, receipt: &Receipt) -> Result<ChangeStatus>;

    /// Asks every address of every authoritative server of the zone directly: no recursion, UDP then TCP, `samples` times
    /// each. An authority that is silent or wrong is data, not an error.
    ///
    /// # Errors
    /// When the authorities themselves cannot be found.
    async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: DnsProvider + ?Sized> DnsProvider for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn acts_on(&self) -> String {
        (**self).acts_on()
    }
    fn is_present(&self) -> bool {
        (**self).is_present()
    }
    fn capabilities(&self) -> DnsCapabilities {
        (**self).capabilities()
    }
    async fn read(&self, record: &Record) -> Result<Snapshot> {
        (**self).read(record).await
    }
    fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan> {
        (**self).compile(snapshot, intent)
    }
    async fn apply(&self, plan: &ChangePlan) -> Result<Applied> {
        (**self).apply(plan).await
    }
    async fn poll(&self, receipt: &Receipt) -> Result<ChangeStatus> {
        (**self).poll(receipt).await
    }
    async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>> {
        (**self).ask_authorities(record, samples).await
    }
}

impl Snapshot {
    /// Whether this is already what `intent` says, so that nothing has to be sent.
    #[must_use]
    pub fn is(&self, intent: &Intent, quantised: Option<Share>) -> bool {
        match intent {
            Intent::Weighted {
                share,
                ttl,
                owner,
                blue,
                green,
            } => {
                let expected: Vec<RecordSet> = weighted_sets(blue, green, *ttl);
                self.shape
                    == Shape::Weighted {
                        share: quantised.unwrap_or(*share),
                    }
                    && self.owner.as_deref() == Some(owner)
                    && self.sets == expected
            }
            Intent::Plain { sets, .. } => {
                let shape = if sets.is_empty() { Shape::Absent } else { Shape::Simple };
                self.shape == shape && self.owner.is_none() && self.sets == *sets
            }
        }
    }

    /// The colour whose target the plain records are, if they are one's.
    #[must_use]
    pub fn color_of(&self, blue: &Target, green: &Target) -> Option<Color> {
        // Two types may have two TTLs: what they point at is what counts.
        let points_at = |target: &Target| {
            let wanted = target.record_sets(0);
            self.sets.len() == wanted.len()
                && self
                    .sets
                    .iter()
                    .zip(&wanted)
                    .all(|(a, b)| a.kind == b.kind && a.values == b.values)
        };
        [(Color::Blue, blue), (Color::Green, green)]
            .into_iter()
            .find(|(_, target)| points_at(target))
            .map(|(color, _)| color)
    }
}

/// The sets a weighted snapshot lists: per type, the values of both targets, sorted, with duplicates removed.
pub(crate) fn weighted_sets(blue: &Target, green: &Target, ttl: u32) -> Vec<RecordSet> {
    let mut kinds: Vec<RecordKind> = blue.kinds().into_iter().chain(green.kinds()).collect();
    kinds.sort();
    kinds.dedup();
    kinds
        .into_iter()
        .map(|kind| {
            let mut values: Vec<String> = blue.values(kind).into_iter().chain(green.values(kind)).collect();
            values.sort();
            values.dedup();
            RecordSet { kind, ttl, values }
        })
        .collect()
}

/// Whether a text can stand in a zone as a name: labels of letters, digits, `-` and `_`, none empty, none too long.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && text
            .split('.')
            .all(|label| (1..=63).contains(&label.len()) && label.bytes().all(plain))
}

/// A duration in whole seconds, rounded up, as a TTL.
pub(crate) fn ttl_seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_of_what_zones_hold() {
        for name in [
            "a",
            "app.example.com",
            "APP.example.com.",
            "_bluegreen.app-1.example.com",
        ] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(64);
        let deep = "a.".repeat(127) + "com";
        for name in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            "*.example.com",
            "a b",
            "bücher.example",
            &long,
            &deep,
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_value_that_is_given_twice_is_one() {
        let ip = std::net::Ipv4Addr::new(192, 0, 2, 1);
        let target = Target::Addresses {
            v4: vec![ip, ip],
            v6: vec![],
        };
        assert_eq!(target.values(RecordKind::A), ["192.0.2.1"]);
    }
}
