//! The `bluegreen` tool. `bluegreen --help` says what it does, `examples/shop.toml` is a file for it.

use examples::tool::run;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would panic in the middle of a step where standard error is closed.
        .log_internal_errors(false)
        .init();
    run::main().await
}
