//! The `bluegreen` tool: a migration described in one TOML file, run from a command line. It shows how another tool wraps
//! the library: read ([`config`]), build ([`wire`]), run ([`run`]), show ([`render`]).

pub mod command;
pub mod config;
mod interrupts;
pub mod render;
pub mod run;
pub mod wire;
