//! `AllGates`: several gates as one.

use super::{Parts, Says, named, together, with_the_way_out};
use crate::error::{Error, Kind, Result};
use crate::model::Color;
use crate::provider::{Finding, GateState, WriteGate};
use async_trait::async_trait;
use futures::future::join_all;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Several gates of one application, which are held, pointed and released together. None is released before all are pointed.
///
/// They are held one after the other, in the order in which they are named. So where a unit of work passes two of them (it is
/// in the first when it enters the second), name them in the order in which it does: the first drains while the second still
/// lets its work through. In the other order the two wait for each other, and the pause fails at its budget. A service that
/// writes to several databases itself needs no second gate: one [`AppGate`](crate::AppGate) whose pools are of all of them.
///
/// ```
/// use bluegreen_core::{AllGates, AppGate};
/// let (orders, stock) = (AppGate::new("blue orders", "green orders"), AppGate::new("blue stock", "green stock"));
/// let gates = AllGates::new().with("orders", orders.clone())?.with("stock", stock.clone())?;
/// # Ok::<(), bluegreen_core::Error>(())
/// ```
///
/// Gates that are apart, as a death or a restart may leave them, are [`Diverged`](Kind::Diverged); a migration whose journal
/// knows which side writes points all of them there.
///
/// A gate that others hold while no migration is under way is left alone, unless one of the parts begins held with its process
/// ([`WriteGate::starts_held`]).
#[derive(Debug, Default)]
pub struct AllGates {
    parts: Parts<dyn WriteGate>,
    title: String,
}

impl AllGates {
    /// None yet: nothing waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, by a name that is used in messages; it is held after those that are there.
    ///
    /// # Errors
    /// `InvalidInput` when the name is taken or not usable, when it holds nothing, or when another part acts on the same.
    pub fn with(mut self, name: impl Into<String>, gate: impl WriteGate) -> Result<Self> {
        self.parts.add(name.into(), Arc::new(gate), |part| Says {
            provider: part.name().to_owned(),
            acts_on: part.acts_on(),
            is_present: part.is_present(),
        })?;
        let titles: Vec<String> = self
            .parts
            .named
            .iter()
            .map(|(name, part)| format!("{name} by {}", part.name()))
            .collect();
        self.title = titles.join(", then ");
        Ok(self)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl WriteGate for AllGates {
    fn name(&self) -> &str {
        &self.title
    }

    fn acts_on(&self) -> String {
        self.parts.acts_on(WriteGate::acts_on)
    }

    fn is_present(&self) -> bool {
        !self.parts.named.is_empty()
    }

    fn starts_held(&self) -> bool {
        self.parts.named.iter().any(|(_, part)| part.starts_held())
    }

    async fn preflight(&self) -> Result<Vec<Finding>> {
        let found = self.parts.all("look at the gates", |part| part.preflight()).await?;
        Ok(named(self.parts.names(), found))
    }

    async fn hold(&self, within: Duration) -> Result<()> {
        // By real time, as the gates' own drains are.
        let since = Instant::now();
        for (n, (name, part)) in self.parts.named.iter().enumerate() {
            let left = within.saturating_sub(since.elapsed());
            let Err(why) = part.hold(left).await else { continue };
            let held = self.parts.named[..n].iter();
            let released =
                join_all(held.map(|(name, part)| async move { part.release().await.map_err(|e| e.of_part(name)) }));
            return Err(with_the_way_out("hold the gates", why.of_part(name), released.await));
        }
        Ok(())
    }

    async fn point_at(&self, color: Color) -> Result<()> {
        self.parts.all("point the gates", |part| part.point_at(color)).await?;
        Ok(())
    }

    async fn release(&self) -> Result<()> {
        self.parts.all("release the gates", |part| part.release()).await?;
        Ok(())
    }

    async fn state(&self) -> Result<GateState> {
        let mut answers = self.parts.each(|part| part.state()).await;
        // What is apart can be put right; not so what cannot be told, or what somebody pointed elsewhere.
        let apart = |answer: &Result<GateState>| answer.as_ref().is_err_and(|e| e.kind() == Kind::Diverged);
        if answers.iter().any(|answer| answer.is_err() && !apart(answer)) {
            answers.retain(|answer| !apart(answer));
        }
        let states = together("read the gates", answers)?;
        let named = || self.parts.named.iter().zip(&states);
        let held = states.iter().any(|s| s.held);
        // One that begins held has not been told yet where it points.
        let told: Vec<Color> = named()
            .filter(|((_, part), s)| !(s.held && part.starts_held()))
            .map(|(_, s)| s.at)
            .collect();
        let at = told
            .first()
            .or_else(|| states.first().map(|s| &s.at))
            .copied()
            .unwrap_or(Color::Blue);
        if told.iter().all(|other| *other == at) {
            return Ok(GateState { held, at });
        }
        let seen: Vec<String> = named().map(|((name, _), s)| format!("{name} at {}", s.at)).collect();
        let message = format!("they disagree about which side writes: {}", seen.join(", "));
        Err(Error::new(Kind::Diverged, "read the gates", message))
    }
}
