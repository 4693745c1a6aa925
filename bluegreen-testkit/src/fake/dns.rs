//! `FakeDns`: a zone with several authorities that lag behind each other, weights, and a compare-and-swap.

use super::zone::{Reply, Served, Zone};
use async_trait::async_trait;
use bluegreen_core::{
    Answer, Applied, AuthorityAnswer, ChangePlan, ChangeStatus, Clock, DnsCapabilities, DnsProvider, Error, Intent,
    Kind, Receipt, Record, Result, Shape, Snapshot, Weights,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A DNS provider in memory. Clones are the same zone, so one outlives the "process" that changed it.
///
/// It has weights to the per mille, compare-and-swap and change status unless it is told otherwise, and two authorities
/// of which the second serves a change a second later.
#[derive(Clone)]
pub struct FakeDns {
    clock: Arc<dyn Clock>,
    capabilities: DnsCapabilities,
    zone: Arc<Mutex<Zone>>,
}

impl fmt::Debug for FakeDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeDns")
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl FakeDns {
    /// An empty zone that lives by `clock`.
    pub fn new(clock: impl Clock) -> Self {
        Self {
            clock: Arc::new(clock),
            capabilities: DnsCapabilities::new(Weights::UpTo(1000))
                .with_compare_and_swap()
                .with_change_status(),
            zone: Arc::new(Mutex::new(Zone::new([Duration::ZERO, Duration::from_secs(1)]))),
        }
    }

    /// Has these capabilities and no others.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: DnsCapabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Has an authority for each of these, which serves a change so much later.
    #[must_use]
    pub fn with_authorities(self, lags: impl IntoIterator<Item = Duration>) -> Self {
        self.lock().set_lags(lags);
        self
    }

    /// Draws the answers of weighted records from this seed.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.lock().reseed(seed);
        self
    }

    fn lock(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something at a name from outside, as another tool or a person would.
    pub fn put(&self, record: &Record, served: Served) {
        let now = self.clock.now();
        self.lock().put(record, served, now);
    }

    /// Silences an authority, or lets it speak again.
    pub fn set_silent(&self, authority: usize, silent: bool) {
        self.lock().set_silent(authority, silent);
    }

    /// What one authority answers to one query now, for those who play clients: a weighted record picks one side.
    #[must_use]
    pub fn resolve(&self, record: &Record, authority: usize) -> Option<Reply> {
        let now = self.clock.now();
        self.lock().reply(record, authority, now)
    }

    /// How many authorities there are.
    #[must_use]
    pub fn authorities(&self) -> usize {
        self.lock().lags().len()
    }

    /// Whether an authority is silent.
    #[must_use]
    pub fn is_silent(&self, authority: usize) -> bool {
        self.lock().is_silent(authority)
    }

    /// How often anything was changed.
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.lock().serial()
    }

    fn snapshot(&self, record: &Record) -> Snapshot {
        self.lock().snapshot(record)
    }
}

fn refuse(kind: Kind, operation: &str, message: impl Into<String>) -> Error {
    Error::new(kind, operation, message).provider("fake dns")
}

#[async_trait]
impl DnsProvider for FakeDns {
    fn name(&self) -> &str {
        "fake dns"
    }

    fn capabilities(&self) -> DnsCapabilities {
        self.capabilities
    }

    async fn read(&self, record: &Record) -> Result<Snapshot> {
        Ok(self.snapshot(record))
    }

    fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan> {
        const COMPILE: &str = "compile a change";
        if let Shape::Foreign(what) = &snapshot.shape {
            let message = format!("{} is {what}: it is not ours to change", snapshot.record);
            return Err(refuse(Kind::Conflict, COMPILE, message));
        }
        let mut share = None;
        let mut lines = vec![];
        match intent {
            Intent::Weighted {
                share: wanted,
                ttl,
                owner,
                ..
            } => {
                if let Some(other) = snapshot.owner.as_ref().filter(|other| *other != owner) {
                    let message = format!("{} belongs to the migration {other:?}", snapshot.record);
                    return Err(refuse(Kind::Conflict, COMPILE, message));
                }
                if *ttl < self.capabilities.min_ttl {
                    let message = format!("a TTL of {ttl} s is below the floor of {} s", self.capabilities.min_ttl);
                    return Err(refuse(Kind::Unsupported, COMPILE, message));
                }
                share = self.capabilities.weights.quantise(*wanted);
                let Some(real) = share else {
                    let message = format!("it has no weights: {wanted} cannot be had, only 0 % and 100 %");
                    return Err(refuse(Kind::Unsupported, COMPILE, message));
                };
                lines.push(format!("{}: {real} to green, TTL {ttl} s", snapshot.record));
            }
            Intent::Plain { sets, .. } => {
                lines.extend(sets.iter().map(|set| {
                    let values = set.values.join(", ");
                    format!("{}: plain {} {values}, TTL {} s", snapshot.record, set.kind, set.ttl)
                }));
                if sets.is_empty() {
                    lines.push(format!("{}: removed", snapshot.record));
                }
            }
        }
        let changes = !snapshot.is(intent, share);
        if !changes {
            lines.clear();
        }
        Ok(ChangePlan {
            record: snapshot.record.clone(),
            intent: intent.clone(),
            share,
            before: snapshot.clone(),
            changes,
            body: serde_json::Value::Null,
            lines,
        })
    }

    async fn apply(&self, plan: &ChangePlan) -> Result<Applied> {
        let now = self.clock.now();
        let mut zone = self.lock();
        if plan.changes {
            let current = zone.snapshot(&plan.record);
            if self.capabilities.compare_and_swap && current.version != plan.before.version {
                return Ok(Applied::Conflict(Box::new(current)));
            }
            let served = Served::from_intent(&plan.intent, plan.share);
            zone.put(&plan.record, served, now);
        }
        Ok(Applied::Accepted(Receipt(zone.serial().to_string())))
    }

    async fn poll(&self, receipt: &Receipt) -> Result<ChangeStatus> {
        if !self.capabilities.change_status {
            return Ok(ChangeStatus::Submitted);
        }
        let serial: u32 = receipt.0.parse().map_err(|_| {
            let message = format!("{:?} is not a receipt of this provider", receipt.0);
            refuse(Kind::InvalidInput, "ask for a change", message)
        })?;
        let in_sync = self.lock().is_everywhere(serial, self.clock.now());
        Ok(if in_sync {
            ChangeStatus::InSync
        } else {
            ChangeStatus::Pending
        })
    }

    async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>> {
        let now = self.clock.now();
        let mut zone = self.lock();
        let answers = (0..zone.lags().len()).map(|authority| {
            let last = u8::try_from(authority + 1).unwrap_or(u8::MAX);
            AuthorityAnswer {
                server: SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 53)),
                answer: ask(&mut zone, record, authority, samples, now),
            }
        });
        Ok(answers.collect())
    }
}

fn ask(zone: &mut Zone, record: &Record, authority: usize, samples: u32, now: bluegreen_core::Timestamp) -> Answer {
    if zone.is_silent(authority) {
        return Answer::Silent("no answer in 5 s".into());
    }
    let mut seen = BTreeMap::new();
    let mut ttl = 0;
    for _ in 0..samples {
        let Some(reply) = zone.reply(record, authority, now) else {
            return Answer::Wrong("no such name".into());
        };
        ttl = ttl.max(reply.ttl);
        for value in reply.values {
            *seen.entry(value).or_default() += 1;
        }
    }
    Answer::Serving {
        seen,
        samples,
        ttl,
        serial: Some(zone.serial_at(authority, now)),
    }
}
