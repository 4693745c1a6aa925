//! Moves a live application (code, database, DNS) from a blue environment to a green one, and can go back.

pub mod duration;
pub mod error;
pub mod journal;
pub mod judge;
pub mod model;
pub mod policy;
pub mod provider;
pub mod time;

pub use error::{Error, Kind, Remedy, Result};
pub use journal::{Body, Entry, FileJournal, Journal, Note, Outcome, PausePart, Request, Signal, StepName};
pub use judge::{Evidence, Verdict};
pub use model::{Color, Direction, Endpoint, Position, Share};
pub use policy::{Action, AtOnce, Decision, Linear, Observation, OnFail, Steps, TrafficPolicy};
pub use provider::*;
pub use time::{Clock, SystemClock, Timestamp};
