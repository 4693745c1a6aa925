//! `Faulty`: a provider with faults around it. It keeps each trait's contract about what an error may mean.

use super::{Fault, Faults};
use async_trait::async_trait;
use bluegreen_core::{
    Applied, AuthorityAnswer, ChangePlan, ChangeStatus, Color, Comparison, Direction, DnsCapabilities, DnsProvider,
    Endpoint, Entry, Error, Finding, Forecast, GateState, Health, HealthProbe, Intent, Journal, Kind, MirrorStatus,
    Position, Receipt, Record, Replicator, Request, Result, Snapshot, WriteGate,
};
use std::time::Duration;

/// Any provider, with faults around each of its calls. The operations are named `dns.read`, `replicator.fence`,
/// `gate.hold`, `probe.check`, `journal.append`.
#[derive(Debug, Clone)]
pub struct Faulty<T> {
    inner: T,
    faults: Faults,
    acts_on: Option<String>,
}

impl<T> Faulty<T> {
    /// Wraps a provider with the faults of its process.
    pub fn new(inner: T, faults: &Faults) -> Self {
        Self {
            inner,
            faults: faults.clone(),
            acts_on: None,
        }
    }

    /// Says that it acts on something else than the provider says.
    #[must_use]
    pub fn acting_on(mut self, what: impl Into<String>) -> Self {
        self.acts_on = Some(what.into());
        self
    }

    /// The provider itself.
    pub fn inner(&self) -> &T {
        &self.inner
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: DnsProvider> DnsProvider for Faulty<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn acts_on(&self) -> String {
        self.acts_on.clone().unwrap_or_else(|| self.inner.acts_on())
    }
    fn is_present(&self) -> bool {
        self.inner.is_present()
    }
    fn capabilities(&self) -> DnsCapabilities {
        self.inner.capabilities()
    }
    async fn read(&self, record: &Record) -> Result<Snapshot> {
        self.faults.around("dns.read", self.inner.read(record)).await
    }
    fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan> {
        self.inner.compile(snapshot, intent)
    }
    async fn apply(&self, plan: &ChangePlan) -> Result<Applied> {
        // The contract: what may have happened is `Unknown`, and an error is certain that nothing changed.
        let unknown = |e: Error| Ok(Applied::Unknown(e.message().to_owned()));
        let before = self.faults.count();
        let answer = self.faults.around("dns.apply", self.inner.apply(plan)).await;
        match (answer, self.faults.since(before, "dns.apply")) {
            (Err(e), Some(Fault::FailAfter(_) | Fault::Reject(Kind::Timeout))) => unknown(e),
            (answer, _) => answer,
        }
    }
    async fn poll(&self, receipt: &Receipt) -> Result<ChangeStatus> {
        self.faults.around("dns.poll", self.inner.poll(receipt)).await
    }
    async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>> {
        let ask = self.inner.ask_authorities(record, samples);
        self.faults.around("dns.ask_authorities", ask).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Replicator> Replicator for Faulty<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn acts_on(&self) -> String {
        self.acts_on.clone().unwrap_or_else(|| self.inner.acts_on())
    }
    fn is_present(&self) -> bool {
        self.inner.is_present()
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        self.faults.around("replicator.preflight", self.inner.preflight()).await
    }
    async fn start(&self, direction: Direction) -> Result<()> {
        self.faults
            .around("replicator.start", self.inner.start(direction))
            .await
    }
    async fn status(&self, direction: Direction) -> Result<MirrorStatus> {
        self.faults
            .around("replicator.status", self.inner.status(direction))
            .await
    }
    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
    fn compares(&self) -> bool {
        self.inner.compares()
    }
    async fn compare(&self) -> Result<Comparison> {
        self.faults.around("replicator.compare", self.inner.compare()).await
    }
    async fn arm(&self, to: Color, budget: Duration) -> Result<Forecast> {
        self.faults.around("replicator.arm", self.inner.arm(to, budget)).await
    }
    async fn fence(&self, color: Color, within: Duration) -> Result<Position> {
        self.faults
            .around("replicator.fence", self.inner.fence(color, within))
            .await
    }
    async fn caught_up(&self, position: &Position) -> Result<bool> {
        self.faults
            .around("replicator.caught_up", self.inner.caught_up(position))
            .await
    }
    async fn hand_over(&self, to: Color) -> Result<()> {
        self.faults
            .around("replicator.hand_over", self.inner.hand_over(to))
            .await
    }
    async fn may_promote(&self, to: Color) -> Result<()> {
        self.faults
            .around("replicator.may_promote", self.inner.may_promote(to))
            .await
    }
    async fn promote(&self, to: Color) -> Result<()> {
        self.faults.around("replicator.promote", self.inner.promote(to)).await
    }
    async fn unfence(&self, color: Color) -> Result<()> {
        self.faults
            .around("replicator.unfence", self.inner.unfence(color))
            .await
    }
    async fn stop(&self, writer: Color) -> Result<()> {
        self.faults.around("replicator.stop", self.inner.stop(writer)).await
    }
    async fn leftovers(&self) -> Result<Vec<String>> {
        self.faults.around("replicator.leftovers", self.inner.leftovers()).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: WriteGate> WriteGate for Faulty<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn acts_on(&self) -> String {
        self.acts_on.clone().unwrap_or_else(|| self.inner.acts_on())
    }
    fn is_present(&self) -> bool {
        self.inner.is_present()
    }
    fn starts_held(&self) -> bool {
        self.inner.starts_held()
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        self.faults.around("gate.preflight", self.inner.preflight()).await
    }
    async fn hold(&self, within: Duration) -> Result<()> {
        self.faults.around("gate.hold", self.inner.hold(within)).await
    }
    async fn point_at(&self, color: Color) -> Result<()> {
        self.faults.around("gate.point_at", self.inner.point_at(color)).await
    }
    async fn release(&self) -> Result<()> {
        self.faults.around("gate.release", self.inner.release()).await
    }
    async fn state(&self) -> Result<GateState> {
        self.faults.around("gate.state", self.inner.state()).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: HealthProbe> HealthProbe for Faulty<T> {
    fn is_present(&self) -> bool {
        self.inner.is_present()
    }
    async fn check(&self, endpoint: &Endpoint) -> Result<Health> {
        self.faults.around("probe.check", self.inner.check(endpoint)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Journal> Journal for Faulty<T> {
    async fn load(&self) -> Result<Vec<Entry>> {
        self.faults.around("journal.load", self.inner.load()).await
    }
    async fn append(&self, entry: &Entry) -> Result<()> {
        let before = self.faults.count();
        let answer = self.faults.around("journal.append", self.inner.append(entry)).await;
        match (answer, self.faults.since(before, "journal.append")) {
            // The contract: a journal that cannot say that the entry is not there answers `Corrupt`.
            (Err(e), Some(Fault::FailAfter(_))) => Err(Error::new(Kind::Corrupt, e.operation(), e.message())),
            (answer, _) => answer,
        }
    }
    async fn confirm(&self) -> Result<()> {
        // The contract: for as long as it was assured, it is answered from memory.
        if self.faults.is_assured() {
            return self.inner.confirm().await;
        }
        self.faults.around("journal.confirm", self.inner.confirm()).await
    }
    async fn assure(&self, lasting: Duration) -> Result<()> {
        self.faults.around("journal.assure", self.inner.assure(lasting)).await?;
        self.faults.assured_for(lasting);
        Ok(())
    }
    async fn requests(&self) -> Result<Vec<Request>> {
        self.faults.around("journal.requests", self.inner.requests()).await
    }
    fn has_requests(&self) -> bool {
        self.inner.has_requests()
    }
}
