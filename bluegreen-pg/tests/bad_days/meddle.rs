//! A replicator at one of whose calls, before or after it, something is done to the world: once, or each time.

use async_trait::async_trait;
use bluegreen_core::{Color, Direction, Finding, Forecast, MirrorStatus, Position, Replicator, Result};
use bluegreen_pg::PgReplicator;
use futures::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    BeforeFence,
    AfterFence,
    AfterProof,
    AfterHandOver,
    BeforePromote,
}

type Deed = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

pub struct Meddling {
    inner: PgReplicator,
    deed: Option<(At, u32, Deed)>,
    done: Arc<AtomicU32>,
}

impl fmt::Debug for Meddling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddling").finish_non_exhaustive()
    }
}

impl Meddling {
    pub fn new(inner: PgReplicator) -> Self {
        Self {
            inner,
            deed: None,
            done: Arc::default(),
        }
    }

    /// What is done there, the first so many times that it comes by.
    pub fn at<F>(mut self, at: At, times: u32, deed: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.deed = Some((at, times, Box::new(move || Box::pin(deed()))));
        self
    }

    /// How often it came by there.
    pub fn comings(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.done)
    }

    async fn passes(&self, at: At) {
        if let Some((where_, times, deed)) = &self.deed
            && *where_ == at
            && self.done.fetch_add(1, Ordering::SeqCst) < *times
        {
            // On its own: a caller who gives up must not leave a server half restarted.
            tokio::spawn(deed()).await.unwrap();
        }
    }
}

#[async_trait]
impl Replicator for Meddling {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        self.inner.preflight().await
    }
    async fn start(&self, direction: Direction) -> Result<()> {
        self.inner.start(direction).await
    }
    async fn status(&self, direction: Direction) -> Result<MirrorStatus> {
        self.inner.status(direction).await
    }
    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
    async fn arm(&self, to: Color, budget: Duration) -> Result<Forecast> {
        self.inner.arm(to, budget).await
    }
    async fn fence(&self, color: Color, within: Duration) -> Result<Position> {
        self.passes(At::BeforeFence).await;
        let answer = self.inner.fence(color, within).await;
        self.passes(At::AfterFence).await;
        answer
    }
    async fn caught_up(&self, position: &Position) -> Result<bool> {
        let answer = self.inner.caught_up(position).await;
        if matches!(answer, Ok(true)) {
            self.passes(At::AfterProof).await;
        }
        answer
    }
    async fn hand_over(&self, to: Color) -> Result<()> {
        let answer = self.inner.hand_over(to).await;
        self.passes(At::AfterHandOver).await;
        answer
    }
    async fn promote(&self, to: Color) -> Result<()> {
        self.passes(At::BeforePromote).await;
        self.inner.promote(to).await
    }
    async fn unfence(&self, color: Color) -> Result<()> {
        self.inner.unfence(color).await
    }
    async fn stop(&self, writer: Color) -> Result<()> {
        self.inner.stop(writer).await
    }
    async fn leftovers(&self) -> Result<Vec<String>> {
        self.inner.leftovers().await
    }
}
