//! Indexes and keys of each table as soon as its rows are in, the largest first, several at a time; its `ANALYZE`; and
//! when all tables are there, the rest of the schema.

use super::copy::{Copy, Trial, WRITER};
use super::plan::Load;
use super::record;
use super::rest::{Build, Rest};
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::Relation;
use bluegreen_core::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

/// So many statements share a transaction: few round trips and not too many locks.
const TOGETHER: usize = 100;

/// What makes a table complete goes before all other jobs.
const THEN: u64 = u64::MAX;

/// A step at the target: one transaction.
#[derive(Debug)]
struct Job {
    /// What it is part of; none for what concerns no table alone.
    load: Option<usize>,
    /// How large it is, about: the largest goes first.
    size: u64,
    sql: String,
    what: String,
}

impl Job {
    /// What it is of all the work; what makes a table complete is little.
    fn weight(&self) -> u64 {
        if self.size == THEN { 0 } else { self.size }
    }
}

/// A session that does jobs, and its process.
type Builder = Option<(Session, i32)>;

/// The builders, the jobs that wait for one, and those under way.
pub(super) struct Finish<'a> {
    copy: Arc<Copy>,
    rest: &'a Rest,
    loads: &'a [Load],
    /// How large each index is at the origin.
    sizes: HashMap<Relation, u64>,
    waiting: Vec<Job>,
    idle: Vec<Builder>,
    running: JoinSet<(Builder, Job, Result<()>)>,
    /// How large those under way are together.
    under_way: u64,
    /// Loads whose rows are not in yet.
    copying: usize,
    /// Builds of each load that are not done yet.
    missing: HashMap<usize, usize>,
    step: i32,
}

impl<'a> Finish<'a> {
    pub(super) fn new(copy: Arc<Copy>, rest: &'a Rest, loads: &'a [Load], sizes: &HashMap<Relation, u64>) -> Self {
        let sizes = needed(sizes, rest, loads);
        copy.report.to_build(sizes.values().sum());
        let jobs = copy.context.options.copy_jobs;
        let last = loads.iter().flat_map(|l| &l.pieces).map(|p| p.step).max().unwrap_or(0);
        Self {
            copy,
            rest,
            loads,
            sizes,
            waiting: Vec::new(),
            idle: (0..jobs).map(|_| None).collect(),
            running: JoinSet::new(),
            under_way: 0,
            copying: loads.len(),
            missing: HashMap::new(),
            step: last,
        }
    }

    /// Does what each table needs as soon as it is in, until all are. Returns when it is all done.
    pub(super) async fn tables(&mut self, mut done: UnboundedReceiver<Option<usize>>) -> Result<()> {
        let mut open = true;
        while open || !self.running.is_empty() || !self.waiting.is_empty() {
            self.dispatch();
            tokio::select! {
                load = done.recv(), if open => match load {
                    Some(Some(load)) => self.is_in(load),
                    // A place is free, perhaps.
                    Some(None) => {}
                    None => open = false,
                },
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => {
                    if let Some(load) = self.ended(ended)? {
                        self.built(load);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs statements in this order.
    pub(super) async fn in_order(&mut self, statements: &[String], what: &str) -> Result<()> {
        for some in statements.chunks(TOGETHER) {
            self.queue(None, 0, some.join("; "), what.to_owned());
            self.drain().await?;
        }
        Ok(())
    }

    /// Runs groups of statements, the groups at the same time.
    pub(super) async fn at_once(&mut self, groups: Vec<Vec<String>>, what: &str) -> Result<()> {
        for group in groups {
            self.queue(None, 0, group.join("; "), what.to_owned());
        }
        self.drain().await
    }

    /// All steps there were, the copy's included.
    pub(super) fn steps(&self) -> Vec<i32> {
        (1..=self.step).collect()
    }

    async fn drain(&mut self) -> Result<()> {
        loop {
            self.dispatch();
            let Some(ended) = self.running.join_next().await else {
                return Ok(());
            };
            self.ended(ended)?;
        }
    }

    /// The rows of a load are in.
    fn is_in(&mut self, load: usize) {
        self.copying -= 1;
        let tables = &self.loads[load].tables;
        let [table] = tables.as_slice() else {
            let mut all: Vec<String> = tables.iter().flat_map(|t| self.rest.of(t).whole).collect();
            all.push(analyze(tables));
            let what = format!("{} and {} other tables", tables[0], tables.len() - 1);
            return self.queue(None, self.loads[load].bytes(), all.join("; "), what);
        };
        let builds = self.rest.of(table).builds;
        self.missing.insert(load, builds.len());
        for Build { index, sql } in builds {
            let size = self.sizes.get(&index).copied().unwrap_or(0);
            self.queue(Some(load), size, sql, index.to_string());
        }
        if self.missing[&load] == 0 {
            self.then(load);
        }
    }

    /// One more index of a load is there.
    fn built(&mut self, load: usize) {
        let Some(missing) = self.missing.get_mut(&load) else {
            return;
        };
        *missing -= 1;
        if *missing == 0 {
            self.then(load);
        }
    }

    fn then(&mut self, load: usize) {
        self.missing.remove(&load);
        let table = &self.loads[load].tables[0];
        let mut all = self.rest.of(table).then;
        all.push(analyze(std::slice::from_ref(table)));
        self.queue(None, THEN, all.join("; "), table.to_string());
    }

    fn queue(&mut self, load: Option<usize>, size: u64, sql: String, what: String) {
        self.waiting.push(Job { load, size, sql, what });
    }

    fn dispatch(&mut self) {
        let most = self.copy.queue().builders(self.copy.context.options.copy_jobs);
        self.waiting.sort_by_key(|j| j.size);
        while self.running.len() < most
            && let Some(builder) = self.idle.pop()
        {
            let Some(job) = self.waiting.pop() else {
                self.idle.push(builder);
                return;
            };
            let helpers = helpers(&Beside {
                most,
                others: self.running.len() + self.waiting.len() + usize::from(self.copying > 0),
                all_in: self.copying == 0,
                weight: job.weight(),
                theirs: self.under_way + self.waiting.iter().map(Job::weight).sum::<u64>(),
            });
            self.under_way += job.weight();
            self.step += 1;
            let (copy, step, settings) = (self.copy.clone(), self.step, self.rest.settings.clone());
            self.running.spawn(async move {
                let mut builder = builder;
                let done = copy.step(&mut builder, step, &settings, helpers, &job).await;
                if done.is_ok() {
                    copy.keeps(step);
                }
                copy.report.built(if job.load.is_some() { job.size } else { 0 });
                (builder, job, done)
            });
        }
    }

    fn ended(
        &mut self,
        ended: std::result::Result<(Builder, Job, Result<()>), tokio::task::JoinError>,
    ) -> Result<Option<usize>> {
        let died = |e| {
            fault(
                Kind::Unexpected,
                "make indexes and constraints",
                format!("a worker died: {e}"),
            )
        };
        let (builder, job, done) = ended.map_err(died)?;
        self.idle.push(builder);
        self.under_way -= job.weight();
        done.map(|()| job.load)
    }
}

/// What else there is when an index is begun.
#[derive(Debug, Clone, Copy)]
struct Beside {
    /// How many may be made at a time now.
    most: usize,
    /// How many others wait or are under way; all streams together are one.
    others: usize,
    /// Whether all rows are in.
    all_in: bool,
    weight: u64,
    /// The others' weight together.
    theirs: u64,
}

/// How many helpers the server may give it. What is not used by others, it may use; and when all rows are in, one that is more
/// than all others together has them all: it ends last.
fn helpers(beside: &Beside) -> usize {
    let ends_last = beside.all_in && beside.weight > beside.theirs;
    let sharing = if ends_last { 1 } else { beside.others + 1 };
    (beside.most / sharing).saturating_sub(1)
}

/// How large the origin's large indexes are; one that is gone by now has no size any more.
pub(super) async fn sizes(origin: &Session) -> Result<HashMap<Relation, u64>> {
    let rows = origin
        .query(
            "SELECT n.nspname::text, c.relname::text, coalesce(pg_relation_size(c.oid), 0)::bigint FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'i' AND c.relpages > 1000",
            &[],
        )
        .await
        .doing("look how large the indexes are")?;
    let sized = |r: &tokio_postgres::Row| {
        let size = u64::try_from(r.get::<_, i64>(2)).unwrap_or(0);
        (Relation::new(r.get::<_, &str>(0), r.get::<_, &str>(1)), size)
    };
    Ok(rows.iter().map(sized).collect())
}

/// The sizes of the indexes that are made one by one.
fn needed(sizes: &HashMap<Relation, u64>, rest: &Rest, loads: &[Load]) -> HashMap<Relation, u64> {
    let large = loads.iter().filter(|l| l.tables.len() == 1);
    large
        .flat_map(|l| rest.of(&l.tables[0]).builds)
        .filter_map(|b| sizes.get(&b.index).map(|size| (b.index, *size)))
        .collect()
}

fn analyze(tables: &[Relation]) -> String {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    format!("ANALYZE {}", names.join(", "))
}

impl Copy {
    /// Does a step, again while its connection is lost.
    async fn step(&self, builder: &mut Builder, step: i32, settings: &str, helpers: usize, job: &Job) -> Result<()> {
        let mut trial = Trial::of(&self.report, &format!("step {step}, {}", job.what));
        let mut was = None;
        loop {
            let tried = async {
                if let Some(pid) = was
                    && self.settle(pid, step).await.map_err(|e| (None, e))?
                {
                    return Ok(());
                }
                self.step_once(builder, step, settings, helpers, job).await
            };
            match tried.await {
                Ok(()) => return Ok(()),
                Err((pid, error)) => {
                    was = pid.or(was);
                    trial.failed(error).await?;
                }
            }
        }
    }

    async fn step_once(
        &self,
        builder: &mut Builder,
        step: i32,
        settings: &str,
        helpers: usize,
        job: &Job,
    ) -> std::result::Result<(), (Option<i32>, Error)> {
        let (session, pid) = match builder.take() {
            Some(ready) => ready,
            None => self.builder(settings).await.map_err(|e| (None, e))?,
        };
        let sql = format!(
            "SET max_parallel_maintenance_workers = {helpers}; {}; {}",
            record::insert(&self.context.settings.name, step),
            job.sql
        );
        let doing = format!("make indexes and constraints: {}", job.what);
        session
            .batch_execute(&sql)
            .await
            .doing(doing)
            .map_err(|e| (Some(pid), e))?;
        *builder = Some((session, pid));
        Ok(())
    }

    /// A session with room to sort in: as much as the server caches with, shared by all, and never less than it gives.
    async fn builder(&self, settings: &str) -> Result<(Session, i32)> {
        let doing = "prepare a session for indexes";
        let session = self.context.settings.connect_copy(self.direction.follower()).await?;
        let jobs = self.context.options.copy_jobs;
        let sql = format!(
            "{settings} {WRITER}; SELECT set_config('maintenance_work_mem', greatest(current.setting::bigint, \
                 least(1 << 20, cache.setting::bigint * 8 / {jobs}))::text || 'kB', false) \
             FROM pg_settings AS current, pg_settings AS cache \
             WHERE current.name = 'maintenance_work_mem' AND cache.name = 'shared_buffers'"
        );
        session.batch_execute(&sql).await.doing(doing)?;
        let pid = session
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .doing(doing)?
            .get(0);
        Ok((session, pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_gets_the_helpers_that_nobody_else_could_use() {
        let alone = Beside {
            most: 8,
            others: 0,
            all_in: true,
            weight: 0,
            theirs: 0,
        };
        let with = |others, most, all_in| {
            helpers(&Beside {
                others,
                most,
                all_in,
                ..alone
            })
        };
        assert_eq!(with(0, 8, true), 7);
        assert_eq!(with(1, 8, true), 3);
        assert_eq!(with(7, 8, true), 0);
        assert_eq!(with(1, 1, false), 0, "every stream is at its last piece");
        let weighing = |weight, all_in| {
            helpers(&Beside {
                others: 3,
                weight,
                theirs: 5,
                all_in,
                ..alone
            })
        };
        assert_eq!(weighing(6, true), 7, "it ends last");
        assert_eq!(weighing(5, true), 1);
        assert_eq!(weighing(6, false), 1, "the rows end last");
    }
}
