//! The first copy: a slot and its snapshot, the schema, the rows, the rest of the schema, the subscription.

mod ahead;
mod apart;
mod brake;
mod copy;
mod finish;
mod lexer;
mod padding;
mod plan;
mod pump;
mod queue;
mod record;
mod rest;
mod script;
mod seen;
mod tables;
mod types;
mod unchanged;
mod views;
mod waits;

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::{Relation, copy_application_name, mirror_name};
use crate::marker::{self, Stage};
use crate::progress::Report;
use crate::replicator::Context;
use crate::schema::{self, Tools};
use crate::{catalog, drift, identity, made, mirror, shut, slot, writers};
use bluegreen_core::{Direction, Kind, Result};
use brake::Brake;
use copy::Stop;
use queue::Queue;
use seen::Seen;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Checks that it may begin, takes away what an unfinished try left, and prepares both sides. Returns when the long
/// part can run.
pub(crate) async fn begin(context: &Context, direction: Direction) -> Result<()> {
    let settings = &context.settings;
    let name = mirror_name(&settings.name, direction);
    let (origin, mut follower) = tokio::try_join!(
        settings.connect(direction.origin()),
        settings.connect(direction.follower()),
    )?;
    if marker::stage(&follower, &settings.name).await? == Stage::Copying {
        tracing::info!(migration = %settings.name, "an unfinished copy is taken away and begun again");
        wipe(context, direction, &origin, &mut follower).await?;
    }
    catalog::all_identified(&origin, direction.origin(), Kind::InvalidInput, "begin the mirror").await?;
    let there = catalog::made_by_somebody(&follower).await?;
    if let Some(first) = there.first() {
        return Err(fault(
            Kind::Conflict,
            "begin the mirror",
            format!(
                "{} is not empty: it has {} tables that we did not make; first: {first}. Drop them, or give an empty database",
                crate::ident::side(direction.follower()),
                there.len()
            ),
        ));
    }
    tools(context, &origin, &follower).await?;
    // The row that says "an unfinished copy" is there before anything that it would have to take away.
    let both = identity::read(context, direction, &origin, &follower).await?;
    marker::set_up(&follower, &settings.name, Stage::Copying, &both).await?;
    marker::set_up(&origin, &settings.name, Stage::Origin, &both).await?;
    writers::close(
        &follower,
        &settings.name,
        settings.server(direction.follower()).conninfo().dbname(),
    )
    .await?;
    let tables = catalog::tables(&origin).await?;
    slot::drop(&origin, &name).await?;
    mirror::publish(&origin, &settings.name, &name, &tables).await
}

/// Takes away an unfinished try: its sessions first, that they do not go on under our hands.
pub(crate) async fn wipe(
    context: &Context,
    direction: Direction,
    origin: &Session,
    follower: &mut Session,
) -> Result<()> {
    let settings = &context.settings;
    let name = mirror_name(&settings.name, direction);
    for session in [origin, &*follower] {
        end_copy_sessions(session, &settings.name).await?;
    }
    let unsubscribed = mirror::unsubscribe(follower, &name).await;
    // Whatever holds that up, the origin's log is kept for nobody any more.
    slot::drop(origin, &name).await?;
    unsubscribed?;
    made::wipe(follower, &settings.name).await
}

async fn end_copy_sessions(session: &Session, migration: &str) -> Result<()> {
    let doing = "end the sessions of the unfinished copy";
    let until = std::time::Instant::now() + std::time::Duration::from_secs(15);
    loop {
        let rows = session
            .query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = $1",
                &[&copy_application_name(migration)],
            )
            .await
            .doing(doing)?;
        if rows.is_empty() {
            return Ok(());
        }
        if std::time::Instant::now() > until {
            return Err(fault(Kind::Timeout, doing, "they do not end"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// How often it begins again by itself.
const BEGINNINGS: u32 = 3;

/// The long part, to the running subscription. A lost snapshot begins it again, and so does a table that it does not fit any more.
pub(crate) async fn run(context: Arc<Context>, direction: Direction, report: Arc<Report>) -> Result<()> {
    let mut beginnings = 1;
    loop {
        let (error, why) = match once(&context, direction, &report).await {
            Ok(()) => return Ok(()),
            Err(Stop::Snapshot(error)) if beginnings < BEGINNINGS => (
                error,
                "begun again: the snapshot was lost with blue's connection, and what was copied fits no other",
            ),
            Err(Stop::Forgotten(error)) if beginnings < BEGINNINGS => (
                error,
                "begun again: green has forgotten what it had acknowledged, as after a crash",
            ),
            Err(Stop::Changed(error)) if beginnings < BEGINNINGS => (
                error,
                "begun again: a table was rewritten, emptied, replaced or dropped at the copied side, and what the snapshot saw \
                 of it cannot be read any more",
            ),
            Err(Stop::Snapshot(error) | Stop::Forgotten(error) | Stop::Changed(error) | Stop::Fault(error)) => {
                return Err(error);
            }
        };
        beginnings += 1;
        tracing::warn!(%error, "{why}");
        report.stage(why);
        let mut trial = copy::Trial::of(&report, "begin again");
        while let Err(error) = begin(&context, direction).await {
            trial.failed(error).await?;
        }
    }
}

async fn once(context: &Arc<Context>, direction: Direction, report: &Arc<Report>) -> Result<(), Stop> {
    let settings = &context.settings;
    let (from, to) = (direction.origin(), direction.follower());
    let name = mirror_name(&settings.name, direction);
    let (origin, mut follower) = tokio::try_join!(settings.connect_copy(from), settings.connect_copy(to))?;
    let tools = tools(context, &origin, &follower).await?;
    record::clear(&*follower, &settings.name).await?;

    // Before the dump: what is changed between the two is looked at as drift, and not taken for as it always was.
    let was = drift::before_the_dump(&origin).await?;
    report.stage("slot and snapshot");
    let snapshot = slot::create_with_snapshot(
        settings.server(from),
        &origin,
        &name,
        &copy_application_name(&settings.name),
        context.options.slot_wait,
    )
    .await?;
    report.stage("schema");
    // Dropped, it ends what it runs.
    let mut waits = JoinSet::new();
    waits.spawn(waits::watch(context.clone(), report.clone()));
    let dump = match schema::dump(&tools, context, from, &snapshot.name).await {
        Ok(dump) => dump,
        Err(error) => return Err(seen::unreadable(&origin, &snapshot.name, error).await),
    };
    let (tables, rest) = tokio::try_join!(
        schema::section(&tools, context, to, &dump, "pre-data"),
        schema::section(&tools, context, to, &dump, "post-data"),
    )?;
    drop(dump);
    let (statements, of_system) = script::statements(&tables);
    let parts = apart::divide(statements, context.options.copy_jobs);
    tables::restore(context, to, &mut follower, &parts).await?;
    schema::restore_system_rights(&follower, &of_system).await?;

    let seen = Seen::read(&origin, &follower, &snapshot.name, context.options.copy_jobs).await?;
    drift::columns::record(&*origin, &settings.name, &seen.columns).await?;
    drop((origin, follower));
    let bytes = seen.loads.iter().map(plan::Load::bytes).sum();
    let loaded = seen.loads.iter().flat_map(|l| l.tables.iter().cloned()).collect();
    let rest = rest::Rest::sort(&rest, &loaded, &seen.computed);
    tracing::debug!(loads = seen.loads.len(), tables = loaded.len(), bytes, "copy planned");
    report.copying(seen.rows, bytes);
    let copy = Arc::new(copy::Copy {
        context: context.clone(),
        direction,
        snapshot: snapshot.name.clone(),
        report: report.clone(),
        brake: Arc::new(Brake::new(context.options.copy_jobs)),
        queue: Mutex::new(Queue::new(&seen.loads)),
        kept: Mutex::default(),
    });
    let plan = Plan { seen, rest, was };
    match fill(&copy, plan, snapshot).await {
        Ok(()) => Ok(()),
        Err(failure) => Err(copy.reason(failure).await),
    }
}

/// What there is to do.
struct Plan {
    seen: Seen,
    rest: rest::Rest,
    was: drift::Objects,
}

/// Everything from the rows to the subscription that streams.
async fn fill(copy: &Arc<copy::Copy>, plan: Plan, snapshot: slot::Snapshot) -> Result<(), Stop> {
    let (context, report) = (&copy.context, &copy.report);
    let settings = &context.settings;
    let (from, to) = (copy.direction.origin(), copy.direction.follower());
    let name = mirror_name(&settings.name, copy.direction);
    let Plan { seen, rest, was } = &plan;
    let loads = &seen.loads;
    let mut finish = finish::Finish::new(copy.clone(), rest, loads, &seen.index_sizes);
    finish.in_order(&rest.before, "statistics objects").await?;
    report.stage("copy");
    rows_and_indexes(copy, loads, &mut finish).await?;
    drop(snapshot);
    // Those of the beginning may have been lost in all that time.
    let (origin, mut follower) = tokio::try_join!(settings.connect_copy(from), settings.connect_copy(to))?;
    report.stage("constraints");
    finish.in_order(&rest.after, "constraints and triggers").await?;
    finish.at_once(by_table(&rest.validate), "foreign keys").await?;
    report.stage("statistics");
    // Those that were filled meanwhile too.
    let filled = &seen.filled | &views::filled(&origin).await?;
    finish
        .in_order(&views::refreshes(&follower, &filled).await?, "materialized views")
        .await?;
    finish
        .in_order(&views::analyses(&follower).await?, "statistics")
        .await?;

    report.stage("subscription");
    // A write there would meet one of the mirror's: while nobody uses the tables, it costs next to nothing.
    shut::shut(&follower, &settings.name, shut::WITHIN).await?;
    let version = catalog::version(&follower).await?;
    let transaction = follower.transaction().await.doing("create the subscription")?;
    // All that was written before this commit is durable with it, if it is durable itself.
    transaction
        .batch_execute(DURABLY)
        .await
        .doing("create the subscription")?;
    copy.has(&transaction, &finish.steps()).await?;
    record::clear(&transaction, &settings.name).await?;
    drift::record(&transaction, &settings.name, was).await?;
    let columns = drift::columns::read(&transaction).await?;
    drift::columns::record(&transaction, &settings.name, &columns).await?;
    mirror::subscribe(&transaction, version, &settings.name, &name, settings.server(from)).await?;
    marker::set_stage(&transaction, &settings.name, Stage::Ready).await?;
    transaction.commit().await.doing("create the subscription")?;
    mirror::enable(&follower, &name).await?;
    Ok(())
}

const DURABLY: &str =
    "SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'";

/// Copies, and makes what each table needs as soon as it is in.
async fn rows_and_indexes(
    copy: &Arc<copy::Copy>,
    loads: &[plan::Load],
    finish: &mut finish::Finish<'_>,
) -> Result<(), Stop> {
    let (done, heard) = mpsc::unbounded_channel();
    // Dropped, it ends what it runs.
    let mut watching = JoinSet::new();
    watching.spawn(brake::watch(
        copy.context.clone(),
        copy.direction,
        copy.brake.clone(),
        copy.report.clone(),
    ));
    watching.spawn(ahead::keep(copy.clone()));
    let rows = async {
        beside(copy::run(copy, loads, done), watching).await?;
        copy.report.stage("indexes");
        Ok(())
    };
    let indexes = async { finish.tables(heard).await.map_err(Stop::Fault) };
    tokio::try_join!(rows, indexes)?;
    Ok(())
}

/// Does the work. Who watches meanwhile never ends by himself: when he does, it is said, and the work goes on without him.
async fn beside<T>(work: impl Future<Output = T>, mut watching: JoinSet<()>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(ended) = watching.join_next() => {
                tracing::warn!(?ended, "who looks after the copied side, or wakes the log writer, died: the copy goes on without");
            }
        }
    }
}

/// Two constraints of one table cannot be validated at the same time.
fn by_table(validate: &[(Relation, String)]) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<&Relation, Vec<String>> = BTreeMap::new();
    for (table, sql) in validate {
        groups.entry(table).or_default().push(sql.clone());
    }
    groups.into_values().collect()
}

async fn tools(context: &Context, origin: &Session, follower: &Session) -> Result<Tools> {
    let (source, target) = (catalog::version(origin).await?, catalog::version(follower).await?);
    Tools::find(context.options.tools.as_deref(), source, target).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_work_goes_on_when_who_watches_dies() {
        let mut watching = JoinSet::new();
        watching.spawn(async { panic!("a fault of ours") });
        watching.spawn(std::future::pending());
        let work = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        assert_eq!(beside(work, watching).await, 7);
        let alone = async { tokio::time::sleep(Duration::from_secs(1)).await };
        beside(alone, JoinSet::new()).await;
    }
}
