//! The migration in a process of its own, killed by SIGKILL at random instants and started again until it is done.

use super::course::Course;
use super::migrate::{Config, drive};
use super::{AnyError, Options};
use bluegreen_core::{Body, Event, FileJournal, Outcome, Signal, StepName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// In the child: runs the migration from wherever its journal says it is, a line of JSON an event.
pub(super) async fn main(config: &Path) -> Result<bool, AnyError> {
    let config: Config = serde_json::from_slice(&std::fs::read(config)?)?;
    let migration = config.migration(None, None).await?;
    let outcome = drive(&migration, config.go_back, |event| match serde_json::to_string(event) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("an event cannot be said: {error}"),
    });
    outcome.await?;
    Ok(true)
}

/// In the parent: how it ended, and how often it was killed on the way.
pub(super) async fn until_done(
    config: &Config,
    options: &Options,
    course: &Course,
) -> Result<(Outcome, u32), AnyError> {
    let seed = options.seed.unwrap_or_else(rand::random);
    course.say(&format!("killing the migration {} times, seed {seed}", options.kills));
    let mut random = StdRng::seed_from_u64(seed);
    let file = config.journal.with_extension("config");
    std::fs::write(&file, serde_json::to_vec(config)?)?;
    let mut kills = 0;
    let mut progress = Progress::default();
    loop {
        let draw = || Death::draw(&mut random, kills, options.kills, options.go_back, &progress.over);
        let death = (kills < options.kills).then(draw);
        let (status, killed) = once(&file, death, &mut progress, course).await?;
        if !killed && !status.success() {
            return Err(format!("the migration's process ended by itself ({status})").into());
        }
        if let Some(outcome) = over(config)? {
            return Ok((outcome, kills));
        }
        if !killed {
            return Err("the migration's process said it was done, and its journal does not".into());
        }
        kills += 1;
    }
}

/// When a process dies: so long after something it says, or so long after it began.
#[derive(Debug, Clone, Copy)]
enum Death {
    After(Aim, Duration),
    AfterStart(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Aim {
    Step(StepName),
    Unwinding,
}

/// What is aimed at, in the order of a run, and how often of 20 times: the cut-over takes milliseconds and would hardly ever be met by chance.
const FORTH: [(Aim, u32); 6] = [
    (Aim::Step(StepName::Prepare), 2),
    (Aim::Step(StepName::Mirror), 5),
    (Aim::Step(StepName::Shift), 3),
    (Aim::Step(StepName::CutOver), 8),
    (Aim::Step(StepName::Hold), 1),
    (Aim::Step(StepName::CleanUp), 1),
];
const BACK: [(Aim, u32); 4] = [
    (Aim::Step(StepName::Mirror), 3),
    (Aim::Step(StepName::CutOver), 6),
    (Aim::Step(StepName::Hold), 1),
    (Aim::Unwinding, 10),
];

impl Death {
    /// The death number `kill` of `of`: some at any instant, the others spread over the run.
    fn draw(random: &mut StdRng, kill: u32, of: u32, go_back: bool, over: &[Aim]) -> Self {
        let aims: &[(Aim, u32)] = if go_back { &BACK } else { &FORTH };
        let mut spread = aims
            .iter()
            .flat_map(|(aim, weight)| std::iter::repeat_n(*aim, *weight as usize));
        let aim = spread
            .nth(kill as usize * 20 / of.max(1) as usize)
            .unwrap_or(Aim::Unwinding);
        if random.random_bool(0.2) || over.contains(&aim) {
            return Self::AfterStart(Duration::from_millis(random.random_range(20..2000)));
        }
        let within = if aim == Aim::Step(StepName::CutOver) {
            60_000
        } else {
            400_000
        };
        Self::After(aim, Duration::from_micros(random.random_range(0..within)))
    }
}

/// Whether an entry shows that what was aimed at is going on.
fn hits(aim: Aim, body: &Body, unwinding: bool) -> bool {
    match (aim, body) {
        (Aim::Step(aim), Body::Started { step } | Body::Noted { step, .. } | Body::Waiting { step, .. }) => {
            *step == aim
        }
        (Aim::Unwinding, Body::Noted { .. } | Body::Undone { .. } | Body::Operator { .. }) => unwinding,
        _ => false,
    }
}

async fn once(
    config: &Path,
    death: Option<Death>,
    progress: &mut Progress,
    course: &Course,
) -> Result<(ExitStatus, bool), AnyError> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("migrate-once")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or("the child has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut dies = match death {
        Some(Death::AfterStart(wait)) => Some(Instant::now() + wait),
        _ => None,
    };
    // Continued in the middle of what is aimed at, it may say nothing more of it.
    if let Some(Death::After(aim, wait)) = death
        && progress.at == Some(aim)
    {
        dies = Some(Instant::now() + wait * 20);
    }
    loop {
        let sleep = async {
            match dies {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let line = tokio::select! {
            line = lines.next_line() => line?,
            () = sleep => return kill(&mut child, course).await,
        };
        let Some(line) = line else {
            return Ok((child.wait().await?, false));
        };
        let event: Event = serde_json::from_str(&line)?;
        course.saw(&event);
        let Event::Entry { entry } = &event else { continue };
        progress.saw(&entry.body);
        if let Some(Death::After(aim, wait)) = death
            && hits(aim, &entry.body, progress.unwinding)
        {
            let at = Instant::now() + wait;
            dies = Some(dies.map_or(at, |dies| dies.min(at)));
        }
    }
}

/// How far the migration has come, over all its lives.
#[derive(Debug, Default)]
struct Progress {
    at: Option<Aim>,
    over: Vec<Aim>,
    unwinding: bool,
}

impl Progress {
    fn saw(&mut self, body: &Body) {
        match body {
            Body::Started { step } => self.at = Some(Aim::Step(*step)),
            Body::Finished { step } => self.over.push(Aim::Step(*step)),
            Body::Operator {
                signal: Signal::GoBack, ..
            }
            | Body::RollbackRequested { .. } => {
                self.unwinding = true;
                self.over.extend(self.at);
                self.at = Some(Aim::Unwinding);
            }
            _ => {}
        }
    }
}

async fn kill(child: &mut Child, course: &Course) -> Result<(ExitStatus, bool), AnyError> {
    course.enters("killed".into());
    course.say("  killed");
    child.start_kill()?;
    let status = child.wait().await?;
    // It may have ended by itself at that very moment.
    Ok((status, std::os::unix::process::ExitStatusExt::signal(&status).is_some()))
}

fn over(config: &Config) -> Result<Option<Outcome>, AnyError> {
    if !config.journal.exists() {
        return Ok(None);
    }
    let last = FileJournal::read(&config.journal)?.pop();
    Ok(last.and_then(|entry| {
        if let Body::Closed { outcome } = entry.body {
            Some(outcome)
        } else {
            None
        }
    }))
}
