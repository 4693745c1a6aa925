//! What of [`bluegreen_core`] needs HTTP: [`HttpProbe`], which asks an environment whether it is well.

mod error;
mod probe;
mod tls;

pub use error::ProbeError;
pub use probe::HttpProbe;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
