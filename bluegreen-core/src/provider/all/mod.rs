//! Several databases that move in one cut-over: one `Replicator` of many, one `WriteGate` of many. The engine, the journal
//! and the plan see one of each, so there is one commit record for all.

mod databases;
mod gates;
mod merge;

pub use databases::AllDatabases;
pub use gates::AllGates;

use crate::error::{Error, Result};
use crate::provider::Finding;
use futures::future::join_all;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

/// The parts, by name, in the order in which they were added.
#[derive(Debug)]
struct Parts<T: ?Sized> {
    named: Vec<(String, Arc<T>)>,
}

/// What a part says of itself when it is added.
struct Says {
    provider: String,
    acts_on: String,
    is_present: bool,
}

impl<T: ?Sized> Default for Parts<T> {
    fn default() -> Self {
        Self { named: vec![] }
    }
}

impl<T: ?Sized> Parts<T> {
    /// Adds one, if its name and what it acts on are its own.
    fn add(&mut self, name: String, part: Arc<T>, says: impl Fn(&T) -> Says) -> Result<()> {
        let wrong = |what: String| Err(Error::invalid("put several in one", what));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            return wrong(format!(
                "the name {name:?} is not usable: 1 to 32 letters, digits, '-' or '_' are expected"
            ));
        }
        let new = says(&*part);
        if !new.is_present {
            return wrong(format!(
                "{name} is {}, of which there is nothing to move or to hold: leave it out",
                new.provider
            ));
        }
        for (other, there) in &self.named {
            if *other == name {
                return wrong(format!("two are named {name}: each needs a name of its own"));
            }
            // A provider that does not tell says its own name.
            if new.acts_on != new.provider && says(&**there).acts_on == new.acts_on {
                return wrong(format!("{other} and {name} both act on {}: name it once", new.acts_on));
            }
        }
        self.named.push((name, part));
        Ok(())
    }

    /// Asks each at the same time, and hears each out. Errors name their part.
    async fn each<'a, R, F>(&'a self, call: impl Fn(&'a T) -> F) -> Vec<Result<R>>
    where
        F: Future<Output = Result<R>>,
    {
        let asked = self.named.iter().map(|(name, part)| {
            let answer = call(part);
            async move { answer.await.map_err(|e| e.of_part(name)) }
        });
        join_all(asked).await
    }

    /// The same, and all answers or all errors in one.
    async fn all<'a, R, F>(&'a self, doing: &str, call: impl Fn(&'a T) -> F) -> Result<Vec<R>>
    where
        F: Future<Output = Result<R>>,
    {
        together(doing, self.each(call).await)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(name, _)| name.as_str())
    }

    /// What they act on, in whatever order they were added.
    fn acts_on(&self, says: impl Fn(&T) -> String) -> String {
        let all: BTreeSet<String> = self
            .named
            .iter()
            .map(|(name, part)| format!("{name}: {}", says(part)))
            .collect();
        all.into_iter().collect::<Vec<_>>().join("; ")
    }
}

/// All answers, or all errors in one.
fn together<R>(doing: &str, answers: Vec<Result<R>>) -> Result<Vec<R>> {
    let (mut all, mut errors) = (Vec::with_capacity(answers.len()), vec![]);
    for answer in answers {
        match answer {
            Ok(answer) => all.push(answer),
            Err(e) => errors.push(e),
        }
    }
    if errors.is_empty() {
        return Ok(all);
    }
    let first = errors.remove(0);
    Err(Error::several(doing, first, errors))
}

/// Why something was not done, and what else went wrong in taking the rest of it back.
fn with_the_way_out(doing: &str, why: Error, way_out: Vec<Result<()>>) -> Error {
    Error::several(doing, why, way_out.into_iter().filter_map(Result::err).collect())
}

/// Findings, each with the name of its part.
fn named<'a>(names: impl Iterator<Item = &'a str>, found: Vec<Vec<Finding>>) -> Vec<Finding> {
    let all = names.zip(found).flat_map(|(name, findings)| {
        findings.into_iter().map(move |finding| Finding {
            seen: format!("{name}: {}", finding.seen),
            ..finding
        })
    });
    all.collect()
}
