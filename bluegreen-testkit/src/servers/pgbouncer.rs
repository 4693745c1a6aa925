//! `PgBouncerServer`: a throwaway PgBouncer on 127.0.0.1, with an ini file that a test may rewrite.

use super::files::TempFolder;
use super::postgres::connect;
use super::process::{ServerProcess, ServerUser, free_port};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How a PgBouncer is started. See [`PgBouncerServer::builder`].
#[derive(Debug, Clone)]
pub struct PgBouncerBuilder {
    program: PathBuf,
    databases: Vec<String>,
    settings: Vec<(String, String)>,
}

impl PgBouncerBuilder {
    /// A line of its `[databases]` section: `shop = host=127.0.0.1 port=5432`.
    #[must_use]
    pub fn database(mut self, line: impl Into<String>) -> Self {
        self.databases.push(line.into());
        self
    }

    /// A setting of its `[pgbouncer]` section; the last of a name counts.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Starts it; returns when its admin console answers.
    ///
    /// # Errors
    /// When it does not start; then with its log.
    pub async fn start(self) -> io::Result<PgBouncerServer> {
        let user = ServerUser::unprivileged()?;
        let folder = TempFolder::new("bluegreen-pgbouncer-", user)?;
        let mut attempts = 0;
        loop {
            let port = free_port()?;
            self.configure(folder.path(), port, user)?;
            match spawn(&self.program, &folder, port, user).await {
                Ok(process) => {
                    return Ok(PgBouncerServer {
                        process: Some(process),
                        folder,
                        port,
                        user,
                        program: self.program,
                    });
                }
                // Somebody may have been faster on that port.
                Err(error) if attempts == 3 => return Err(error),
                Err(_) => attempts += 1,
            }
        }
    }

    fn configure(&self, folder: &Path, port: u16, user: ServerUser) -> io::Result<()> {
        let mut ini = String::from("; written by a test\n[databases]\n");
        for line in &self.databases {
            ini += &format!("{line}\n");
        }
        let auth_file = folder.join("users.txt");
        ini += &format!(
            "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
             auth_file = {}\nadmin_users = admin\nstats_users = watcher\npool_mode = transaction\ndefault_pool_size = 20\n",
            auth_file.display()
        );
        for (name, value) in &self.settings {
            ini += &format!("{name} = {value}\n");
        }
        let users = "\"admin\" \"\"\n\"watcher\" \"\"\n\"postgres\" \"\"\n\"app\" \"\"\n";
        for (path, text) in [(folder.join("pgbouncer.ini"), ini.as_str()), (auth_file, users)] {
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640))?;
            user.own(&path)?;
        }
        Ok(())
    }
}

/// A running PgBouncer with the admin user `admin` and the users `postgres` and `app`, none with a password. Dropping it
/// ends it.
#[derive(Debug)]
pub struct PgBouncerServer {
    // Before the folder: fields are dropped in this order.
    process: Option<ServerProcess>,
    folder: TempFolder,
    port: u16,
    user: ServerUser,
    program: PathBuf,
}

impl PgBouncerServer {
    /// The installed program.
    #[must_use]
    pub fn find() -> Option<PathBuf> {
        let path = std::env::var_os("PATH");
        let places = ["/usr/sbin".into(), "/usr/local/sbin".into(), "/usr/bin".into()];
        path.iter()
            .flat_map(std::env::split_paths)
            .chain(places)
            .map(|dir: PathBuf| dir.join("pgbouncer"))
            .find(|program| program.is_file())
    }

    /// One in transaction mode without databases; `program` is what [`find`](Self::find) found.
    #[must_use]
    pub fn builder(program: impl Into<PathBuf>) -> PgBouncerBuilder {
        PgBouncerBuilder {
            program: program.into(),
            databases: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id; none while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// The ini file it reads.
    #[must_use]
    pub fn ini(&self) -> PathBuf {
        self.folder.path().join("pgbouncer.ini")
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// How to connect to its admin console.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("postgres://admin@127.0.0.1:{}/pgbouncer", self.port)
    }

    /// How an application connects to one of its databases.
    #[must_use]
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Sends its process a signal: a stopped one (`SIGSTOP`) is a hung one.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        match &mut self.process {
            Some(process) => process.signal(signal),
            None => Err(io::Error::other("this PgBouncer does not run")),
        }
    }

    /// Ends it at once; clients are disconnected. [`restart`](Self::restart) starts it again.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port with the ini as it is now, after it was ended if it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.process = Some(spawn(&self.program, &self.folder, self.port, self.user).await?);
        Ok(())
    }
}

/// Runs the program on the folder's ini and waits until its admin console answers.
async fn spawn(program: &Path, folder: &TempFolder, port: u16, user: ServerUser) -> io::Result<ServerProcess> {
    let log_path = folder.path().join("log");
    // A log that belongs to another user breaks the next start: ours is opened here and handed over.
    let log = File::options().create(true).append(true).open(&log_path)?;
    let mut command = Command::new(program);
    command
        .arg(folder.path().join("pgbouncer.ini"))
        .current_dir(folder.path());
    command.stdout(log.try_clone()?).stderr(log);
    // SIGTERM ends it at once in every version before 1.23; SIGKILL ends it in all of them, and it has no children.
    let mut process = ServerProcess::spawn(user.apply(&mut command), Signal::SIGKILL, folder)?;
    let url = format!("postgres://admin@127.0.0.1:{port}/pgbouncer");
    let since = Instant::now();
    loop {
        let said = || std::fs::read_to_string(&log_path).unwrap_or_else(|error| format!("(no log: {error})"));
        if let Some(status) = process.ended()? {
            return Err(io::Error::other(format!("pgbouncer ended ({status}): {}", said())));
        }
        match connect(&url).await {
            Ok(_) => return Ok(process),
            Err(error) if since.elapsed() > Duration::from_secs(20) => {
                return Err(io::Error::other(format!(
                    "pgbouncer does not answer: {error}: {}",
                    said()
                )));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
