//! `bluegreen run`, killed by SIGKILL at random instants and started again until it is done, with clients who keep on
//! writing. `BLUEGREEN_KILLS` says how many kills in all (100), `BLUEGREEN_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use rand::rngs::StdRng;
use std::collections::BTreeMap;
use tool::kill::{Plan, all_kills, until_over};
use tool::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_it_ends_whole_and_nothing_is_lost() {
    // Every third one is sent back from its hold, and killed on that way too.
    all_kills(100, 3, one_migration).await;
}

/// One migration in a world of its own, killed at most so many times; how often it was.
async fn one_migration(rng: &mut StdRng, at_most: u64, goes_back: bool) -> Option<u64> {
    let world = World::start(20_000).await?;
    let tool = world.tool();
    let clients = world.clients(3);
    let plan = Plan {
        at_most: at_most.min(25),
        goes_back,
        pause_may_come: |status| status.contains("100 % to green; blue writes"),
    };
    let (writer, kills) = until_over(&tool, rng, &plan).await;
    let outcome = clients.stop().await.unwrap();
    println!(
        "  all {writer}: {:?}, longest stall {:?}",
        outcome.totals,
        outcome.longest_stall()
    );
    assert_eq!(outcome.failures, BTreeMap::new());
    assert!(outcome.totals.acked > 0);
    world.check_end(writer, &outcome).await;
    Some(kills)
}
