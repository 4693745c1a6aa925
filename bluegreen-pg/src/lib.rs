//! The PostgreSQL replicator: a first copy without a gap, a mirror either way, a fence that no write slips through,
//! and the proof that nothing is missing.

pub mod connect;
pub mod conninfo;
pub mod error;
pub mod ident;
pub mod pgbouncer;
mod tls;

pub use connect::{Server, Session, Settings};
pub use error::PgError;
pub use pgbouncer::{PgBouncer, Upstream};
