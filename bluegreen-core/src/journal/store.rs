//! `Journal`: where entries become durable. Compare-and-append is the lock between two runners.

use super::entry::{Entry, Signal};
use crate::error::Result;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An operator's request that came from outside the running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Unique, so that it is heard once.
    pub id: String,
    /// What the operator says.
    pub signal: Signal,
}

/// Keeps the entries of one migration.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// All entries, in order.
    ///
    /// # Errors
    /// `Corrupt` when an entry that was once whole is damaged; nothing is touched then. `Conflict` when another runner
    /// holds the journal.
    async fn load(&self) -> Result<Vec<Entry>>;

    /// Appends an entry if its `seq` is the next one; returns when it is durable.
    ///
    /// # Errors
    /// `Conflict` when `seq` is not next: another runner was here, and this one must stop without any effect. Any other
    /// error means that the entry is **not** in the journal; an implementation that cannot say so answers `Corrupt`.
    async fn append(&self, entry: &Entry) -> Result<()>;

    /// Whether the migration is still this runner's: asked before every effect, also inside the pause, so it is answered
    /// from memory where that can be. A journal that nobody can take over while its runner lives (a lock that dies with the
    /// process) need not say anything.
    ///
    /// # Errors
    /// `Conflict` when another runner has taken it over; anything else when that cannot be told. In both cases nothing is
    /// begun any more.
    async fn confirm(&self) -> Result<()> {
        Ok(())
    }

    /// Makes sure that the migration stays this runner's for so long, though the journal be out of reach from now on:
    /// [`confirm`](Self::confirm) then says so from memory. Asked while writes still flow, right before they are held: never
    /// answered from memory, for a pause that begins must have a way out.
    ///
    /// # Errors
    /// As [`confirm`](Self::confirm); no pause begins then.
    async fn assure(&self, _lasting: Duration) -> Result<()> {
        self.confirm().await
    }

    /// What operators have asked for from other processes: all of it, also what was heard before (the engine knows by the
    /// id). A journal without such a door answers none, and `None` for how often to look.
    ///
    /// # Errors
    /// When it could not look.
    async fn requests(&self) -> Result<Vec<Request>> {
        Ok(vec![])
    }

    /// Whether [`requests`](Self::requests) may ever answer anything.
    fn has_requests(&self) -> bool {
        false
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Journal + ?Sized> Journal for Arc<T> {
    async fn load(&self) -> Result<Vec<Entry>> {
        (**self).load().await
    }
    async fn append(&self, entry: &Entry) -> Result<()> {
        (**self).append(entry).await
    }
    async fn confirm(&self) -> Result<()> {
        (**self).confirm().await
    }
    async fn assure(&self, lasting: Duration) -> Result<()> {
        (**self).assure(lasting).await
    }
    async fn requests(&self) -> Result<Vec<Request>> {
        (**self).requests().await
    }
    fn has_requests(&self) -> bool {
        (**self).has_requests()
    }
}
