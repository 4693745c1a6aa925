//! The PostgreSQL replicator: a first copy without a gap, a mirror either way, a fence that no write slips through,
//! and the proof that nothing is missing.

mod armed;
mod arming;
mod baseline;
mod catalog;
mod cleanup;
pub mod connect;
pub mod conninfo;
mod drift;
mod echo;
pub mod error;
mod fence;
mod guard;
mod handover;
mod holders;
pub mod ident;
mod identity;
pub mod journal;
mod keeper;
mod made;
mod marker;
mod mirror;
mod mirrored;
mod obstacles;
mod options;
pub mod pgbouncer;
mod preflight;
mod progress;
mod replicator;
mod schema;
mod sequences;
mod shut;
mod slot;
mod start;
mod status;
mod stuck;
mod tls;
mod unbound;
mod verify;
mod wal;
mod wire;
mod writers;

pub use connect::{Server, Session, Settings};
pub use error::PgError;
pub use journal::{PgJournal, PgJournalBuilder};
pub use pgbouncer::{PgBouncer, Upstream};
pub use replicator::{PgReplicator, PgReplicatorBuilder};

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
