//! The state of two simulated databases and the mirrors between them, and how it moves with time. Its doors are in
//! `database.rs` (for applications) and `replicator.rs` (for migrations).

use bluegreen_core::{Color, ColumnDifference, Difference, Differs, Direction, Kind, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Database {
    /// Identifier to token.
    pub(super) rows: BTreeMap<u64, u64>,
    pub(super) log: Vec<Logged>,
    pub(super) open: BTreeMap<u64, (u64, u64)>,
    pub(super) sequence: u64,
    pub(super) read_only: bool,
    /// The process that holds the fence.
    pub(super) lock: Option<u64>,
}

impl Database {
    /// Whether an application's write is taken now.
    pub(super) fn accepts(&self) -> bool {
        !self.read_only && self.lock.is_none()
    }

    pub(super) fn log_end(&self) -> usize {
        self.log.len()
    }

    pub(super) fn open_transactions(&self) -> usize {
        self.open.len()
    }

    pub(super) fn terminate_all(&mut self) {
        self.open.clear();
    }
}

#[derive(Debug)]
pub(super) struct Logged {
    pub(super) at: Timestamp,
    pub(super) id: u64,
    pub(super) token: u64,
}

/// Where a mirror is. `from` is a place in its origin's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mirror {
    Absent,
    /// The first copy, of the rows up to `from`; it dies with its process.
    Copying {
        from: usize,
        done: Timestamp,
        process: u64,
    },
    Armed {
        from: usize,
    },
    Streaming {
        from: usize,
    },
    Failed(Kind, String),
}

pub(super) struct Both {
    pub(super) blue: Database,
    pub(super) green: Database,
    pub(super) forward: Mirror,
    pub(super) reverse: Mirror,
    /// What a forecast says is in the way of a pause.
    pub(super) in_the_way: Vec<String>,
    pub(super) delay: Duration,
    pub(super) copy: Duration,
    pub(super) stalled_until: Timestamp,
    pub(super) next: u64,
    pub(super) writer: Color,
    /// Since when both sides accept writes, while a mirror ties them together.
    pub(super) two_writers_since: Option<Timestamp>,
    pub(super) two_writers: Duration,
    pub(super) violations: Vec<String>,
    pub(super) decided: Option<Arc<dyn Fn(Color) -> bool + Send + Sync>>,
    /// Ends of the log that `caught_up` said yes to.
    pub(super) proven: BTreeSet<(Color, usize)>,
}

impl Both {
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            blue: Database::default(),
            green: Database::default(),
            forward: Mirror::Absent,
            reverse: Mirror::Absent,
            in_the_way: vec![],
            delay: Duration::from_millis(3),
            copy: Duration::from_secs(10),
            stalled_until: start,
            next: 0,
            writer: Color::Blue,
            two_writers_since: None,
            two_writers: Duration::ZERO,
            violations: vec![],
            decided: None,
            proven: BTreeSet::new(),
        }
    }

    pub(super) fn side(&mut self, color: Color) -> &mut Database {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }

    pub(super) fn mirror(&mut self, direction: Direction) -> &mut Mirror {
        match direction {
            Direction::BlueToGreen => &mut self.forward,
            Direction::GreenToBlue => &mut self.reverse,
        }
    }

    pub(super) fn fresh_process(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn writer(&self) -> Color {
        self.writer
    }

    pub(super) fn set_writer(&mut self, color: Color) {
        self.writer = color;
    }

    /// Whether the promotion of a side was decided durably, as far as anybody here can tell.
    pub(super) fn is_decided(&self, color: Color) -> bool {
        self.decided.as_ref().is_none_or(|decided| decided(color))
    }

    pub(super) fn violated(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// Rows that differ, by what has been applied, as far as it has; and how many rows were compared.
    pub(super) fn compare(&mut self) -> Option<(u64, Vec<Difference>)> {
        let (direction, from) = [Direction::BlueToGreen, Direction::GreenToBlue]
            .into_iter()
            .find_map(|d| {
                if let Mirror::Streaming { from } = *self.mirror(d) {
                    Some((d, from))
                } else {
                    None
                }
            })?;
        let origin = self.side(direction.origin());
        let pending: BTreeSet<u64> = origin.log[from..].iter().map(|l| l.id).collect();
        let mut there = origin.rows.clone();
        there.retain(|id, _| !pending.contains(id));
        let follower = self.side(direction.follower()).rows.clone();
        let rows = there.len() as u64;
        let (blue, green) = match direction {
            Direction::BlueToGreen => (there, follower),
            Direction::GreenToBlue => (follower, there),
        };
        let all: BTreeSet<u64> = blue.keys().chain(green.keys()).copied().collect();
        let unlike = all.into_iter().filter(|id| blue.get(id) != green.get(id));
        let differences = unlike.map(|id| Difference {
            table: "rows".into(),
            row: format!("id={id}"),
            differs: match (blue.get(&id), green.get(&id)) {
                (Some(_), None) => Differs::OnlyAt(Color::Blue),
                (None, _) => Differs::OnlyAt(Color::Green),
                (Some(b), Some(g)) => {
                    let column = ColumnDifference::new("token", Some(b.to_string()), Some(g.to_string()));
                    Differs::Columns(vec![column])
                }
            },
        });
        Some((rows, differences.collect()))
    }

    /// The lag that a monitoring query would show: bytes of log not applied.
    pub(super) fn lag(&mut self, direction: Direction) -> u64 {
        let end = self.side(direction.origin()).log_end();
        match *self.mirror(direction) {
            Mirror::Streaming { from } => (end - from) as u64 * 100,
            _ => 0,
        }
    }

    pub(super) fn carry_sequence(&mut self, to: Color) {
        let value = self.side(to.other()).sequence;
        let sequence = &mut self.side(to).sequence;
        *sequence = value.max(*sequence);
    }

    /// Forgets what a dead process held.
    pub(super) fn bury(&mut self, process: u64, now: Timestamp) {
        for color in [Color::Blue, Color::Green] {
            let lock = &mut self.side(color).lock;
            *lock = lock.filter(|owner| *owner != process);
        }
        for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
            if matches!(self.mirror(direction), Mirror::Copying { process: owner, .. } if *owner == process) {
                *self.mirror(direction) =
                    Mirror::Failed(Kind::Unavailable, "the first copy died with its process".into());
            }
        }
        self.watch_writers(now);
    }

    /// Keeps the time with two writers; called after every change of who accepts writes.
    pub(super) fn watch_writers(&mut self, now: Timestamp) {
        let tied = self.forward != Mirror::Absent || self.reverse != Mirror::Absent;
        let two = tied && self.blue.accepts() && self.green.accepts();
        match (two, self.two_writers_since) {
            (true, None) => self.two_writers_since = Some(now),
            (false, Some(since)) => {
                self.two_writers += now.since(since);
                self.two_writers_since = None;
                self.violated(format!("two writers until {now}, since {since}"));
            }
            _ => {}
        }
    }

    /// Ends copies that are done and applies changes that are due.
    pub(super) fn pump(&mut self, now: Timestamp) {
        for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
            if let Mirror::Copying { from, done, .. } = *self.mirror(direction)
                && done <= now
            {
                let copied: Vec<(u64, u64)> = self.side(direction.origin()).log[..from]
                    .iter()
                    .map(|change| (change.id, change.token))
                    .collect();
                self.side(direction.follower()).rows = copied.into_iter().collect();
                *self.mirror(direction) = Mirror::Streaming { from };
            }
            self.apply_due(direction, now);
        }
    }

    fn apply_due(&mut self, direction: Direction, now: Timestamp) {
        let delay = self.delay;
        if self.stalled_until > now {
            return;
        }
        let Mirror::Streaming { mut from } = *self.mirror(direction) else {
            return;
        };
        while let Some(change) = self.side(direction.origin()).log.get(from) {
            if change.at + delay > now {
                break;
            }
            let (id, token) = (change.id, change.token);
            let follower = self.side(direction.follower());
            if follower.rows.contains_key(&id) {
                let why = format!("duplicate key {id} at {}", direction.follower());
                *self.mirror(direction) = Mirror::Failed(Kind::Diverged, why);
                return;
            }
            follower.rows.insert(id, token);
            // What is applied is in the follower's own log too: a mirror back that runs at the same time would loop.
            follower.log.push(Logged { at: now, id, token });
            from += 1;
        }
        *self.mirror(direction) = Mirror::Streaming { from };
    }
}
