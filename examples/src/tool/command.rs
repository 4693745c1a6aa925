//! Commands of the file, run by a shell: what green must pass, what deploys it, what takes blue away.

use super::render::complain;
use bluegreen_core::duration::format_duration;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// One command, where it runs and what it is told.
#[derive(Debug, Clone)]
pub struct Shell {
    /// For `sh -c`.
    pub command: String,
    /// The folder it runs in.
    pub folder: PathBuf,
    /// What `BASE_URL` says; green's address.
    pub base_url: Option<String>,
    /// When it is given up and killed; never, if none.
    pub timeout: Option<Duration>,
}

impl Shell {
    /// Runs it. What it prints goes to our standard error: our standard output is for events.
    ///
    /// # Errors
    /// When it cannot be started, ends with another status than 0, or takes too long.
    pub async fn run(self) -> Result<(), String> {
        let Self {
            command,
            folder,
            base_url,
            timeout,
        } = self;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&command).current_dir(&folder).kill_on_drop(true);
        // A group of its own: an interrupt at the terminal is for us, and a command that takes too long ends with its children.
        shell.process_group(0);
        shell.stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr()));
        if let Some(url) = base_url {
            shell.env("BASE_URL", url);
        }
        let child = shell.spawn();
        let mut group = Group(child.map_err(|e| format!("{command:?} could not be started: {e}"))?);
        let ended = match timeout {
            None => group.0.wait().await,
            Some(limit) => match tokio::time::timeout(limit, group.0.wait()).await {
                Ok(ended) => ended,
                Err(_) => {
                    let limit = format_duration(limit);
                    group
                        .end()
                        .await
                        .map_err(|e| format!("{command:?} took longer than {limit} and could not be killed: {e}"))?;
                    return Err(format!("{command:?} took longer than {limit} and was killed"));
                }
            },
        };
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{command:?} ended with {status}")),
            Err(e) => Err(format!("{command:?} could not be waited for: {e}")),
        }
    }
}

/// A command and what it started. All of it ends when nobody waits for it any more: an operator stopped or gave up.
struct Group(Child);

impl Group {
    fn kill(&self) -> io::Result<()> {
        // None when it has ended and was waited for.
        match self.0.id().and_then(|id| i32::try_from(id).ok()) {
            Some(group) => Ok(killpg(Pid::from_raw(group), Signal::SIGKILL)?),
            None => Ok(()),
        }
    }

    async fn end(&mut self) -> io::Result<()> {
        self.kill()?;
        self.0.wait().await.map(|_| ())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            complain(format!("a command that was to end could not be killed: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(command: &str) -> Shell {
        Shell {
            command: command.into(),
            folder: "/".into(),
            base_url: Some("http://green".into()),
            timeout: Some(Duration::from_secs(20)),
        }
    }

    #[tokio::test]
    async fn a_command_is_told_the_address_and_its_status_counts() {
        assert_eq!(
            shell("test \"$BASE_URL\" = http://green && test \"$PWD\" = /")
                .run()
                .await,
            Ok(())
        );
        let failed = shell("exit 3").run().await.unwrap_err();
        assert!(failed.contains("\"exit 3\" ended with exit status: 3"), "{failed}");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed() {
        let slow = Shell {
            timeout: Some(Duration::from_millis(100)),
            ..shell("exec sleep 60")
        };
        let failed = slow.run().await.unwrap_err();
        assert!(failed.contains("took longer than 100ms and was killed"), "{failed}");
    }

    #[tokio::test]
    async fn what_it_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let slow = Shell {
            timeout: Some(Duration::from_millis(500)),
            folder: folder.path().into(),
            ..shell("sleep 600 & echo $! > child; wait")
        };
        slow.clone().run().await.unwrap_err();
        gone(&folder).await;
        std::fs::remove_file(folder.path().join("child")).unwrap();

        // As when an operator does not want it any more.
        let endless = Shell { timeout: None, ..slow };
        let running = tokio::spawn(endless.run());
        while !std::fs::read_to_string(folder.path().join("child")).is_ok_and(|pid| pid.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        gone(&folder).await;
    }

    /// Waits until the child is no more.
    async fn gone(folder: &tempfile::TempDir) {
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // Who is left of its ancestors may take a while to bury it.
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        for _ in 0..500 {
            if !lives() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it outlives the command that started it");
    }
}
