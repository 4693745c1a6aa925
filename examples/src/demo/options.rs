//! What the demo is asked.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A live application moves from blue to green while clients keep writing; then every acknowledged write is looked for.
#[derive(Debug, Clone, Parser)]
#[command(name = "demo")]
#[allow(clippy::struct_excessive_bools)]
pub struct Options {
    /// How many clients write.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub writers: u16,
    /// How many clients read what was written.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=100))]
    pub readers: u16,
    /// How many orders there are already when it begins.
    #[arg(long, default_value_t = 200_000)]
    pub rows: u64,
    /// How long each client thinks between an answer and its next request, in milliseconds.
    #[arg(long = "think", default_value_t = 2)]
    pub think_ms: u64,
    /// What makes writes wait in the cut-over: a gate in the application, or a real PgBouncer.
    #[arg(long, value_enum, default_value_t = Gate::App)]
    pub gate: Gate,
    /// Who serves the name: a DNS server in this process, or a real PowerDNS.
    #[arg(long, value_enum, default_value_t = Dns::Local)]
    pub dns: Dns,
    /// After the cut-over, return to blue.
    #[arg(long)]
    pub go_back: bool,
    /// Migrate in a process of its own, killed by SIGKILL at random instants and started again until done (with PgBouncer).
    #[arg(long)]
    pub kill: bool,
    /// How often it is killed.
    #[arg(long, default_value_t = 10)]
    pub kills: u32,
    /// The seed of those instants; random, and printed, if nothing is said.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Ends with one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// What the demo starts itself with.
    #[command(subcommand)]
    pub(super) hidden: Option<Hidden>,
}

/// What makes writes wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Gate {
    /// A gate in the application itself.
    App,
    /// A real PgBouncer.
    #[value(name = "pgbouncer")]
    PgBouncer,
}

/// Who serves the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dns {
    /// A server in this process.
    Local,
    /// A real PowerDNS.
    #[value(name = "powerdns")]
    PowerDns,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum Hidden {
    /// One run of the migration, for as long as it lives.
    #[command(hide = true)]
    MigrateOnce {
        /// What to migrate.
        config: PathBuf,
    },
}
