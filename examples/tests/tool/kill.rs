//! `bluegreen run`, killed by SIGKILL at random instants and started again until it is over.

use super::Tool;
use bluegreen_core::Color;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Chance, from a seed that is printed: `BLUEGREEN_SEED` repeats a run's choices.
fn chance() -> StdRng {
    let seed = number("BLUEGREEN_SEED").unwrap_or_else(rand::random);
    println!("BLUEGREEN_SEED={seed}");
    StdRng::seed_from_u64(seed)
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
    /// One for a run that begins where `status` says, after so many that came no further than the one before.
    fn pick(rng: &mut StdRng, status: &str, pause_may_come: bool, in_this_step: u32) -> Self {
        let ms = |rng: &mut StdRng, up_to| Duration::from_millis(rng.random_range(0..up_to));
        if in_this_step >= 4 {
            // On a slow machine a first copy would never come to its end: every step is to be met.
            return Self::Line("\"type\":\"finished\"", ms(rng, 300));
        }
        let begins = !status.contains("cut-over");
        match rng.random_range(0..6) {
            // The pause itself, and what follows the commit record.
            0 | 1 if pause_may_come && begins => Self::Line("\"type\":\"started\",\"step\":\"cut-over\"", ms(rng, 250)),
            2 | 3 if pause_may_come => Self::Line("\"note\":\"commit\"", ms(rng, 60)),
            // Longer from run to run, so that it comes further.
            0..=2 => Self::After(ms(rng, 900 + 300 * u64::from(in_this_step))),
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

/// Migrations, until so many kills are done in all; every `back`th is sent back. Each is told how often it may be killed at
/// most and whether it goes back, and says how often it was, or nothing where a server is missing.
pub async fn all_kills(default: u64, back: u64, mut one: impl AsyncFnMut(&mut StdRng, u64, bool) -> Option<u64>) {
    let wanted = number("BLUEGREEN_KILLS").unwrap_or(default);
    let mut rng = chance();
    let (mut kills, mut migrations) = (0, 0);
    while kills < wanted {
        let goes_back = migrations % back == back - 1;
        let Some(killed) = one(&mut rng, wanted - kills, goes_back).await else {
            return;
        };
        (kills, migrations) = (kills + killed, migrations + 1);
        println!("{migrations} migrations, {kills} kills");
    }
}

/// How one migration is killed.
pub struct Plan {
    /// How often, at most.
    pub at_most: u64,
    /// Whether it is sent back from its hold, and killed on that way too.
    pub goes_back: bool,
    /// Whether the next pause may come soon, as the status says.
    pub pause_may_come: fn(&str) -> bool,
}

/// Starts a migration again and again until it is over: who writes then, and how often it was killed.
pub async fn until_over(tool: &Tool, rng: &mut StdRng, plan: &Plan) -> (Color, u64) {
    if plan.goes_back {
        tool.write(&tool.text().replace("hold = \"1s\"", "hold = \"1h\""));
    }
    let mut kills = 0;
    let mut asked = false;
    let mut status = String::new();
    let mut in_this_step = 0;
    loop {
        let when = Instant::pick(rng, &status, (plan.pause_may_come)(&status), in_this_step);
        let at = std::time::Instant::now();
        let ended = if kills < plan.at_most {
            run_until(tool, &when).await
        } else if plan.goes_back && !asked {
            // Nothing more is killed: it only has to come to its hold.
            run_until(
                tool,
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
        if let Some(code) = ended {
            let writer = match code {
                0 => Color::Green,
                3 => Color::Blue,
                code => panic!("it ended with {code}: {:?}", tool.run("status").await),
            };
            assert!(!plan.goes_back || writer == Color::Blue, "it was sent back");
            return (writer, kills);
        }
        kills += 1;
        if plan.goes_back && !asked && status.contains(": hold") {
            asked = true;
            assert_eq!(tool.run("go-back").await.code, Some(0));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
}
