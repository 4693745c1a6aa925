//! What can go wrong at a PgBouncer, and what sort of failure each is.

use super::Upstream;
use bluegreen_core::{Error, Kind};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The source of every error the gate gives.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    #[error(
        "the admin console of the PgBouncer at {at} cannot be reached ({source}): see that it runs, that the address is \
         right and that this machine may connect"
    )]
    Unreachable {
        at: String,
        source: Box<tokio_postgres::Error>,
    },
    #[error(
        "the PgBouncer at {at} refuses the login to its admin console ({message}): the user must be in its auth_file and \
         in admin_users, with this password"
    )]
    Login { at: String, message: String },
    #[error("the PgBouncer at {at} gave no answer to {command} within {within:?}")]
    Silent {
        at: String,
        command: String,
        within: Duration,
    },
    #[error("the PgBouncer at {at} refused {command}: {message}")]
    Refused {
        at: String,
        command: String,
        message: String,
    },
    #[error("the PgBouncer at {at} has no database {database:?}: it needs a line of its own in [databases]")]
    NoDatabase { at: String, database: String },
    #[error(
        "transactions through the PgBouncer at {at} still ran after {within:?}: find what keeps them, or raise the pause budget"
    )]
    Busy { at: String, within: Duration },
    #[error(
        "the PgBouncers did not stop opening server connections within {within:?}: see that the database accepts them, and \
         what closes them so often (server_lifetime, server_idle_timeout)"
    )]
    Opening { within: Duration },
    #[error("the pause cut off a login")]
    CutOff,
    #[error("{} cannot be {action} ({source}): the migration must be able to replace the file that PgBouncer reads", path.display())]
    File {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("{} has no line for {database:?} in [databases] ({why}): add `{database} = host=.. port=..`", path.display())]
    NoLine {
        path: PathBuf,
        database: String,
        why: &'static str,
    },
    #[error(
        "the PgBouncer at {at} still sends {database:?} to {seen} after RELOAD, not to {wanted}: it reads another file than \
         {}, or found an error in it (its log says so)", ini.display()
    )]
    NotEffective {
        at: String,
        database: String,
        seen: Box<Upstream>,
        wanted: Box<Upstream>,
        ini: PathBuf,
    },
    #[error("the PgBouncer at {at} sends {database:?} to {seen}, which is neither blue nor green")]
    Foreign {
        at: String,
        database: String,
        seen: Upstream,
    },
    #[error("the PgBouncers disagree about where {database:?} is: {seen}")]
    Disagree { database: String, seen: String },
    #[error("the PgBouncer at {at} is still paused after RESUME: somebody else paused it again")]
    StillPaused { at: String },
    #[error("the runtime is shutting down")]
    ShutDown,
    #[error("{0}; and then the gate could not be released everywhere: {1}")]
    AndUnreleased(Box<GateError>, Box<GateError>),
}

impl GateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } | Self::ShutDown => Kind::Unavailable,
            Self::Login { .. } => Kind::Unauthenticated,
            Self::Silent { .. } | Self::Busy { .. } | Self::Opening { .. } | Self::CutOff => Kind::Timeout,
            Self::Refused { message, .. } if message.contains("admin access needed") => Kind::PermissionDenied,
            Self::Refused { .. } => Kind::Unexpected,
            Self::NoDatabase { .. } | Self::NoLine { .. } => Kind::NotFound,
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
                io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::Unavailable,
            },
            Self::NotEffective { .. } | Self::Disagree { .. } => Kind::Diverged,
            Self::Foreign { .. } | Self::StillPaused { .. } => Kind::Conflict,
            Self::AndUnreleased(first, _) => first.kind(),
        }
    }

    pub(super) fn during(self, operation: &'static str) -> Error {
        Error::new(self.kind(), operation, self.to_string())
            .provider("pgbouncer")
            .because(self)
    }
}
