//! What the tool's tests share: its binary, a folder with its file, and small servers that are well.
#![allow(dead_code, unreachable_pub)]

pub mod kill;
pub mod world;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// A migration's file in a folder of its own, and the environment its secrets come from.
pub struct Tool {
    folder: TempDir,
    envs: Vec<(String, String)>,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub text: String,
    pub errors: String,
}

/// The exit code; a panic's or a signal's message when there is none.
pub fn code(said: &Said) -> i32 {
    said.code.unwrap_or_else(|| panic!("killed: {said:?}"))
}

pub struct Running(Child);

pub struct Bare<'a>(&'a Tool);

impl Bare<'_> {
    pub async fn run(&self, command: &str) -> Said {
        Running(self.0.command(&[command]).spawn().unwrap()).end().await
    }
}

impl Tool {
    pub fn new(text: &str) -> Self {
        let tool = Self {
            folder: tempfile::tempdir().unwrap(),
            envs: vec![],
        };
        tool.write(text);
        tool
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// The same with another value.
    pub fn set_env(&mut self, name: &str, value: &str) {
        for (_, given) in self.envs.iter_mut().filter(|(given, _)| given == name) {
            value.clone_into(given);
        }
    }

    /// The same file, for somebody who has no secrets.
    pub fn without_env(&self) -> Bare<'_> {
        Bare(self)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(self.path("migration.toml")).unwrap()
    }

    pub fn write(&self, text: &str) {
        std::fs::write(self.path("migration.toml"), text).unwrap();
    }

    pub fn append(&mut self, text: &str) {
        self.write(&(self.text() + text));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bluegreen"));
        command
            .arg(arguments[0])
            .arg(self.path("migration.toml"))
            .args(&arguments[1..])
            .kill_on_drop(true);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a command; the first argument is its name, the file comes after it.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.envs(self.envs.iter().cloned());
        Running(command.spawn().unwrap())
    }

    /// The same in a process group of its own, as a terminal does it.
    pub fn start_in_group(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.envs(self.envs.iter().cloned()).process_group(0);
        Running(command.spawn().unwrap())
    }

    /// The same with hangups ignored, as `nohup` starts it.
    pub fn start_without_hangups(&self, arguments: &[&str]) -> Running {
        let started = self.command(arguments);
        let started = started.as_std();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
        command.arg(started.get_program()).args(started.get_args());
        command.kill_on_drop(true).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(self.envs.iter().cloned());
        Running(command.spawn().unwrap())
    }

    pub async fn run(&self, command: &str) -> Said {
        self.run_with(&[command]).await
    }

    pub async fn run_with(&self, arguments: &[&str]) -> Said {
        self.start(arguments).end().await
    }

    /// Runs a command again and again until it says what is waited for.
    pub async fn until(&self, command: &str, wanted: impl Fn(&Said) -> bool) {
        let since = Instant::now();
        loop {
            let said = self.run(command).await;
            if wanted(&said) {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "it never came: {said:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Running {
    pub fn signal(&self, signal: Signal) {
        let pid = self.0.id().expect("it has not been waited for");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// Sends a signal to everybody in its group.
    pub fn signal_group(&self, signal: Signal) {
        let pid = self.0.id().expect("it has not been waited for");
        killpg(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// What it prints, a line at a time; then [`end`](Self::end) has none of it.
    pub fn lines(&mut self) -> Lines<BufReader<ChildStdout>> {
        BufReader::new(self.0.stdout.take().unwrap()).lines()
    }

    /// The same of its standard error.
    pub fn errors(&mut self) -> Lines<BufReader<ChildStderr>> {
        BufReader::new(self.0.stderr.take().unwrap()).lines()
    }

    /// Its exit code; none when it was killed.
    pub async fn code(&mut self) -> Option<i32> {
        self.0.wait().await.unwrap().code()
    }

    pub async fn end(self) -> Said {
        let output = tokio::time::timeout(Duration::from_secs(120), self.0.wait_with_output()).await;
        let output = output.expect("the tool ended").unwrap();
        Said {
            code: output.status.code(),
            text: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// An address that answers 200 to everything, as long as it lives.
pub struct Place {
    pub at: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub async fn well() -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                // A probe that hangs up early is its own business.
                if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await;
                }
            });
        }
    });
    Place { at, serving }
}
