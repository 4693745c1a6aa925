//! How a comparison goes easy on the side that writes: it rests for a share of the time, and begins nothing new while the
//! server suffers or the mirror needs all there is.

use crate::connect::Settings;
use crate::error::Doing;
use crate::wal;
use bluegreen_core::Color;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A statement that takes a moment takes this long when its server suffers, and so many times longer than at its best.
const SLOW: (Duration, u32) = (Duration::from_millis(50), 20);

/// How long a suffering server is left alone at most before the next piece.
const RELIEF: Duration = Duration::from_secs(60);

/// What all workers go by.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    /// Which part of the time is worked.
    share: f64,
    suffers: AtomicBool,
    /// What the mirror keeps of the writer's log, and where warnings are said.
    log: &'a wal::Shared,
}

impl<'a> Pace<'a> {
    pub(super) fn new(share: f64, log: &'a wal::Shared) -> Self {
        Self {
            share,
            suffers: AtomicBool::new(false),
            log,
        }
    }

    /// Waits while the writer's server suffers, or the mirror needs all there is to catch up, but not for ever.
    pub(super) async fn relief(&self) {
        let since = Instant::now();
        while waits(
            self.suffers.load(Ordering::Relaxed),
            self.log.is_short(),
            since.elapsed(),
        ) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Rests as long as its share of the time says.
    pub(super) async fn rest(&self, worked: Duration) {
        let rest = rest_after(worked, self.share);
        if rest > Duration::ZERO {
            tokio::time::sleep(rest).await;
        }
    }

    /// Looks how long the writer's server takes for next to nothing. Ends only with an error.
    pub(super) async fn watch(&self, settings: &Settings, writer: Color) -> bluegreen_core::Error {
        let doing = "look how the writer's server fares";
        let session = match settings.connect(writer).await {
            Ok(session) => session,
            Err(e) => return e,
        };
        let (mut pulse, mut said) = (Pulse::default(), false);
        loop {
            let asked = Instant::now();
            if let Err(e) = session.query_one("SELECT 1", &[]).await.doing(doing) {
                return e;
            }
            let took = asked.elapsed();
            let suffers = pulse.beat(took);
            self.suffers.store(suffers, Ordering::Relaxed);
            if suffers && !std::mem::replace(&mut said, true) {
                self.log.say(format!(
                    "the comparison of the data waits where {writer} suffers, up to {} s before each piece: next to nothing \
                     took {took:.1?} there, {:.1?} at its best",
                    RELIEF.as_secs(),
                    pulse.best.unwrap_or(took)
                ));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

fn waits(suffers: bool, short: bool, waited: Duration) -> bool {
    (suffers || short) && waited < RELIEF
}

fn rest_after(worked: Duration, share: f64) -> Duration {
    let share = share.clamp(0.01, 1.0);
    worked.mul_f64((1.0 - share) / share)
}

/// How long next to nothing took so far.
#[derive(Debug, Default)]
struct Pulse {
    best: Option<Duration>,
    slow: u32,
}

impl Pulse {
    /// Whether the server suffers, by the next of them.
    fn beat(&mut self, took: Duration) -> bool {
        let best = self.best.map_or(took, |best| best.min(took));
        self.best = Some(best);
        let slow = took > SLOW.0 && took > best.saturating_mul(SLOW.1);
        self.slow = if slow { self.slow + 1 } else { 0 };
        // Once may be the scheduler's whim.
        self.slow >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_rests_for_the_rest_of_the_time() {
        assert_eq!(rest_after(100 * MS, 1.0), Duration::ZERO);
        assert_eq!(rest_after(100 * MS, 0.5), 100 * MS);
        assert_eq!(rest_after(100 * MS, 0.2), 400 * MS);
        assert_eq!(rest_after(100 * MS, 0.0), 9_900 * MS);
    }

    #[test]
    fn it_waits_for_either_reason_and_not_for_ever() {
        assert!(waits(true, false, RELIEF - MS) && waits(false, true, Duration::ZERO));
        assert!(!waits(false, false, Duration::ZERO) && !waits(true, true, RELIEF));
    }

    #[test]
    fn a_server_suffers_when_it_is_slow_twice_by_its_own_measure() {
        let beats = |all: &[u32]| {
            let mut pulse = Pulse::default();
            all.iter().map(|ms| pulse.beat(*ms * MS)).collect::<Vec<_>>()
        };
        assert_eq!(beats(&[1, 60, 60, 60, 1]), [false, false, true, true, false]);
        assert_eq!(beats(&[1, 60, 1, 60]), [false; 4], "the scheduler's whim");
        assert_eq!(beats(&[1, 40, 40]), [false; 3], "not long");
        assert_eq!(beats(&[60, 900, 900]), [false; 3], "it is far away, and always so slow");
    }
}
