//! What the preflight says, a family a file: on real clusters, with the fault, without it, and after the command that mends it.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod defaults;
mod event_triggers;
mod extensions;
mod rights;
mod schema;
mod servers;
mod sessions;
mod text;
mod whole;
