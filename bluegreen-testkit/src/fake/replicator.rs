//! `FakeReplicator`: one process's handle on two simulated databases.

use super::both::{Both, Mirror};
use super::database::Databases;
use async_trait::async_trait;
use bluegreen_core::{
    Clock, Color, Compared, Comparison, Direction, Error, Finding, Forecast, Kind, Lag, MirrorStatus, Position,
    Progress, Replicator, Result, Severity, Timestamp,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a fence looks whether the writers have gone.
const LOOK: Duration = Duration::from_millis(1);

/// How long a comparison takes.
const COMPARES: Duration = Duration::from_millis(500);

/// A replicator in memory. Each one is a process of its own: what it holds dies with [`crash`](Self::crash).
#[derive(Debug)]
pub struct FakeReplicator {
    databases: Databases,
    process: u64,
    dead: AtomicBool,
    /// When the comparison that is under way comes to its end.
    compared_at: Mutex<Option<Timestamp>>,
}

impl FakeReplicator {
    /// A new process's handle on the databases.
    #[must_use]
    pub fn new(databases: &Databases) -> Self {
        let process = databases.lock().fresh_process();
        Self {
            databases: databases.clone(),
            process,
            dead: AtomicBool::new(false),
            compared_at: Mutex::default(),
        }
    }

    /// Its process dies: locks and a running first copy are gone, flags and mirrors stay, and no call works any more.
    pub fn crash(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let now = self.databases.clock.now();
        self.databases.lock().bury(self.process, now);
    }

    fn alive(&self, operation: &str) -> Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(refuse(Kind::Unavailable, operation, "this process is dead"));
        }
        Ok(())
    }

    /// Changes the state and keeps an eye on who accepts writes.
    fn change<T>(&self, operation: &str, f: impl FnOnce(&mut Both) -> Result<T>) -> Result<T> {
        self.alive(operation)?;
        let now = self.databases.clock.now();
        let mut both = self.databases.lock();
        let answer = f(&mut both);
        both.watch_writers(now);
        answer
    }
}

fn refuse(kind: Kind, operation: &str, message: impl Into<String>) -> Error {
    Error::new(kind, operation, message).provider("fake database")
}

fn parse(position: &Position) -> Result<(Color, usize)> {
    let parts = position.as_str().split_once('/');
    let parsed = parts.and_then(|(color, end)| {
        let color = [Color::Blue, Color::Green]
            .into_iter()
            .find(|c| c.to_string() == color)?;
        Some((color, end.parse().ok()?))
    });
    parsed.ok_or_else(|| {
        let message = format!("{position} is not a position of this replicator");
        refuse(Kind::InvalidInput, "prove", message)
    })
}

/// An old writer that was opened again may have what the new one has not.
fn is_shut(both: &mut Both, old: Color) -> Result<()> {
    if both.side(old).read_only {
        return Ok(());
    }
    let message = format!("{old} accepts writes again: it may have what {} has not", old.other());
    Err(refuse(Kind::Diverged, "promote", message))
}

/// Lets go of a fence that was not reached, also when the call is dropped.
struct Reaching<'a> {
    replicator: &'a FakeReplicator,
    color: Color,
    reached: bool,
}

impl Drop for Reaching<'_> {
    fn drop(&mut self) {
        if !self.reached {
            let now = self.replicator.databases.clock.now();
            let mut both = self.replicator.databases.lock();
            let lock = &mut both.side(self.color).lock;
            *lock = lock.filter(|owner| *owner != self.replicator.process);
            both.watch_writers(now);
        }
    }
}

#[async_trait]
impl Replicator for FakeReplicator {
    fn name(&self) -> &str {
        "fake database"
    }

    async fn preflight(&self) -> Result<Vec<Finding>> {
        self.change("look", |both| {
            let foreign = *both.mirror(Direction::BlueToGreen) == Mirror::Absent
                && *both.mirror(Direction::GreenToBlue) == Mirror::Absent
                && !both.side(Color::Green).rows.is_empty();
            let finding = Finding {
                id: "target-not-empty".into(),
                severity: Severity::Blocking,
                seen: format!("green has {} rows", both.side(Color::Green).rows.len()),
                why: "the first copy would collide with them".into(),
                mend: "empty green's tables".into(),
            };
            Ok(foreign.then_some(finding).into_iter().collect())
        })
    }

    async fn start(&self, direction: Direction) -> Result<()> {
        const START: &str = "start the mirror";
        let now = self.databases.clock.now();
        let process = self.process;
        self.change(START, |both| {
            let origin = direction.origin();
            let from = both.side(origin).log_end();
            match both.mirror(direction).clone() {
                Mirror::Streaming { .. } => {}
                Mirror::Copying { process: owner, .. } if owner == process => {}
                Mirror::Armed { from } => {
                    if both.side(direction.follower()).accepts() {
                        both.violated(format!(
                            "{direction} started while {} accepts writes",
                            direction.follower()
                        ));
                    }
                    *both.mirror(Direction::from(origin.other())) = Mirror::Absent;
                    *both.mirror(direction) = Mirror::Streaming { from };
                }
                fresh if direction == Direction::BlueToGreen => {
                    if both.writer() == Color::Green {
                        return Err(refuse(Kind::Diverged, START, "green writes: it cannot be overwritten"));
                    }
                    if fresh == Mirror::Absent && !both.side(Color::Green).rows.is_empty() {
                        return Err(refuse(
                            Kind::Diverged,
                            START,
                            "green is not empty, and what is there is not ours",
                        ));
                    }
                    let done = now + both.copy;
                    both.side(Color::Green).rows.clear();
                    both.side(Color::Green).read_only = true;
                    *both.mirror(direction) = Mirror::Copying { from, done, process };
                }
                _ => return Err(refuse(Kind::Diverged, START, "the way back was never armed")),
            }
            Ok(())
        })
    }

    async fn status(&self, direction: Direction) -> Result<MirrorStatus> {
        let now = self.databases.clock.now();
        self.change("look at the mirror", |both| {
            let bytes = both.lag(direction);
            let copy = both.copy;
            Ok(match both.mirror(direction).clone() {
                Mirror::Absent => MirrorStatus::Absent,
                Mirror::Armed { .. } => MirrorStatus::Armed,
                Mirror::Failed(kind, why) => MirrorStatus::Failed { kind, why },
                Mirror::Streaming { .. } => MirrorStatus::Streaming(Lag { bytes, time: None }),
                Mirror::Copying { from, done, .. } => {
                    let total = from as u64;
                    let left = done.since(now).as_secs_f64() / copy.as_secs_f64().max(f64::EPSILON);
                    // Shown to people only.
                    #[allow(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        clippy::cast_precision_loss
                    )]
                    let rows = (total as f64 * (1.0 - left)) as u64;
                    MirrorStatus::Copying {
                        rows: Progress { done: rows, total },
                        bytes: Progress {
                            done: rows * 100,
                            total: total * 100,
                        },
                        stage: "copy".into(),
                        left: Some(done.since(now)),
                    }
                }
            })
        })
    }

    fn compares(&self) -> bool {
        true
    }

    async fn compare(&self) -> Result<Comparison> {
        let now = self.databases.clock.now();
        let mut ends = self.compared_at.lock().unwrap_or_else(PoisonError::into_inner);
        let at = *ends.get_or_insert(now + COMPARES);
        self.change("compare", |both| {
            let Some((rows, mut differences)) = both.compare() else {
                *ends = None;
                return Err(refuse(Kind::Diverged, "compare", "no mirror streams"));
            };
            if at > now {
                let done = rows.saturating_sub(at.since(now).as_millis() as u64);
                let progress = |n| Progress {
                    done: done * n,
                    total: rows * n,
                };
                return Ok(Comparison::Running {
                    rows: progress(1),
                    bytes: progress(100),
                    left: Some(at.since(now)),
                });
            }
            *ends = None;
            let compared = Compared {
                tables: 1,
                rows,
                bytes: rows * 100,
            };
            if differences.is_empty() {
                return Ok(Comparison::Same(compared));
            }
            let more = differences.len().saturating_sub(20) as u64;
            differences.truncate(20);
            Ok(Comparison::Different {
                compared,
                differences,
                more,
            })
        })
    }

    async fn arm(&self, to: Color, _: Duration) -> Result<Forecast> {
        self.change("arm", |both| match both.mirror(Direction::to(to)) {
            Mirror::Streaming { .. } => {
                let from = both.side(to).log_end();
                *both.mirror(Direction::from(to)) = Mirror::Armed { from };
                Ok(Forecast {
                    expected: Duration::ZERO,
                    in_the_way: both.in_the_way.clone(),
                })
            }
            _ => Err(refuse(
                Kind::Diverged,
                "arm",
                format!("the mirror towards {to} does not stream"),
            )),
        })
    }

    async fn fence(&self, color: Color, within: Duration) -> Result<Position> {
        const FENCE: &str = "fence";
        let deadline = self.databases.clock.now() + within;
        let process = self.process;
        let mut reaching = Reaching {
            replicator: self,
            color,
            reached: false,
        };
        loop {
            let fenced = self.change(FENCE, |both| {
                let side = both.side(color);
                match side.lock {
                    Some(owner) if owner != process => return Ok(None),
                    _ => side.lock = Some(process),
                }
                Ok((side.open_transactions() == 0).then(|| side.log_end()))
            })?;
            if let Some(end) = fenced {
                reaching.reached = true;
                return Ok(Position::new(format!("{color}/{end}")));
            }
            let now = self.databases.clock.now();
            if now >= deadline {
                let message = format!("writers at {color} did not drain within {within:?}");
                return Err(refuse(Kind::Timeout, FENCE, message));
            }
            self.databases.clock.sleep_until(deadline.min(now + LOOK)).await;
        }
    }

    async fn caught_up(&self, position: &Position) -> Result<bool> {
        let (origin, end) = parse(position)?;
        let direction = Direction::from(origin);
        self.change("prove", |both| match *both.mirror(direction) {
            Mirror::Streaming { from } => {
                if from >= end {
                    both.proven.insert((origin, end));
                }
                Ok(from >= end)
            }
            _ => Err(refuse(
                Kind::Diverged,
                "prove",
                format!("the mirror {direction} does not stream"),
            )),
        })
    }

    async fn hand_over(&self, to: Color) -> Result<()> {
        const HAND_OVER: &str = "hand over";
        let from = to.other();
        let process = self.process;
        self.change(HAND_OVER, |both| {
            if both.side(from).lock != Some(process) {
                return Err(refuse(
                    Kind::Conflict,
                    HAND_OVER,
                    format!("{from} is not fenced by this process"),
                ));
            }
            let end = both.side(from).log_end();
            if !both.proven.contains(&(from, end)) {
                both.violated(format!(
                    "handed over to {to} without the proof that it has everything up to {end}"
                ));
            }
            both.carry_sequence(to);
            let armed = both.side(to).log_end();
            *both.mirror(Direction::from(to)) = Mirror::Armed { from: armed };
            both.side(from).read_only = true;
            Ok(())
        })
    }

    async fn may_promote(&self, to: Color) -> Result<()> {
        self.change("look whether it may be promoted", |both| is_shut(both, to.other()))
    }

    async fn promote(&self, to: Color) -> Result<()> {
        self.change("promote", |both| {
            if !both.is_decided(to) {
                both.violated(format!("{to} promoted without a commit record"));
            }
            is_shut(both, to.other())?;
            let old = both.side(to.other());
            old.terminate_all();
            old.lock = None;
            let new = both.side(to);
            new.read_only = false;
            new.lock = None;
            both.set_writer(to);
            Ok(())
        })
    }

    async fn unfence(&self, color: Color) -> Result<()> {
        self.change("unfence", |both| {
            let tied = [Direction::BlueToGreen, Direction::GreenToBlue].map(|d| *both.mirror(d) != Mirror::Absent);
            if tied.contains(&true) {
                both.side(color.other()).read_only = true;
            }
            let side = both.side(color);
            side.read_only = false;
            side.lock = None;
            both.set_writer(color);
            Ok(())
        })
    }

    async fn stop(&self, writer: Color) -> Result<()> {
        self.change("stop", |both| {
            if both.side(writer.other()).accepts() && both.side(writer.other()).log_end() > 0 && writer == Color::Green
            {
                both.violated("stopped for green while blue accepts writes");
            }
            *both.mirror(Direction::BlueToGreen) = Mirror::Absent;
            *both.mirror(Direction::GreenToBlue) = Mirror::Absent;
            both.side(writer.other()).read_only = writer == Color::Green;
            let side = both.side(writer);
            side.read_only = false;
            side.lock = None;
            both.set_writer(writer);
            Ok(())
        })
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        self.change("look for leftovers", |both| {
            let mut left = vec![];
            for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
                if *both.mirror(direction) != Mirror::Absent {
                    left.push(format!("mirror {direction}"));
                }
            }
            for color in [Color::Blue, Color::Green] {
                if both.side(color).lock.is_some() {
                    left.push(format!("lock on {color}"));
                }
            }
            Ok(left)
        })
    }
}
