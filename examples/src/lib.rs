//! What the examples share: the tool's inside, so that it can be tested without starting it.

pub mod tool;
