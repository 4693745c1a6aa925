//! `Report`: what a migration went through, as data. A pure function of its journal's entries; `page.rs` prints it.

mod page;

use crate::journal::{Body, Entry, Note, Outcome, PausePart, Signal, StepName};
use crate::judge::{Evidence, Verdict};
use crate::model::{Color, Position, Share};
use crate::policy::Decision;
use crate::provider::Finding;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a migration went through. Its `Display` is a page to read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The migration's name; empty without an entry.
    pub name: String,
    /// The fingerprint of its plan.
    pub fingerprint: String,
    /// When it was planned.
    pub began: Option<Timestamp>,
    /// When the last entry was written.
    pub last: Option<Timestamp>,
    /// How it ended; none while it goes on.
    pub outcome: Option<Outcome>,
    /// Its steps, in the plan's order.
    pub steps: Vec<StepReport>,
    /// What the checks found.
    pub findings: Vec<Finding>,
    /// Every share asked for.
    pub shares: Vec<ShareReport>,
    /// What was judged, where something followed from it.
    pub judged: Vec<Judged>,
    /// Every commit record.
    pub commits: Vec<Commit>,
    /// Every write pause that reached its end.
    pub pauses: Vec<Pause>,
    /// Write pauses that were given up in time.
    pub given_up: Vec<GivenUp>,
    /// Failures that were tried again.
    pub retries: Vec<Retry>,
    /// What humans were asked, failed undoing among it.
    pub asked: Vec<Asked>,
    /// What operators said.
    pub signals: Vec<Heard>,
    /// Why it was unwound, if it was, and since when.
    pub rollback: Option<(Timestamp, String)>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Which.
    pub step: StepName,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it was done.
    pub finished: Option<Timestamp>,
    /// When it was undone.
    pub undone: Option<Timestamp>,
}

/// A share that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareReport {
    /// How much went to green.
    pub share: Share,
    /// The TTL it was asked for with, in seconds.
    pub ttl: u32,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When every authority served it.
    pub served: Option<Timestamp>,
    /// From when on users saw it.
    pub effective: Option<Timestamp>,
    /// Why it was asked for.
    pub reason: String,
}

/// A judgement that something followed from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// When.
    pub at: Timestamp,
    /// At which share.
    pub share: Share,
    /// What the judge said of green.
    pub verdict: Verdict,
    /// What was seen of blue meanwhile.
    pub blue: Evidence,
    /// How far the mirror was behind, in bytes.
    pub lag: Option<u64>,
    /// What the policy said.
    pub decision: Decision,
}

/// A commit record: from then on this side was the writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// When.
    pub at: Timestamp,
    /// The writer.
    pub to: Color,
    /// The position that was proven to have arrived.
    pub position: Option<Position>,
}

/// A write pause that reached its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it was over.
    pub at: Timestamp,
    /// Who writes since.
    pub to: Color,
    /// How long writes waited.
    pub length: Duration,
    /// What it was made of.
    pub parts: Vec<PausePart>,
}

/// A write pause that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// When.
    pub at: Timestamp,
    /// How long writes waited.
    pub held: Duration,
    /// Why.
    pub why: String,
}

/// A failure that was tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// When.
    pub at: Timestamp,
    /// Which step failed.
    pub step: StepName,
    /// How often in a row.
    pub attempt: u32,
    /// How.
    pub error: String,
}

/// Something a human was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// When.
    pub at: Timestamp,
    /// By which step.
    pub step: StepName,
    /// What, and what to do.
    pub why: String,
}

/// Something an operator said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When it became durable.
    pub at: Timestamp,
    /// What.
    pub signal: Signal,
    /// The request of another process that it came by.
    pub request: Option<String>,
}

impl Report {
    /// The report of these entries; of an unfinished journal as well as of a closed one.
    ///
    /// ```
    /// use bluegreen_core::{Body, Entry, Report, Timestamp};
    /// let body = Body::Planned { name: "shop".into(), fingerprint: "5b1f".into(), steps: vec![], acts_on: [].into() };
    /// let entries = [Entry { v: 1, seq: 0, at: Timestamp::EPOCH, body }];
    /// assert!(Report::of(&entries).to_string().starts_with("shop: not over yet"));
    /// ```
    #[must_use]
    pub fn of(entries: &[Entry]) -> Self {
        let mut report = Self::default();
        for entry in entries {
            report.add(entry);
        }
        report
    }

    fn add(&mut self, Entry { at, body, .. }: &Entry) {
        let at = *at;
        self.last = Some(at);
        match body.clone() {
            Body::Planned {
                name,
                fingerprint,
                steps,
                ..
            } => {
                self.name = name;
                self.fingerprint = fingerprint;
                self.began = Some(at);
                for step in steps {
                    self.step(step);
                }
            }
            Body::Started { step } => {
                let again = self.step(step);
                again.started.get_or_insert(at);
                again.undone = None;
            }
            Body::Finished { step } => self.step(step).finished = Some(at),
            Body::Undone { step } => self.step(step).undone = Some(at),
            Body::Noted { note, .. } => self.note(at, note),
            Body::Retrying {
                step, attempt, error, ..
            } => self.retries.push(Retry {
                at,
                step,
                attempt,
                error,
            }),
            Body::Asked { step, why } | Body::UndoFailed { step, error: why } => {
                self.asked.push(Asked { at, step, why });
            }
            Body::RollbackRequested { why } => {
                self.rollback.get_or_insert((at, why));
            }
            Body::Operator { signal, request } => {
                let cleaning = |s: &StepReport| s.step == StepName::CleanUp && s.started.is_some();
                let past = self.steps.iter().any(cleaning);
                let green_writes = self.commits.last().is_some_and(|c| c.to == Color::Green);
                // No other entry says that it is unwound from here; where the signal has no effect, it is not.
                if !past && (signal == Signal::GoBack || signal == Signal::Abort && !green_writes) {
                    self.rollback
                        .get_or_insert_with(|| (at, format!("the operator said {signal}")));
                }
                self.signals.push(Heard { at, signal, request });
            }
            Body::Closed { outcome } => self.outcome = Some(outcome),
            Body::Waiting { .. } | Body::Resumed { .. } => {}
        }
    }

    fn note(&mut self, at: Timestamp, note: Note) {
        match note {
            Note::Checked { findings } => self.findings = findings,
            Note::Asking { share, ttl, reason, .. } => self.shares.push(ShareReport {
                share,
                ttl,
                asked: at,
                served: None,
                effective: None,
                reason,
            }),
            Note::Served { share, effective } => {
                if let Some(asked) = self.shares.last_mut().filter(|s| s.share == share) {
                    asked.served = Some(at);
                    asked.effective = Some(effective);
                }
            }
            Note::Judged {
                share,
                verdict,
                blue,
                lag,
                decision,
            } => self.judged.push(Judged {
                at,
                share,
                verdict,
                blue,
                lag,
                decision,
            }),
            Note::Commit { to, position, .. } => self.commits.push(Commit { at, to, position }),
            Note::Pause { to, length, parts } => self.pauses.push(Pause { at, to, length, parts }),
            Note::PauseGivenUp { held, why } => self.given_up.push(GivenUp { at, held, why }),
            Note::RecordBefore { .. }
            | Note::Mirror { .. }
            | Note::Passed { .. }
            | Note::Compared { .. }
            | Note::Since { .. }
            | Note::WayBack { .. } => {}
        }
    }

    fn step(&mut self, step: StepName) -> &mut StepReport {
        let at = self.steps.iter().position(|s| s.step == step).unwrap_or_else(|| {
            self.steps.push(StepReport {
                step,
                started: None,
                finished: None,
                undone: None,
            });
            self.steps.len() - 1
        });
        &mut self.steps[at]
    }
}
