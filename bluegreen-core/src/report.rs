//! The report of a migration, as data.

use crate::journal::Entry;

/// What a migration has been through.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its entries.
    pub entries: Vec<Entry>,
}

impl Report {
    /// The report of these entries.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Self {
        Self {
            entries: entries.to_vec(),
        }
    }
}
