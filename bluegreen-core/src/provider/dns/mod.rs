//! `DnsProvider`: a name's records read, changed and asked for.
//! What "effective" means is decided by the engine from what a provider reports here.

mod change;
mod record;

pub(crate) use change::ttl_seconds;
pub use change::{Answer, Applied, AuthorityAnswer, ChangePlan, ChangeStatus, Intent, Receipt};
pub use record::{Record, RecordKind, RecordSet, Shape, Snapshot, Target};
pub(crate) use record::{is_name, weighted_sets};

use crate::error::Result;
use crate::model::Share;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;

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
