//! The journal: what an entry is, what entries mean together, and where they are kept.

mod disk;
pub mod entry;
mod file;
mod line;
mod requests;
pub mod state;
#[cfg(test)]
mod state_tests;
pub mod store;

pub use entry::{Body, Entry, Note, Outcome, PausePart, Signal, StepName};
pub use file::FileJournal;
pub use store::{Journal, Request};
