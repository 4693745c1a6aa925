//! The contracts that users plug into. A trait a file; what they share is written once, here.
//!
//! # What every provider owes
//!
//! * **Any call may be made again** with the same arguments, after a crash, by another process, with the effect of one.
//! * **A call returns when it is accepted;** a read tells when it is true.
//! * **An error says its kind** ([`Kind`](crate::Kind)): that alone decides whether the engine retries, asks or gives up.
//!   A timeout means "it may have happened", never "it did not".
//! * **No call sleeps beyond one request.** Waiting is the engine's, by its [`Clock`](crate::Clock).
//! * **`Debug`, errors and logs show no secret.**
//! * **Every `.await` may be the last:** a call may be dropped, or its process killed, at any of them.
//!
//! Each trait is object safe, and an `Arc` of a provider is a provider, so one chosen at run time from a configuration
//! file (`Arc<dyn DnsProvider>`) is handed over by the same call as any other.

mod all;
mod comparison;
mod dns;
mod gate;
mod null;
mod probe;
mod replicator;

pub(crate) use dns::{is_name, ttl_seconds, weighted_sets};

pub use all::{AllDatabases, AllGates};
pub use comparison::{ColumnDifference, Compared, Comparison, Difference, Differs};
pub use dns::{
    Answer, Applied, AuthorityAnswer, ChangePlan, ChangeStatus, DnsCapabilities, DnsProvider, Intent, Receipt, Record,
    RecordKind, RecordSet, Shape, Snapshot, Target, Weights,
};
pub use gate::{AppGate, AppGuard, GateState, WriteGate};
pub use null::{NoDatabase, NoDns, NoGate, NoProbe};
pub use probe::{Health, HealthProbe, ProbeFn, probe_fn};
pub use replicator::{Finding, Forecast, Lag, MirrorStatus, Progress, Replicator, Severity};
