//! The journal: what an entry is, what entries mean together, and where they are kept.

pub mod entry;
pub mod store;

pub use entry::{Body, Entry, Note, Outcome, PausePart, Signal, StepName};
pub use store::{Journal, Request};
