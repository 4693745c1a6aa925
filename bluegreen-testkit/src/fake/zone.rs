//! The zone behind `FakeDns`: every version of every name, and what each authority serves of them at a time.

use bluegreen_core::{Color, Intent, Record, RecordKind, RecordSet, Shape, Share, Snapshot, Target, Timestamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::time::Duration;

/// What is at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// Plain records; none of them is an absent name.
    Plain(Vec<RecordSet>),
    /// Two targets with weights.
    Weighted {
        /// Where blue answers.
        blue: Target,
        /// Where green answers.
        green: Target,
        /// How much goes to green.
        share: Share,
        /// The time to live in seconds.
        ttl: u32,
        /// The migration that owns it.
        owner: String,
    },
    /// Something that is not ours to touch, and the plain records it answers with.
    Foreign {
        /// What it is: `latency routing`.
        what: String,
        /// What it answers.
        sets: Vec<RecordSet>,
    },
}

impl Served {
    /// Plain records of one target.
    #[must_use]
    pub fn plain(target: &Target, ttl: u32) -> Self {
        Self::Plain(target.record_sets(ttl))
    }

    pub(super) fn from_intent(intent: &Intent, real: Option<Share>) -> Self {
        match intent {
            Intent::Plain { sets, .. } => Self::Plain(sets.clone()),
            Intent::Weighted {
                blue,
                green,
                share,
                ttl,
                owner,
            } => Self::Weighted {
                blue: blue.clone(),
                green: green.clone(),
                share: real.unwrap_or(*share),
                ttl: *ttl,
                owner: owner.clone(),
            },
        }
    }

    fn shape(&self) -> Shape {
        match self {
            Self::Plain(sets) if sets.is_empty() => Shape::Absent,
            Self::Plain(_) => Shape::Simple,
            Self::Weighted { share, .. } => Shape::Weighted { share: *share },
            Self::Foreign { what, .. } => Shape::Foreign(what.clone()),
        }
    }

    fn sets(&self) -> Vec<RecordSet> {
        match self {
            Self::Plain(sets) | Self::Foreign { sets, .. } => sets.clone(),
            Self::Weighted { blue, green, ttl, .. } => [RecordKind::A, RecordKind::Aaaa, RecordKind::Cname]
                .into_iter()
                .map(|kind| {
                    let mut values = blue.values(kind);
                    values.extend(green.values(kind));
                    values.sort();
                    values.dedup();
                    RecordSet {
                        kind,
                        ttl: *ttl,
                        values,
                    }
                })
                .filter(|set| !set.values.is_empty())
                .collect(),
        }
    }

    fn owner(&self) -> Option<String> {
        match self {
            Self::Weighted { owner, .. } => Some(owner.clone()),
            Self::Plain(_) | Self::Foreign { .. } => None,
        }
    }
}

/// The answer to one query for addresses or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Every value of the side that was picked.
    pub values: Vec<String>,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// The side that a weighted record picked.
    pub picked: Option<Color>,
}

struct Version {
    at: Timestamp,
    serial: u32,
    served: Served,
}

pub(super) struct Zone {
    lags: Vec<Duration>,
    silent: Vec<usize>,
    names: HashMap<Record, Vec<Version>>,
    changed: Vec<Timestamp>,
    rng: SmallRng,
}

impl Zone {
    pub(super) fn new(lags: impl IntoIterator<Item = Duration>) -> Self {
        Self {
            lags: lags.into_iter().collect(),
            silent: vec![],
            names: HashMap::new(),
            changed: vec![],
            rng: SmallRng::seed_from_u64(0),
        }
    }

    pub(super) fn lags(&self) -> &[Duration] {
        &self.lags
    }

    pub(super) fn set_lags(&mut self, lags: impl IntoIterator<Item = Duration>) {
        self.lags = lags.into_iter().collect();
    }

    pub(super) fn reseed(&mut self, seed: u64) {
        self.rng = SmallRng::seed_from_u64(seed);
    }

    pub(super) fn set_silent(&mut self, authority: usize, silent: bool) {
        self.silent.retain(|other| *other != authority);
        if silent {
            self.silent.push(authority);
        }
    }

    pub(super) fn is_silent(&self, authority: usize) -> bool {
        self.silent.contains(&authority)
    }

    pub(super) fn serial(&self) -> u32 {
        u32::try_from(self.changed.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn put(&mut self, record: &Record, served: Served, at: Timestamp) {
        self.changed.push(at);
        let serial = self.serial();
        let versions = self.names.entry(record.clone()).or_default();
        versions.push(Version { at, serial, served });
    }

    /// Whether every authority serves the change with this serial.
    pub(super) fn is_everywhere(&self, serial: u32, now: Timestamp) -> bool {
        let slowest = self.lags.iter().max().copied().unwrap_or_default();
        let index = (serial as usize).wrapping_sub(1);
        self.changed.get(index).is_none_or(|at| *at + slowest <= now)
    }

    pub(super) fn serial_at(&self, authority: usize, now: Timestamp) -> u32 {
        let lag = self.lags[authority];
        let served = self.changed.iter().take_while(|at| **at + lag <= now).count();
        u32::try_from(served).unwrap_or(u32::MAX)
    }

    pub(super) fn snapshot(&self, record: &Record) -> Snapshot {
        let version = self.names.get(record).and_then(|versions| versions.last());
        let sets = version.map(|v| v.served.sets()).unwrap_or_default();
        Snapshot {
            record: record.clone(),
            shape: version.map_or(Shape::Absent, |v| v.served.shape()),
            ttl: sets.iter().map(|set| set.ttl).max(),
            sets,
            owner: version.and_then(|v| v.served.owner()),
            version: version.map_or(0, |v| v.serial).to_string(),
            raw: serde_json::Value::Null,
        }
    }

    pub(super) fn reply(&mut self, record: &Record, authority: usize, now: Timestamp) -> Option<Reply> {
        if self.is_silent(authority) {
            return None;
        }
        let lag = *self.lags.get(authority)?;
        let versions = self.names.get(record)?;
        let version = versions.iter().rev().find(|v| v.at + lag <= now)?;
        let (values, ttl, picked) = match &version.served {
            Served::Plain(sets) | Served::Foreign { sets, .. } => {
                let ttl = sets.iter().map(|set| set.ttl).max()?;
                (sets.iter().flat_map(|set| set.values.clone()).collect(), ttl, None)
            }
            Served::Weighted {
                blue,
                green,
                share,
                ttl,
                ..
            } => {
                let to_green = self.rng.random_range(0..1000) < share.as_per_mille();
                let (picked, target) = if to_green {
                    (Color::Green, green)
                } else {
                    (Color::Blue, blue)
                };
                let values = target.kinds().into_iter().flat_map(|kind| target.values(kind));
                (values.collect(), *ttl, Some(picked))
            }
        };
        Some(Reply { values, ttl, picked })
    }
}
