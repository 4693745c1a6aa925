//! The source behind this crate's [`bluegreen_core::Error`]s, and how each becomes one.

use bluegreen_core::{Error, Kind};
use std::time::Duration;

/// What went wrong with a DNS provider's API or an authoritative server. Never holds a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The API's address cannot be used.
    #[error("{url:?} is no API address: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The API key cannot be sent in a header.
    #[error("the API key holds characters that no HTTP header can carry")]
    Key,
    /// This machine's root certificates or TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(String),
    /// No connection was made, so nothing was asked.
    #[error("no connection: {0}")]
    Connect(String),
    /// A connection was made and no whole answer came in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The connection broke before the whole answer was there.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The API answered with an error.
    #[error("HTTP {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The server's own words.
        message: String,
        /// How long it asked us to stay away.
        retry_after: Option<Duration>,
    },
    /// The API's answer could not be read.
    #[error("the answer is not what this API answers: {0}")]
    Body(String),
}

impl DnsError {
    /// Whether a request that failed like this may have been carried out all the same.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Broken(_) | Self::Body(_) => true,
            // A proxy's or a server's own failure says nothing about what the transaction did.
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// The public error, with what was being done and by which provider.
    pub(crate) fn into_error(self, provider: &'static str, operation: impl Into<String>) -> Error {
        let (kind, mend) = match &self {
            Self::Url { .. } => (Kind::InvalidInput, "expected http://host:port or https://host:port"),
            Self::Key => (Kind::InvalidInput, "look for a line break or a stray character in it"),
            Self::Tls(_) => (Kind::Unexpected, "install this machine's root certificates"),
            Self::Connect(_) => (Kind::Unavailable, "is the API's address right, and does it run?"),
            Self::Silent(_) => (Kind::Timeout, "is it overloaded, or does something drop its packets?"),
            Self::Broken(_) => (Kind::Unavailable, "is something in between closing it?"),
            Self::Body(_) => (Kind::Unexpected, "is the address really that of this API?"),
            Self::Status { status, .. } => match status {
                401 => (Kind::Unauthenticated, "correct the API key"),
                403 => (Kind::PermissionDenied, "the key may not do this: grant it the zone"),
                404 => (Kind::NotFound, "correct the zone, or the server id"),
                409 => (Kind::Conflict, "somebody else changes it now"),
                429 => (Kind::RateLimited, "it will be asked again later"),
                400 | 422 => (Kind::InvalidInput, "it refused what was sent"),
                500.. => (Kind::Unavailable, "see the server's own log"),
                _ => (Kind::Unexpected, "is the address really that of this API?"),
            },
        };
        let error = Error::new(kind, operation, format!("{self}; {mend}")).provider(provider);
        let after = if let Self::Status { retry_after, .. } = &self {
            *retry_after
        } else {
            None
        };
        match after {
            Some(wait) => error.after(wait),
            None => error,
        }
        .because(self)
    }
}
