//! Where the journal is: a file, or a PostgreSQL database that is neither blue's nor green's.

use super::check::{Fault, Reader};
use super::secret::Sources;
use super::{Databases, Secret, raw};
use bluegreen_pg::conninfo::Conninfo;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// Where a migration's journal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalPlace {
    /// In a file.
    File(PathBuf),
    /// In a database.
    Postgres {
        /// How we reach it.
        url: Secret,
        /// The migration's name: its rows are found by it.
        migration: String,
        /// How long a runner that is not heard of keeps it.
        lease: Duration,
    },
}

const EXPECTED: &str = "expected the path of a file, or postgresql://user@host:port/database";

pub(super) fn place(migration: &mut Spanned<raw::Migration>, reader: &Reader<'_>) -> Result<JournalPlace, Fault> {
    let whole = migration.span();
    let migration = migration.get_mut();
    let sources = Sources {
        name: "journal",
        plain: migration.journal.take(),
        env: migration.journal_env.take(),
        file: migration.journal_file.take(),
    };
    let is_plain = sources.plain.is_some();
    let Some(given) = sources.find(reader.folder, reader.environment)? else {
        return Err(Fault::at(whole, format!("journal is missing: {EXPECTED}")));
    };
    let text = given.get_ref().reveal();
    if is_plain && !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        // Nobody's file is called that, and it may hold a password.
        if text.contains("://") || is_conninfo(text) {
            let what = format!("journal: it is neither a file's path nor such an address: {EXPECTED}");
            return Err(Fault::at(given.span(), what));
        }
        return Ok(JournalPlace::File(reader.folder.join(text)));
    }
    Conninfo::parse(text).map_err(|e| Fault::at(given.span(), format!("journal: {}; {EXPECTED}", e.message())))?;
    // What putting right takes that a dead runner left in a pause; for a pause of its own a runner asks for more.
    let budget = migration
        .pause_budget
        .as_ref()
        .map_or(Duration::from_secs(10), |k| k.get_ref().0);
    Ok(JournalPlace::Postgres {
        url: given.into_inner(),
        migration: migration.name.get_ref().clone(),
        lease: Duration::from_secs(30).max(budget.saturating_mul(3)),
    })
}

/// Whether it is written as libpq's pairs of a key and a value.
fn is_conninfo(text: &str) -> bool {
    let keys = [
        "host", "hostaddr", "port", "dbname", "user", "password", "service", "passfile",
    ];
    let is_key = |before: &str| {
        before
            .split_whitespace()
            .next_back()
            .is_some_and(|key| keys.contains(&key))
    };
    text.match_indices('=').any(|(at, _)| is_key(&text[..at]))
}

/// A journal in a database that is fenced, mirrored and given up with the migration would be no journal.
pub(super) fn is_apart(place: &JournalPlace, databases: &Databases, at: Range<usize>) -> Result<(), Fault> {
    let JournalPlace::Postgres { url, .. } = place else {
        return Ok(());
    };
    let whereabouts = |url: &Secret| {
        let read = Conninfo::parse(url.reveal()).ok();
        read.map(|c| (c.host().to_owned(), c.port(), c.dbname().to_owned()))
    };
    for (name, side) in [("blue", &databases.blue), ("green", &databases.green)] {
        if whereabouts(url) == whereabouts(&side.url) {
            let what = format!(
                "journal: it is in {name}'s database, which is fenced and mirrored: expected another database, best on \
                 another server"
            );
            return Err(Fault::at(at, what));
        }
    }
    Ok(())
}
