//! Wishes to end: interrupts, `kill`, and a terminal that goes away.

use bluegreen_core::{Error, Kind};
use tokio::signal::unix::{SignalKind, signal};

/// Wishes to end: an interrupt, `kill`, or a terminal that goes away, which is no reason to die in the middle of a pause.
pub(super) struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// None where it is ignored: `nohup` says that it goes on without its terminal.
    hangup: Option<tokio::signal::unix::Signal>,
}

/// What was wished.
#[derive(PartialEq, Eq)]
pub(super) enum Wish {
    End,
    /// The terminal is gone; that may be said more than once.
    Hangup,
}

impl Interrupts {
    pub(super) fn listen() -> Result<Self, Error> {
        let one = |kind| signal(kind).map_err(|e| Error::new(Kind::Unexpected, "listen for interrupts", e.to_string()));
        // To listen would be to ignore it no longer.
        let hangup = if ignores_hangup() {
            None
        } else {
            Some(one(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: one(SignalKind::interrupt())?,
            terminate: one(SignalKind::terminate())?,
            hangup,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Wish::End,
            _ = self.terminate.recv() => Wish::End,
            _ = hung_up => Wish::Hangup,
        }
    }

    /// What changes nothing, or the word that it was stopped.
    pub(super) async fn or<T, E: From<Error>>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            done = work => done,
            _ = self.next() => {
                Err(Error::new(Kind::Unavailable, "stop", "nothing was begun here, and nothing was changed").into())
            }
        }
    }
}

/// Whether this process was started with hangups ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
