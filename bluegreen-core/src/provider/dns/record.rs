//! What stands at a name: records, the targets they lead to, and what a provider has there now.

use super::Intent;
use crate::model::{Color, Share};
use serde::{Deserialize, Serialize};
use std::fmt;

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
