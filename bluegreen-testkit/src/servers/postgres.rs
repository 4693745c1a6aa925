//! `PgCluster`: a throwaway PostgreSQL cluster on 127.0.0.1, copied from a template in a fraction of a second.

use super::binaries::PgBinaries;
use super::files::TempFolder;
use super::process::{ServerProcess, ServerUser, free_port};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

/// How a cluster is started. See [`PgCluster::builder`].
#[derive(Debug, Clone)]
pub struct PgClusterBuilder {
    binaries: Option<PgBinaries>,
    fsync: bool,
    anew: bool,
    port: Option<u16>,
    settings: Vec<(String, String)>,
}

impl PgClusterBuilder {
    /// The programs to run; those of [`PgBinaries::find`] by default.
    #[must_use]
    pub fn binaries(mut self, binaries: PgBinaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// Whether it survives a crash of the machine; off by default, and needed by any test that calls [`PgCluster::crash`].
    #[must_use]
    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// Made by `initdb`, not copied from a template: it has a system identifier of its own, and takes longer.
    #[must_use]
    pub fn anew(mut self) -> Self {
        self.anew = true;
        self
    }

    /// Its port; a free one by default.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// A setting of `postgresql.conf`; the last of a name counts.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Starts it; returns when it answers.
    ///
    /// # Errors
    /// When there are no programs, or it does not start; then with the end of its log.
    pub async fn start(self) -> io::Result<PgCluster> {
        let binaries = self.binaries.clone().or_else(PgBinaries::find);
        let binaries = binaries.ok_or_else(|| io::Error::other("no PostgreSQL is installed here"))?;
        let user = ServerUser::unprivileged()?;
        let anew = self.anew;
        let (folder, binaries) = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let folder = TempFolder::new("bluegreen-pg-", user)?;
            let data = folder.path().join("data");
            if anew {
                binaries.init(user, &data)?;
            } else {
                let mut copy = Command::new("cp");
                copy.arg("-R").arg(binaries.template(user)?).arg(&data);
                run(user.apply(&mut copy).current_dir("/"))?;
            }
            // Copied with the permissions of the template; PostgreSQL insists that nobody else can look in.
            std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            Ok((folder, binaries))
        })
        .await
        .map_err(io::Error::other)??;
        let mut attempts = 0;
        loop {
            let mut cluster = PgCluster {
                process: None,
                port: self.port.map_or_else(free_port, Ok)?,
                user,
                binaries: binaries.clone(),
                folder: None,
            };
            cluster.configure(folder.path(), &self)?;
            match cluster.spawn(&folder).await {
                Ok(()) => {
                    cluster.folder = Some(folder);
                    return Ok(cluster);
                }
                // Somebody may have been faster on that port.
                Err(error) if attempts == 3 => return Err(error),
                Err(_) => attempts += 1,
            }
        }
    }
}

/// A running cluster with the superuser `postgres`, who needs no password. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct PgCluster {
    // Before the folder: fields are dropped in this order.
    process: Option<ServerProcess>,
    folder: Option<TempFolder>,
    port: u16,
    user: ServerUser,
    binaries: PgBinaries,
}

impl PgCluster {
    /// One of the newest version that the system has, with logical decoding on and fsync off.
    ///
    /// # Errors
    /// See [`PgClusterBuilder::start`].
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// One with other settings.
    #[must_use]
    pub fn builder() -> PgClusterBuilder {
        PgClusterBuilder {
            binaries: None,
            fsync: false,
            anew: false,
            port: None,
            settings: Vec::new(),
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id; none while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// The programs it runs.
    #[must_use]
    pub fn binaries(&self) -> &PgBinaries {
        &self.binaries
    }

    /// How to connect to one of its databases as the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join("log"))
    }

    /// A client of one of its databases; its connection is driven by a task of its own.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        connect(&self.url(database)).await
    }

    /// Runs statements in one of its databases.
    ///
    /// # Errors
    /// When one fails.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.connect(database).await?.batch_execute(sql).await
    }

    /// Makes an empty database.
    ///
    /// # Errors
    /// When it exists.
    pub async fn create_database(&self, name: &str) -> Result<(), tokio_postgres::Error> {
        let quoted = name.replace('"', "\"\"");
        self.execute("postgres", &format!("CREATE DATABASE \"{quoted}\"")).await
    }

    /// Stops it: clients are disconnected, everything is written. [`restart`](Self::restart) starts it again.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(&mut self) -> io::Result<()> {
        self.end(Signal::SIGINT).await
    }

    /// Crashes it: nothing more is written, and it recovers from its log at the next start. Only with fsync on.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn crash(&mut self) -> io::Result<()> {
        self.end(Signal::SIGQUIT).await
    }

    /// Starts it again on the same port, after it was stopped if it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await?;
        let Some(folder) = self.folder.take() else {
            return Err(io::Error::other("the cluster has no folder"));
        };
        let result = self.spawn(&folder).await;
        self.folder = Some(folder);
        result
    }

    async fn end(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.signal(signal)?;
        process.wait(Duration::from_secs(30)).await?;
        Ok(())
    }

    fn configure(&self, folder: &Path, builder: &PgClusterBuilder) -> io::Result<()> {
        let switch = if builder.fsync { "on" } else { "off" };
        let port = self.port.to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", ""),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_logical_replication_workers", "20"),
            ("max_worker_processes", "30"),
            ("max_connections", "200"),
            ("shared_buffers", "128MB"),
            ("fsync", switch),
            ("full_page_writes", switch),
            ("timezone", "UTC"),
        ];
        let asked = builder
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let lines: Vec<String> = ours
            .into_iter()
            .chain(asked)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        std::fs::write(folder.join("data/postgresql.conf"), lines.concat())
    }

    /// Runs `postgres` on the folder and waits until it answers.
    async fn spawn(&mut self, folder: &TempFolder) -> io::Result<()> {
        let log_path = folder.path().join("log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut command = Command::new(self.binaries.dir().join("postgres"));
        command
            .arg("-D")
            .arg(folder.path().join("data"))
            .current_dir(folder.path());
        command.stdout(log.try_clone()?).stderr(log);
        let mut process = ServerProcess::spawn(self.user.apply(&mut command), Signal::SIGQUIT, folder)?;
        let url = self.url("postgres");
        let since = Instant::now();
        loop {
            if let Some(status) = process.ended()? {
                return Err(io::Error::other(format!(
                    "postgres ended ({status}): {}",
                    tail(&log_path)
                )));
            }
            match connect(&url).await {
                Ok(_) => break,
                Err(error) if since.elapsed() > Duration::from_secs(60) => {
                    return Err(io::Error::other(format!(
                        "postgres does not answer: {error}: {}",
                        tail(&log_path)
                    )));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        self.process = Some(process);
        Ok(())
    }
}

/// A client whose connection is driven by a task of its own and ends with it.
pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // A broken connection shows as the client's own error.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    Ok(client)
}

pub(super) fn run(command: &mut Command) -> io::Result<()> {
    let Output { status, stderr, .. } = command.output()?;
    if status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let said = String::from_utf8_lossy(&stderr);
    Err(io::Error::other(format!(
        "{program} failed ({status}): {}",
        said.trim()
    )))
}

fn tail(log: &Path) -> String {
    match std::fs::read_to_string(log) {
        Ok(text) => text
            .lines()
            .rev()
            .take(5)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join(" / "),
        Err(error) => format!("(its log cannot be read: {error})"),
    }
}
