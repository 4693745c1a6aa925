//! What a person sees of a running migration, or, with `--json`, what another program reads: a line an event.

use bluegreen_core::duration::format_duration;
use bluegreen_core::{Body, Color, Entry, Event, Finding, MirrorStatus, Note, Severity, StepName, Timestamp};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;

/// Where lines go. A reader that went away stops nothing: what is printed is only a view of the journal.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// Whether lines are JSON.
    pub json: bool,
}

impl Out {
    /// Text for people; nothing with `--json`.
    pub fn say(self, text: impl AsRef<str>) {
        if !self.json {
            line(text.as_ref());
        }
    }

    /// A value for programs; nothing without `--json`.
    pub fn value(self, value: &impl Serialize) {
        if self.json
            && let Ok(text) = serde_json::to_string(value)
        {
            line(&text);
        }
    }

    /// Preflight findings, the worst first, and how many of each there are.
    pub fn findings(self, findings: &[Finding]) {
        let mut sorted: Vec<&Finding> = findings.iter().collect();
        sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        for finding in sorted {
            self.say(format!("{finding}\n"));
            self.value(&json!({"event": "finding", "finding": finding}));
        }
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (blocks, warns, notes) = (
            count(Severity::Blocking),
            count(Severity::Warning),
            count(Severity::Note),
        );
        self.say(match blocks {
            0 => format!("nothing is in the way: {warns} warnings, {notes} notes"),
            _ => format!("{blocks} findings block the migration; {warns} warnings, {notes} notes"),
        });
        self.value(&json!({"event": "findings", "blocks": blocks, "warns": warns, "notes": notes}));
    }
}

/// What a person should know beside it. A standard error that is closed stops nothing either.
pub fn complain(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "bluegreen: {}", text.as_ref());
}

fn line(text: &str) {
    // See above: a closed pipe is no reason to end a migration in the middle.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Turns events into lines, and keeps quiet about what has not changed.
#[derive(Debug, Default)]
pub struct Lines {
    looked: Option<(StepName, String)>,
    mirror: Option<String>,
    health: BTreeMap<Option<Color>, (bool, String)>,
    judged: Option<String>,
}

impl Lines {
    /// The line for an event; none when it says nothing new.
    pub fn of(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Entry { entry } => entry_line(entry),
            Event::Looked { step, what, .. } => {
                let said = (*step, what.clone());
                let is_new = self.looked.as_ref() != Some(&said);
                self.looked = Some(said);
                is_new.then(|| format!("          {step:<9} {what}"))
            }
            Event::Mirror { direction, status } => {
                let coarse = coarse(status);
                let is_new = self.mirror.as_ref() != Some(&coarse);
                self.mirror = Some(coarse);
                is_new.then(|| format!("          mirror    {direction}: {status}"))
            }
            Event::Probed {
                color,
                healthy,
                latency,
                seen,
            } => {
                let now = (*healthy, seen.clone());
                let before = self.health.insert(*color, now.clone());
                let who = color.map_or("production".to_owned(), |c| c.to_string());
                (before != Some(now)).then(|| {
                    let well = if *healthy { "well" } else { "ill" };
                    format!("          probe     {who} is {well}: {seen} after {latency:.1?}")
                })
            }
            Event::Judged {
                share,
                verdict,
                decision,
            } => {
                let is_new = self.judged.as_ref() != Some(decision);
                self.judged = Some(decision.clone());
                is_new.then(|| format!("          judge     at {share}: {verdict}; {decision}"))
            }
            Event::Warned { step, what } => Some(format!("          warning   {step}: {what}")),
            _ => None,
        }
    }
}

/// What of a mirror's state is news: its kind and stage, and each tenth of a copy.
fn coarse(status: &MirrorStatus) -> String {
    match status {
        MirrorStatus::Copying { bytes, stage, .. } => {
            format!("copying {stage} {}", bytes.done * 10 / bytes.total.max(1))
        }
        MirrorStatus::Streaming(_) => "streaming".into(),
        other => other.to_string(),
    }
}

fn entry_line(entry: &Entry) -> Option<String> {
    let said = match &entry.body {
        Body::Planned { name, fingerprint, .. } => format!("migration {name}, plan {fingerprint}"),
        Body::Started { step } => format!("{step:<9} begins"),
        Body::Noted { step, note } => format!("{step:<9} {}", note_text(note)?),
        Body::Waiting { step, until, why } => format!("{step:<9} waits until {}: {why}", clock(*until)),
        Body::Retrying {
            step, attempt, error, ..
        } => format!("{step:<9} try {attempt} failed: {error}"),
        Body::Asked { step, why } => format!("{step:<9} needs a human: {why}"),
        Body::Finished { step } => format!("{step:<9} done"),
        Body::RollbackRequested { why } => format!("unwinding: {why}"),
        Body::Undone { step } => format!("{step:<9} undone"),
        Body::UndoFailed { step, error } => format!("{step:<9} could not be undone: {error}"),
        Body::Resumed { answers: false } => "taken over after an interruption".into(),
        Body::Resumed { answers: true } => "run again: what a human was asked is answered".into(),
        Body::Operator { signal, .. } => format!("operator: {signal}"),
        Body::Closed { outcome } => format!("over: {outcome}"),
    };
    Some(format!("{}  {said}", clock(entry.at)))
}

fn note_text(note: &Note) -> Option<String> {
    Some(match note {
        Note::Checked { findings } => format!("checked: nothing in the way, {} findings", findings.len()),
        Note::RecordBefore { snapshot } => format!("remembers {} as it is ({})", snapshot.record, snapshot.shape),
        Note::Asking { share, ttl, reason, .. } => format!("asks for {share} at green, TTL {ttl} s: {reason}"),
        Note::Served { share, effective } => {
            format!("{share} is served everywhere; users see it from {}", clock(*effective))
        }
        Note::Judged { share, decision, .. } => format!("at {share}: {}", decision.reason),
        Note::Mirror { direction } => format!("mirror {direction}"),
        Note::Passed { hook } => format!("passed: {hook}"),
        Note::Commit { to, .. } => format!("committed: {to} is the writer"),
        Note::PauseGivenUp { held, why } => format!("gave the pause up after {}: {why}", format_duration(*held)),
        Note::Pause { to, length, .. } => format!("writes waited for {length:.1?}; {to} writes"),
        Note::WayBack { broken: Some(why), .. } => format!("cannot go back: {why}"),
        Note::WayBack { broken: None, .. } => "can go back again".to_owned(),
        Note::Compared { compared } => format!("alike: {} rows of {} tables", compared.rows, compared.tables),
        Note::Since { .. } => return None,
    })
}

/// The time of day in UTC; the whole is in the journal.
fn clock(at: Timestamp) -> String {
    at.to_string().get(11..19).unwrap_or_default().to_owned()
}
