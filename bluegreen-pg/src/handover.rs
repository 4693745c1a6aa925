//! After the proof: the old writer closed for good, the new one opened; or all of it given back.

use crate::armed::Armed;
use crate::error::{Doing, fault};
use crate::replicator::PgReplicator;
use crate::{marker, mirror, slot, writers};
use bluegreen_core::{Color, Direction, Kind, Result};
use std::time::Instant;

impl PgReplicator {
    /// See `Replicator::hand_over`.
    pub(crate) async fn hand_to(&self, to: Color) -> Result<()> {
        let doing = "hand the writing over";
        let mut guard = self.armed.lock().await;
        let armed = guard
            .as_mut()
            .filter(|a| a.to == to && a.held)
            .ok_or_else(|| fault(Kind::Diverged, doing, format!("{} is not fenced here", to.other())))?;
        let started = Instant::now();
        let reverse = self.name_of(Direction::from(to));
        let (values, ()) = tokio::try_join!(self.close_old(armed, to.other()), async {
            if let Some(quiet) = &armed.quiet {
                quiet.quiet().await;
            }
            slot::advance(&armed.to_writes, &reverse).await?;
            tracing::debug!(elapsed = ?started.elapsed(), "hand over: reverse slot advanced");
            Ok(())
        })?;
        armed.sequences.set(&armed.to_writes, values).await?;
        armed.handed_over = true;
        tracing::debug!(elapsed = ?started.elapsed(), "hand over: done");
        Ok(())
    }

    /// Read-only for good, clients gone, and then the sequences, which nobody can move any more.
    async fn close_old(&self, armed: &Armed, from: Color) -> Result<Vec<(i64, bool)>> {
        let started = Instant::now();
        let settings = &self.context.settings;
        let dbname = settings.server(from).conninfo().dbname();
        writers::close(&armed.from, &settings.name, dbname).await?;
        tracing::debug!(elapsed = ?started.elapsed(), "hand over: old writer closed");
        let (values, ()) = tokio::try_join!(armed.sequences.read(&armed.from_reads), async {
            // Held without a break since the fence, or something may have been written after the marker.
            armed
                .lock
                .batch_execute("SELECT 1")
                .await
                .doing("see that the table lock is still held")
        })?;
        tracing::debug!(elapsed = ?started.elapsed(), "hand over: sequences read");
        Ok(values)
    }

    /// See `Replicator::promote`.
    pub(crate) async fn open_for(&self, to: Color) -> Result<()> {
        let settings = &self.context.settings;
        let started = Instant::now();
        let from = to.other();
        let dbname = |color| settings.server(color).conninfo().dbname();
        let armed = self.armed.lock().await.take();
        match armed {
            Some(mut armed) if armed.to == to && armed.held && armed.handed_over => {
                let armed = &mut armed;
                // The old writer is closed already: the second look at it and the opening need not wait for each other.
                tokio::try_join!(
                    writers::sweep(&armed.from, &settings.name, None),
                    writers::open(&armed.to_writes, &settings.name, dbname(to)),
                )?;
                armed.unlock().await?;
            }
            other => {
                drop(other);
                let (old, new) = tokio::try_join!(settings.connect(from), settings.connect(to))?;
                if writers::is_closed(&old).await? {
                    writers::sweep(&old, &settings.name, None).await?;
                } else {
                    writers::close(&old, &settings.name, dbname(from)).await?;
                }
                writers::open_again(&new, &settings.name, dbname(to)).await?;
            }
        }
        tracing::debug!(elapsed = ?started.elapsed(), %to, "promoted");
        Ok(())
    }

    /// See `Replicator::unfence`.
    pub(crate) async fn give_back(&self, color: Color) -> Result<()> {
        let settings = &self.context.settings;
        let started = Instant::now();
        let other = color.other();
        let mut guard = self.armed.lock().await;
        let (here, there) = tokio::try_join!(settings.connect(color), settings.connect(other))?;
        let mirrored = mirror::look(&there, &self.name_of(Direction::from(color)))
            .await?
            .is_some()
            && marker::is_set_up(&*there).await?;
        if mirrored && !writers::is_closed(&there).await? {
            writers::close(&there, &settings.name, settings.server(other).conninfo().dbname()).await?;
        }
        if writers::is_closed(&here).await? {
            writers::open(&here, &settings.name, settings.server(color).conninfo().dbname()).await?;
        }
        // Last: whoever queued behind the lock goes on where writing is allowed again.
        if let Some(mut armed) = guard.take() {
            if armed.held {
                armed.unlock().await?;
            }
            if armed.to == other && !armed.handed_over {
                armed.quiet = None;
                *guard = Some(armed);
            }
        }
        tracing::debug!(elapsed = ?started.elapsed(), %color, "given back");
        Ok(())
    }
}
