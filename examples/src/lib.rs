//! What the examples share: the insides of the tool and of the demo, so that they can be tested without starting them.

pub mod demo;
pub mod tool;
