//! In-memory fakes of every trait. They keep the contracts (the conformance suites hold them to it), live by a
//! [`Clock`](bluegreen_core::Clock), and tell apart what outlives a process and what dies with it.

mod both;
mod database;
mod dns;
mod gate;
mod journal;
mod policy;
mod probe;
mod replicator;
mod zone;

pub use database::{Databases, Refused, Transaction};
pub use dns::FakeDns;
pub use gate::{FakeGate, FakeUnit};
pub use journal::MemoryJournal;
pub use policy::ScriptedPolicy;
pub use probe::{BlindProbe, FakeProbe};
pub use replicator::FakeReplicator;
pub use zone::{Reply, Served};
