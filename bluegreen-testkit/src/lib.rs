//! Fakes, a simulated world, conformance suites and throwaway real servers for testing migrations.

pub mod app;
pub mod clock;
pub mod conformance;
pub mod dns;
pub mod fake;
pub mod fault;
pub mod servers;
pub mod world;

pub use clock::VirtualClock;
pub use fault::{Fault, Faults, Faulty, Rates};
pub use world::World;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
