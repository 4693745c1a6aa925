//! The words every other file uses: colours, directions, shares, endpoints. Data only, no behaviour beyond their laws.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// One of the two environments: blue is production now, green is where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// The environment that serves production when the migration starts.
    Blue,
    /// The environment the application moves to.
    Green,
}

impl Color {
    /// The opposite environment.
    ///
    /// ```
    /// use bluegreen_core::Color;
    /// assert_eq!(Color::Blue.other(), Color::Green);
    /// ```
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blue => "blue",
            Self::Green => "green",
        })
    }
}

/// Which way a mirror replicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The mirror of the migration itself: blue writes, green follows.
    BlueToGreen,
    /// The reverse mirror after cut-over: green writes, blue follows.
    GreenToBlue,
}

impl Direction {
    /// The mirror whose changes come from `color`.
    #[must_use]
    pub const fn from(color: Color) -> Self {
        match color {
            Color::Blue => Self::BlueToGreen,
            Color::Green => Self::GreenToBlue,
        }
    }

    /// The mirror whose changes arrive at `color`.
    #[must_use]
    pub const fn to(color: Color) -> Self {
        Self::from(color.other())
    }

    /// The side that writes.
    #[must_use]
    pub const fn origin(self) -> Color {
        match self {
            Self::BlueToGreen => Color::Blue,
            Self::GreenToBlue => Color::Green,
        }
    }

    /// The side that follows.
    #[must_use]
    pub const fn follower(self) -> Color {
        self.origin().other()
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.origin(), self.follower())
    }
}

/// How much of the traffic is meant for green, in per mille (0 to 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Share(u16);

impl Share {
    /// Everything goes to blue.
    pub const ZERO: Self = Self(0);
    /// Everything goes to green.
    pub const FULL: Self = Self(1000);

    /// A share in per mille; `None` above 1000.
    ///
    /// ```
    /// use bluegreen_core::Share;
    /// assert_eq!(Share::per_mille(125).unwrap().to_string(), "12.5 %");
    /// assert!(Share::per_mille(1001).is_none());
    /// ```
    #[must_use]
    pub const fn per_mille(value: u16) -> Option<Self> {
        if value <= 1000 { Some(Self(value)) } else { None }
    }

    /// A share in whole per cent; `None` above 100.
    #[must_use]
    pub const fn percent(value: u16) -> Option<Self> {
        if value <= 100 { Some(Self(value * 10)) } else { None }
    }

    /// The share in per mille.
    #[must_use]
    pub const fn as_per_mille(self) -> u16 {
        self.0
    }

    /// The share as a fraction between 0 and 1.
    #[must_use]
    pub fn as_fraction(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// Everything to one colour.
    #[must_use]
    pub const fn all(color: Color) -> Self {
        match color {
            Color::Blue => Self::ZERO,
            Color::Green => Self::FULL,
        }
    }
}

impl TryFrom<u16> for Share {
    type Error = String;
    fn try_from(value: u16) -> Result<Self, String> {
        Self::per_mille(value).ok_or_else(|| format!("a share is 0 to 1000 per mille, not {value}"))
    }
}

impl From<Share> for u16 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(10) {
            write!(f, "{} %", self.0 / 10)
        } else {
            write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
        }
    }
}

/// One thing a [`HealthProbe`](crate::HealthProbe) asks: a URL of one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Whose endpoint it is; `None` when it is asked through the production name, where either may answer.
    pub color: Option<Color>,
    /// The full URL, with the environment's own address as its host.
    pub url: String,
    /// The production name, sent as `Host` and as TLS server name when the environment is asked under its own address.
    pub host: Option<String>,
    /// When an answer that has not come counts as ill.
    pub deadline: Duration,
}

/// An opaque point in a database's log: only the [`Replicator`](crate::Replicator) that made it can read it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(String);

impl Position {
    /// Wraps a replicator's own notation.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The replicator's own notation.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
