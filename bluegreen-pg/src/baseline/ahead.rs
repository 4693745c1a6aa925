//! The follower's log goes to disk ahead of the streams. `COPY` keeps few pages and writes them out itself, each not before the log
//! that made it is on disk; the server's log writer looks for work only every 200 ms (`wal_writer_delay`), so that every
//! stream would come to wait for the disk by itself. A message in the log that belongs to no transaction wakes the log writer.

use super::copy::Copy;
use crate::error::Doing;
use bluegreen_core::{Kind, Result};
use std::sync::Arc;
use std::time::Duration;

/// How often it is woken: two streams write some megabytes meanwhile, and it sleeps on where it is less than one
/// (`wal_writer_flush_after`).
const EVERY: Duration = Duration::from_millis(10);

/// How long after a failure it is tried again.
const LATER: Duration = Duration::from_secs(2);

/// Takes no number of a transaction, and no slot of ours is there yet that would send it on.
const WAKE: &str = "SELECT pg_logical_emit_message(false, 'bluegreen copy', '')";

/// Wakes it until it is dropped. Where that cannot be, the copy is slower and nothing else.
pub(super) async fn keep(copy: Arc<Copy>) {
    while let Err(error) = wake(&copy).await {
        tracing::warn!(%error, "the log is not written ahead of the copy");
        if !matches!(error.kind(), Kind::Unavailable | Kind::Timeout) {
            return;
        }
        tokio::time::sleep(LATER).await;
    }
}

async fn wake(copy: &Copy) -> Result<()> {
    let session = copy.context.settings.connect_copy(copy.direction.follower()).await?;
    loop {
        session
            .batch_execute(WAKE)
            .await
            .doing("wake the log writer of the copy's side")?;
        tokio::time::sleep(EVERY).await;
    }
}
