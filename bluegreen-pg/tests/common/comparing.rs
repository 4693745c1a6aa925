//! Asking a comparison until it answers.

use bluegreen_core::{Comparison, Difference, Replicator, Result};
use bluegreen_pg::PgReplicator;
use std::time::{Duration, Instant};

pub async fn compare(replicator: &PgReplicator) -> Result<Comparison> {
    let until = Instant::now() + Duration::from_secs(300);
    loop {
        match replicator.compare().await? {
            Comparison::Running { .. } => assert!(Instant::now() < until, "it never ends"),
            answer => return Ok(answer),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All that differs, which must be something and few enough to be shown.
pub async fn differences(replicator: &PgReplicator) -> Vec<Difference> {
    match compare(replicator).await.unwrap() {
        Comparison::Different {
            differences, more: 0, ..
        } => differences,
        other => panic!("{other}"),
    }
}

/// How the differing rows are called.
pub async fn unlike(replicator: &PgReplicator) -> Vec<String> {
    let found = differences(replicator).await;
    found.into_iter().map(|d| d.row).collect()
}
