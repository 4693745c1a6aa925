//! `AllDatabases`: several databases as one replicator.

use super::{Parts, Says, merge, named, together};
use crate::error::{Error, Kind, Result};
use crate::model::{Color, Direction, Position};
use crate::provider::{Comparison, Finding, Forecast, MirrorStatus, Replicator};
use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Several databases of one application, which move in one cut-over: all are fenced, all are proven, and one commit record
/// makes green the writer of all.
///
/// Each part moves by a replicator of its own, under a name of its own: what it makes in its databases must not meet what
/// another part makes in the same server (give each `PgReplicator` another name). All of them work at the same time.
///
/// * If one cannot be fenced, proven or handed over, every one is given back, and blue writes all of them.
/// * No part is opened at green while the old writer of another one is known to take writes again.
/// * The mirrors have streamed when all have, and what is asked for again is asked of all: a part that is there already
///   stays as it is.
///
/// ```
/// use bluegreen_core::AllDatabases;
/// # use bluegreen_core::{Replicator, Result};
/// # fn of(orders: impl Replicator, stock: impl Replicator) -> Result<AllDatabases> {
/// let databases = AllDatabases::new().with("orders", orders)?.with("stock", stock)?;
/// # Ok(databases) }
/// ```
///
/// What makes the writes of all of them wait is one gate around all, or [`AllGates`](crate::AllGates).
#[derive(Debug, Default)]
pub struct AllDatabases {
    parts: Parts<dyn Replicator>,
    title: String,
    /// What the comparisons found that are over, while others go on.
    compared: Mutex<BTreeMap<String, Comparison>>,
}

impl AllDatabases {
    /// None yet: a migration of no database.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, by a name that is used in messages.
    ///
    /// # Errors
    /// `InvalidInput` when the name is taken or not usable, when there is no database, or when another part acts on the same.
    pub fn with(mut self, name: impl Into<String>, database: impl Replicator) -> Result<Self> {
        self.parts.add(name.into(), Arc::new(database), |part| Says {
            provider: part.name().to_owned(),
            acts_on: part.acts_on(),
            is_present: part.is_present(),
        })?;
        let mut titles: Vec<String> = self
            .parts
            .named
            .iter()
            .map(|(name, part)| format!("{name} by {}", part.name()))
            .collect();
        titles.sort();
        self.title = titles.join(", ");
        Ok(self)
    }

    fn compared(&self) -> MutexGuard<'_, BTreeMap<String, Comparison>> {
        // Every critical section is a few assignments.
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Replicator for AllDatabases {
    fn name(&self) -> &str {
        &self.title
    }

    fn acts_on(&self) -> String {
        self.parts.acts_on(Replicator::acts_on)
    }

    fn is_present(&self) -> bool {
        !self.parts.named.is_empty()
    }

    async fn preflight(&self) -> Result<Vec<Finding>> {
        let found = self.parts.all("look at the databases", |part| part.preflight()).await?;
        Ok(named(self.parts.names(), found))
    }

    async fn start(&self, direction: Direction) -> Result<()> {
        self.parts
            .all("start the mirrors", |part| part.start(direction))
            .await?;
        Ok(())
    }

    async fn status(&self, direction: Direction) -> Result<MirrorStatus> {
        let answers = self.parts.each(|part| part.status(direction)).await;
        merge::status(self.parts.names().zip(answers).collect())
    }

    fn warnings(&self) -> Vec<String> {
        let said = |(name, part): &(String, Arc<dyn Replicator>)| {
            let named = |what| format!("{name}: {what}");
            part.warnings().into_iter().map(named).collect::<Vec<_>>()
        };
        self.parts.named.iter().flat_map(said).collect()
    }

    fn compares(&self) -> bool {
        self.is_present() && self.parts.named.iter().all(|(_, part)| part.compares())
    }

    async fn compare(&self) -> Result<Comparison> {
        // One that has its answer would begin anew if it were asked again.
        let known = self.compared().clone();
        let asked = self.parts.named.iter().map(|(name, part)| {
            let known = known.get(name).cloned();
            async move {
                match known {
                    Some(known) => Ok(known),
                    None => part.compare().await.map_err(|e| e.of_part(name)),
                }
            }
        });
        let answers = join_all(asked).await;
        let mut found = self.compared();
        for (name, answer) in self.parts.names().zip(&answers) {
            if let Ok(answer @ (Comparison::Same(_) | Comparison::Different { .. })) = answer {
                found.insert(name.to_owned(), answer.clone());
            }
        }
        let answers = together("compare the databases", answers);
        // What passes by itself costs nobody the answer of another; before anything else is mended, all of it is old.
        let keep = match &answers {
            Ok(answers) => answers.iter().any(|c| matches!(c, Comparison::Running { .. })),
            Err(e) => e.is_transient(),
        };
        if !keep {
            found.clear();
        }
        Ok(merge::comparison(self.parts.names().zip(answers?).collect()))
    }

    async fn arm(&self, to: Color, budget: Duration) -> Result<Forecast> {
        let forecasts = self.parts.all("arm the cut-over", |part| part.arm(to, budget)).await?;
        // They are held up by the slowest of them: all work at the same time.
        let expected = forecasts.iter().map(|f| f.expected).max().unwrap_or_default();
        let in_the_way = self
            .parts
            .names()
            .zip(forecasts)
            .flat_map(|(name, f)| f.in_the_way.into_iter().map(move |who| format!("{name}: {who}")));
        Ok(Forecast {
            expected,
            in_the_way: in_the_way.collect(),
        })
    }

    async fn fence(&self, color: Color, within: Duration) -> Result<Position> {
        let asked = self
            .parts
            .named
            .iter()
            .map(|(name, part)| async move { part.fence(color, within).await.map_err(|e| e.of_part(name)) });
        // The first that cannot ends it for all: writers are not kept waiting for a pause that will not be. What the others hold
        // is given back by the caller's `unfence`, who first sees whether the migration is still his.
        let positions = try_join_all(asked).await?;
        merge::position(self.parts.names().zip(positions).collect())
    }

    async fn caught_up(&self, position: &Position) -> Result<bool> {
        let positions = merge::positions(position, &self.parts.names().collect::<Vec<_>>())?;
        let asked = self
            .parts
            .named
            .iter()
            .zip(&positions)
            .map(|((name, part), position)| async move { part.caught_up(position).await.map_err(|e| e.of_part(name)) });
        Ok(try_join_all(asked).await?.into_iter().all(|proven| proven))
    }

    async fn hand_over(&self, to: Color) -> Result<()> {
        let asked = self
            .parts
            .named
            .iter()
            .map(|(name, part)| async move { part.hand_over(to).await.map_err(|e| e.of_part(name)) });
        try_join_all(asked).await?;
        Ok(())
    }

    async fn may_promote(&self, to: Color) -> Result<()> {
        self.parts
            .all("open the new writers", |part| part.may_promote(to))
            .await?;
        Ok(())
    }

    async fn promote(&self, to: Color) -> Result<()> {
        // None is opened where one must not be.
        self.may_promote(to).await?;
        let opened = self.parts.each(|part| part.promote(to)).await;
        let open: Vec<&str> = self
            .parts
            .names()
            .zip(&opened)
            .filter(|(_, o)| o.is_ok())
            .map(|(n, _)| n)
            .collect();
        let open = open.join(", ");
        match together("open the new writers", opened) {
            // Opened by somebody between our look and now: a human has to know what is where.
            Err(e) if e.kind() == Kind::Diverged && !open.is_empty() => {
                let message = format!("{}; open at {to} already: {open}", e.message());
                Err(Error::new(e.kind(), e.operation(), message).because(e))
            }
            answers => answers.map(drop),
        }
    }

    async fn unfence(&self, color: Color) -> Result<()> {
        self.parts.all("unfence", |part| part.unfence(color)).await?;
        Ok(())
    }

    async fn stop(&self, writer: Color) -> Result<()> {
        self.compared().clear();
        self.parts
            .all("take the mirrors away", |part| part.stop(writer))
            .await?;
        Ok(())
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        let left = self.parts.all("look for what is left", |part| part.leftovers()).await?;
        let named = self
            .parts
            .names()
            .zip(left)
            .flat_map(|(name, left)| left.into_iter().map(move |what| format!("{name}: {what}")));
        Ok(named.collect())
    }
}
