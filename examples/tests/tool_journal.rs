//! `bluegreen run` with its journal in PostgreSQL: several processes stand by, whichever runs it is killed, another goes on.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_core::Color;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::time::Duration;
use tool::world::World;
use tool::{Running, Tool, code};

/// A process that stands by until it may run, and what it prints from then on.
struct Runner {
    running: Running,
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
}

impl Runner {
    fn start(tool: &Tool) -> Self {
        let mut running = tool.start(&["run", "--stand-by", "--json"]);
        let lines = running.lines();
        Self { running, lines }
    }

    /// Reads until a line holds one of these; false when it ended first.
    async fn until(&mut self, wanted: &[&str]) -> bool {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            if wanted.iter().any(|w| line.contains(w)) {
                return true;
            }
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runners_killed_in_turn_finish_one_migration() {
    let Some(world) = World::start(2_000).await else { return };
    world.green.create_database("control").await.unwrap();
    let control = world.green.url("control");
    let tool = world.tool().env("JOURNAL", &control);
    tool.write(
        &tool
            .text()
            .replace("journal = \"shop.journal\"", "journal_env = \"JOURNAL\""),
    );
    let clients = world.clients(3);
    // Each is killed in another step, and in the pause; the other one was standing by all the while.
    let deaths: [(&[&str], u64); 5] = [
        (&["\"step\":\"mirror\""], 30),
        (&["\"note\":\"served\""], 0),
        (&["\"type\":\"started\",\"step\":\"cut-over\""], 20),
        (&["\"note\":\"commit\""], 1),
        (&["\"type\":\"started\",\"step\":\"hold\""], 5),
    ];
    let mut first = Runner::start(&tool);
    assert!(first.until(&["\"planned\""]).await);
    let mut second = Runner::start(&tool);
    for (when, after) in deaths {
        // What was met before this one's turn is not met again: then it is killed where it is.
        let met = tokio::time::timeout(Duration::from_secs(20), first.until(when)).await;
        if met == Ok(false) {
            panic!("it ended before {when:?}: {:?}", first.running.end().await);
        }
        tokio::time::sleep(Duration::from_millis(after)).await;
        first.running.signal(Signal::SIGKILL);
        assert_eq!(first.running.code().await, None);
        first = second;
        assert!(
            first.until(&["\"event\""]).await,
            "it took over: {:?}",
            first.running.end().await
        );
        // Only now, so that it is known which of them waits.
        second = Runner::start(&tool);
        println!("killed at {when:?} ({met:?}): {}", tool.run("status").await.text);
    }
    // From outside, with the journal's secret and no other.
    let status = tool.run("status").await;
    assert!(status.text.contains("shop"), "{status:?}");
    while first.lines.next_line().await.unwrap().is_some() {}
    assert_eq!(first.running.code().await, Some(0));
    // Who stood by until the end has nothing left to do.
    while second.lines.next_line().await.unwrap().is_some() {}
    assert_eq!(second.running.code().await, Some(0));
    let refused = tool.run("pause").await;
    assert!(code(&refused) == 2 && refused.errors.contains("over"), "{refused:?}");
    let outcome = clients.stop().await.unwrap();
    assert_eq!(outcome.failures, BTreeMap::new());
    assert!(outcome.totals.acked > 0);
    world.check_end(Color::Green, &outcome).await;
}
