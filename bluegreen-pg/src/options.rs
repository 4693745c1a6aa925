//! What can be set of a replicator, beside its servers.

use bluegreen_core::Color;
use std::path::PathBuf;
use std::time::Duration;

/// What can be set, beside the servers.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) copy_jobs: usize,
    pub(crate) fence_lock_timeout: Duration,
    pub(crate) slot_wait: Duration,
    pub(crate) blue_latency: Duration,
    pub(crate) tools: Option<PathBuf>,
    pub(crate) compare: crate::verify::Options,
    /// How much disk is free: SQL does not show it.
    pub(crate) free_disk: BySide,
    /// How much log a mirror may make a side keep.
    pub(crate) wal_limit: BySide,
}

/// Bytes of a side's disk, as far as they were said.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BySide {
    blue: Option<f64>,
    green: Option<f64>,
}

impl BySide {
    pub(crate) fn of(self, color: Color) -> Option<f64> {
        match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        }
    }

    pub(crate) fn say(&mut self, color: Color, bytes: u64) {
        // An estimate: the digits that a float loses do not matter.
        #[allow(clippy::cast_precision_loss)]
        let bytes = Some(bytes as f64);
        match color {
            Color::Blue => self.blue = bytes,
            Color::Green => self.green = bytes,
        }
    }
}
