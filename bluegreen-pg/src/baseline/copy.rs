//! The rows: several streams of `COPY` from the snapshot straight into the follower, nothing stored between.

use super::plan::{self, Chunk};
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::literal;
use crate::progress::Report;
use crate::replicator::Context;
use bluegreen_core::{Direction, Kind, Result};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// A piece of this size is about a second's work.
const CHUNK_BYTES: u64 = 64 << 20;

/// A server sends a message a row; so many bytes are handed on at a time.
const BUFFER: usize = 64 << 10;

/// Copies every row that the snapshot sees.
pub(super) async fn run(context: &Context, direction: Direction, snapshot: &str, report: &Arc<Report>) -> Result<()> {
    let first = open(context, direction, snapshot).await?;
    let (chunks, rows) = plan::plan(&first.0, CHUNK_BYTES).await?;
    let bytes = chunks.iter().map(|c| c.bytes).sum();
    report.copying(rows, bytes);
    tracing::debug!(
        chunks = chunks.len(),
        tables = plan::pieces(&chunks).len(),
        bytes,
        "copy planned"
    );
    let workers = context.options.copy_jobs.clamp(1, chunks.len().max(1));
    let queue = Arc::new(Mutex::new(VecDeque::from(chunks)));
    let mut set = JoinSet::new();
    set.spawn(work(first, queue.clone(), report.clone()));
    for _ in 1..workers {
        let pair = open(context, direction, snapshot).await?;
        set.spawn(work(pair, queue.clone(), report.clone()));
    }
    while let Some(done) = set.join_next().await {
        // The first failure ends the others: dropping the set aborts them.
        done.map_err(|e| fault(Kind::Unexpected, "copy the rows", format!("a worker died: {e}")))??;
    }
    Ok(())
}

async fn open(context: &Context, direction: Direction, snapshot: &str) -> Result<(Session, Session)> {
    let source = context.settings.connect_copy(direction.origin()).await?;
    let target = context.settings.connect_copy(direction.follower()).await?;
    source
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            literal(snapshot)
        ))
        .await
        .doing("import the snapshot")?;
    // A lost row cannot be noticed before the copy has ended, and then all of it is repeated.
    target
        .batch_execute("SET synchronous_commit = off")
        .await
        .doing("prepare the copy")?;
    Ok((source, target))
}

async fn work(pair: (Session, Session), queue: Arc<Mutex<VecDeque<Chunk>>>, report: Arc<Report>) -> Result<()> {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(chunk) = next else { return Ok(()) };
        copy(&pair.0, &pair.1, &chunk, &report).await?;
    }
}

async fn copy(source: &Session, target: &Session, chunk: &Chunk, report: &Report) -> Result<()> {
    let doing = || format!("copy the rows of {}", chunk.table());
    let mut rows = std::pin::pin!(source.copy_out(&chunk.read()).await.doing(doing())?);
    let mut sink = std::pin::pin!(target.copy_in::<_, Bytes>(&chunk.write()).await.doing(doing())?);
    let mut buffer = BytesMut::with_capacity(2 * BUFFER);
    let mut sent = 0;
    while let Some(part) = rows.next().await {
        let part = part.doing(doing())?;
        buffer.extend_from_slice(&part);
        if buffer.len() >= BUFFER {
            sent += report.count(buffer.len(), chunk.bytes, sent);
            sink.send(buffer.split().freeze()).await.doing(doing())?;
        }
    }
    if !buffer.is_empty() {
        sink.send(buffer.freeze()).await.doing(doing())?;
    }
    let copied = sink.finish().await.doing(doing())?;
    report.rows_done.fetch_add(copied, Ordering::Relaxed);
    // The stream's size is not the table's: what the table has is done now.
    report.bytes_done.fetch_add(chunk.bytes - sent, Ordering::Relaxed);
    Ok(())
}

impl Report {
    /// Counts what was streamed, never more than the piece's size; returns what was counted.
    fn count(&self, streamed: usize, limit: u64, before: u64) -> u64 {
        let more = u64::try_from(streamed).unwrap_or(u64::MAX).min(limit - before);
        self.bytes_done.fetch_add(more, Ordering::Relaxed);
        more
    }
}
