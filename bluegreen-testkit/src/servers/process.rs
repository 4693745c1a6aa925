//! A server's process: who it runs as, on which port, and that it dies with whoever started it.

use super::files::TempFolder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The user a server runs as. PostgreSQL and PgBouncer refuse root, so that root runs them as somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerUser(Option<(u32, u32)>);

impl ServerUser {
    /// Whoever we are; for root, `postgres`, or `nobody` where there is no such user.
    ///
    /// # Errors
    /// As root, when neither exists.
    pub fn unprivileged() -> io::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).map_err(io::Error::from)? {
                return Ok(Self(Some((user.uid.as_raw(), user.gid.as_raw()))));
            }
        }
        Err(io::Error::other(
            "as root, a user `postgres` or `nobody` is needed to run servers as",
        ))
    }

    /// Makes a command run as this user.
    pub fn apply(self, command: &mut Command) -> &mut Command {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or folder to this user.
    ///
    /// # Errors
    /// When the owner cannot be changed.
    pub fn own(self, path: &Path) -> io::Result<()> {
        match self.0 {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

/// Below the range from which the kernel takes ports for outgoing connections: a server that is restarted finds its port free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port that nobody listens on, on any of the loopback addresses tests use, for TCP and UDP. Never given twice by one process.
///
/// Another process may take it before the server does; whoever starts one tries again with another.
///
/// # Errors
/// When none was found.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1000 {
        let port = rand::random_range(PORTS);
        let free = (1..=3).all(|host| {
            let at = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), port);
            TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
        });
        if free && GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(port);
        }
    }
    Err(io::Error::other(format!("no free port in {PORTS:?}")))
}

/// A running server. Dropping it ends the process and removes its folder; so does the death of the process that started it,
/// however sudden.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    watchdog: Child,
    /// How it is ended when we are gone or drop it: at once, its own children too.
    abrupt: Signal,
}

/// Reads until its input ends, which is when whoever started it has died; then ends the server and removes its folder.
const WATCHDOG: &str = r#"cat >/dev/null; kill -"$2" "$1" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
kill -KILL "$1" 2>/dev/null; rm -rf -- "$3""#;

impl ServerProcess {
    /// Starts `command` in a process group of its own. `abrupt` is the signal that ends it at once; `folder` is removed if
    /// we die without a chance to.
    ///
    /// # Errors
    /// When it, or the watchdog beside it, cannot be started.
    pub fn spawn(command: &mut Command, abrupt: Signal, folder: &TempFolder) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(child.id().to_string())
            .arg(abrupt.as_str().trim_start_matches("SIG"))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match watchdog {
            Ok(watchdog) => Ok(Self {
                child,
                watchdog,
                abrupt,
            }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(io::Error::other(format!("the server has ended already ({status})")));
        }
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it has ended; after `within`, kills it and says so.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn wait(&mut self, within: Duration) -> io::Result<ExitStatus> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if since.elapsed() > within {
                self.child.kill()?;
                self.child.wait()?;
                return Err(io::Error::other(format!(
                    "the server did not end within {within:?} and was killed"
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn end(&mut self) -> io::Result<()> {
        // The watchdog first: once the server is reaped, its pid may be somebody else's.
        self.watchdog.kill()?;
        self.watchdog.wait()?;
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        self.signal(self.abrupt)?;
        let since = Instant::now();
        while self.child.try_wait()?.is_none() {
            if since.elapsed() > Duration::from_secs(5) {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("a test server (pid {}) could not be ended: {error}", self.child.id());
        }
    }
}
