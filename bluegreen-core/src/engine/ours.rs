//! Providers that have effects only while the migration is this runner's. A journal whose runner can be replaced while it
//! sleeps (a frozen machine) says so before each effect; what only looks is let through.

use crate::error::{Error, Kind, Result};
use crate::journal::Journal;
use crate::model::{Color, Direction, Position};
use crate::phase::{BUDGETS_OUT, Collaborators, Hook};
use crate::provider::{
    Applied, AuthorityAnswer, ChangePlan, ChangeStatus, Comparison, DnsCapabilities, DnsProvider, Finding, Forecast,
    GateState, Intent, MirrorStatus, Receipt, Record, Replicator, Snapshot, WriteGate,
};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// A provider, and the journal that is asked before each of its effects.
#[derive(Debug)]
struct Ours<T: ?Sized> {
    journal: Arc<dyn Journal>,
    inner: Arc<T>,
}

/// The same collaborators, with effects only while the journal says that they are ours to have.
pub(crate) fn guarded_by(journal: &Arc<dyn Journal>, with: Collaborators) -> Collaborators {
    let hook = |hook: Hook| guarded_hook(journal, hook);
    Collaborators {
        dns: Arc::new(Ours::new(journal, with.dns)),
        replicator: Arc::new(Ours::new(journal, with.replicator)),
        gate: Arc::new(Ours::new(journal, with.gate)),
        deploy: with.deploy.map(hook),
        verify: with.verify.into_iter().map(hook).collect(),
        decommission: with.decommission.map(hook),
        ..with
    }
}

fn guarded_hook(journal: &Arc<dyn Journal>, hook: Hook) -> Hook {
    let (journal, inner) = (Arc::clone(journal), hook.call);
    Hook {
        name: hook.name,
        call: Arc::new(move || {
            let (journal, inner) = (Arc::clone(&journal), Arc::clone(&inner));
            Box::pin(async move {
                journal.confirm().await.map_err(|e| not_begun("run a hook", e))?;
                inner().await
            })
        }),
    }
}

impl<T: ?Sized> Ours<T> {
    fn new(journal: &Arc<dyn Journal>, inner: Arc<T>) -> Self {
        Self {
            journal: Arc::clone(journal),
            inner,
        }
    }

    async fn confirm(&self, effect: &str) -> Result<()> {
        self.journal.confirm().await.map_err(|e| not_begun(effect, e))
    }
}

fn not_begun(effect: &str, why: Error) -> Error {
    let message = format!("not begun, for it cannot be said that this runner still may: {why}");
    Error::new(why.kind(), effect, message).because(why)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl DnsProvider for Ours<dyn DnsProvider> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn acts_on(&self) -> String {
        self.inner.acts_on()
    }
    fn is_present(&self) -> bool {
        self.inner.is_present()
    }
    fn capabilities(&self) -> DnsCapabilities {
        self.inner.capabilities()
    }
    async fn read(&self, record: &Record) -> Result<Snapshot> {
        self.inner.read(record).await
    }
    fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan> {
        self.inner.compile(snapshot, intent)
    }
    async fn apply(&self, plan: &ChangePlan) -> Result<Applied> {
        self.confirm("change the record").await?;
        self.inner.apply(plan).await
    }
    async fn poll(&self, receipt: &Receipt) -> Result<ChangeStatus> {
        self.inner.poll(receipt).await
    }
    async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>> {
        self.inner.ask_authorities(record, samples).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Replicator for Ours<dyn Replicator> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn acts_on(&self) -> String {
        self.inner.acts_on()
    }
    fn is_present(&self) -> bool {
        self.inner.is_present()
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        self.inner.preflight().await
    }
    async fn start(&self, direction: Direction) -> Result<()> {
        self.confirm("start the mirror").await?;
        self.inner.start(direction).await
    }
    async fn status(&self, direction: Direction) -> Result<MirrorStatus> {
        self.inner.status(direction).await
    }
    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
    fn compares(&self) -> bool {
        self.inner.compares()
    }
    async fn compare(&self) -> Result<Comparison> {
        self.inner.compare().await
    }
    async fn arm(&self, to: Color, budget: Duration) -> Result<Forecast> {
        self.confirm("arm the cut-over").await?;
        let forecast = self.inner.arm(to, budget).await?;
        if forecast.against(budget).is_none() {
            // The pause comes next: the last moment at which not to know costs nobody anything.
            let lasting = budget.saturating_mul(BUDGETS_OUT);
            let answer = self.journal.assure(lasting).await;
            answer.map_err(|e| not_begun("begin a pause", e))?;
        }
        Ok(forecast)
    }
    async fn fence(&self, color: Color, within: Duration) -> Result<Position> {
        self.confirm("fence").await?;
        self.inner.fence(color, within).await
    }
    async fn caught_up(&self, position: &Position) -> Result<bool> {
        self.inner.caught_up(position).await
    }
    async fn hand_over(&self, to: Color) -> Result<()> {
        self.confirm("hand over").await?;
        self.inner.hand_over(to).await
    }
    async fn may_promote(&self, to: Color) -> Result<()> {
        self.inner.may_promote(to).await
    }
    async fn promote(&self, to: Color) -> Result<()> {
        self.confirm("open the new writer").await?;
        self.inner.promote(to).await
    }
    async fn unfence(&self, color: Color) -> Result<()> {
        self.confirm("unfence").await?;
        self.inner.unfence(color).await
    }
    async fn stop(&self, writer: Color) -> Result<()> {
        self.confirm("take the mirror away").await?;
        self.inner.stop(writer).await
    }
    async fn leftovers(&self) -> Result<Vec<String>> {
        self.inner.leftovers().await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl WriteGate for Ours<dyn WriteGate> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn acts_on(&self) -> String {
        self.inner.acts_on()
    }
    fn is_present(&self) -> bool {
        self.inner.is_present()
    }
    fn starts_held(&self) -> bool {
        self.inner.starts_held()
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        self.inner.preflight().await
    }
    async fn hold(&self, within: Duration) -> Result<()> {
        self.confirm("hold the gate").await?;
        self.inner.hold(within).await
    }
    async fn point_at(&self, color: Color) -> Result<()> {
        self.confirm("point the gate").await?;
        self.inner.point_at(color).await
    }
    async fn release(&self) -> Result<()> {
        // A journal out of reach must not keep clients waiting; another runner that holds the gate must not lose it.
        match self.confirm("release the gate").await {
            Err(e) if e.kind() == Kind::Conflict => Err(e),
            _ => self.inner.release().await,
        }
    }
    async fn state(&self) -> Result<GateState> {
        self.inner.state().await
    }
}
