//! DNS in this process: an authoritative server over a zone in memory, a provider that changes the zone, and a resolver
//! with a cache that any authoritative server can be asked through.

mod ask;
mod provider;
mod resolver;
mod server;
mod zone;

pub use ask::{Reply, ask};
pub use provider::LocalDns;
pub use resolver::CachingResolver;
pub use server::DnsServer;
pub use zone::{Entry, Zone};
