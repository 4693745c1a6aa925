//! `PgBinaries`: where PostgreSQL's programs of one version are, and which versions there are.

use super::files::cached;
use super::postgres::run;
use super::process::ServerUser;
use nix::unistd::geteuid;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where PostgreSQL's programs of one version are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBinaries {
    dir: PathBuf,
    version: String,
}

impl PgBinaries {
    /// The newest version that the system has; of those fetched for tests only when it has none.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::oldest_first(system_folders()).pop().or_else(|| Self::all().pop())
    }

    /// The programs of a major version.
    #[must_use]
    pub fn major(major: u32) -> Option<Self> {
        Self::all().into_iter().find(|found| found.major_version() == major)
    }

    /// The programs in a folder; none when `postgres` or `initdb` is not there.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Option<Self> {
        let dir = dir.into();
        if !dir.join("initdb").exists() {
            return None;
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
        // `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
        let version = String::from_utf8(output.stdout)
            .ok()?
            .split_whitespace()
            .nth(2)?
            .to_owned();
        Some(Self { dir, version })
    }

    /// One of every major version that is there, oldest first: where distributions install them, on the `PATH`, and what
    /// was fetched for tests (see [`fetched`](Self::fetched)). What the system has comes before what was fetched.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut folders = system_folders();
        folders.extend(versions_in(&Self::fetched()));
        Self::oldest_first(folders)
    }

    /// Where versions that the system does not have are kept for tests, as `18/bin`: `BLUEGREEN_POSTGRES_CACHE`, or
    /// `bluegreen/postgres` in the user's cache; for root, whose own cache nobody else can read, in `/var/cache`.
    #[must_use]
    pub fn fetched() -> PathBuf {
        if let Some(folder) = std::env::var_os("BLUEGREEN_POSTGRES_CACHE") {
            return folder.into();
        }
        let cache = if geteuid().is_root() {
            Some("/var/cache".into())
        } else {
            let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
            std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)
        };
        cache.unwrap_or_default().join("bluegreen/postgres")
    }

    fn oldest_first(folders: Vec<PathBuf>) -> Vec<Self> {
        let mut all: Vec<Self> = folders.into_iter().filter_map(Self::at).collect();
        // Stable: of two of one major version the first stays.
        all.sort_by_key(Self::major_version);
        all.dedup_by_key(|found| found.major_version());
        all
    }

    /// Whether `pg_dump` and `pg_restore` are there too.
    #[must_use]
    pub fn have_dump(&self) -> bool {
        ["pg_dump", "pg_restore"]
            .iter()
            .all(|tool| self.dir.join(tool).is_file())
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The full version: `15.18`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version: `15`.
    #[must_use]
    pub fn major_version(&self) -> u32 {
        let digits = self.version.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// The folder of a new, never started cluster of this version, made once and kept.
    pub(super) fn template(&self, user: ServerUser) -> io::Result<PathBuf> {
        let place: String = self
            .dir
            .to_string_lossy()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        cached(&format!("postgres-{}{place}", self.version), |folder| {
            user.own(folder)?;
            self.init(user, folder)
        })
    }

    /// Makes a cluster in the folder.
    pub(super) fn init(&self, user: ServerUser, folder: &Path) -> io::Result<()> {
        let mut initdb = Command::new(self.dir.join("initdb"));
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        run(user.apply(initdb.arg("--pgdata").arg(folder)).current_dir("/"))
    }
}

fn versions_in(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect()
}

fn system_folders() -> Vec<PathBuf> {
    let mut folders = versions_in(Path::new("/usr/lib/postgresql"));
    folders.extend(versions_in(Path::new("/opt/postgresql")));
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    folders
}
