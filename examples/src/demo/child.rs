//! The migration in a process of its own, killed by SIGKILL at random instants and started again until it is done.

use super::course::Course;
use super::migrate::{Config, drive};
use super::{AnyError, Options};
use bluegreen_core::{Body, Event, FileJournal, Outcome, StepName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

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
    loop {
        let plan = (kills < options.kills).then(|| Death::draw(&mut random));
        let (status, killed) = once(&file, plan, course).await?;
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

/// When a process dies: so long after it began, or after a step did, whichever comes first.
#[derive(Debug)]
struct Death {
    after_start: Duration,
    after_step: Option<(StepName, Duration)>,
}

impl Death {
    /// Anywhere; every other one is aimed at a step, for the cut-over takes milliseconds and would hardly ever be met.
    fn draw(random: &mut StdRng) -> Self {
        let steps = [
            StepName::CutOver,
            StepName::CutOver,
            StepName::Mirror,
            StepName::Hold,
            StepName::CleanUp,
        ];
        let aimed = random.random_bool(0.5);
        Self {
            after_start: Duration::from_millis(random.random_range(20..if aimed { 8000 } else { 3000 })),
            after_step: aimed.then(|| {
                let step = steps[random.random_range(0..steps.len())];
                (step, Duration::from_micros(random.random_range(0..150_000)))
            }),
        }
    }
}

async fn once(config: &Path, death: Option<Death>, course: &Course) -> Result<(ExitStatus, bool), AnyError> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("migrate-once")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or("the child has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let started = tokio::time::Instant::now();
    let mut dies = death.as_ref().map(|death| started + death.after_start);
    loop {
        let sleep = async {
            match dies {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let line = tokio::select! {
            line = lines.next_line() => line?,
            () = sleep => {
                return kill(&mut child, course).await;
            }
        };
        let Some(line) = line else {
            return Ok((child.wait().await?, false));
        };
        let event: Event = serde_json::from_str(&line)?;
        course.saw(&event);
        if let (
            Event::Entry { entry },
            Some(Death {
                after_step: Some((aim, wait)),
                ..
            }),
        ) = (&event, &death)
            && matches!(entry.body, Body::Started { step } | Body::Noted { step, .. } if step == *aim)
        {
            let at = tokio::time::Instant::now() + *wait;
            dies = dies.map(|dies| dies.min(at));
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
