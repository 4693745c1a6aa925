//! `bluegreen run`, killed by SIGKILL at random instants and started again until it is done, with clients who keep on
//! writing. `BLUEGREEN_KILLS` says how many kills in all (100), `BLUEGREEN_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_core::Color;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use tool::Tool;
use tool::world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// When a run is killed: some instants are dense with effects, and a clock alone would seldom meet them.
#[derive(Debug)]
enum Instant {
    /// So long after its start.
    After(Duration),
    /// So long after it printed its n-th durable entry.
    Entry(usize, Duration),
    /// So long after a line that holds this.
    Line(&'static str, Duration),
}

impl Instant {
    /// One for a run that begins where `status` says.
    fn pick(rng: &mut StdRng, status: &str, in_this_step: u32) -> Self {
        let ms = |rng: &mut StdRng, up_to| Duration::from_millis(rng.random_range(0..up_to));
        if in_this_step >= 4 {
            // On a slow machine a first copy would never come to its end: every step is to be met.
            return Self::Line("\"type\":\"finished\"", ms(rng, 300));
        }
        let before_the_pause = status.contains("100 % to green; blue writes");
        match rng.random_range(0..6) {
            // The pause itself, and what follows the commit record.
            0 | 1 if before_the_pause => Self::Line("\"type\":\"started\",\"step\":\"cut-over\"", ms(rng, 250)),
            2 | 3 if before_the_pause => Self::Line("\"note\":\"commit\"", ms(rng, 60)),
            0..=2 => Self::After(ms(rng, 900)),
            _ => Self::Entry(rng.random_range(1..6), ms(rng, 40)),
        }
    }

    /// One that does not come is not waited for longer.
    fn patience(&self) -> Duration {
        match self {
            Self::After(long) => *long,
            Self::Entry(..) => Duration::from_millis(1500),
            Self::Line(..) => Duration::from_secs(15),
        }
    }
}

/// Runs until it is killed (none) or ends by itself (its exit code).
async fn run_until(tool: &Tool, when: &Instant) -> Option<i32> {
    let mut running = tool.start(&["run", "--json"]);
    let mut lines = running.lines();
    let mut entries = 0;
    let met = async {
        let mut long = when.patience();
        let began = tokio::time::Instant::now();
        // What it prints is read to its end: a full pipe is not what is tried here.
        loop {
            let Ok(line) = tokio::time::timeout_at(began + long, lines.next_line()).await else {
                return;
            };
            let Some(line) = line.unwrap() else {
                return std::future::pending().await;
            };
            entries += usize::from(line.contains("\"event\":\"entry\""));
            // What takes its time is worth a look afterwards.
            if began.elapsed() > Duration::from_secs(8) && line.contains("\"event\":\"entry\"") {
                println!("      {:?} {line}", began.elapsed());
            }
            match when {
                Instant::Entry(wanted, after) if entries == *wanted => long = long.min(began.elapsed() + *after),
                Instant::Line(wanted, after) if line.contains(wanted) => long = long.min(began.elapsed() + *after),
                _ => {}
            }
        }
    };
    tokio::select! {
        () = met => {
            running.signal(Signal::SIGKILL);
            running.code().await
        }
        code = running.code() => code,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_it_ends_whole_and_nothing_is_lost() {
    let (wanted, seed) = (
        number("BLUEGREEN_KILLS").unwrap_or(100),
        number("BLUEGREEN_SEED").unwrap_or_else(rand::random),
    );
    println!("BLUEGREEN_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut kills, mut migrations) = (0, 0);
    while kills < wanted {
        // Every third one is sent back from its hold, and killed on that way too.
        let goes_back = migrations % 3 == 2;
        let Some(killed) = one_migration(&mut rng, wanted - kills, goes_back).await else {
            return;
        };
        (kills, migrations) = (kills + killed, migrations + 1);
        println!("{migrations} migrations, {kills} kills");
    }
}

/// One migration in a world of its own, killed at most so many times; how often it was.
async fn one_migration(rng: &mut StdRng, at_most: u64, goes_back: bool) -> Option<u64> {
    let world = World::start(20_000).await?;
    let tool = world.tool();
    if goes_back {
        tool.write(&tool.text().replace("hold = \"1s\"", "hold = \"1h\""));
    }
    let clients = world.clients(3);
    let mut kills = 0;
    let mut asked = false;
    let mut status = String::new();
    let mut in_this_step = 0;
    let code = loop {
        let when = Instant::pick(rng, &status, in_this_step);
        let at = std::time::Instant::now();
        let ended = if kills < at_most.min(25) {
            run_until(&tool, &when).await
        } else if goes_back && !asked {
            // Nothing more is killed: it only has to come to its hold.
            run_until(
                &tool,
                &Instant::Line("\"type\":\"started\",\"step\":\"hold\"", Duration::ZERO),
            )
            .await
        } else {
            let running = tool.start(&["run"]);
            let said = running.end().await;
            assert!(matches!(said.code, Some(0 | 3)), "{said:?}");
            said.code
        };
        let now = tool.run("status").await;
        let step = |status: &str| status.split([',', ';']).next().map(str::to_owned);
        in_this_step = if step(&status) == step(&now.text) {
            in_this_step + 1
        } else {
            0
        };
        status = now.text.trim().to_owned();
        println!(
            "  {kills:3} {when:?} {:?} -> {ended:?}: {}{}",
            at.elapsed(),
            status,
            now.errors.trim()
        );
        match ended {
            Some(code) => break code,
            None => kills += 1,
        }
        if goes_back && !asked && status.contains(": hold") {
            asked = true;
            assert_eq!(tool.run("go-back").await.code, Some(0));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    };
    let writer = match code {
        0 => Color::Green,
        3 => Color::Blue,
        code => panic!("it ended with {code}: {:?}", tool.run("status").await),
    };
    assert!(!goes_back || writer == Color::Blue, "it was sent back");
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
