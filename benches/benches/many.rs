//! 10,000 migrations in one process, each a task on the in-memory fakes: how long they take, and how much memory.
//! Run with another number: `cargo bench -p benches --bench many -- 1000`.

use std::time::Instant;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() {
    let count: usize = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .next()
        .unwrap_or(10_000);
    let before = benches::peak_memory();
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for n in 0..count {
        running.spawn(async move {
            let (migration, journal) = benches::in_memory(&format!("shop-{n}")).expect("it builds");
            migration.run().await.expect("it ends well");
            journal.len()
        });
    }
    let mut entries = 0;
    while let Some(ended) = running.join_next().await {
        entries += ended.expect("no migration panics");
    }
    let took = begin.elapsed();
    let each = took / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    println!("{count} migrations in one process: {took:.2?}, {each:.1?} each, {entries} entries");

    // The same again with all of them built and alive at once: what one costs in memory while it waits.
    let begin = Instant::now();
    let alive: Vec<_> = (0..count)
        .map(|n| benches::in_memory(&format!("shop-{n}")).expect("it builds"))
        .collect();
    let mut running = JoinSet::new();
    for (migration, journal) in alive {
        running.spawn(async move {
            migration.run().await.expect("it ends well");
            // Kept until all have ended.
            (migration, journal)
        });
    }
    let ended = running.join_all().await;
    println!("{count} migrations alive at once: {:.2?}", begin.elapsed());
    if let (Some(before), Some(peak)) = (before, benches::peak_memory()) {
        let each = (peak - before) / u64::try_from(ended.len().max(1)).unwrap_or(u64::MAX);
        println!(
            "peak memory {} MiB, {each} KiB each, journals in memory included",
            peak / 1024
        );
    }
}
