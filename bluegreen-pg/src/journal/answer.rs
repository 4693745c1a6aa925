//! What the journal's server answers: in time or not at all, and with what its errors mean here.

use crate::error::{PgError, describe, fault};
use bluegreen_core::{Error, Kind, Result};
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// When an answer is no longer waited for.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// A call that must be answered in time.
pub(super) async fn timely<T, E: Answered>(call: impl Future<Output = Result<T, E>>, doing: &str) -> Result<T> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer.map_err(|e| e.while_doing(doing)),
        Err(_) => Err(PgError::Elapsed(ANSWER).while_doing(doing)),
    }
}

/// A server's error or one that is ours already.
pub(super) trait Answered {
    fn while_doing(self, doing: &str) -> Error;
}

impl Answered for Error {
    fn while_doing(self, _: &str) -> Error {
        self
    }
}

impl Answered for tokio_postgres::Error {
    fn while_doing(self, doing: &str) -> Error {
        if self.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
            // A failover is under way, nobody has taken the migration over.
            let message = format!("{}: this server is a standby, or was made read-only", describe(&self));
            return fault(Kind::Unavailable, doing, message).because(self);
        }
        let parts = [
            &SqlState::UNDEFINED_TABLE,
            &SqlState::UNDEFINED_COLUMN,
            &SqlState::INVALID_SCHEMA_NAME,
        ];
        if self.code().is_some_and(|code| parts.contains(&code)) {
            // That is not a journal that was never begun, for which `NotFound` stands.
            let message = format!("{}: the schema bluegreen_journal is not whole", describe(&self));
            return fault(Kind::Corrupt, doing, message).because(self);
        }
        PgError::from(self).while_doing(doing)
    }
}

/// Says what was being done when it failed.
pub(super) trait Doing<T> {
    fn doing(self, operation: impl AsRef<str>) -> Result<T>;
}

impl<T, E: Answered> Doing<T> for Result<T, E> {
    fn doing(self, operation: impl AsRef<str>) -> Result<T> {
        self.map_err(|e| e.while_doing(operation.as_ref()))
    }
}
