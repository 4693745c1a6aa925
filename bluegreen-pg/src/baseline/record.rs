//! The target's own record of what it has: a row a step of the copy, written in the step's own transaction. After a lost
//! connection, or a crash of the target that forgot what it had acknowledged, it tells what is there.

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::literal;
use bluegreen_core::{Error, Kind, Result};
use tokio_postgres::GenericClient;

/// The statement that records a step; a second time it fails.
pub(super) fn insert(migration: &str, step: i32) -> String {
    format!(
        "INSERT INTO bluegreen.copied (migration, step) VALUES ({}, {step})",
        literal(migration)
    )
}

/// Whether the step was done.
pub(super) async fn has(session: &Session, migration: &str, step: i32) -> Result<bool> {
    let found = session
        .query_opt(
            "SELECT FROM bluegreen.copied WHERE migration = $1 AND step = $2",
            &[&migration, &step],
        )
        .await
        .doing("look for a step of the copy")?;
    Ok(found.is_some())
}

/// Begins a new record.
pub(super) async fn clear(client: &impl GenericClient, migration: &str) -> Result<()> {
    client
        .execute("DELETE FROM bluegreen.copied WHERE migration = $1", &[&migration])
        .await
        .doing("clear the record of the copy")?;
    Ok(())
}

/// How many of the steps are not recorded.
pub(super) async fn missing(client: &impl GenericClient, migration: &str, steps: &[i32]) -> Result<usize> {
    let there: i64 = client
        .query_one(
            "SELECT count(*) FROM bluegreen.copied WHERE migration = $1 AND step = ANY ($2)",
            &[&migration, &steps],
        )
        .await
        .doing("look whether all of the copy is there")?
        .get(0);
    Ok(steps.len().saturating_sub(usize::try_from(there).unwrap_or(0)))
}

/// What is said of a server where so many of its acknowledged steps are missing.
pub(super) fn forgotten(missing: usize, steps: usize) -> Error {
    fault(
        Kind::Diverged,
        "look whether all of the copy is there",
        format!(
            "{missing} of {steps} steps are not: the server has forgotten what it had acknowledged, as after a crash. \
             Start the mirror again, it begins anew"
        ),
    )
}
