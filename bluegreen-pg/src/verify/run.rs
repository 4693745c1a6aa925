//! The comparison itself: pieces of tables, digested at both sides by a few workers, looked at again where they differ.

use super::pace::Pace;
use super::plan::{Bound, Range, Table};
use super::resume::Resume;
use super::rows::{self, ENOUGH, Found};
use super::sides::{Settling, Sides, Sum};
use super::{Options, Shared, counted};
use crate::connect::Settings;
use crate::error::fault;
use crate::wal;
use bluegreen_core::{Color, Compared, Comparison, Kind, Result};
use futures::future::{Either, select, try_join_all};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::Mutex;

/// How many rows that differ are shown.
const SHOWN: usize = 20;

/// A piece of a table.
struct Piece {
    table: usize,
    ordinal: u64,
    range: Range,
}

/// Cuts tables into pieces as they are asked for.
struct Planner<'a> {
    sides: &'a Sides,
    writer: Color,
    tables: &'a [Table],
    /// Where an earlier process stopped in each.
    from: Vec<Option<Bound>>,
    at: usize,
    ordinal: u64,
    after: Option<Bound>,
}

impl Planner<'_> {
    async fn next(&mut self) -> Result<Option<Piece>> {
        let Some(table) = self.tables.get(self.at) else {
            return Ok(None);
        };
        if self.ordinal == 0 {
            self.after = self.from[self.at].take();
        }
        let to = if table.ordered {
            self.sides.boundary(self.writer, table, self.after.as_ref()).await?
        } else {
            None
        };
        let piece = Piece {
            table: self.at,
            ordinal: self.ordinal,
            range: Range {
                after: self.after.take(),
                to: to.clone(),
            },
        };
        if to.is_some() {
            self.after = to;
            self.ordinal += 1;
        } else {
            (self.at, self.ordinal) = (self.at + 1, 0);
        }
        Ok(Some(piece))
    }
}

/// What all workers share.
struct Work<'a> {
    tables: &'a [Table],
    settling: &'a Settling<'a>,
    pace: Pace<'a>,
    shared: &'a Shared,
    planner: Mutex<Planner<'a>>,
    resume: Mutex<Resume>,
    /// Rows that differ, and those that could not be settled, by table.
    found: Mutex<Vec<(usize, Found)>>,
    enough: AtomicBool,
}

/// Compares everything.
pub(super) async fn run(
    settings: &Settings,
    options: &Options,
    shared: &Shared,
    log: &wal::Shared,
) -> Result<Comparison> {
    let sides = Sides::connect(settings).await?;
    let settling = Settling::find(settings, &sides).await?;
    let resume = Resume::open(settings, settling.era(&sides).await?).await?;
    let all = super::tables::plan(sides.of(Color::Blue), sides.of(Color::Green)).await?;
    shared.begin(&all);
    let mut compared = Compared {
        tables: all.len() as u64,
        ..Compared::default()
    };
    let (mut tables, mut from) = (Vec::new(), Vec::new());
    for table in all {
        let done = resume.of(&table.relation.to_string());
        shared.add(&table, done.rows);
        if !done.whole {
            tables.push(table);
            from.push(done.upto);
        }
    }
    let work = Work {
        tables: &tables,
        settling: &settling,
        pace: Pace::new(options.share, log),
        shared,
        planner: Mutex::new(Planner {
            sides: &sides,
            writer: settling.writer(),
            tables: &tables,
            from,
            at: 0,
            ordinal: 0,
            after: None,
        }),
        resume: Mutex::new(resume),
        found: Mutex::default(),
        enough: AtomicBool::new(false),
    };
    let workers = try_join_all((0..options.jobs.max(1)).map(|_| work.worker(settings)));
    match select(
        std::pin::pin!(workers),
        std::pin::pin!(work.pace.watch(settings, settling.writer())),
    )
    .await
    {
        Either::Left((done, _)) => done.map(|_| ())?,
        Either::Right((error, _)) => return Err(error),
    }
    compared.rows = shared.rows();
    compared.bytes = shared.bytes();
    let answer = work.answer(&sides, compared).await?;
    work.resume.lock().await.forget().await?;
    Ok(answer)
}

impl Work<'_> {
    async fn worker(&self, settings: &Settings) -> Result<()> {
        let sides = Sides::connect(settings).await?;
        while !self.enough.load(Ordering::Relaxed) {
            let Some(piece) = self.planner.lock().await.next().await? else {
                break;
            };
            self.pace.relief().await;
            let started = Instant::now();
            let table = &self.tables[piece.table];
            let (rows, found) = if table.ordered {
                self.range(&sides, table, &piece.range).await?
            } else {
                self.whole(&sides, table).await?
            };
            self.shared.add(table, rows);
            if found.different.is_empty() && found.moving.is_empty() {
                let name = table.relation.to_string();
                self.resume
                    .lock()
                    .await
                    .alike(&name, piece.ordinal, piece.range.to, rows)
                    .await?;
            } else {
                let mut all = self.found.lock().await;
                all.push((piece.table, found));
                if all.iter().map(|(_, f)| f.different.len()).sum::<usize>() >= ENOUGH {
                    self.enough.store(true, Ordering::Relaxed);
                }
            }
            self.pace.rest(started.elapsed()).await;
        }
        Ok(())
    }

    /// A piece of a table that both sides walk in the same order.
    async fn range(&self, sides: &Sides, table: &Table, range: &Range) -> Result<(u64, Found)> {
        let mut rows = 0;
        for look in 0..2 {
            let [blue, green] = sides.digests(table, range).await?;
            let at_writer = if self.settling.writer() == Color::Blue {
                &blue
            } else {
                &green
            };
            rows = u64::try_from(at_writer.0).unwrap_or(0);
            if blue == green {
                return Ok((rows, Found::default()));
            }
            if look == 0 {
                self.settling.settle().await?;
            }
        }
        let suspects = rows::suspects(sides, table, range).await?;
        let found = rows::confirm(sides, table, self.settling, &suspects).await?;
        Ok((rows, found))
    }

    /// A table without a key, or with one that each side sorts in its own way: all of it at once, in parts by a hash.
    async fn whole(&self, sides: &Sides, table: &Table) -> Result<(u64, Found)> {
        let mut rows = 0;
        let mut unlike = Vec::new();
        for look in 0..2 {
            let [blue, green] = sides.buckets(table).await?;
            let at_writer = if self.settling.writer() == Color::Blue {
                &blue
            } else {
                &green
            };
            rows = at_writer
                .values()
                .map(|(count, _)| u64::try_from(*count).unwrap_or(0))
                .sum();
            unlike = differing(&blue, &green);
            if unlike.is_empty() {
                return Ok((rows, Found::default()));
            }
            if look == 0 {
                self.settling.settle().await?;
            }
        }
        let mut found = Found::default();
        for buckets in unlike.chunks(self.buckets_at_a_time(table)) {
            let suspects = rows::suspects_of_buckets(sides, table, buckets).await?;
            let some = if table.key.is_empty() {
                counted::confirm(sides, table, self.settling, &suspects).await?
            } else {
                rows::confirm(sides, table, self.settling, &suspects).await?
            };
            found.different.extend(some.different);
            found.moving.extend(some.moving);
            if found.different.len() >= ENOUGH {
                break;
            }
        }
        Ok((rows, found))
    }

    /// About so many rows are held in memory at a time.
    fn buckets_at_a_time(&self, table: &Table) -> usize {
        let rows = (table.rows / u64::from(super::plan::BUCKETS)).max(1);
        usize::try_from(500_000 / rows).unwrap_or(1).max(1)
    }

    async fn answer(&self, sides: &Sides, compared: Compared) -> Result<Comparison> {
        let found = self.found.lock().await;
        let different: Vec<(usize, &Bound)> = found
            .iter()
            .flat_map(|(table, f)| f.different.iter().map(move |key| (*table, key)))
            .collect();
        if different.is_empty() {
            let moving = found
                .iter()
                .find_map(|(table, f)| Some((&self.tables[*table], f.moving.first()?)));
            return match moving {
                None => Ok(Comparison::Same(compared)),
                Some((table, key)) => Err(fault(
                    Kind::Unavailable,
                    "compare the data",
                    format!(
                        "rows that change at every look could not be settled, {} of {} among them: compare again",
                        table.name_of(key),
                        table.relation
                    ),
                )),
            };
        }
        let mut differences = Vec::new();
        for (table, key) in different.iter().take(SHOWN) {
            differences.push(rows::describe(sides, &self.tables[*table], key).await?);
        }
        Ok(Comparison::Different {
            compared,
            more: (different.len() - differences.len()) as u64,
            differences,
        })
    }
}

/// The parts that are not alike.
fn differing(blue: &HashMap<i64, Sum>, green: &HashMap<i64, Sum>) -> Vec<i64> {
    let all: BTreeSet<i64> = blue.keys().chain(green.keys()).copied().collect();
    all.into_iter()
        .filter(|bucket| blue.get(bucket) != green.get(bucket))
        .collect()
}
