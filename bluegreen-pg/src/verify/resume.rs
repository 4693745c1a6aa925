//! How far a comparison got, kept in a table at green: it may take hours, and the process that runs it may be killed. Memory
//! would forget, and the journal is not the place for what changes every second.

use crate::connect::{Session, Settings};
use crate::error::Doing;
use crate::marker;
use crate::verify::plan::Bound;
use bluegreen_core::{Color, Result};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

const DOING: &str = "remember how far the comparison is";

const MAKE: &str = "CREATE TABLE IF NOT EXISTS bluegreen.compared (migration text NOT NULL, relation text NOT NULL, \
     era text NOT NULL, upto text[], rows bigint NOT NULL, whole boolean NOT NULL, at timestamptz NOT NULL DEFAULT now(), \
     PRIMARY KEY (migration, relation))";

/// What was alike longer ago is looked at again, and so is what was alike before somebody else began to write.
const READ: &str = "SELECT relation, upto, rows, whole FROM bluegreen.compared \
     WHERE migration = $1 AND era = $2 AND at > now() - interval '1 day'";

const WRITE: &str = "INSERT INTO bluegreen.compared (migration, relation, era, upto, rows, whole) VALUES ($1, $2, $3, $4, $5, $6) \
     ON CONFLICT (migration, relation) DO UPDATE SET era = excluded.era, upto = excluded.upto, rows = excluded.rows, whole = excluded.whole, at = now()";

const EVERY: Duration = Duration::from_secs(1);

/// How far a table is.
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    /// Everything up to this key is alike.
    pub(super) upto: Option<Bound>,
    pub(super) rows: u64,
    pub(super) whole: bool,
}

#[derive(Debug, Default)]
struct Track {
    done: Done,
    next: u64,
    /// Pieces that are done while an earlier one is not.
    ahead: BTreeMap<u64, (Option<Bound>, u64)>,
    saved: Option<Instant>,
}

/// Remembers; over no session at all where there is no migration at green.
#[derive(Debug)]
pub(super) struct Resume {
    migration: String,
    /// Who writes, and since when.
    era: String,
    session: Option<Session>,
    tracks: HashMap<String, Track>,
}

impl Resume {
    pub(super) async fn open(settings: &Settings, era: String) -> Result<Self> {
        let session = settings.connect(Color::Green).await?;
        let mut resume = Self {
            migration: settings.name.clone(),
            era,
            session: None,
            tracks: HashMap::new(),
        };
        if !marker::is_set_up(&*session).await? {
            return Ok(resume);
        }
        session.batch_execute(MAKE).await.doing(DOING)?;
        for row in session
            .query(READ, &[&resume.migration, &resume.era])
            .await
            .doing(DOING)?
        {
            let done = Done {
                upto: row.get(1),
                rows: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
                whole: row.get(3),
            };
            resume.tracks.insert(
                row.get(0),
                Track {
                    done,
                    ..Track::default()
                },
            );
        }
        resume.session = Some(session);
        Ok(resume)
    }

    /// How far an earlier process came.
    pub(super) fn of(&self, relation: &str) -> Done {
        self.tracks.get(relation).map(|t| t.done.clone()).unwrap_or_default()
    }

    /// A piece is alike; its table ends with it where it has no end of its own.
    pub(super) async fn alike(&mut self, relation: &str, ordinal: u64, upto: Option<Bound>, rows: u64) -> Result<()> {
        let track = self.tracks.entry(relation.to_owned()).or_default();
        track.ahead.insert(ordinal, (upto, rows));
        while let Some((upto, rows)) = track.ahead.remove(&track.next) {
            track.next += 1;
            track.done.rows += rows;
            track.done.whole = upto.is_none();
            track.done.upto = upto;
        }
        let due = track.done.whole || track.saved.is_none_or(|at| at.elapsed() > EVERY);
        let Some(session) = self.session.as_ref().filter(|_| due && track.next > 0) else {
            return Ok(());
        };
        track.saved = Some(Instant::now());
        let Done { upto, rows, whole } = &track.done;
        let rows = i64::try_from(*rows).unwrap_or(i64::MAX);
        session
            .execute(WRITE, &[&self.migration, &relation, &self.era, upto, &rows, whole])
            .await
            .doing(DOING)?;
        Ok(())
    }

    /// The comparison has come to its end: the next one begins anew.
    pub(super) async fn forget(&self) -> Result<()> {
        if let Some(session) = &self.session {
            session
                .execute(
                    "DELETE FROM bluegreen.compared WHERE migration = $1",
                    &[&self.migration],
                )
                .await
                .doing(DOING)?;
        }
        Ok(())
    }
}
