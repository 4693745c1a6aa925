//! Who holds a lease, said so that another process on the same machine can tell that it is dead and need not wait.

/// A process, by what no later one on the same machine has again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runner {
    host: String,
    pid: u32,
    /// When it started, in the kernel's ticks since the boot; empty where that cannot be read.
    start: String,
    /// The boot, and the namespace that its pid is counted in.
    machine: String,
}

impl Runner {
    /// This process.
    pub(super) fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).ok();
        let namespace = std::fs::read_link("/proc/self/ns/pid").map(|p| p.to_string_lossy().into_owned());
        let pid = std::process::id();
        Self {
            host: read("/proc/sys/kernel/hostname").unwrap_or_else(|| "an unknown host".into()),
            pid,
            start: stat(pid).map(|(_, start)| start).unwrap_or_default(),
            machine: match (read("/proc/sys/kernel/random/boot_id"), namespace) {
                (Some(boot), Ok(namespace)) => format!("{boot}/{namespace}"),
                _ => String::new(),
            },
        }
    }

    /// The form that is kept.
    pub(super) fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n{}", self.pid, self.start, self.machine, self.host)
    }

    /// Reads it again.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '\n');
        let (pid, start, machine, host) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            host: host.to_owned(),
            pid: pid.parse().ok()?,
            start: start.to_owned(),
            machine: machine.to_owned(),
        })
    }

    /// Whether it is certain that this process is no more: it ran on this machine, in this boot, and is gone.
    pub(super) fn is_dead(&self) -> bool {
        let this = Self::this();
        if self.machine.is_empty() || self.start.is_empty() || self.machine != this.machine {
            return false;
        }
        match stat(self.pid) {
            Some((state, start)) => start != self.start || (matches!(state, 'Z' | 'X') && threads(self.pid) <= 1),
            // Not to be seen is not gone (hidepid): only the kernel knows.
            None => is_gone(self.pid),
        }
    }
}

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// The state and the start of a process.
fn stat(pid: u32) -> Option<(char, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, a closing bracket too: what follows the last one is fields.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, (*fields.get(19)?).to_owned()))
}

/// Whether the kernel knows no such process; one that it keeps from us is there.
#[cfg(unix)]
fn is_gone(pid: u32) -> bool {
    use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
    // Nothing below 1 is a process.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

#[cfg(not(unix))]
fn is_gone(_: u32) -> bool {
    false
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn knows_the_living_from_the_dead() {
        let this = Runner::this();
        assert_eq!(Runner::of(&this.to_text()), Some(this.clone()));
        assert!(!this.is_dead());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (_, start) = stat(child.id()).unwrap();
        let other = Runner {
            pid: child.id(),
            start,
            ..this.clone()
        };
        assert!(!other.is_dead());
        child.kill().unwrap();
        // Not waited for yet: a zombie has no effects any more.
        while !other.is_dead() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(other.is_dead());
        let elsewhere = Runner {
            machine: "another".into(),
            ..other.clone()
        };
        let unknown = Runner {
            start: String::new(),
            ..other
        };
        assert!(!elsewhere.is_dead() && !unknown.is_dead());
        // What is not to be seen is not gone.
        assert!(is_gone(other.pid) && !is_gone(1) && !is_gone(this.pid) && !is_gone(0) && !is_gone(u32::MAX));
        // Its pid was given to somebody else.
        let reused = Runner {
            start: "1".into(),
            ..this
        };
        assert!(reused.is_dead());
    }
}
