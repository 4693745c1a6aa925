//! What came of it: for people, and as one line of JSON.

use super::course::Stage;
use super::{AnyError, Options};
use bluegreen_core::{Body, Color, Entry, Note, Outcome, PausePart, Timestamp};
use bluegreen_testkit::app::ledger::Ledger;
use bluegreen_testkit::app::{Outcome as Seen, Stall};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The keys that scripts rely on come first.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    requests: u64,
    failed: u64,
    acked: u64,
    lost: u64,
    doubled: u64,
    longest_stall_ms: f64,
    write_pause_ms: f64,
    outcome: String,
    seconds: f64,
    unbalanced: u64,
    leftovers: Vec<String>,
    failures: BTreeMap<String, u64>,
    to_blue: u64,
    to_green: u64,
    p50_ms: f64,
    p99_ms: f64,
    stalls: Vec<StallIn>,
    pauses: Vec<Pause>,
    pauses_given_up: Vec<String>,
    gate: String,
    dns: String,
    kills: u32,
}

/// A long wait between two acknowledgements, and what went on then.
#[derive(Debug, Serialize)]
struct StallIn {
    ms: f64,
    from: Timestamp,
    during: String,
}

/// A pause of the writes, and what it was made of.
#[derive(Debug, Serialize)]
struct Pause {
    to: Color,
    ms: f64,
    parts: Vec<(String, f64)>,
}

fn ms(length: Duration) -> f64 {
    (length.as_secs_f64() * 100_000.0).round() / 100.0
}

impl Summary {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        options: &Options,
        seen: &Seen,
        ledger: Ledger,
        leftovers: Vec<String>,
        outcome: &Outcome,
        entries: &[Entry],
        stages: &[Stage],
        kills: u32,
        took: Duration,
    ) -> Self {
        let pauses = pauses(entries);
        Self {
            requests: seen.totals.requests,
            failed: seen.totals.failed,
            acked: seen.totals.acked,
            lost: ledger.lost,
            doubled: ledger.doubled,
            longest_stall_ms: ms(seen.longest_stall()),
            write_pause_ms: pauses.first().map_or(0.0, |pause| pause.ms),
            outcome: match outcome {
                Outcome::Completed => "completed".into(),
                Outcome::RolledBack { .. } => "rolled-back".into(),
            },
            seconds: took.as_secs_f64(),
            unbalanced: ledger.unbalanced,
            leftovers,
            failures: seen.failures.clone(),
            to_blue: seen.totals.blue,
            to_green: seen.totals.green,
            p50_ms: ms(seen.p50),
            p99_ms: ms(seen.p99),
            stalls: seen
                .stalls
                .iter()
                .map(|stall| StallIn {
                    ms: ms(stall.lasted),
                    from: stall.from,
                    during: during(stall, stages),
                })
                .collect(),
            pauses,
            pauses_given_up: entries
                .iter()
                .filter_map(|entry| match &entry.body {
                    Body::Noted {
                        note: Note::PauseGivenUp { why, .. },
                        ..
                    } => Some(why.clone()),
                    _ => None,
                })
                .collect(),
            gate: if options.kill {
                "PgBouncer".into()
            } else {
                format!("{:?}", options.gate)
            },
            dns: format!("{:?}", options.dns),
            kills,
        }
    }

    /// Whether everything is as it was promised.
    pub(super) fn is_good(&self, go_back: bool) -> bool {
        let ended = if go_back { "rolled-back" } else { "completed" };
        self.failed + self.lost + self.doubled + self.unbalanced == 0
            && self.acked > 0
            && self.leftovers.is_empty()
            && self.outcome == ended
    }

    pub(super) fn print(&self, json: bool) -> Result<(), AnyError> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!("{}, in {:.1} s", self.outcome, self.seconds);
        println!(
            "  requests        {} ({} blue, {} green), {} failed",
            self.requests, self.to_blue, self.to_green, self.failed
        );
        for (why, count) in &self.failures {
            println!("                  {count} x {why}");
        }
        println!(
            "  acknowledged    {} writes: {} lost, {} doubled",
            self.acked, self.lost, self.doubled
        );
        println!("  balances        {} of them wrong", self.unbalanced);
        println!("  latency         p50 {} ms, p99 {} ms", self.p50_ms, self.p99_ms);
        for pause in &self.pauses {
            let parts: Vec<String> = pause.parts.iter().map(|(name, ms)| format!("{name} {ms}")).collect();
            println!(
                "  writes paused   {} ms, then {} wrote ({})",
                pause.ms,
                pause.to,
                parts.join(", ")
            );
        }
        for why in &self.pauses_given_up {
            println!("  pause given up  {why}");
        }
        for stall in &self.stalls {
            println!("  a client waited {} ms ({})", stall.ms, stall.during);
        }
        if self.kills > 0 {
            println!("  killed          {} times", self.kills);
        }
        match self.leftovers.as_slice() {
            [] => println!("  left behind     nothing"),
            left => left.iter().for_each(|what| println!("  LEFT BEHIND     {what}")),
        }
        Ok(())
    }
}

fn pauses(entries: &[Entry]) -> Vec<Pause> {
    let part = |part: &PausePart| (part.name.clone(), ms(part.took));
    let pause = |entry: &Entry| match &entry.body {
        Body::Noted {
            note: Note::Pause { to, length, parts },
            ..
        } => Some(Pause {
            to: *to,
            ms: ms(*length),
            parts: parts.iter().map(part).collect(),
        }),
        _ => None,
    };
    entries.iter().filter_map(pause).collect()
}

/// What went on while a client waited: what had begun before, and what began meanwhile.
fn during(stall: &Stall, stages: &[Stage]) -> String {
    let end = stall.from + stall.lasted;
    let before = stages.iter().rev().find(|stage| stage.at <= stall.from);
    let within = stages.iter().filter(|stage| stage.at > stall.from && stage.at <= end);
    before
        .into_iter()
        .chain(within)
        .map(|stage| stage.what.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}
