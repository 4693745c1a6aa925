//! A zone in memory: what is at each name, and what a question is answered with. No I/O.

use bluegreen_core::{RecordKind, RecordSet, Share, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What is at a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// Plain records, at least one.
    Plain(Vec<RecordSet>),
    /// One of two targets, drawn anew for each question.
    Weighted {
        /// Where blue answers.
        blue: Target,
        /// Where green answers.
        green: Target,
        /// How much goes to green.
        share: Share,
        /// The time to live in seconds.
        ttl: u32,
    },
    /// Something the provider does not understand, as another tool may have left it: answered with SERVFAIL.
    Foreign(String),
}

/// The names under one apex, each with a version that grows with its every change.
#[derive(Debug)]
pub struct Zone {
    name: String,
    names: BTreeMap<String, Entry>,
    texts: BTreeMap<String, String>,
    versions: BTreeMap<String, u64>,
    authorities: Vec<SocketAddr>,
    serial: u32,
    random: StdRng,
}

/// What a zone says to a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The records of that type.
    Values { ttl: u32, values: Vec<String> },
    /// The name is another's.
    Alias { ttl: u32, to: String },
    /// The name exists, without records of that type.
    Empty,
    /// There is no such name.
    NoName,
    /// There is no answer.
    Failed,
}

impl Zone {
    /// An empty zone; draws are random.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self::seeded(name, rand::random())
    }

    /// An empty zone whose draws repeat with the seed.
    #[must_use]
    pub fn seeded(name: impl Into<String>, seed: u64) -> Self {
        Self {
            name: canonical(&name.into()),
            names: BTreeMap::new(),
            texts: BTreeMap::new(),
            versions: BTreeMap::new(),
            authorities: Vec::new(),
            serial: 1,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// With plain records at a name.
    #[must_use]
    pub fn with(mut self, name: &str, target: &Target, ttl: u32) -> Self {
        self.set(name, Some(Entry::Plain(target.record_sets(ttl))));
        self
    }

    /// Its apex, without a trailing dot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Grows with every change.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What is at a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.names.get(&canonical(name))
    }

    /// Puts something at a name in place of what was there, as any other user of the zone would; none takes it away.
    pub fn set(&mut self, name: &str, entry: Option<Entry>) {
        let name = canonical(name);
        self.changed(&name);
        match entry {
            Some(entry) => self.names.insert(name, entry),
            None => self.names.remove(&name),
        };
    }

    /// The text at a name.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(&canonical(name)).map(String::as_str)
    }

    /// Puts a text at a name; none takes it away.
    pub fn set_text(&mut self, name: &str, text: Option<String>) {
        let name = canonical(name);
        self.changed(&name);
        match text {
            Some(text) => self.texts.insert(name, text),
            None => self.texts.remove(&name),
        };
    }

    /// How many times what is at a name was changed.
    #[must_use]
    pub fn version(&self, name: &str) -> u64 {
        self.versions.get(&canonical(name)).copied().unwrap_or(0)
    }

    /// The servers that answer for it.
    #[must_use]
    pub fn authorities(&self) -> &[SocketAddr] {
        &self.authorities
    }

    pub(super) fn add_authority(&mut self, server: SocketAddr) {
        self.authorities.push(server);
    }

    fn changed(&mut self, name: &str) {
        self.serial += 1;
        *self.versions.entry(name.to_owned()).or_default() += 1;
    }

    /// Whether a name is the zone's to answer for.
    pub(super) fn covers(&self, name: &str) -> bool {
        name == self.name || name.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.'))
    }

    pub(super) fn look_up(&mut self, name: &str, kind: RecordKind) -> Said {
        let sets = match self.names.get(name) {
            Some(Entry::Plain(sets)) => sets.clone(),
            Some(Entry::Weighted {
                blue,
                green,
                share,
                ttl,
            }) => {
                let drawn = self.random.random_range(0..1000) < share.as_per_mille();
                (if drawn { green } else { blue }).record_sets(*ttl)
            }
            Some(Entry::Foreign(_)) => return Said::Failed,
            None if self.texts.contains_key(name) || self.is_above_something(name) => return Said::Empty,
            None => return Said::NoName,
        };
        if let Some(set) = sets.iter().find(|set| set.kind == kind) {
            return Said::Values {
                ttl: set.ttl,
                values: set.values.clone(),
            };
        }
        let alias = sets.iter().find(|set| set.kind == RecordKind::Cname);
        match alias.and_then(|set| Some((set.ttl, set.values.first()?.clone()))) {
            Some((ttl, to)) => Said::Alias { ttl, to },
            None => Said::Empty,
        }
    }

    /// What is at a name when no address or alias is asked for: it exists or it does not.
    pub(super) fn other(&self, name: &str) -> Said {
        let exists = self.names.contains_key(name) || self.texts.contains_key(name) || self.is_above_something(name);
        if exists { Said::Empty } else { Said::NoName }
    }

    fn is_above_something(&self, name: &str) -> bool {
        let under = |other: &String| other.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        name == self.name || self.names.keys().chain(self.texts.keys()).any(under)
    }
}

/// A name as zones compare them: lower case, no trailing dot.
pub(super) fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn target(last: u8) -> Target {
        Target::address([127, 0, 0, last].into())
    }

    #[test]
    fn a_seed_repeats_its_draws_and_the_share_is_met() {
        let draws = |seed: u64| -> Vec<Said> {
            let mut zone = Zone::seeded("example.test", seed);
            let share = Share::percent(10).unwrap();
            let entry = Entry::Weighted {
                blue: target(2),
                green: target(3),
                share,
                ttl: 1,
            };
            zone.set("App.Example.Test.", Some(entry));
            (0..2000)
                .map(|_| zone.look_up("app.example.test", RecordKind::A))
                .collect()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        let green = Said::Values {
            ttl: 1,
            values: vec!["127.0.0.3".into()],
        };
        let count = draws(7).iter().filter(|said| **said == green).count();
        assert!((140..260).contains(&count), "{count} of 2000 at 10 %");
    }

    #[test]
    fn a_name_that_only_has_others_below_exists() {
        let mut zone = Zone::new("example.test").with("a.b.example.test", &target(2), 60);
        assert_eq!(zone.look_up("b.example.test", RecordKind::A), Said::Empty);
        assert_eq!(zone.look_up("c.example.test", RecordKind::A), Said::NoName);
        assert_eq!(zone.look_up("example.test", RecordKind::A), Said::Empty);
        assert!(zone.covers("x.example.test") && !zone.covers("badexample.test"));
    }

    #[test]
    fn every_change_of_a_name_is_another_version() {
        let mut zone = Zone::new("example.test").with("a.example.test", &target(2), 60);
        let before = (
            zone.version("a.example.test"),
            zone.version("b.example.test"),
            zone.serial(),
        );
        zone.set("a.example.test", None);
        assert_eq!(zone.version("a.example.test"), before.0 + 1);
        assert_eq!(zone.version("b.example.test"), before.1);
        assert_eq!(zone.serial(), before.2 + 1);
    }
}
