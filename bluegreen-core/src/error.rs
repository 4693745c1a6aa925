//! The one public error, its kinds, and the one function that turns a kind into what the engine does about it.

use serde::{Deserialize, Serialize};
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is: this alone decides whether the engine retries, asks a human or gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// What was asked for does not exist.
    NotFound,
    /// Somebody else changed it first, or holds it now.
    Conflict,
    /// We are known and may not.
    PermissionDenied,
    /// We are not who we say we are: a wrong key or password.
    Unauthenticated,
    /// Too many requests; see [`Error::retry_after`].
    RateLimited,
    /// It could not be reached or is not serving now.
    Unavailable,
    /// No answer in time. What was asked for may have happened.
    Timeout,
    /// This provider or server cannot do it.
    Unsupported,
    /// What the user gave is wrong.
    InvalidInput,
    /// The world, or the plan, is not what the journal says it was.
    Diverged,
    /// Stored data is damaged.
    Corrupt,
    /// It can no longer be undone.
    PastNoReturn,
    /// Only a human can say how to go on; the message says what is asked.
    HumanNeeded,
    /// Anything else.
    Unexpected,
}

impl Kind {
    /// Which of several decides what is done: the lowest. What nobody should act upon before it was understood comes first.
    pub(crate) fn gravity(self) -> u8 {
        match (self, Error::new(self, "", "").remedy()) {
            (Self::Diverged, _) => 0,
            (_, Remedy::Ask(_)) => 1,
            (_, Remedy::GiveUp) => 2,
            (_, Remedy::Retry(_)) => 3,
        }
    }
}

/// What to do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// It may pass by itself: try again, after so long if the other side said so.
    Retry(Option<Duration>),
    /// Only a human can mend it; the sentence says how to begin.
    Ask(&'static str),
    /// It will not get better: undo what was done.
    GiveUp,
}

/// Everything that can go wrong, with what was being done and by whom.
///
/// It never holds a secret: providers put only names, addresses without credentials, and servers' own messages here.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    operation: String,
    message: String,
    provider: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`, met while doing `operation` ("read the record"), with a sentence that says what was wrong
    /// and how to mend it.
    ///
    /// ```
    /// use bluegreen_core::{Error, Kind};
    /// let e = Error::new(Kind::Timeout, "read the record", "no answer in 5 s").provider("powerdns");
    /// assert_eq!(e.to_string(), "powerdns: read the record: no answer in 5 s");
    /// assert!(e.is_transient());
    /// ```
    pub fn new(kind: Kind, operation: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            operation: operation.into(),
            message: message.into(),
            provider: None,
            retry_after: None,
            source: None,
        }))
    }

    /// What the user gave is wrong.
    pub fn invalid(operation: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidInput, operation, message)
    }

    /// Names the provider it came from.
    #[must_use]
    pub fn provider(mut self, name: impl Into<String>) -> Self {
        self.0.provider = Some(name.into());
        self
    }

    /// How long the other side asked us to stay away.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Keeps the provider's own error as the source.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says in which of several parts of a provider it was met.
    pub(crate) fn of_part(mut self, part: &str) -> Self {
        self.0.message = format!("{part}: {}", self.0.message);
        self
    }

    /// Several that were met at the same time, as one. It is retried when that may mend them all, and undone only when none
    /// of them asks for a human first.
    pub(crate) fn several(operation: &str, first: Self, more: Vec<Self>) -> Self {
        if more.is_empty() {
            return first;
        }
        let mut all = vec![first];
        all.extend(more);
        let message = all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and ");
        let wait = all.iter().filter_map(Self::retry_after).max();
        all.sort_by_key(|e| e.kind().gravity());
        let worst = all.swap_remove(0);
        let mut error = Self::new(worst.kind(), operation, message).because(worst);
        error.0.retry_after = wait;
        error
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What was being done.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// What went wrong, without the operation and the provider.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// How long to stay away, where the other side said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call may succeed later without anybody mending anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.remedy(), Remedy::Retry(_))
    }

    /// Retry, ask, or give up. The only place where that is decided.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self.0.kind {
            Kind::RateLimited | Kind::Unavailable | Kind::Timeout => Remedy::Retry(self.0.retry_after),
            Kind::Conflict => {
                Remedy::Ask("somebody else changed or holds it: find out who before you let the migration go on")
            }
            Kind::PermissionDenied | Kind::Unauthenticated => {
                Remedy::Ask("grant the right or correct the credential, then run it again")
            }
            Kind::Diverged => Remedy::Ask("the world is not what the journal says: compare them before you go on"),
            Kind::Corrupt => Remedy::Ask("stored data is damaged: restore it from a copy, nothing was touched"),
            Kind::HumanNeeded => Remedy::Ask("mend it, then run it again"),
            Kind::PastNoReturn => Remedy::Ask("this can no longer be undone: go forward"),
            Kind::NotFound | Kind::Unsupported | Kind::InvalidInput | Kind::Unexpected => Remedy::GiveUp,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(provider) = &self.0.provider {
            write!(f, "{provider}: ")?;
        }
        write!(f, "{}: {}", self.0.operation, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)?;
        if let Some(source) = &self.0.source {
            write!(f, " because {source}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|s| &**s as &(dyn StdError + 'static))
    }
}
