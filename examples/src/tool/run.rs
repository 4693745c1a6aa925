//! The tool's commands, and what their exit codes mean.

use super::config::{Config, ConfigError, JournalPlace};
use super::interrupts::{Interrupts, Wish};
use super::render::{Lines, Out, complain};
use super::wire::{Held, ReadJournal, migration, replicator};
use bluegreen_core::{
    Body, Comparison, Entry, Error, Event, Finding, Journal, Kind, Migration, Note, Outcome, Severity, Signal, Status,
};
use clap::{Parser, Subcommand};
use futures::{FutureExt, StreamExt};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Moves a live application from a blue environment to a green one, as one file describes it.
///
/// Exit codes: 0 done; 2 wrong usage or file; 3 rolled back; 4 a human is needed.
#[derive(Debug, Parser)]
#[command(name = "bluegreen", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what `run` would do. Contacts nobody.
    Plan(On),
    /// Look for everything that would be in the way. Changes nothing.
    Preflight(On),
    /// Compare all rows of both databases, while they are written to or at rest. Changes nothing.
    Verify(On),
    /// Run it, or go on with what was interrupted.
    Run(RunOn),
    /// Say where it is.
    Status(On),
    /// Allow the next share, where it waits for that.
    Approve(On),
    /// Take all users back to blue, and stay there until resumed.
    Retreat(On),
    /// Begin nothing new.
    Pause(On),
    /// Go on.
    Resume(On),
    /// Give up and unwind; before the cut-over.
    Abort(On),
    /// Make blue the writer again and unwind; after the cut-over.
    GoBack(On),
    /// Make blue the writer again with green as its mirror, and wait; after the cut-over. `resume` goes forward again.
    SwitchBack(On),
}

#[derive(Debug, clap::Args)]
struct On {
    /// The migration's file.
    file: PathBuf,
    /// Print a JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct RunOn {
    #[command(flatten)]
    on: On,
    /// Wait while another process runs it, and go on with it when that one has died.
    #[arg(long)]
    stand_by: bool,
}

/// So many interrupts end it at once: a server that does not answer may keep it from stopping.
const ENOUGH: u32 = 3;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done = 0,
    Wrong = 2,
    RolledBack = 3,
    HumanNeeded = 4,
}

/// What stopped a command.
enum Stopped {
    Config(ConfigError),
    Error(Error),
}

impl From<ConfigError> for Stopped {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Stopped {
    fn ended(&self) -> Ended {
        match self {
            Self::Config(_) => Ended::Wrong,
            Self::Error(e) if matches!(e.kind(), Kind::InvalidInput | Kind::NotFound | Kind::Unsupported) => {
                Ended::Wrong
            }
            Self::Error(_) => Ended::HumanNeeded,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Config(e) => e.to_string(),
            Self::Error(e) => e.to_string(),
        }
    }
}

/// Does what the command line asks for.
pub async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => return misunderstood(&e),
    };
    let (on, signal) = match arguments.command {
        Command::Plan(on) => return finish(&on, plan(&on)),
        Command::Preflight(on) => return finish(&on, preflight(&on).await),
        Command::Verify(on) => return finish(&on, verify(&on).await),
        Command::Run(RunOn { on, stand_by }) => return finish(&on, run(&on, stand_by).await),
        Command::Status(on) => return finish(&on, status(&on).await),
        Command::Approve(on) => (on, Signal::Approve),
        Command::Retreat(on) => (on, Signal::Retreat),
        Command::Pause(on) => (on, Signal::Pause),
        Command::Resume(on) => (on, Signal::Resume),
        Command::Abort(on) => (on, Signal::Abort),
        Command::GoBack(on) => (on, Signal::GoBack),
        Command::SwitchBack(on) => (on, Signal::SwitchBack),
    };
    finish(&on, ask(&on, signal).await)
}

/// A program that asked wrongly is answered in its own way too.
fn misunderstood(error: &clap::Error) -> ExitCode {
    // To a closed standard output or error there is nobody to tell.
    let _ = error.print();
    let ended = if error.use_stderr() { Ended::Wrong } else { Ended::Done };
    if ended == Ended::Wrong && std::env::args_os().any(|argument| argument == "--json") {
        let out = Out { json: true };
        out.value(&json!({"event": "error", "message": error.to_string()}));
        out.value(&json!({"event": "ended", "code": ended as u8}));
    }
    ExitCode::from(ended as u8)
}

fn finish(on: &On, result: Result<Ended, Stopped>) -> ExitCode {
    let ended = match result {
        Ok(ended) => ended,
        Err(stopped) => {
            let (text, ended) = (stopped.text(), stopped.ended());
            complain(&text);
            on.out().value(&json!({"event": "error", "message": text}));
            ended
        }
    };
    on.out().value(&json!({"event": "ended", "code": ended as u8}));
    ExitCode::from(ended as u8)
}

impl On {
    fn out(&self) -> Out {
        Out { json: self.json }
    }

    /// Where the journal is, and the migration's name: all that is needed to look on and to have a say, and no secret but its own.
    fn journal(&self) -> Result<(JournalPlace, String), ConfigError> {
        Config::journal(&self.file)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.file)
    }
}

fn plan(on: &On) -> Result<Ended, Stopped> {
    let config = on.load()?;
    let migration = migration(&config, ReadJournal(config.journal.clone()))?;
    on.out().say(migration.plan().to_string());
    on.out().value(&json!({"event": "plan", "plan": migration.plan()}));
    Ok(Ended::Done)
}

async fn preflight(on: &On) -> Result<Ended, Stopped> {
    Interrupts::listen()?.or(look_ahead(on)).await
}

async fn look_ahead(on: &On) -> Result<Ended, Stopped> {
    let config = on.load()?;
    let looker = ReadJournal(config.journal.clone());
    let checked = |entry: &Entry| {
        matches!(
            &entry.body,
            Body::Noted {
                note: Note::Checked { .. },
                ..
            }
        )
    };
    if looker.load().await?.iter().any(checked) {
        let why = "the migration has begun, and what it has made would be found in its way: see `bluegreen status`";
        return Err(Error::invalid("preflight", why).into());
    }
    let findings = migration(&config, looker)?.preflight().await?;
    on.out().findings(&findings);
    Ok(if blocked(&findings) {
        Ended::HumanNeeded
    } else {
        Ended::Done
    })
}

async fn verify(on: &On) -> Result<Ended, Stopped> {
    Interrupts::listen()?.or(compare(on)).await
}

/// Compares the databases and says how far that is.
async fn compare(on: &On) -> Result<Ended, Stopped> {
    let config = on.load()?;
    let replicator = replicator(&config)?;
    let mut told = std::time::Instant::now();
    loop {
        let comparison = replicator.compare().await?;
        if !matches!(comparison, Comparison::Running { .. }) {
            on.out().say(comparison.to_string());
            on.out().value(&json!({"event": "compared", "comparison": comparison}));
            return Ok(match comparison {
                Comparison::Same(_) => Ended::Done,
                _ => Ended::HumanNeeded,
            });
        }
        if told.elapsed() > config.spec.look {
            told = std::time::Instant::now();
            on.out().say(comparison.to_string());
            on.out().value(&json!({"event": "comparing", "comparison": comparison}));
        }
        tokio::time::sleep(config.spec.look.min(Duration::from_millis(100))).await;
    }
}

fn blocked(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity == Severity::Blocking)
}

async fn run(on: &On, stand_by: bool) -> Result<Ended, Stopped> {
    let config = on.load()?;
    let mut interrupts = Interrupts::listen()?;
    if !interrupts.or(is_clear(on, &config, stand_by)).await? {
        complain("nothing was begun and nothing was changed: mend what blocks, then run it again");
        return Ok(Ended::HumanNeeded);
    }
    let held = Box::pin(interrupts.or(config.journal.open(stand_by))).await?;
    let ended = carry_out(on, &config, &held, interrupts).await;
    held.close().await;
    ended
}

/// Whether nothing is in the way of a beginning: before there is a journal, so that a file that was wrong can be corrected without
/// a trace of it.
async fn is_clear(on: &On, config: &Config, stand_by: bool) -> Result<bool, Stopped> {
    let looker = ReadJournal(config.journal.clone());
    let begun = loop {
        match looker.load().await {
            // A journal out of reach for a while is what a stand-by is there to outlast.
            Err(e) if stand_by && e.is_transient() => complain(format!("standing by: {}", e.message())),
            entries => break !entries?.is_empty(),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    if begun {
        return Ok(true);
    }
    let findings = migration(config, looker)?.preflight().await?;
    if !findings.is_empty() {
        on.out().findings(&findings);
    }
    Ok(!blocked(&findings))
}

async fn carry_out(on: &On, config: &Config, held: &Held, interrupts: Interrupts) -> Result<Ended, Stopped> {
    let migration = migration(config, held.journal())?;
    let outcome = watched(on, &migration, interrupts).await?;
    on.out().say(format!("\n{}", migration.report().await?));
    on.out()
        .value(&json!({"event": "report", "report": migration.report().await?}));
    Ok(ending(&outcome))
}

/// Runs it and prints what happens. An interrupt stops it where nothing is held.
async fn watched(on: &On, migration: &Migration, mut interrupts: Interrupts) -> Result<Outcome, Stopped> {
    let (out, mut lines) = (on.out(), Lines::default());
    let mut show = |event: &Event| {
        out.value(event);
        if let Some(text) = lines.of(event) {
            out.say(text);
        }
    };
    let mut asked = 0;
    let (mut events, handle) = (migration.events(), migration.handle());
    let running = migration.run();
    tokio::pin!(running);
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome,
            Some(event) = events.next() => {
                show(&event);
                continue;
            }
            wish = interrupts.next() => if wish == Wish::End {
                asked += 1;
            },
        }
        if asked == ENOUGH {
            let why = "ended at once, wherever it was: `run` puts it right";
            return Err(Error::new(Kind::Unavailable, "stop", why).into());
        }
        let more = ENOUGH - asked;
        complain(format!(
            "stopping where nothing is held; `run` goes on from there (asked {more} times more, it ends at once)"
        ));
        handle.stop();
    };
    // What it said last is still on its way.
    while let Some(Some(event)) = events.next().now_or_never() {
        show(&event);
    }
    Ok(outcome?)
}

async fn status(on: &On) -> Result<Ended, Stopped> {
    let (place, name) = on.journal()?;
    let status = match place.read().await? {
        Some(entries) => Status::of_entries(&entries)?,
        None => Status::of_entries(&[])?,
    };
    is_named(&status, &name)?;
    on.out().say(status.to_string());
    on.out().value(&json!({"event": "status", "status": status}));
    Ok(match &status.outcome {
        Some(outcome) => ending(outcome),
        None if status.asks.is_some() => Ended::HumanNeeded,
        None => Ended::Done,
    })
}

/// A file that was copied for another migration may still name the first one's journal.
fn is_named(status: &Status, name: &str) -> Result<(), Stopped> {
    match &status.name {
        Some(its) if its != name => {
            let why = format!(
                "the journal is of the migration {its:?}, and the file is of {name:?}: which of the two is meant?"
            );
            Err(Error::invalid("read the journal", why).into())
        }
        _ => Ok(()),
    }
}

fn ending(outcome: &Outcome) -> Ended {
    match outcome {
        Outcome::Completed => Ended::Done,
        Outcome::RolledBack { .. } => Ended::RolledBack,
    }
}

/// Leaves an operator's word for whoever runs the migration, now or later; refuses what could never be followed.
async fn ask(on: &On, signal: Signal) -> Result<Ended, Stopped> {
    let (journal, name) = on.journal()?;
    let refuse = |why: &str| Err(Error::invalid(signal.to_string(), why).into());
    let Some(entries) = journal.read().await? else {
        return refuse("the migration was not begun: there is no journal");
    };
    let status = Status::of_entries(&entries)?;
    is_named(&status, &name)?;
    if let Some(outcome) = &status.outcome {
        return refuse(&format!("the migration is over: it {outcome}"));
    }
    if let (Signal::GoBack | Signal::SwitchBack, Some(why)) = (signal, &status.way_back_broken) {
        return refuse(&format!(
            "{why}. Mend it; whoever runs the migration sees when it streams again"
        ));
    }
    match signal {
        Signal::GoBack | Signal::SwitchBack if status.name.is_none() => return refuse("the migration was not begun"),
        Signal::GoBack | Signal::SwitchBack if !status.can_go_back => {
            return refuse("the clean-up has begun, and the mirror back to blue may be gone: it can only go forward");
        }
        Signal::Abort | Signal::Retreat if status.writer == bluegreen_core::Color::Green => {
            return refuse("green is the writer: what brings users back without losing what they wrote is `go-back`");
        }
        Signal::SwitchBack if status.writer == bluegreen_core::Color::Blue => {
            return refuse("blue is the writer: there is nothing to switch back");
        }
        _ => {}
    }
    journal.request(signal).await?;
    on.out().say(format!(
        "{signal}: heard at the next look of whoever runs it, or by the next `bluegreen run`"
    ));
    Ok(Ended::Done)
}
