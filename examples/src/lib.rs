//! What the examples share: the insides of the tool and of the demo, so that they can be tested without starting them.

pub mod demo;
pub mod tool;

/// The example of the repository's README is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So are those of several databases.
#[cfg(doctest)]
#[doc = include_str!("../../docs/several-databases.md")]
struct SeveralDatabases;
