//! `bluegreen run`, stopped by SIGSTOP in and around its pause for longer than the pause may take, and woken up again:
//! another time it is not killed, so it goes on with what it believed before.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_core::Color;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use tool::world::World;

/// Longer than the pause's budget.
const STOPPED: Duration = Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread")]
async fn asleep_through_the_pause_it_ends_whole_and_nothing_is_lost() {
    let seed = std::env::var("BLUEGREEN_SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("BLUEGREEN_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for (wanted, paused) in [
        ("\"type\":\"started\",\"step\":\"cut-over\"", true),
        ("\"type\":\"started\",\"step\":\"cut-over\"", true),
        ("\"note\":\"commit\"", false),
    ] {
        let Some(world) = World::start(2_000).await else { return };
        let tool = world.tool();
        tool.write(&tool.text().replace("pause_budget = \"5s\"", "pause_budget = \"1s\""));
        let clients = world.clients(3);
        let mut running = tool.start(&["run", "--json"]);
        let mut lines = running.lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(wanted) {
                break;
            }
        }
        // It prints no line when the pause begins, but the gate shows it.
        while paused && world.paused().await == "0" {}
        let after = Duration::from_millis(rng.random_range(0..15));
        tokio::time::sleep(after).await;
        running.signal(Signal::SIGSTOP);
        tokio::time::sleep(STOPPED).await;
        running.signal(Signal::SIGCONT);
        // What it prints is read to its end: a full pipe is not what is tried here.
        let mut said = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push_str(&line);
            said.push('\n');
        }
        let code = running.code().await;
        println!("{after:?} after {wanted}: {code:?}");
        let writer = match code {
            Some(0) => Color::Green,
            Some(3) => Color::Blue,
            code => panic!("it ended with {code:?}: {said}"),
        };
        let outcome = clients.stop().await.unwrap();
        println!("  all {writer}, longest stall {:?}", outcome.longest_stall());
        assert_eq!(outcome.failures, BTreeMap::new());
        world.check_end(writer, &outcome).await;
    }
}
