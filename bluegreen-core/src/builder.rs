//! `MigrationBuilder`: generic at the door, erased in the room. A missing provider is a compile error that says which call
//! is missing; what types cannot know, `build` says.

use crate::error::{Error, Kind, Result};
use crate::journal::Journal;
use crate::judge::Feed;
use crate::migration::Migration;
use crate::model::Color;
use crate::phase::{Collaborators, Hook};
use crate::plan::{Parts, Plan};
use crate::policy::TrafficPolicy;
use crate::provider::{DnsProvider, HealthProbe, Replicator, WriteGate};
use crate::spec::{Environment, Spec, WritePath};
use crate::time::{Clock, SystemClock};
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A slot of the builder that nobody has filled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unset;

/// Describes a migration; setters in any order. See [`Migration::builder`].
#[derive(Debug)]
#[must_use]
pub struct MigrationBuilder<D = Unset, R = Unset, H = Unset, P = Unset> {
    name: String,
    spec: Option<Spec>,
    dns: D,
    replicator: R,
    probe: H,
    policy: P,
    gate: Option<Arc<dyn WriteGate>>,
    journal: Option<Arc<dyn Journal>>,
    clock: Arc<dyn Clock>,
    feed: Option<Feed>,
    deploy: Option<Hook>,
    verify: Vec<Hook>,
    decommission: Option<Hook>,
}

impl MigrationBuilder {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            spec: None,
            dns: Unset,
            replicator: Unset,
            probe: Unset,
            policy: Unset,
            gate: None,
            journal: None,
            clock: Arc::new(SystemClock),
            feed: None,
            deploy: None,
            verify: Vec::new(),
            decommission: None,
        }
    }
}

impl<D, R, H, P> MigrationBuilder<D, R, H, P> {
    fn with<D2, R2, H2, P2>(
        self,
        change: impl FnOnce(D, R, H, P) -> (D2, R2, H2, P2),
    ) -> MigrationBuilder<D2, R2, H2, P2> {
        let (dns, replicator, probe, policy) = change(self.dns, self.replicator, self.probe, self.policy);
        MigrationBuilder {
            name: self.name,
            spec: self.spec,
            dns,
            replicator,
            probe,
            policy,
            gate: self.gate,
            journal: self.journal,
            clock: self.clock,
            feed: self.feed,
            deploy: self.deploy,
            verify: self.verify,
            decommission: self.decommission,
        }
    }

    /// Who moves the name. A migration without one says so: `.dns(NoDns)`.
    pub fn dns<D2>(self, dns: D2) -> MigrationBuilder<D2, R, H, P> {
        self.with(|_, r, h, p| (dns, r, h, p))
    }

    /// Who mirrors the database. A migration without one says so: `.replicator(NoDatabase)`.
    pub fn replicator<R2>(self, replicator: R2) -> MigrationBuilder<D, R2, H, P> {
        self.with(|d, _, h, p| (d, replicator, h, p))
    }

    /// Who looks whether an environment is well. A migration without one says so: `.probe(NoProbe)`.
    pub fn probe<H2>(self, probe: H2) -> MigrationBuilder<D, R, H2, P> {
        self.with(|d, r, _, p| (d, r, probe, p))
    }

    /// How the share moves.
    pub fn policy<P2>(self, policy: P2) -> MigrationBuilder<D, R, H, P2> {
        self.with(|d, r, h, _| (d, r, h, policy))
    }

    /// What makes writes wait during the cut-over. Needed with a database; `NoGate` says that clients may see errors.
    pub fn gate(mut self, gate: impl WriteGate) -> Self {
        self.gate = Some(Arc::new(gate));
        self
    }

    /// Where it remembers how far it is.
    pub fn journal(mut self, journal: impl Journal) -> Self {
        self.journal = Some(Arc::new(journal));
        self
    }

    /// What moves where. Its name is replaced by the builder's.
    pub fn spec(mut self, spec: Spec) -> Self {
        self.spec = Some(spec);
        self
    }

    /// What it takes the time from; the wall clock if nothing is said.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What the embedding service counts of its own requests; judged beside the probe's samples.
    pub fn feed(mut self, feed: Feed) -> Self {
        self.feed = Some(feed);
        self
    }

    /// What deploys green. It is run again after a crash: it must come to the same end. A stop or an abort drops it where it
    /// waits. Default: green is deployed already.
    pub fn deploy<F, Fut, E>(mut self, call: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.deploy = Some(hook("deploy", call));
        self
    }

    /// Something green must pass before any user is sent there: an integration suite, a load test. As many as you like,
    /// run in order; a failure unwinds the migration. A stop or an abort drops the one that runs where it waits.
    pub fn verify<F, Fut, E>(mut self, name: impl Into<String>, call: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.verify.push(hook(name, call));
        self
    }

    /// What takes blue away in the end. Default: blue stays.
    pub fn decommission<F, Fut, E>(mut self, call: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.decommission = Some(hook("decommission", call));
        self
    }
}

impl<D: DnsProvider, R: Replicator, H: HealthProbe, P: TrafficPolicy> MigrationBuilder<D, R, H, P> {
    /// Checks the whole and makes the migration. Nothing is contacted.
    ///
    /// # Errors
    /// `InvalidInput` or `Unsupported`: what is wrong or missing, and what is expected.
    pub fn build(self) -> Result<Migration> {
        let mut spec = self
            .spec
            .unwrap_or_else(|| Spec::new("", Environment::none(), Environment::none()));
        spec.name = self.name;
        spec.validate()?;
        let named = self.dns.is_present();
        let database = self.replicator.is_present();
        if !named && !database {
            return Err(wrong(
                "nothing would move: give it a DNS provider, a replicator, or both",
            ));
        }
        if spec.compare && !self.replicator.compares() {
            let message = format!(
                "{} does not compare: leave `compare` out of the specification",
                self.replicator.name()
            );
            return Err(Error::new(Kind::Unsupported, "build the migration", message));
        }
        let gate: Arc<dyn WriteGate> = match self.gate {
            Some(gate) => gate,
            None if !database => Arc::new(crate::provider::NoGate),
            None => {
                let what = "a database moves and no gate is named: call `.gate(..)`, or `.gate(NoGate)` if clients may see \
                            errors while writes pause";
                return Err(wrong(what));
            }
        };
        let journal = self
            .journal
            .ok_or_else(|| wrong("it has no journal: call `.journal(FileJournal::open(..)?)`"))?;
        self.policy
            .validate()
            .map_err(|what| wrong(format!("the policy: {what}")))?;
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = self.verify.iter().find(|h| !seen.insert(h.name.clone())) {
            return Err(wrong(format!(
                "two verify hooks are named {:?}: each needs its own name",
                twice.name
            )));
        }
        let watched = self.feed.is_some() || self.probe.is_present() && !spec.endpoints(Color::Green).is_empty();
        check_traffic(&spec, &self.dns, &self.policy, database, watched)?;

        let acts_on = [
            ("DNS", named.then(|| self.dns.acts_on())),
            ("database", database.then(|| self.replicator.acts_on())),
            ("gate", gate.is_present().then(|| gate.acts_on())),
        ];
        let acts_on = acts_on
            .into_iter()
            .filter_map(|(part, on)| Some((part.to_owned(), on?)));
        let parts = Parts {
            dns: named.then(|| self.dns.name().to_owned()),
            database: database.then(|| self.replicator.name().to_owned()),
            gate: gate.is_present().then(|| gate.name().to_owned()),
            probe: self.probe.is_present(),
            policy: self.policy.describe(),
            deploy: self.deploy.is_some(),
            verify: self.verify.iter().map(|h| h.name.clone()).collect(),
            decommission: self.decommission.is_some(),
            acts_on: acts_on.collect(),
        };
        let plan = Plan::of(&spec, &parts);
        let with = Collaborators {
            dns: Arc::new(self.dns),
            replicator: Arc::new(self.replicator),
            probe: Arc::new(self.probe),
            policy: Arc::new(self.policy),
            gate,
            clock: self.clock,
            feed: self.feed,
            deploy: self.deploy,
            verify: self.verify,
            decommission: self.decommission,
        };
        Ok(Migration::assemble(spec, plan, with, journal))
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::invalid("build the migration", what)
}

/// The plan against what the DNS provider can do, and against what would lose data.
fn check_traffic(
    spec: &Spec,
    dns: &dyn DnsProvider,
    policy: &dyn TrafficPolicy,
    database: bool,
    watched: bool,
) -> Result<()> {
    if !dns.is_present() {
        return match &spec.record {
            Some(record) => Err(wrong(format!(
                "the record {record} would not move: name a DNS provider, or no record"
            ))),
            None => Ok(()),
        };
    }
    if spec.record.is_none() || spec.blue.target.is_none() || spec.green.target.is_none() {
        return Err(wrong(
            "to move a name, `record` and both environments' `target` are needed",
        ));
    }
    let can = dns.capabilities();
    if spec.ttl < Duration::from_secs(u64::from(can.min_ttl)) {
        let message = format!(
            "{} takes no TTL below {} s, {:?} is asked for",
            dns.name(),
            can.min_ttl,
            spec.ttl
        );
        return Err(Error::new(Kind::Unsupported, "build the migration", message));
    }
    if spec.write_path == Some(WritePath::NoLiveTraffic) {
        return Ok(());
    }
    if database && spec.write_path.is_none() {
        let what = "users reach green before its database is the writer: say where green writes until then \
                    (`write_path`): BlueDatabase, ReadOnlyGreen, or NoLiveTraffic";
        return Err(wrong(what));
    }
    if !watched {
        let what = "the share would move unseen: give green a `url` and a probe, or a `feed`, or NoLiveTraffic";
        return Err(wrong(what));
    }
    for share in policy.shares() {
        if can.weights.quantise(share).is_none() {
            let message = format!("{} has no weights, {share} is asked for: use `AtOnce`", dns.name());
            return Err(Error::new(Kind::Unsupported, "build the migration", message));
        }
    }
    Ok(())
}

fn hook<F, Fut, E>(name: impl Into<String>, call: F) -> Hook
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    let call = move || -> futures::future::BoxFuture<'static, Result<Result<(), String>>> {
        let running = call();
        Box::pin(async move { Ok(running.await.map_err(|e| e.to_string())) })
    };
    Hook {
        name: name.into(),
        call: Arc::new(call),
    }
}
