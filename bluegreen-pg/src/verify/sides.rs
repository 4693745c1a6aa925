//! The two sessions of a comparison, and the marker that tells when the follower has what the writer had.

use super::plan::{Bound, Range, Table};
use crate::connect::{Session, Settings};
use crate::error::{Doing, fault};
use crate::fence::marker_round_trip;
use crate::mirror;
use bluegreen_core::{Color, Direction, Kind, Result};
use futures::future::try_join_all;
use std::collections::HashMap;
use std::time::Duration;

/// Both sides print alike, and a comparison takes one core of each server and no more.
const SETTINGS: &str = "SET TimeZone = 'UTC'; SET lc_monetary = 'C'; SET jit = off; SET max_parallel_workers_per_gather = 0; \
     SET xmloption = 'content'; SET default_transaction_read_only = on";

/// When a marker that does not arrive means that the mirror is too far behind to compare.
const MARKER_WITHIN: Duration = Duration::from_secs(60);

const COMPARING: &str = "compare the data";

/// A row as it is seen at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) digest: i64,
    /// The transaction that wrote it there: another one each time, also where the same values come back.
    pub(super) writer: i64,
}

/// Rows by their key.
pub(super) type Rows = HashMap<Bound, Seen>;

/// How often a row without a key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    pub(super) all: i64,
    /// Of these, how many are known to have been there at an earlier moment.
    pub(super) old: i64,
}

/// How many rows of a range have which digest.
pub(super) type Sum = (i64, String);

/// Both sessions.
#[derive(Debug)]
pub(super) struct Sides {
    blue: Session,
    green: Session,
}

/// How the follower is known to have what the writer had.
#[derive(Debug)]
pub(super) enum Settling<'a> {
    /// By a marker that travels this way.
    Mirror(&'a Settings, Direction),
    /// No mirror runs: both are compared as they stand.
    AtRest,
}

impl<'a> Settling<'a> {
    /// By the mirror that runs, whichever way; at rest when there is none at all.
    pub(super) async fn find(settings: &'a Settings, sides: &Sides) -> Result<Self> {
        for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
            let name = crate::ident::mirror_name(&settings.name, direction);
            let found = mirror::look(sides.of(direction.follower()), &name).await?;
            match found {
                Some(state) if state.enabled && state.worker.is_some() => {
                    return Ok(Self::Mirror(settings, direction));
                }
                Some(state) if state.enabled => {
                    let message = format!(
                        "the mirror {direction} has no apply worker: {}'s log says why",
                        direction.follower()
                    );
                    return Err(fault(Kind::Unavailable, COMPARING, message));
                }
                _ => {}
            }
        }
        Ok(Self::AtRest)
    }

    /// Who writes.
    pub(super) fn writer(&self) -> Color {
        match self {
            Self::Mirror(_, direction) => direction.origin(),
            Self::AtRest => Color::Blue,
        }
    }

    /// Who writes and since when: what was alike before says nothing of what came later from another side.
    pub(super) async fn era(&self, sides: &Sides) -> Result<String> {
        let Self::Mirror(settings, direction) = self else {
            return Ok("at rest".into());
        };
        let opened = "SELECT opened_at::text FROM bluegreen.state WHERE migration = $1";
        let row = sides.of(direction.origin()).query_opt(opened, &[&settings.name]).await;
        let since: Option<String> = row.doing(COMPARING)?.and_then(|r| r.get(0));
        Ok(format!("{direction} since {}", since.as_deref().unwrap_or("it began")))
    }

    /// Returns when the follower has everything that the writer had at the call.
    pub(super) async fn settle(&self) -> Result<()> {
        let Self::Mirror(settings, direction) = self else {
            return Ok(());
        };
        // Sessions of their own: the ones that compare are read-only.
        let (origin, follower) = tokio::try_join!(
            settings.connect(direction.origin()),
            settings.connect(direction.follower())
        )?;
        match marker_round_trip(&origin, &follower, &settings.name, MARKER_WITHIN).await? {
            Some(_) => Ok(()),
            None => Err(fault(
                Kind::Unavailable,
                COMPARING,
                format!("the mirror {direction} is more than {MARKER_WITHIN:?} behind: compare when it has caught up"),
            )),
        }
    }
}

impl Sides {
    pub(super) async fn connect(settings: &Settings) -> Result<Self> {
        let (blue, green) = tokio::try_join!(settings.connect(Color::Blue), settings.connect(Color::Green))?;
        let both = Self { blue, green };
        tokio::try_join!(both.blue.batch_execute(SETTINGS), both.green.batch_execute(SETTINGS)).doing(COMPARING)?;
        Ok(both)
    }

    pub(super) fn of(&self, color: Color) -> &Session {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// The digest of a range at both sides, read at the same time.
    pub(super) async fn digests(&self, table: &Table, range: &Range) -> Result<[Sum; 2]> {
        let sql = table.digest(range);
        let sum = |row: tokio_postgres::Row| (row.get(0), row.get(1));
        let one = async |session: &Session| session.query_one(&sql, &[]).await.map(sum).doing(doing(table));
        tokio::try_join!(one(&self.blue), one(&self.green)).map(|(blue, green)| [blue, green])
    }

    /// The digests of every part of a table at both sides.
    pub(super) async fn buckets(&self, table: &Table) -> Result<[HashMap<i64, Sum>; 2]> {
        let sql = table.digest_buckets();
        let one = async |session: &Session| -> Result<HashMap<i64, Sum>> {
            let rows = session.query(&sql, &[]).await.doing(doing(table))?;
            Ok(rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2)))).collect())
        };
        tokio::try_join!(one(&self.blue), one(&self.green)).map(|(blue, green)| [blue, green])
    }

    /// Rows and their digests at both sides.
    pub(super) async fn rows(&self, table: &Table, sql: &str) -> Result<[Vec<(Bound, i64)>; 2]> {
        let (blue, green) = tokio::try_join!(rows_at(&self.blue, table, sql), rows_at(&self.green, table, sql))?;
        Ok([blue, green])
    }

    /// The rows of some keys at one side, so many times at once: each look is a moment of its own.
    pub(super) async fn looks(&self, color: Color, table: &Table, sql: &str, times: usize) -> Result<Vec<Rows>> {
        let session = self.of(color);
        let statement = session.prepare(sql).await.doing(doing(table))?;
        let look = async |_| -> Result<Rows> {
            let rows = session.query(&statement, &[]).await.doing(doing(table))?;
            let seen = |r: &tokio_postgres::Row| Seen {
                digest: r.get(1),
                writer: r.get(2),
            };
            Ok(rows.iter().map(|r| (r.get(0), seen(r))).collect())
        };
        try_join_all((0..times).map(look)).await
    }

    /// A transaction of one side's before which all others are over.
    pub(super) async fn horizon(&self, color: Color) -> Result<String> {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text";
        Ok(self.of(color).query_one(sql, &[]).await.doing(COMPARING)?.get(0))
    }

    /// How often rows without a key are at one side, by their digests, and how many of them are older than a horizon.
    pub(super) async fn counts(
        &self,
        color: Color,
        table: &Table,
        digests: &[i64],
        horizon: Option<&str>,
    ) -> Result<HashMap<i64, Count>> {
        let sql = table.counts_of_digests();
        let rows = self
            .of(color)
            .query(&sql, &[&digests, &horizon])
            .await
            .doing(doing(table))?;
        let count = |r: &tokio_postgres::Row| Count {
            all: r.get(1),
            old: r.get(2),
        };
        Ok(rows.iter().map(|r| (r.get(0), count(r))).collect())
    }

    /// All columns of a row at one side; none where it is not.
    pub(super) async fn values(&self, color: Color, table: &Table, key: &Bound) -> Result<Option<Vec<Option<String>>>> {
        let row = self
            .of(color)
            .query_opt(&table.values_of(key), &[])
            .await
            .doing(doing(table))?;
        Ok(row.map(|r| r.get(0)))
    }

    /// How often a row without a key is at one side.
    pub(super) async fn count(&self, color: Color, table: &Table, key: &Bound) -> Result<u64> {
        let row = self.of(color).query_one(&table.count_of(key), &[]).await;
        Ok(u64::try_from(row.doing(doing(table))?.get::<_, i64>(0)).unwrap_or(0))
    }

    /// The key at which the next piece of a table ends, as the writer has it.
    pub(super) async fn boundary(&self, color: Color, table: &Table, after: Option<&Bound>) -> Result<Option<Bound>> {
        let sql = table.boundary(after, table.piece_rows());
        let row = self.of(color).query_opt(&sql, &[]).await.doing(doing(table))?;
        Ok(row.map(|r| r.get(0)))
    }
}

async fn rows_at(session: &Session, table: &Table, sql: &str) -> Result<Vec<(Bound, i64)>> {
    let rows = session.query(sql, &[]).await.doing(doing(table))?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

fn doing(table: &Table) -> String {
    format!("compare {}", table.relation)
}
