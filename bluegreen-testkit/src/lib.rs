//! Fakes, a simulated world, conformance suites and throwaway real servers for testing migrations.

pub mod app;
pub mod dns;
pub mod servers;
