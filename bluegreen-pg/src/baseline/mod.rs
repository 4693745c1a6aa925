//! The first copy: a slot and its snapshot, the schema, the rows, the rest of the schema, the subscription.

mod copy;
mod plan;

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::{copy_application_name, ident, mirror_name};
use crate::marker::{self, Stage};
use crate::progress::Report;
use crate::replicator::Context;
use crate::schema::{self, Tools};
use crate::{catalog, mirror, slot, writers};
use bluegreen_core::{Direction, Kind, Result};
use std::sync::Arc;

/// Checks that it may begin, takes away what an unfinished try left, and prepares both sides. Returns when the long
/// part can run.
pub(crate) async fn begin(context: &Context, direction: Direction) -> Result<()> {
    let settings = &context.settings;
    let name = mirror_name(&settings.name, direction);
    let origin = settings.connect(direction.origin()).await?;
    let mut follower = settings.connect(direction.follower()).await?;
    if marker::stage(&follower, &settings.name).await? == Stage::Copying {
        tracing::info!(migration = %settings.name, "an unfinished copy is taken away and begun again");
        wipe(context, direction, &origin, &mut follower).await?;
    }
    let without = catalog::without_identity(&origin).await?;
    if let Some(first) = without.first() {
        return Err(fault(
            Kind::InvalidInput,
            "begin the mirror",
            format!(
                "{} tables have nothing that identifies a row, so UPDATE and DELETE on them would fail as soon as they are \
                 mirrored; first: {first}. Give it a primary key, or: ALTER TABLE {first} REPLICA IDENTITY FULL",
                without.len()
            ),
        ));
    }
    let there = catalog::lockable(&follower).await?;
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
    marker::set_up(&follower, &settings.name, Stage::Copying).await?;
    marker::set_up(&origin, &settings.name, Stage::Origin).await?;
    writers::close(
        &follower,
        &settings.name,
        settings.server(direction.follower()).conninfo().dbname(),
    )
    .await?;
    let tables = catalog::tables(&origin).await?;
    slot::drop(&origin, &name).await?;
    mirror::publish(&origin, &name, &tables).await
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
    mirror::unsubscribe(follower, &name).await?;
    slot::drop(origin, &name).await?;
    schema::wipe(follower, &settings.name).await
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

/// The long part, to the running subscription.
pub(crate) async fn run(context: Arc<Context>, direction: Direction, report: Arc<Report>) -> Result<()> {
    let settings = &context.settings;
    let (from, to) = (direction.origin(), direction.follower());
    let name = mirror_name(&settings.name, direction);
    let origin = settings.connect_copy(from).await?;
    let mut follower = settings.connect_copy(to).await?;
    let tools = tools(&context, &origin, &follower).await?;
    let folder = tempfile::Builder::new()
        .prefix("bluegreen-")
        .tempdir()
        .doing("make a folder for the schema")?;
    let file = folder.path().join("schema");

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
    schema::dump(&tools, &context, from, &snapshot.name, &file).await?;
    schema::restore_tables(&tools, &context, to, &mut follower, &file).await?;
    report.stage("copy");
    copy::run(&context, direction, &snapshot.name, &report).await?;
    drop(snapshot);
    report.stage("indexes and constraints");
    schema::restore_rest(&tools, &context, to, &file).await?;
    report.stage("statistics");
    refresh_views(&origin, &follower).await?;
    follower.batch_execute("ANALYZE").await.doing("run ANALYZE")?;

    report.stage("subscription");
    let version = catalog::version(&follower).await?;
    let transaction = follower.transaction().await.doing("create the subscription")?;
    mirror::subscribe(&transaction, version, &name, settings.server(from)).await?;
    marker::set_stage(&transaction, &settings.name, Stage::Ready).await?;
    transaction.commit().await.doing("create the subscription")?;
    mirror::enable(&follower, &name).await
}

async fn tools(context: &Context, origin: &Session, follower: &Session) -> Result<Tools> {
    let (source, target) = (catalog::version(origin).await?, catalog::version(follower).await?);
    Tools::find(context.options.tools.as_deref(), source, target).await
}

/// Materialized views that have rows at the origin, in the order they were made: one may read another.
async fn refresh_views(origin: &Session, follower: &Session) -> Result<()> {
    let doing = "refresh the materialized views";
    let rows = origin
        .query(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'm' AND c.relispopulated AND n.nspname !~ '^pg_' ORDER BY c.oid",
            &[],
        )
        .await
        .doing(doing)?;
    for row in rows {
        let (schema, view): (&str, &str) = (row.get(0), row.get(1));
        follower
            .batch_execute(&format!("REFRESH MATERIALIZED VIEW {}.{}", ident(schema), ident(view)))
            .await
            .doing(format!("{doing}: {schema}.{view}"))?;
    }
    Ok(())
}
