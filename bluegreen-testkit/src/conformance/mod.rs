//! Conformance suites: what every provider of a trait owes, one async function a behaviour.
//!
//! A suite needs a small harness that makes what a trait alone cannot (a write at blue, a foreign record). With it, one
//! macro makes a named test of every behaviour:
//!
//! ```ignore
//! bluegreen_testkit::dns_conformance!(my_provider, async { MyHarness::start().await });
//! ```
//!
//! The expression is evaluated for each test and answers `Option<impl Harness>`; `None` skips the test, and is for a server
//! that is not installed: say so on standard error. A behaviour that a provider does not claim by its capabilities is
//! passed over by itself. The crate that uses a macro needs `tokio` with `macros` and `rt-multi-thread`.
//!
//! A behaviour that is not kept is a panic that says what was seen instead.
#![allow(clippy::missing_panics_doc)]

pub mod clock;
pub mod dns;
pub mod gate;
pub mod journal;
pub mod policy;
pub mod probe;
pub mod replicator;

/// Makes a module of named tests of one suite; the macros of the suites are written with it.
#[macro_export]
macro_rules! conformance_tests {
    ($module:ident, $suite:ident, $harness:expr, [$($behaviour:ident),* $(,)?]) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                async fn $behaviour() {
                    if let Some(harness) = $harness.await {
                        $crate::conformance::$suite::$behaviour(&harness).await;
                    }
                }
            )*
        }
    };
}

/// How often a suite looks again for what should become true; a harness's pause lies between two looks.
const LOOKS: u32 = 3_000;
