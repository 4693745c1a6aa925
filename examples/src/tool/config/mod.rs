//! The file: read, checked as far as that can be done without contacting anybody, and turned into what the library takes.
//! Every complaint names the line and what is expected there. Secrets stay in [`Secret`].

mod check;
mod gate;
mod journal;
mod raw;
mod secret;
mod several;
mod traffic;

use bluegreen_core::{Spec, TrafficPolicy};
use bluegreen_dns::Stickiness;
use std::fmt;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use journal::JournalPlace;
pub use secret::Secret;

/// A migration's file, checked.
#[derive(Debug)]
pub struct Config {
    /// The folder of the file: what relative paths and commands are relative to.
    pub folder: PathBuf,
    /// What moves where.
    pub spec: Spec,
    /// Where the journal is.
    pub journal: JournalPlace,
    /// The provider of the name; none when no name moves.
    pub dns: Option<Dns>,
    /// Both databases; none when no database moves, or several.
    pub databases: Option<Databases>,
    /// Several databases that move together.
    pub several: Vec<Named>,
    /// How many streams the first copy has.
    pub copy_jobs: Option<usize>,
    /// How many pieces a comparison digests at a time.
    pub compare_jobs: Option<usize>,
    /// Which part of the time it works.
    pub compare_share: Option<f64>,
    /// The folder with `pg_dump` and `pg_restore`.
    pub pg_tools: Option<PathBuf>,
    /// What makes writes wait.
    pub gate: Gate,
    /// How the share moves.
    pub policy: Arc<dyn TrafficPolicy>,
    /// What a well environment answers; none when there is no environment to ask.
    pub probe: Option<Probe>,
    /// Commands that green must pass.
    pub verify: Vec<String>,
    /// How long each may take.
    pub verify_timeout: Duration,
    /// The command that deploys green.
    pub deploy: Option<String>,
    /// The command that takes blue away in the end.
    pub decommission: Option<String>,
}

/// `[dns]`, for PowerDNS.
#[derive(Debug)]
pub struct Dns {
    /// The API's address.
    pub api: String,
    /// The API's key.
    pub key: Secret,
    /// The server's id.
    pub server: Option<String>,
    /// Whom to ask what is served, instead of the zone's NS records.
    pub authorities: Option<Vec<SocketAddr>>,
    /// How clients come to their side.
    pub stickiness: Stickiness,
    /// How long a request may take.
    pub timeout: Option<Duration>,
    /// The servers run Lua, whatever the API says of it.
    pub lua_is_enabled: bool,
}

/// Both databases.
#[derive(Debug)]
pub struct Databases {
    /// Blue's.
    pub blue: Database,
    /// Green's.
    pub green: Database,
}

/// `[[database]]`: one of several.
#[derive(Debug)]
pub struct Named {
    /// What it is called.
    pub name: String,
    /// Blue's and green's.
    pub databases: Databases,
    /// What makes its writes wait.
    pub gate: Gate,
}

/// One database.
#[derive(Debug)]
pub struct Database {
    /// How we reach it.
    pub url: Secret,
    /// How the other database reaches it, where that differs.
    pub from_peer: Option<Secret>,
    /// How much disk its server has free, in bytes, if it was said.
    pub free_disk: Option<u64>,
    /// How much of its log a mirror may make its server keep, in bytes, if it was said.
    pub wal_limit: Option<u64>,
}

/// `[gate]`.
#[derive(Debug)]
pub enum Gate {
    /// Clients see errors while writes pause.
    None,
    /// PgBouncer, one or several.
    PgBouncer {
        /// Their admin consoles, each with the ini file whose line is rewritten.
        instances: Vec<(Secret, PathBuf)>,
        /// The database's name in it.
        database: String,
        /// Where it finds blue's database: host, port, name.
        blue: (String, u16, String),
        /// Where it finds green's.
        green: (String, u16, String),
    },
}

/// `[probe]`.
#[derive(Debug)]
pub struct Probe {
    /// The statuses of a well environment.
    pub status: RangeInclusive<u16>,
    /// A text its answer holds.
    pub body: Option<String>,
    /// More root certificates to trust, in PEM.
    pub roots: Option<Vec<u8>>,
}

/// What is wrong with the file: where, what, and what is expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// The line it is about, counted from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

/// Where secrets come from besides the file: the environment, which tests replace.
pub type Environment<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

impl Config {
    /// Reads and checks a file; secrets named by `..._env` come from this process's environment.
    ///
    /// # Errors
    /// When it cannot be read or is wrong.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(file, &read(file)?, &|name| std::env::var(name).ok())
    }

    /// Where the migration's journal is, without asking for any secret but the journal's own.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else than it may.
    pub fn journal(file: &Path) -> Result<(JournalPlace, String), ConfigError> {
        let text = read(file)?;
        let mut raw = parse(file, &text)?;
        let reader = check::Reader {
            folder: &folder_of(file),
            environment: &|name| std::env::var(name).ok(),
        };
        let place = journal::place(&mut raw.migration, &reader);
        let place = place.map_err(|check::Fault { at, what }| fault(file, &text, at, what))?;
        Ok((place, raw.migration.into_inner().name.into_inner()))
    }

    /// Checks a file's text.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn parse(file: &Path, text: &str, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let raw = parse(file, text)?;
        check::check(raw, folder_of(file), environment).map_err(|check::Fault { at, what }| fault(file, text, at, what))
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|e| ConfigError {
        file: file.to_owned(),
        line: None,
        what: format!("the file cannot be read: {e}"),
    })
}

fn parse(file: &Path, text: &str) -> Result<raw::File, ConfigError> {
    toml::from_str(text).map_err(|e| fault(file, text, e.span(), one_line(e.message())))
}

fn fault(file: &Path, text: &str, at: Option<Range<usize>>, what: String) -> ConfigError {
    ConfigError {
        file: file.to_owned(),
        line: at.map(|at| line_of(text, at.start)),
        what,
    }
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}
