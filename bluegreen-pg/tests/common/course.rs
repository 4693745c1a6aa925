//! Whole migrations of a pair's database, with the pair's writers behind their gate and short settings.

use super::writers::Writers;
use super::{Pair, WITHIN};
use bluegreen_core::{
    AtOnce, Color, Environment, FileJournal, Handle, Migration, NoDns, NoProbe, Replicator, Spec, Status, StepName,
};
use std::path::Path;
use std::time::{Duration, Instant};

pub fn migration(writers: &Writers, journal: &Path, hold: Duration, replicator: impl Replicator) -> Migration {
    migration_with(writers, journal, replicator, |spec| spec.hold = hold)
}

pub fn migration_with(
    writers: &Writers,
    journal: &Path,
    replicator: impl Replicator,
    change: impl FnOnce(&mut Spec),
) -> Migration {
    let mut spec = Spec::new("shop", Environment::none(), Environment::none()).hold(Duration::ZERO);
    spec.look = Duration::from_millis(100);
    spec.watch = Duration::from_millis(300);
    change(&mut spec);
    Migration::builder("shop")
        .dns(NoDns)
        .probe(NoProbe)
        .policy(AtOnce::new())
        .replicator(replicator)
        .gate(writers.gate())
        .journal(FileJournal::open(journal).unwrap())
        .spec(spec)
        .build()
        .unwrap()
}

pub async fn until(handle: &Handle, what: &str, is: impl Fn(&Status) -> bool) {
    let since = Instant::now();
    while !is(&handle.status()) {
        assert!(since.elapsed() < 12 * WITHIN, "never {what}: {}", handle.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Green is the writer and followed by blue: nothing more is done before somebody says something.
pub fn is_held(status: &Status) -> bool {
    status.step == Some(StepName::Hold) && status.waits.is_some() && status.writer == Color::Green
}

/// Names of what is there of ours at a side, by a client of its own.
pub async fn slots(pair: &Pair, color: Color) -> Vec<String> {
    let rows = pair
        .client(color)
        .await
        .query("SELECT slot_name::text FROM pg_replication_slots ORDER BY 1", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
