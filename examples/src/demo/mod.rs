//! The demo: two PostgreSQL clusters, a live application in two environments, its clients, and a migration between them.

mod child;
mod course;
mod migrate;
mod options;
mod proof;
mod show;
mod summary;
mod world;

pub use options::{Dns, Gate, Options};

use bluegreen_core::Outcome;
use bluegreen_testkit::app::{Clients, ClientsConfig, ledger};
use options::Hidden;
use show::Show;
use std::error::Error;
use std::time::{Duration, Instant};
use summary::Summary;
use world::World;

/// What goes wrong here is for a person to read.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Runs it; true when the migration ended as asked, no request failed and no write was lost or doubled.
///
/// # Errors
/// When the servers do not start or the migration needs a human.
pub async fn run(options: Options) -> Result<bool, AnyError> {
    if let Some(Hidden::MigrateOnce { config }) = &options.hidden {
        return child::main(config).await;
    }
    let started = Instant::now();
    let show = Show::new();
    show.say(&format!(
        "starting two PostgreSQL clusters, {} rows, {} writers and {} readers",
        options.rows, options.writers, options.readers
    ));
    let world = World::start(&options).await?;
    let clients = Clients::start(&ClientsConfig {
        name: world::NAME.into(),
        port: world.port,
        resolver: world.resolver(),
        writers: options.writers.into(),
        readers: options.readers.into(),
        think: Duration::from_millis(options.think_ms),
    });
    // Long enough to see that all is well before anything begins.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let course = course::Course::new(&show, &clients);
    let config = world.migration(&options);
    let (outcome, kills) = if options.kill {
        child::until_done(&config, &options, &course).await?
    } else {
        (
            migrate::run(&config, world.in_process_gate(), world.feed.clone(), &course).await?,
            0,
        )
    };
    // And a while after it: what breaks late is broken too.
    course.rest(Duration::from_secs(1)).await;
    let stages = course.end();
    let seen = clients.stop().await?;
    show.say("looking for every acknowledged write");
    let writer = match outcome {
        Outcome::Completed => bluegreen_core::Color::Green,
        Outcome::RolledBack { .. } => bluegreen_core::Color::Blue,
    };
    let ledger = ledger::check(&seen.acked, &world.database(writer)).await?;
    let leftovers = proof::leftovers(&world, writer).await?;
    show.finish();
    let entries = bluegreen_core::FileJournal::read(&config.journal)?;
    let summary = Summary::new(
        &options,
        &seen,
        ledger,
        leftovers,
        &outcome,
        &entries,
        &stages,
        kills,
        started.elapsed(),
    );
    summary.print(options.json)?;
    Ok(summary.is_good(options.go_back))
}
