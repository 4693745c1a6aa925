//! What can go wrong here, and how a server's answer becomes one of core's kinds.

use bluegreen_core::{Error, Kind};

/// The provider's name in messages.
pub(crate) const PROVIDER: &str = "postgres";

/// The provider's own error, found as the source of [`bluegreen_core::Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// A server answered with an error, or could not be reached.
    #[error("{}", describe(.0))]
    Server(#[from] tokio_postgres::Error),
    /// The replication session failed.
    #[error("replication session: {0}")]
    Replication(#[from] pgwire_replication::PgWireError),
    /// A PostgreSQL program (`pg_dump`, `pg_restore`) failed.
    #[error("{tool}: {message}")]
    Tool {
        /// Which.
        tool: String,
        /// What it printed.
        message: String,
    },
    /// A server refused a statement of the copy, whose bytes we speak ourselves.
    #[error("{message} (SQLSTATE {code})")]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// What it said, with detail, hint and context.
        message: String,
        /// Whether it ended the session with it.
        fatal: bool,
    },
    /// A table of the copy is not what the snapshot saw of it.
    #[error(
        "{0}: what the snapshot saw of it cannot be read any more. Until the copy is over, no TRUNCATE, DROP TABLE, VACUUM FULL, \
         CLUSTER, pg_repack and no ALTER TABLE that rewrites may come to it; then start the mirror again, it begins anew"
    )]
    Changed(String),
    /// A server said what it should not say.
    #[error("protocol: {0}")]
    Protocol(String),
    /// A file or socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Elapsed(std::time::Duration),
}

impl PgError {
    fn kind(&self) -> Kind {
        match self {
            Self::Server(e) => kind_of(e),
            Self::Refused { code, .. } => kind_of_code(code),
            Self::Changed(_) => Kind::Diverged,
            Self::Protocol(_) => Kind::Unexpected,
            Self::Replication(_) | Self::Io(_) => Kind::Unavailable,
            Self::Tool { .. } => Kind::Unexpected,
            Self::Tls(_) => Kind::InvalidInput,
            Self::Elapsed(_) => Kind::Timeout,
        }
    }

    /// Core's error, with what was being done.
    pub(crate) fn while_doing(self, operation: impl Into<String>) -> Error {
        Error::new(self.kind(), operation, self.to_string())
            .provider(PROVIDER)
            .because(self)
    }
}

/// Says what was being done when it failed.
pub(crate) trait Doing<T> {
    /// Turns the error into core's, with the operation.
    fn doing(self, operation: impl Into<String>) -> bluegreen_core::Result<T>;
}

impl<T, E: Into<PgError>> Doing<T> for Result<T, E> {
    fn doing(self, operation: impl Into<String>) -> bluegreen_core::Result<T> {
        self.map_err(|e| e.into().while_doing(operation))
    }
}

/// An error of ours, without a server's error behind it.
pub(crate) fn fault(kind: Kind, operation: impl Into<String>, message: impl Into<String>) -> Error {
    Error::new(kind, operation, message).provider(PROVIDER)
}

/// The server's own words; tokio-postgres prints only "db error".
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
    };
    let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    for more in [db.detail(), db.hint(), db.where_()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

fn kind_of(error: &tokio_postgres::Error) -> Kind {
    let Some(code) = error.code() else {
        let text = error.to_string();
        return match text.as_str() {
            "timeout waiting for server" => Kind::Timeout,
            "error performing TLS handshake" | "invalid configuration" | "invalid connection string" => {
                Kind::InvalidInput
            }
            "authentication error" => Kind::Unauthenticated,
            "error communicating with the server" | "connection closed" | "error connecting to server" => {
                Kind::Unavailable
            }
            _ => Kind::Unexpected,
        };
    };
    kind_of_code(code.code())
}

fn kind_of_code(code: &str) -> Kind {
    match code {
        "28P01" | "28000" => Kind::Unauthenticated,
        "42501" => Kind::PermissionDenied,
        "3D000" | "42704" | "42P01" | "3F000" => Kind::NotFound,
        "55P03" | "57014" => Kind::Timeout,
        "42710" | "42P07" | "42P06" | "25006" => Kind::Conflict,
        "0A000" => Kind::Unsupported,
        "40001" | "40P01" | "55006" | "25P03" => Kind::Unavailable,
        // Out of slots, walsenders or workers: it does not pass by itself.
        "53400" => Kind::Unsupported,
        c if c.starts_with("08") || c.starts_with("53") || c.starts_with("57P") => Kind::Unavailable,
        _ => Kind::Unexpected,
    }
}
