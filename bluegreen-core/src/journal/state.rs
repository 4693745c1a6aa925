//! The fold: what the entries mean together, and what comes next. Pure, no I/O, no clock: one function for running and
//! for recovering.

use super::entry::{Body, Entry, FORMAT, Note, Outcome, Signal, StepName};
use crate::error::{Error, Kind, Result};
use crate::model::{Color, Share};
use crate::provider::Snapshot;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Where one step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Nothing of it was begun.
    #[default]
    Pending,
    /// It may have had effects.
    Started,
    /// It is done.
    Finished,
    /// It is undone.
    Undone,
}

/// What is remembered of one step.
#[derive(Debug, Clone, Default)]
pub struct StepState {
    /// Where it is.
    pub stage: Stage,
    /// What it noted, oldest first.
    pub notes: Vec<(Timestamp, Note)>,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// What it waits for.
    pub waiting: Option<(Timestamp, String)>,
    /// How often it failed in a row.
    pub attempts: u32,
    /// When it may be tried again.
    pub retry_at: Option<Timestamp>,
    /// Pauses given up since the last commit or the last time a human said to go on.
    pub given_up: u32,
}

/// What all entries up to now mean.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The next entry's `seq`.
    pub next_seq: u64,
    /// The plan it runs: name, fingerprint, steps.
    pub planned: Option<(String, String, Vec<StepName>)>,
    /// What that plan acts on.
    pub acts_on: BTreeMap<String, String>,
    steps: BTreeMap<StepName, StepState>,
    /// Why it is unwound, if it is.
    pub unwinding: Option<String>,
    /// Whether it is unwound only to before anybody was moved, to go forward again from there.
    pub turning: bool,
    /// What is wrong with the way back, as last seen while it was held.
    pub way_back_broken: Option<String>,
    /// What a human was asked, and by which step.
    pub asked: Option<(StepName, String)>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Approvals given since the last one was used up.
    pub approved: bool,
    /// Whether an operator took the share back to zero.
    pub retreated: bool,
    /// Requests from outside that were heard.
    pub heard: BTreeSet<String>,
    /// The latest commit record.
    pub committed: Option<Color>,
    /// What was asked of the name, and what users see.
    pub traffic: Traffic,
    /// How it ended.
    pub closed: Option<Outcome>,
}

/// What was asked of the production name so far, over all steps.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// The record before anything changed it.
    pub before: Option<Box<Snapshot>>,
    /// The last share asked for, its TTL in seconds, the TTL before, and when.
    pub asked: Option<Asked>,
    /// When users see the last share asked for; none until every authority serves it.
    pub effective: Option<Timestamp>,
    /// The latest time at which an answer from before any change may still be cached somewhere.
    pub stale_until: Timestamp,
    /// Every share asked for, and when.
    pub history: Vec<(Share, Timestamp)>,
    /// The shares that may stand at the name now: the last one served, and those asked for since.
    pub possible: Vec<Share>,
}

/// A share that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The share.
    pub share: Share,
    /// Its TTL in seconds.
    pub ttl: u32,
    /// The TTL it replaced, in seconds.
    pub ttl_before: u32,
    /// When.
    pub at: Timestamp,
}

impl Traffic {
    fn apply(&mut self, at: Timestamp, note: &Note) {
        match note {
            Note::RecordBefore { snapshot } => self.before = Some(snapshot.clone()),
            Note::Asking {
                share, ttl, ttl_before, ..
            } => {
                self.asked = Some(Asked {
                    share: *share,
                    ttl: *ttl,
                    ttl_before: *ttl_before,
                    at,
                });
                self.effective = None;
                self.history.push((*share, at));
                self.possible.push(*share);
            }
            Note::Served { share, effective } => {
                self.possible = vec![*share];
                self.effective = Some(*effective);
                self.stale_until = self.stale_until.max(*effective);
            }
            _ => {}
        }
    }

    /// The share last asked for; zero before the first.
    #[must_use]
    pub fn share(&self) -> Share {
        self.asked.map_or(Share::ZERO, |a| a.share)
    }
}

/// What comes next. Everything but the two waits ends in an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Write down the plan.
    Plan,
    /// Advance a step.
    Advance(StepName),
    /// Undo a step.
    Undo(StepName),
    /// Nothing before then.
    WaitUntil(Timestamp, String),
    /// An operator paused it.
    Paused,
    /// A human is needed.
    Ask(StepName, String),
    /// Write down how it ended.
    Close(Outcome),
    /// It is over.
    Over(Outcome),
}

const NOTHING: &StepState = &StepState {
    stage: Stage::Pending,
    notes: Vec::new(),
    started: None,
    waiting: None,
    attempts: 0,
    retry_at: None,
    given_up: 0,
};

impl State {
    /// Folds entries into a state.
    ///
    /// # Errors
    /// `Corrupt` when the entries cannot be one journal: a gap, another format, an entry after the last.
    pub fn of(entries: &[Entry]) -> Result<Self> {
        let mut state = Self::default();
        for entry in entries {
            state.apply(entry)?;
        }
        Ok(state)
    }

    /// Folds one more entry.
    ///
    /// # Errors
    /// See [`of`](Self::of).
    pub fn apply(&mut self, entry: &Entry) -> Result<()> {
        let corrupt = |message: String| Err(Error::new(Kind::Corrupt, "read the journal", message));
        if entry.v != FORMAT {
            return corrupt(format!(
                "entry {} is of format {}, this version reads {FORMAT}",
                entry.seq, entry.v
            ));
        }
        if entry.seq != self.next_seq {
            return corrupt(format!(
                "entry {} stands where {} is expected",
                entry.seq, self.next_seq
            ));
        }
        if self.closed.is_some() {
            return corrupt(format!("entry {} stands after the last one", entry.seq));
        }
        if self.planned.is_none() != matches!(entry.body, Body::Planned { .. }) {
            return corrupt("the plan is not the first entry, or not the only one".into());
        }
        self.next_seq += 1;
        match &entry.body {
            Body::Planned {
                name,
                fingerprint,
                steps,
                acts_on,
            } => {
                self.acts_on.clone_from(acts_on);
                self.planned = Some((name.clone(), fingerprint.clone(), steps.clone()));
            }
            Body::Started { step } => {
                let s = self.progressed(*step);
                s.stage = Stage::Started;
                s.started = Some(entry.at);
            }
            Body::Noted { step, note } => {
                if let Note::Commit { to, .. } = note {
                    self.committed = Some(*to);
                    self.way_back_broken = None;
                    self.steps.entry(*step).or_default().given_up = 0;
                }
                if let Note::WayBack { broken, .. } = note {
                    self.way_back_broken.clone_from(broken);
                }
                // An approval is for one share.
                if matches!(note, Note::Asking { share, .. } if *share > Share::ZERO) {
                    self.approved = false;
                }
                self.traffic.apply(entry.at, note);
                // A given-up pause is an attempt that failed, not progress.
                if matches!(note, Note::PauseGivenUp { .. }) {
                    let s = self.steps.entry(*step).or_default();
                    s.notes.push((entry.at, note.clone()));
                    s.given_up += 1;
                } else {
                    self.progressed(*step).notes.push((entry.at, note.clone()));
                }
            }
            Body::Waiting { step, until, why } => self.progressed(*step).waiting = Some((*until, why.clone())),
            Body::Retrying {
                step, attempt, until, ..
            } => {
                let s = self.steps.entry(*step).or_default();
                s.attempts = *attempt;
                s.retry_at = Some(*until);
            }
            Body::Asked { step, why } => self.asked = Some((*step, why.clone())),
            Body::Finished { step } => self.progressed(*step).stage = Stage::Finished,
            Body::RollbackRequested { why } => {
                self.unwinding = Some(why.clone());
                self.asked = None;
                self.settle();
            }
            Body::Undone { step } => {
                self.progressed(*step).stage = Stage::Undone;
                if self.turning && self.last_touched().is_none() {
                    self.turned();
                }
            }
            Body::UndoFailed { step, error } => self.asked = Some((*step, error.clone())),
            Body::Resumed { answers: true } => self.answered(),
            Body::Resumed { answers: false } => {}
            Body::Operator { signal, request } => {
                self.heard.extend(request.clone());
                self.hear(*signal);
            }
            Body::Closed { outcome } => self.closed = Some(outcome.clone()),
        }
        Ok(())
    }

    fn progressed(&mut self, step: StepName) -> &mut StepState {
        let s = self.steps.entry(step).or_default();
        s.waiting = None;
        s.attempts = 0;
        s.retry_at = None;
        s
    }

    fn settle(&mut self) {
        for s in self.steps.values_mut() {
            s.waiting = None;
            s.attempts = 0;
            s.retry_at = None;
        }
    }

    /// What a human was asked is answered: what was tried is tried anew.
    fn answered(&mut self) {
        self.asked = None;
        for s in self.steps.values_mut() {
            s.attempts = 0;
            s.retry_at = None;
            s.given_up = 0;
        }
    }

    fn hear(&mut self, signal: Signal) {
        match signal {
            Signal::Pause => self.paused = true,
            // Going on is the answer to every question.
            Signal::Resume => {
                self.paused = false;
                self.retreated = false;
                self.answered();
            }
            Signal::Approve => self.approved = true,
            Signal::Retreat => {
                self.retreated = true;
                // Before the commit the way up can be gone down again, also from its end.
                let shift = self.steps.get_mut(&StepName::Shift);
                if self.committed != Some(Color::Green)
                    && self.unwinding.is_none()
                    && let Some(shift) = shift.filter(|s| s.stage == Stage::Finished)
                {
                    shift.stage = Stage::Started;
                }
            }
            // Past the commit an abort would silently mean losing green's writes or going back; it must be said.
            Signal::Abort if self.committed == Some(Color::Green) => {}
            Signal::Abort | Signal::GoBack | Signal::SwitchBack if self.past_no_return() => {}
            // There is no way back now: to begin with it would end nowhere.
            Signal::GoBack | Signal::SwitchBack if self.no_way_back().is_some() => {}
            // Only from green is there anything to switch back from, and who unwinds altogether goes further than that.
            Signal::SwitchBack if self.writer() == Color::Blue || self.unwinding.is_some() => {}
            Signal::Abort | Signal::GoBack | Signal::SwitchBack => {
                let why = match signal {
                    Signal::Abort => "aborted by the operator",
                    Signal::SwitchBack => "the operator switched back",
                    _ => "the operator went back",
                };
                if signal == Signal::SwitchBack {
                    self.turning = true;
                } else if std::mem::take(&mut self.turning) {
                    self.unwinding = None;
                }
                self.unwinding.get_or_insert_with(|| why.into());
                self.paused = false;
                self.asked = None;
                self.settle();
            }
        }
    }

    /// What is remembered of a step.
    #[must_use]
    pub fn step(&self, step: StepName) -> &StepState {
        self.steps.get(&step).unwrap_or(NOTHING)
    }

    /// Which side's database accepts writes, as far as the journal knows.
    #[must_use]
    pub fn writer(&self) -> Color {
        self.committed.unwrap_or(Color::Blue)
    }

    /// Why green's writes could not be taken back to blue now, if so.
    #[must_use]
    pub fn no_way_back(&self) -> Option<&str> {
        let broken = self.way_back_broken.as_deref();
        broken.filter(|_| self.writer() == Color::Green && self.unwinding.is_none())
    }

    /// The step it is at, or undoes.
    pub fn current(&self) -> Option<StepName> {
        if self.unwinding.is_some() {
            return self.last_touched();
        }
        let (_, _, steps) = self.planned.as_ref()?;
        steps.iter().copied().find(|s| self.step(*s).stage != Stage::Finished)
    }

    /// The last step that there is something to undo of; of a turning round, only of those that moved somebody.
    fn last_touched(&self) -> Option<StepName> {
        let (_, _, steps) = self.planned.as_ref()?;
        let moves = |s: &StepName| !self.turning || *s >= StepName::Shift;
        let touched = |s: &StepName| matches!(self.step(*s).stage, Stage::Started | Stage::Finished);
        steps.iter().rev().copied().filter(moves).find(touched)
    }

    /// Blue writes and green follows, as before anybody was moved: from there it goes forward as if for the first time,
    /// when somebody says so.
    fn turned(&mut self) {
        self.turning = false;
        self.unwinding = None;
        self.paused = true;
        // Who says go on has said it of the first share too.
        self.approved = true;
        self.steps.retain(|step, _| *step < StepName::Shift);
    }

    /// Whether the point of no return has been passed: the clean-up has begun.
    #[must_use]
    pub fn past_no_return(&self) -> bool {
        self.step(StepName::CleanUp).stage != Stage::Pending
    }

    /// What comes next, for a plan of these steps at this time. Total: every state has an answer.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Next {
        if self.planned.is_none() {
            return Next::Plan;
        }
        if let Some(outcome) = &self.closed {
            return Next::Over(outcome.clone());
        }
        if let Some((step, why)) = &self.asked {
            return Next::Ask(*step, why.clone());
        }
        if self.paused {
            return Next::Paused;
        }
        let undoing = self.unwinding.is_some();
        match (self.current(), &self.unwinding) {
            (Some(step), _) => {
                let s = self.step(step);
                let retry = s.retry_at.map(|t| (t, "trying again".to_owned()));
                let later = s
                    .waiting
                    .clone()
                    .into_iter()
                    .chain(retry)
                    .max_by_key(|(until, _)| *until);
                match later.filter(|(until, _)| *until > now) {
                    Some((until, why)) => Next::WaitUntil(until, why),
                    None if undoing => Next::Undo(step),
                    None => Next::Advance(step),
                }
            }
            (None, Some(why)) => Next::Close(Outcome::RolledBack { why: why.clone() }),
            (None, None) => Next::Close(Outcome::Completed),
        }
    }
}

impl StepState {
    /// The newest note that `pick` takes.
    pub fn last<'a, T>(&'a self, pick: impl Fn(&'a Note) -> Option<T>) -> Option<T> {
        self.notes.iter().rev().find_map(|(_, note)| pick(note))
    }
}
