//! How much log may be kept for a mirror, how much is, and what follows from it. Pure.

use super::units::{size, time};
use bluegreen_core::duration::format_duration;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// From which part of the limit on it is said.
const WARN: f64 = 0.5;

/// From which part of the limit on what reads beside the mirror yields.
const SLOW: f64 = 0.75;

/// A level is left again when so much of the limit less is kept: what lies on a border is not said again and again.
const BELOW: f64 = 0.1;

/// Where no limit is known it is said at so much, and again whenever it has doubled: 4 GiB.
const UNLIMITED: f64 = 4.0 * 1024.0 * 1024.0 * 1024.0;

/// The part of the free disk that a mirror may keep: the rest is the application's own.
const OF_FREE: f64 = 0.5;

/// What was said of a server, and what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Known {
    /// `wal_limit`.
    pub(super) said: Option<f64>,
    /// `free_disk`.
    pub(super) free: Option<f64>,
    /// `max_slot_wal_keep_size`, as far as the slot can still go: the server throws it away beyond.
    pub(super) keeps: Option<f64>,
}

/// How much may be kept, and who says so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    bytes: f64,
    whence: &'static str,
}

impl Known {
    /// The least of what is known.
    pub(super) fn limit(self) -> Option<Limit> {
        let limit = |bytes: Option<f64>, whence| bytes.map(|bytes| Limit { bytes, whence });
        let said = limit(self.said, "wal_limit")
            .or_else(|| limit(self.free.map(|free| free * OF_FREE), "half of its free disk"));
        let keeps = limit(self.keeps, "its max_slot_wal_keep_size");
        match (said, keeps) {
            (Some(said), Some(keeps)) if keeps.bytes < said.bytes => Some(keeps),
            (said, keeps) => said.or(keeps),
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Nothing to say.
    Fine,
    /// To be said; without a limit, so often as it has doubled.
    Warn(u32),
    /// What reads beside the mirror yields.
    Slow,
    /// The mirror goes, so that the server's disk does not fill.
    GiveUp,
}

/// What one look saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) at: Instant,
    /// Bytes of log that the slot holds.
    pub(super) bytes: f64,
    pub(super) known: Known,
}

/// The rate is of so long.
const WINDOW: Duration = Duration::from_secs(60);

/// Nothing is said of a rate that was measured over less.
const MEASURED_OVER: Duration = Duration::from_millis(900);

/// What the looks at one slot saw.
#[derive(Debug)]
pub(super) struct Judge {
    looks: VecDeque<(Instant, f64)>,
    level: Level,
}

impl Judge {
    pub(super) fn new() -> Self {
        Self {
            looks: VecDeque::new(),
            level: Level::Fine,
        }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// The level that follows, where it is another than before.
    pub(super) fn look(&mut self, kept: Kept) -> Option<Level> {
        self.looks.push_back((kept.at, kept.bytes));
        while self.looks.front().is_some_and(|(at, _)| kept.at - *at > WINDOW) {
            self.looks.pop_front();
        }
        let limit = kept.known.limit();
        let now = level(kept.bytes, limit);
        let margin = BELOW * limit.map_or(UNLIMITED, |l| l.bytes);
        let new = if now >= self.level {
            now
        } else {
            level(kept.bytes + margin, limit).min(self.level)
        };
        let was = std::mem::replace(&mut self.level, new);
        (new != was).then_some(new)
    }

    /// Bytes a second by which what is kept grew of late; below zero where it shrinks, none where it is not known yet.
    fn rate(&self) -> Option<f64> {
        let ((first, was), (last, is)) = (self.looks.front()?, self.looks.back()?);
        let over = *last - *first;
        (over >= MEASURED_OVER).then(|| (is - was) / over.as_secs_f64())
    }

    /// What is kept, how fast that grows, and what it means.
    pub(super) fn words(&self, kept: Kept) -> String {
        let rate = self.rate();
        let growing = rate.filter(|rate| *rate > 0.0);
        let mut words = format!("{} of its log", size(kept.bytes));
        match rate {
            None => {}
            Some(rate) if rate > 0.0 => words.push_str(&format!(", {}/s more of late", size(rate))),
            Some(_) => words.push_str(", of late not growing"),
        }
        let lasts = |bytes: f64| {
            growing
                .and_then(|rate| time(bytes - kept.bytes, rate))
                .map(format_duration)
        };
        match kept.known.limit() {
            Some(limit) => {
                let part = 100.0 * kept.bytes / limit.bytes;
                words.push_str(&format!(
                    "; {part:.0} % of the {} that it may keep ({})",
                    size(limit.bytes),
                    limit.whence
                ));
                if let Some(lasts) = lasts(limit.bytes).filter(|_| kept.bytes < limit.bytes) {
                    words.push_str(&format!(", reached in {lasts} at this rate"));
                }
            }
            None => words.push_str("; no limit is known"),
        }
        if let Some(free) = kept.known.free {
            words.push_str(&format!("; {} of disk were free", size(free)));
            if let Some(lasts) = lasts(free).filter(|_| kept.bytes < free) {
                words.push_str(&format!(", full in {lasts} at this rate"));
            }
        }
        words
    }
}

fn level(bytes: f64, limit: Option<Limit>) -> Level {
    let Some(limit) = limit else {
        // Few enough doublings for any number of them.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        return match (bytes / UNLIMITED).log2().floor() {
            doubled if doubled >= 0.0 => Level::Warn(doubled as u32),
            _ => Level::Fine,
        };
    };
    match bytes / limit.bytes {
        part if part >= 1.0 => Level::GiveUp,
        part if part >= SLOW => Level::Slow,
        part if part >= WARN => Level::Warn(0),
        _ => Level::Fine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Known = Known {
        said: None,
        free: None,
        keeps: None,
    };

    fn looks(known: Known, bytes: &[f64]) -> Vec<Option<Level>> {
        let (mut judge, start) = (Judge::new(), Instant::now());
        let mut at = 0;
        bytes
            .iter()
            .map(|bytes| {
                at += 1;
                judge.look(Kept {
                    at: start + Duration::from_secs(at),
                    bytes: *bytes,
                    known,
                })
            })
            .collect()
    }

    #[test]
    fn the_least_of_what_is_known_is_the_limit() {
        let of = |known: Known| known.limit().map(|l| l.bytes);
        assert_eq!(of(NONE), None);
        let free = Known {
            free: Some(80.0),
            ..NONE
        };
        assert_eq!(of(free), Some(40.0));
        let said = Known {
            said: Some(60.0),
            ..free
        };
        assert_eq!(of(said), Some(60.0), "what was said counts, not what would follow");
        let keeps = Known {
            keeps: Some(30.0),
            ..said
        };
        assert_eq!(of(keeps), Some(30.0), "nobody can keep more than the server does");
        let keeps = Known {
            keeps: Some(70.0),
            ..said
        };
        assert_eq!(of(keeps), Some(60.0));
        assert_eq!(
            of(Known {
                keeps: Some(7.0),
                ..NONE
            }),
            Some(7.0)
        );
    }

    #[test]
    fn each_level_is_reached_once_and_left_with_a_margin() {
        let said = Known {
            said: Some(100.0),
            ..NONE
        };
        let levels = looks(
            said,
            &[10.0, 50.0, 60.0, 75.0, 70.0, 76.0, 64.0, 45.0, 39.0, 50.0, 100.0, 99.0],
        );
        let expected = [
            None,
            Some(Level::Warn(0)),
            None,
            Some(Level::Slow),
            None,
            None,
            Some(Level::Warn(0)),
            None,
            Some(Level::Fine),
            Some(Level::Warn(0)),
            Some(Level::GiveUp),
            None,
        ];
        assert_eq!(levels, expected);
    }

    #[test]
    fn without_a_limit_nothing_is_given_up() {
        let levels = looks(NONE, &[0.0, 1e9, UNLIMITED, 1.9 * UNLIMITED, 2.0 * UNLIMITED, 1e15]);
        assert_eq!(levels[..2], [None, None]);
        assert_eq!(levels[2..5], [Some(Level::Warn(0)), None, Some(Level::Warn(1))]);
        assert!(matches!(levels[5], Some(Level::Warn(_))));
    }

    #[test]
    fn the_words_hold_the_numbers() {
        let (mut judge, start) = (Judge::new(), Instant::now());
        let mut kept = Kept {
            at: start,
            bytes: 10e6,
            known: Known {
                said: Some(100e6),
                free: Some(400e6),
                keeps: None,
            },
        };
        judge.look(kept);
        kept = Kept {
            at: start + Duration::from_secs(10),
            bytes: 60e6,
            ..kept
        };
        judge.look(kept);
        assert_eq!(
            judge.words(kept),
            "60.0 MB of its log, 5.0 MB/s more of late; 60 % of the 100.0 MB that it may keep (wal_limit), reached in 8s at this \
             rate; 400.0 MB of disk were free, full in 1m8s at this rate"
        );
        kept.known = NONE;
        judge.looks.clear();
        assert_eq!(judge.words(kept), "60.0 MB of its log; no limit is known");
    }
}
