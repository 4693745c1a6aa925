//! The report as a page to read.

use super::Report;
use crate::duration::format_duration;
use crate::time::Timestamp;
use std::fmt;
use std::time::Duration;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(began), Some(last)) = (self.began, self.last) else {
            return writeln!(f, "not begun: the journal is empty");
        };
        match &self.outcome {
            Some(outcome) => write!(f, "{}: {outcome}", self.name)?,
            None => write!(f, "{}: not over yet", self.name)?,
        }
        writeln!(
            f,
            "\nfrom {} to {}, {}",
            clock(began),
            clock(last),
            length(last.since(began))
        )?;
        if let Some((at, why)) = &self.rollback {
            writeln!(f, "unwound since {}: {why}", clock(*at))?;
        }
        section(f, "Steps", &self.steps, |s| {
            let began = s.started.map_or("not begun".into(), clock);
            let took = match (s.started, s.finished) {
                (Some(from), Some(to)) => length(to.since(from)),
                (Some(_), None) => "not finished".into(),
                _ => String::new(),
            };
            let undone = s.undone.map(|at| format!("undone {}", clock(at))).unwrap_or_default();
            format!("{:<9} {began:<20}  {took:<12} {undone}", s.step)
        })?;
        section(f, "Shares", &self.shares, |s| {
            let seen = s
                .effective
                .map_or("never seen by users".into(), |at| format!("users from {}", clock(at)));
            format!(
                "{:>6}  asked {}, {seen}: {}",
                s.share.to_string(),
                clock(s.asked),
                s.reason
            )
        })?;
        for pause in &self.pauses {
            let title = format!(
                "Writes paused for {:.1?}; {} writes since {}",
                pause.length,
                pause.to,
                clock(pause.at)
            );
            section(f, &title, &pause.parts, |p| {
                format!("{:<32} {:>9}", p.name, format!("{:.1?}", p.took))
            })?;
        }
        section(f, "Pauses given up", &self.given_up, |p| {
            format!("{}  after {:.1?}: {}", clock(p.at), p.held, p.why)
        })?;
        section(f, "Commits", &self.commits, |c| {
            let position = c.position.as_ref().map(|p| format!(" at {p}")).unwrap_or_default();
            format!("{}  {} is the writer{position}", clock(c.at), c.to)
        })?;
        section(f, "Judged", &self.judged, |j| {
            let lag = j.lag.map(|bytes| format!(", {bytes} bytes behind")).unwrap_or_default();
            format!(
                "{}  at {}: {}; blue: {}{lag}; {}",
                clock(j.at),
                j.share,
                j.verdict,
                j.blue,
                j.decision.reason
            )
        })?;
        section(f, "Found before", &self.findings, |x| {
            format!("{} {}: {}", x.severity, x.id, x.seen)
        })?;
        section(f, "Tried again", &self.retries, |r| {
            format!("{}  {} ({}): {}", clock(r.at), r.step, r.attempt, r.error)
        })?;
        section(f, "Asked", &self.asked, |a| {
            format!("{}  {}: {}", clock(a.at), a.step, a.why)
        })?;
        section(f, "Operators", &self.signals, |s| {
            format!("{}  {}", clock(s.at), s.signal)
        })
    }
}

fn section<T>(f: &mut fmt::Formatter<'_>, title: &str, of: &[T], line: impl Fn(&T) -> String) -> fmt::Result {
    if of.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    of.iter()
        .try_for_each(|item| writeln!(f, "  {}", line(item).trim_end()))
}

/// To the second: what is shorter is shown as a length.
fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.')
        .map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

fn length(of: Duration) -> String {
    match of.as_secs() {
        0 => format!("{of:.1?}"),
        seconds => format_duration(Duration::from_secs(seconds)),
    }
}
