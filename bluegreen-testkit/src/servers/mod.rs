//! Throwaway real servers on loopback, started by the tests themselves and gone with them. A server a file; what they
//! share (free ports, the user they run as, processes that never outlive us) is in [`process`].

mod binaries;
mod files;
pub mod pgbouncer;
pub mod postgres;
pub mod powerdns;
pub mod process;

pub use binaries::PgBinaries;
pub use pgbouncer::{PgBouncerBuilder, PgBouncerServer};
pub use postgres::{PgCluster, PgClusterBuilder};
pub use powerdns::{PowerDnsBinaries, PowerDnsServer};
pub use process::{ServerProcess, ServerUser, free_port};

/// The environment variable that turns a missing server from a visible skip into a failure: set to `1` in CI.
pub const REQUIRE: &str = "BLUEGREEN_REQUIRE_SERVERS";

/// The rule for a test that needs a real server: gives back what was found; says so when there is nothing, so that the
/// test can return.
///
/// ```no_run
/// use bluegreen_testkit::servers::{PgBinaries, available};
/// let Some(binaries) = available("PostgreSQL", PgBinaries::find()) else { return };
/// # let _ = binaries;
/// ```
///
/// # Panics
/// When nothing was found and [`REQUIRE`] is `1`.
pub fn available<T>(what: &str, found: Option<T>) -> Option<T> {
    if found.is_none() {
        let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
        assert!(
            !required,
            "{what} is not installed here, and {REQUIRE}=1 says it must be"
        );
        eprintln!("SKIPPED: {what} is not installed here");
    }
    found
}
