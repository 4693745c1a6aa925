//! `Spec`: what moves where, as data. It holds no secret and no provider; the plan's fingerprint covers all of it.

use crate::error::{Error, Result};
use crate::judge::Limits;
use crate::model::{Color, Endpoint};
use crate::provider::{Record, Target, is_name};
pub use crate::url::check_url;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its own address, never the production name: `https://my-app.example.net`. None when only a database moves.
    pub url: Option<String>,
    /// Paths that must be well, asked under [`url`](Self::url).
    pub health: Vec<String>,
    /// What the production name's records say when users are sent here.
    pub target: Option<Target>,
}

impl Environment {
    /// An environment without an application: only its database moves.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// An environment that answers under `url`.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Some(url.into()),
            ..Self::default()
        }
    }

    /// Adds a path that must be well: `/api/health`.
    #[must_use]
    pub fn health(mut self, path: impl Into<String>) -> Self {
        self.health.push(path.into());
        self
    }

    /// Where the production name points when users are sent here.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}

/// Where green's application writes while users are already on it and blue's database is still the writer. A plan that
/// shifts traffic before the cut-over is not built without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WritePath {
    /// Green's application uses blue's database, through the gate, until the cut-over. The one to recommend.
    BlueDatabase,
    /// Green's application only reads; its database refuses writes until the cut-over.
    ReadOnlyGreen,
    /// No user is sent to green before the cut-over; the name moves after it.
    NoLiveTraffic,
}

/// What moves where, and how patiently. Made by [`Spec::new`]; every field may be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spec {
    /// The migration's name: letters, digits, `-` and `_`, at most 32. It is part of the names of what is made in databases.
    pub name: String,
    /// Production today.
    pub blue: Environment,
    /// Where it goes.
    pub green: Environment,
    /// The production name; needed with a DNS provider.
    pub record: Option<Record>,
    /// The URL under which users reach production, asked after the cut-over. Its name must resolve from here.
    pub production_url: Option<String>,
    /// The TTL while traffic shifts (60 s).
    pub ttl: Duration,
    /// How long before the shift the TTL is lowered, at least (0: only the old TTL counts).
    pub lead: Duration,
    /// Waited beyond every TTL, for resolvers that round up (2 s).
    pub slack: Duration,
    /// How often each authority is asked for a split share (400: within 5 points at 95 %).
    pub dns_samples: u32,
    /// Where green writes during the shift.
    pub write_path: Option<WritePath>,
    /// How long writes may wait at most in a cut-over (10 s). When it runs out, they go on at blue.
    pub pause_budget: Duration,
    /// How often a cut-over is tried before it is given up (3), and how long it stays away in between.
    pub cut_over_attempts: u32,
    /// The wait between two tries of a cut-over (30 s).
    pub cut_over_retry: Duration,
    /// How long green is watched without users (0).
    pub soak: Duration,
    /// Whether all rows of both databases are compared before any user or write moves to green (no).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compare: bool,
    /// How long blue stays a way back after the cut-over (48 h).
    pub hold: Duration,
    /// How many times in a row green must be well before it counts (3).
    pub healthy_in_a_row: u32,
    /// How long one health check may take (5 s).
    pub probe_deadline: Duration,
    /// How long green may take to become healthy, and a mirror to stream after its copy (30 min).
    pub patience: Duration,
    /// How long a provider may take to answer (5 min). Past it, it is asked again.
    pub step_deadline: Duration,
    /// How often a waiting step looks again (1 s).
    pub look: Duration,
    /// How often a long wait is looked on, for observers (30 s).
    pub watch: Duration,
    /// How far behind the mirror may be when the soak, the shift and the cut-over begin, in bytes (16 MiB).
    pub max_lag_bytes: u64,
    /// When green counts as failing.
    pub limits: Limits,
    /// How often a step is tried again after errors that may pass (8), before it is given up.
    pub retries: u32,
}

/// No wait is longer: a deadline must be a date that can be written and read.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl Spec {
    /// A specification with the playbook's numbers and no environment yet.
    ///
    /// ```
    /// use bluegreen_core::{Environment, Spec};
    /// let spec = Spec::new("shop", Environment::none(), Environment::none());
    /// assert_eq!(spec.hold, std::time::Duration::from_secs(48 * 3600));
    /// ```
    pub fn new(name: impl Into<String>, blue: Environment, green: Environment) -> Self {
        Self {
            name: name.into(),
            blue,
            green,
            record: None,
            production_url: None,
            ttl: Duration::from_secs(60),
            lead: Duration::ZERO,
            slack: Duration::from_secs(2),
            dns_samples: 400,
            write_path: None,
            pause_budget: Duration::from_secs(10),
            cut_over_attempts: 3,
            cut_over_retry: Duration::from_secs(30),
            soak: Duration::ZERO,
            compare: false,
            hold: Duration::from_secs(48 * 3600),
            healthy_in_a_row: 3,
            probe_deadline: Duration::from_secs(5),
            patience: Duration::from_secs(30 * 60),
            step_deadline: Duration::from_secs(5 * 60),
            look: Duration::from_secs(1),
            watch: Duration::from_secs(30),
            max_lag_bytes: 16 << 20,
            limits: Limits::default(),
            retries: 8,
        }
    }

    /// The production name.
    #[must_use]
    pub fn record(mut self, zone: impl Into<String>, name: impl Into<String>) -> Self {
        let plain = |s: String| s.trim_end_matches('.').to_ascii_lowercase();
        self.record = Some(Record {
            zone: plain(zone.into()),
            name: plain(name.into()),
        });
        self
    }

    /// Where green writes during the shift.
    #[must_use]
    pub fn write_path(mut self, path: WritePath) -> Self {
        self.write_path = Some(path);
        self
    }

    /// Compares all rows of both databases before any user or write moves to green.
    #[must_use]
    pub fn compare(mut self) -> Self {
        self.compare = true;
        self
    }

    /// How long blue stays a way back after the cut-over.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// How long writes may wait at most.
    #[must_use]
    pub fn pause_budget(mut self, budget: Duration) -> Self {
        self.pause_budget = budget;
        self
    }

    /// The environment of a colour.
    #[must_use]
    pub fn environment(&self, color: Color) -> &Environment {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// What is asked to know whether `color` is well.
    #[must_use]
    pub fn endpoints(&self, color: Color) -> Vec<Endpoint> {
        let environment = self.environment(color);
        let Some(url) = &environment.url else { return vec![] };
        let host = self.record.as_ref().map(|r| r.name.clone());
        self.urls(url, &environment.health)
            .map(|url| Endpoint {
                color: Some(color),
                url,
                host: host.clone(),
                deadline: self.probe_deadline,
            })
            .collect()
    }

    /// What is asked through the production name after `color` has become the writer.
    #[must_use]
    pub fn production_endpoints(&self, color: Color) -> Vec<Endpoint> {
        let Some(url) = &self.production_url else { return vec![] };
        self.urls(url, &self.environment(color).health)
            .map(|url| Endpoint {
                color: None,
                url,
                host: None,
                deadline: self.probe_deadline,
            })
            .collect()
    }

    fn urls<'a>(&self, base: &'a str, paths: &'a [String]) -> impl Iterator<Item = String> + 'a {
        let base = base.trim_end_matches('/');
        let root = paths.is_empty().then_some("/");
        root.into_iter()
            .chain(paths.iter().map(String::as_str))
            .map(move |path| format!("{base}/{}", path.trim_start_matches('/')))
    }

    /// Looks for what is wrong with it by itself.
    ///
    /// # Errors
    /// `InvalidInput`, with what is wrong and what is expected.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::invalid("read the specification", message));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(plain) {
            return wrong(format!(
                "the name {:?} is not usable: 1 to 32 letters, digits, '-' or '_' are expected",
                self.name
            ));
        }
        for (color, environment) in [(Color::Blue, &self.blue), (Color::Green, &self.green)] {
            if let Some(Err(why)) = environment.url.as_deref().map(check_url) {
                return wrong(format!("{color}'s url {why}"));
            }
            if let Some(Target::Name(name)) = &environment.target
                && !is_name(name)
            {
                return wrong(format!("{color}'s target {name:?} is no DNS name, and no address"));
            }
            if environment.target.as_ref().is_some_and(|t| t.kinds().is_empty()) {
                return wrong(format!("{color}'s target has no address: give at least one, or a name"));
            }
        }
        if let Some(Err(why)) = self.production_url.as_deref().map(check_url) {
            return wrong(format!("production_url {why}"));
        }
        if self.blue.url.is_some() && self.blue.url == self.green.url {
            return wrong("blue and green have the same url: give each environment's own address".into());
        }
        if self.blue.target.is_some() && self.blue.target == self.green.target {
            return wrong("blue and green have the same target: the name would not move".into());
        }
        if let (Some(blue), Some(green)) = (&self.blue.target, &self.green.target) {
            let all = |t: &Target| t.kinds().into_iter().flat_map(|k| t.values(k)).collect::<Vec<_>>();
            let green = all(green);
            if let Some(both) = all(blue).into_iter().find(|value| green.contains(value)) {
                return wrong(format!(
                    "{both} is a target of blue and of green: nobody could tell who answers there"
                ));
            }
        }
        if let Some(record) = &self.record {
            if record.zone.is_empty() || record.name.is_empty() {
                return wrong("the record needs a zone and a name: \"example.com\" and \"app.example.com\"".into());
            }
            if let Some(wrong_name) = [&record.zone, &record.name].into_iter().find(|name| !is_name(name)) {
                return wrong(format!("the record's {wrong_name:?} is no DNS name"));
            }
            let is_alias = |e: &Environment| matches!(e.target, Some(Target::Name(_)));
            if record.name == record.zone && (is_alias(&self.blue) || is_alias(&self.green)) {
                return wrong(format!(
                    "{} is the apex of its zone, where no CNAME may stand: give addresses as targets",
                    record.name
                ));
            }
        }
        if let Some(record) = &self.record
            && record.name != record.zone
            && !record.name.ends_with(&format!(".{}", record.zone))
        {
            return wrong(format!("the record {} is not in the zone {}", record.name, record.zone));
        }
        for (what, value) in [
            ("hold", self.hold),
            ("soak", self.soak),
            ("lead", self.lead),
            ("slack", self.slack),
            ("cut_over_retry", self.cut_over_retry),
            ("pause_budget", self.pause_budget),
            ("patience", self.patience),
            ("step_deadline", self.step_deadline),
            ("ttl", self.ttl),
            ("look", self.look),
            ("watch", self.watch),
            ("probe_deadline", self.probe_deadline),
        ] {
            if value > LONGEST {
                return wrong(format!("{what} is longer than 10 years"));
            }
        }
        for (what, value) in [
            ("pause_budget", self.pause_budget),
            ("look", self.look),
            ("watch", self.watch),
            ("step_deadline", self.step_deadline),
            ("probe_deadline", self.probe_deadline),
            ("patience", self.patience),
            ("ttl", self.ttl),
        ] {
            if value.is_zero() {
                return wrong(format!("{what} is zero: a time above zero is expected"));
            }
        }
        for (what, value) in [
            ("cut_over_attempts", self.cut_over_attempts),
            ("healthy_in_a_row", self.healthy_in_a_row),
            ("dns_samples", self.dns_samples),
        ] {
            if value == 0 {
                return wrong(format!("{what} is 0: at least 1 is expected"));
            }
        }
        self.limits
            .validate()
            .map_err(|message| Error::invalid("read the specification", message))
    }
}
