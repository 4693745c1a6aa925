//! DNS providers for [`bluegreen_core`], and asking every authoritative server of a zone what it really serves.
//!
//! A provider a folder: [`PowerDns`] speaks PowerDNS's HTTP API and weighs with its Lua records. [`authority`] is what
//! every provider uses to ask the servers themselves, past any cache: what an API accepted is not yet what users see.

pub mod authority;
mod error;
mod powerdns;

pub use error::DnsError;
pub use powerdns::{PowerDns, Stickiness};

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
