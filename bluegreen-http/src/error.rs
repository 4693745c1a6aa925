//! Why a probe could not look at all. What it saw, however ill, is never one of these.

use bluegreen_core::{Error, Kind};

/// What keeps a probe from asking. The source of this crate's [`bluegreen_core::Error`]s.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The endpoint's URL cannot be asked.
    #[error("{url:?} cannot be asked: {reason}; expected http://host[:port]/path or https://..")]
    Url {
        /// The URL, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The production name cannot be sent.
    #[error("{host:?} is no host name: {reason}")]
    Host {
        /// What was given.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A root certificate that was given cannot be read.
    #[error("the root certificate cannot be read: {0}; expected PEM, with a BEGIN CERTIFICATE line")]
    Root(String),
    /// TLS could not be set up on this machine.
    #[error("TLS could not be set up: {0}; install this machine's root certificates, or give your own")]
    Tls(String),
}

impl From<ProbeError> for Error {
    fn from(error: ProbeError) -> Self {
        let kind = match error {
            ProbeError::Tls(_) => Kind::Unexpected,
            _ => Kind::InvalidInput,
        };
        Self::new(kind, "probe", error.to_string())
            .provider("http")
            .because(error)
    }
}
