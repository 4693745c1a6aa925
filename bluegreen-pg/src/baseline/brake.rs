//! Back-pressure: while the copy reads, blue is asked how it is. When it answers late, or a replica of it falls behind,
//! fewer streams read, and the last one rests between its reads.

use crate::connect::Session;
use crate::error::Doing;
use crate::progress::Report;
use crate::replicator::Context;
use bluegreen_core::{Direction, Result};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often it is asked.
const EVERY: Duration = Duration::from_millis(500);

/// So many times its usual latency is late, if it is above the limit too.
const TIMES_USUAL: u32 = 10;

/// A replica that is so far behind, and was not when the copy began, suffers.
const REPLICA_BEHIND: i64 = 256 << 20;

/// So many good answers in a row let one more stream read.
const GOOD: u32 = 4;

/// The longest rest after a buffer of the last stream.
const LONGEST_REST: Duration = Duration::from_millis(80);

/// How many streams may read, and how long the last of them rests after every buffer.
#[derive(Debug)]
pub(super) struct Brake {
    streams: AtomicUsize,
    rest_ms: AtomicU32,
    /// The streams that have not ended.
    at_work: Mutex<BTreeSet<usize>>,
}

impl Brake {
    pub(super) fn new(streams: usize) -> Self {
        Self {
            streams: AtomicUsize::new(streams),
            rest_ms: AtomicU32::new(0),
            at_work: Mutex::new((0..streams).collect()),
        }
    }

    /// Returns when stream `number` (from 0) may take its next piece, or there is none.
    pub(super) async fn turn(&self, number: usize, none: impl Fn() -> bool) {
        while self.is_held(number) && !none() {
            tokio::time::sleep(EVERY / 4).await;
        }
    }

    /// The stream has nothing more to do: who was held for its sake may go on.
    pub(super) fn ended(&self, number: usize) {
        self.at_work().remove(&number);
    }

    fn is_held(&self, number: usize) -> bool {
        self.at_work().range(..number).count() >= self.streams.load(Ordering::Relaxed)
    }

    fn at_work(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, pace: Pace) {
        self.streams.store(pace.streams, Ordering::Relaxed);
        let rest = u32::try_from(pace.rest.as_millis()).unwrap_or(u32::MAX);
        self.rest_ms.store(rest, Ordering::Relaxed);
    }
}

/// Counts what passes through one stream, and slows it down.
#[derive(Debug)]
pub(super) struct Gauge {
    report: Arc<Report>,
    brake: Arc<Brake>,
    /// Which stream it is.
    number: usize,
    /// What the piece counts for.
    limit: u64,
    counted: u64,
}

impl Gauge {
    pub(super) fn new(report: &Arc<Report>, brake: &Arc<Brake>, number: usize, limit: u64) -> Self {
        Self {
            report: report.clone(),
            brake: brake.clone(),
            number,
            limit,
            counted: 0,
        }
    }

    /// So many bytes passed; the stream's size is not the table's, so never more than the piece is counted.
    pub(super) async fn passed(&mut self, bytes: usize) {
        let more = u64::try_from(bytes).unwrap_or(u64::MAX).min(self.limit - self.counted);
        self.counted += more;
        self.report.bytes_done.fetch_add(more, Ordering::Relaxed);
        // In the midst of a piece too: one may be a whole table.
        while self.brake.is_held(self.number) {
            tokio::time::sleep(EVERY / 4).await;
        }
        let rest = self.brake.rest_ms.load(Ordering::Relaxed);
        if rest > 0 {
            tokio::time::sleep(Duration::from_millis(rest.into())).await;
        }
    }

    /// The piece is in: what of it was not counted yet is done now.
    pub(super) fn done(self, rows: u64) {
        self.report.rows_done.fetch_add(rows, Ordering::Relaxed);
        self.report
            .bytes_done
            .fetch_add(self.limit - self.counted, Ordering::Relaxed);
    }

    /// The piece is not in: it will be counted again.
    pub(super) fn undone(self) {
        self.report.bytes_done.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// How fast the copy may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    streams: usize,
    rest: Duration,
}

/// What one look at blue saw.
#[derive(Debug, Clone, Copy)]
struct Look {
    answered_in: Duration,
    /// Bytes of log that the slowest replica has not replayed.
    behind: i64,
}

/// Decides from looks. Pure.
#[derive(Debug)]
struct Judge {
    most: usize,
    limit: Duration,
    usual: Look,
    pace: Pace,
    bad: u32,
    good: u32,
}

impl Judge {
    fn new(most: usize, limit: Duration, usual: Look) -> Self {
        Self {
            most,
            limit,
            usual,
            pace: Pace {
                streams: most,
                rest: Duration::ZERO,
            },
            bad: 0,
            good: 0,
        }
    }

    /// Why it is held back, if it is.
    fn suffers(&self, look: Look) -> Option<String> {
        if look.answered_in > self.limit && look.answered_in > self.usual.answered_in * TIMES_USUAL {
            return Some(format!(
                "it answers a small query in {:.0} ms or more, usually {:.1}",
                look.answered_in.as_secs_f64() * 1e3,
                self.usual.answered_in.as_secs_f64() * 1e3
            ));
        }
        if look.behind > REPLICA_BEHIND && look.behind > 2 * self.usual.behind {
            return Some(format!("a replica of it is {} MB behind", look.behind >> 20));
        }
        None
    }

    /// Slower after two bad looks in a row, faster after some good ones: one step at a time.
    fn judge(&mut self, look: Look) -> Option<String> {
        let why = self.suffers(look);
        if why.is_some() {
            (self.bad, self.good) = (self.bad + 1, 0);
            if self.bad >= 2 {
                self.bad = 0;
                self.slower();
            }
        } else {
            (self.bad, self.good) = (0, self.good + 1);
            if self.good >= GOOD {
                self.good = 0;
                self.faster();
            }
        }
        why
    }

    fn slower(&mut self) {
        if self.pace.streams > 1 {
            self.pace.streams -= 1;
        } else {
            self.pace.rest = (self.pace.rest * 2).clamp(Duration::from_millis(5), LONGEST_REST);
        }
    }

    fn faster(&mut self) {
        if self.pace.rest > Duration::from_millis(5) {
            self.pace.rest /= 2;
        } else if self.pace.rest > Duration::ZERO {
            self.pace.rest = Duration::ZERO;
        } else {
            self.pace.streams = (self.pace.streams + 1).min(self.most);
        }
    }

    fn is_held_back(&self) -> bool {
        self.pace.streams < self.most || self.pace.rest > Duration::ZERO
    }
}

/// Watches `origin` and sets the brake, until it is dropped. A look that fails ends nothing: the copy's own sessions will
/// notice, and a copy is not worth less for not being watched; it is said.
pub(super) async fn watch(context: Arc<Context>, direction: Direction, brake: Arc<Brake>, report: Arc<Report>) {
    // What was usual before it could not be seen, and the pace, stay: a server that lets nobody in is not well.
    let mut judge = None;
    loop {
        let watched = watch_session(&context, direction, &brake, &report, &mut judge).await;
        if let Err(error) = watched {
            tracing::warn!(%error, "how the copied side fares cannot be seen");
        }
        tokio::time::sleep(EVERY * 4).await;
    }
}

async fn watch_session(
    context: &Context,
    direction: Direction,
    brake: &Brake,
    report: &Report,
    known: &mut Option<Judge>,
) -> Result<()> {
    let session = context.settings.connect_copy(direction.origin()).await?;
    let limit = context.options.blue_latency;
    let most = context.options.copy_jobs;
    let judge = match known {
        Some(judge) => judge,
        None => {
            let mut usual = look_within(&session, limit).await?;
            for _ in 0..3 {
                let again = look_within(&session, limit).await?;
                usual.answered_in = usual.answered_in.min(again.answered_in);
                usual.behind = usual.behind.max(again.behind);
            }
            known.insert(Judge::new(most, limit, usual))
        }
    };
    loop {
        tokio::time::sleep(EVERY).await;
        let was = judge.is_held_back();
        // What has not come by then is late, whenever it comes.
        let late = judge.limit.max(judge.usual.answered_in * TIMES_USUAL) + Duration::from_millis(1);
        let why = judge.judge(look_within(&session, late).await?);
        brake.set(judge.pace);
        match why {
            Some(why) if judge.is_held_back() => {
                let streams = judge.pace.streams;
                report.stage(format!(
                    "copy, held back to {streams} of {most} streams for the copied side's sake: {why}"
                ));
            }
            _ if was && !judge.is_held_back() => report.stage("copy"),
            _ => {}
        }
    }
}

/// One look, and no longer than that.
async fn look_within(session: &Session, within: Duration) -> Result<Look> {
    match tokio::time::timeout(within, look(session)).await {
        Ok(seen) => seen,
        Err(_) => Ok(Look {
            answered_in: within,
            behind: 0,
        }),
    }
}

/// A small read that waits where clients wait, and how far behind the replicas are; not our own subscription, which does
/// not read yet.
async fn look(session: &Session) -> Result<Look> {
    let doing = "look how the copied side fares";
    let begun = Instant::now();
    let row = session
        .query_one(
            "SELECT coalesce(max(pg_wal_lsn_diff(sent_lsn, replay_lsn)), 0)::bigint FROM pg_stat_replication \
             WHERE state = 'streaming'",
            &[],
        )
        .await
        .doing(doing)?;
    Ok(Look {
        answered_in: begun.elapsed(),
        behind: row.get(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(ms: u64, behind: i64) -> Look {
        Look {
            answered_in: Duration::from_millis(ms),
            behind,
        }
    }

    #[test]
    fn a_stream_that_is_held_goes_on_when_those_before_it_have_ended() {
        let brake = Brake::new(3);
        brake.set(Pace {
            streams: 1,
            rest: Duration::ZERO,
        });
        assert_eq!([0, 1, 2].map(|n| brake.is_held(n)), [false, true, true]);
        brake.ended(0);
        assert_eq!([1, 2].map(|n| brake.is_held(n)), [false, true]);
        brake.ended(1);
        assert!(!brake.is_held(2));
    }

    #[test]
    fn it_slows_down_step_by_step_and_speeds_up_again() {
        let mut judge = Judge::new(3, Duration::from_millis(100), look(1, 0));
        assert_eq!(judge.judge(look(90, 0)), None);
        assert!(judge.judge(look(200, 0)).is_some());
        assert_eq!(judge.pace.streams, 3, "one bad answer is none");
        judge.judge(look(200, 0));
        assert_eq!(judge.pace.streams, 2);
        for _ in 0..40 {
            judge.judge(look(200, 0));
        }
        assert_eq!((judge.pace.streams, judge.pace.rest), (1, LONGEST_REST));
        for _ in 0..100 {
            judge.judge(look(1, 0));
        }
        assert!(!judge.is_held_back());
    }

    #[test]
    fn a_slow_server_is_not_blamed_on_us_and_a_late_replica_is() {
        let mut far = Judge::new(2, Duration::from_millis(100), look(150, 0));
        for _ in 0..9 {
            assert_eq!(far.judge(look(300, 0)), None);
        }
        let mut late = Judge::new(2, Duration::from_millis(100), look(1, 0));
        late.judge(look(1, 300 << 20));
        assert!(late.judge(look(1, 300 << 20)).is_some_and(|w| w.contains("300 MB")));
        assert_eq!(late.pace.streams, 1);
        let mut always = Judge::new(2, Duration::from_millis(100), look(1, 290 << 20));
        assert_eq!(always.judge(look(1, 300 << 20)), None);
    }
}
