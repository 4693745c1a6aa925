//! The `bluegreen` tool. `bluegreen --help` says what it does, `examples/shop.toml` is a file for it.

use examples::tool::render::complain;
use examples::tool::run;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// How long what still runs is waited for at the end: an answer that does not come must not keep the process.
const LAST: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would panic in the middle of a step where standard error is closed.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(format!("could not be started: {e}"));
            return ExitCode::from(4);
        }
    };
    let code = runtime.block_on(run::main());
    runtime.shutdown_timeout(LAST);
    code
}
