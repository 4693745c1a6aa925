//! A live application moves from blue to green while clients keep writing, and every acknowledged write is looked for.

use clap::Parser;
use examples::demo::{Options, run};
use std::process::ExitCode;

// More than there are cores: a disk that keeps the journal waiting must not keep clients from their answers.
#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo could not run: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprintln!("  because {error}");
                source = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
