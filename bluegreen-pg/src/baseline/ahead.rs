//! The follower's log goes to disk ahead of the streams. A `COPY` works in at most 16 MB of pages and writes each out itself, none before
//! the log that made it is on disk. The server's log writer looks by itself only every 200 ms (`wal_writer_delay`), and the
//! streams commit rarely: each would wait for the disk on its own. A transaction that writes to the log and has no number
//! is never waited for, and wakes the log writer instead (`XLogSetAsyncXactLSN` in PostgreSQL's `xlog.c`); it flushes what
//! all have written, if that is `wal_writer_flush_after` (1 MB) or more.

use super::copy::Copy;
use crate::error::Doing;
use bluegreen_core::Result;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How long after a failure it is tried again.
const LATER: Duration = Duration::from_secs(5);

/// Wakes it every 10 ms, some 1.5 MB of two streams. Less than half a second in one statement: few lines where a server logs all
/// statements, none where it logs those that take long, and soon over when nobody waits for it any more.
const WAKE: &str = "DO $$ BEGIN FOR i IN 1..40 LOOP \
     PERFORM pg_logical_emit_message(false, 'bluegreen copy', ''); COMMIT; PERFORM pg_sleep(0.01); END LOOP; END $$";

/// Wakes it until it is dropped. Where that cannot be, the copy is slower and nothing else.
pub(super) async fn keep(copy: Arc<Copy>) {
    let mut told = false;
    loop {
        let Err(error) = wake(&copy).await;
        if told {
            tracing::debug!(%error, "still, the log is not written ahead of the copy");
        } else {
            tracing::warn!(%error, "the log is not written ahead of the copy, which is slower so; it is tried again");
        }
        told = true;
        tokio::time::sleep(LATER).await;
    }
}

async fn wake(copy: &Copy) -> Result<Infallible> {
    let session = copy.context.settings.connect_copy(copy.direction.follower()).await?;
    loop {
        session
            .batch_execute(WAKE)
            .await
            .doing("wake the log writer of the copy's side")?;
    }
}
