//! Moves a live application (code, database, DNS) from a blue environment to a green one, and can go back.

pub mod builder;
pub mod duration;
mod engine;
pub mod error;
pub mod event;
pub mod journal;
pub mod judge;
pub mod migration;
pub mod model;
mod phase;
pub mod plan;
pub mod policy;
pub mod provider;
pub mod report;
pub mod spec;
pub mod status;
pub mod time;
mod url;

pub use builder::{MigrationBuilder, Unset};
pub use error::{Error, Kind, Remedy, Result};
pub use event::Event;
pub use journal::{Body, Entry, FileJournal, Journal, Note, Outcome, PausePart, Request, Signal, StepName};
pub use judge::{Evidence, Feed, Limits, Verdict, Window};
pub use migration::{Handle, Migration, Tick};
pub use model::{Color, Direction, Endpoint, Position, Share};
pub use plan::{Plan, PlannedStep};
pub use policy::{Action, AtOnce, Decision, Linear, Observation, OnFail, Steps, TrafficPolicy};
pub use provider::*;
pub use report::Report;
pub use spec::{Environment, Spec, WritePath};
pub use status::Status;
pub use time::{Clock, SystemClock, Timestamp};

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
