//! What a person watches: the phase, rows and bytes copied, lag, share and requests to each side, the time left of a wait.

use bluegreen_core::{Body, Clock, Event, MirrorStatus, Note, SystemClock, Timestamp};
use bluegreen_testkit::app::Live;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bars on a terminal; a line per phase elsewhere.
#[derive(Clone)]
pub(super) struct Show(Arc<Inner>);

struct Inner {
    bars: MultiProgress,
    terminal: bool,
    phase: ProgressBar,
    rows: ProgressBar,
    bytes: ProgressBar,
    mirror: ProgressBar,
    traffic: ProgressBar,
    clients: ProgressBar,
    wait: ProgressBar,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    share: Option<String>,
    waits: Option<(Timestamp, Timestamp, String)>,
    last: Live,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates below are well formed")
        .progress_chars("━╸ ")
}

impl Show {
    pub(super) fn new() -> Self {
        let bars = MultiProgress::new();
        let bar = |length: u64, template: &str| bars.add(ProgressBar::new(length).with_style(style(template)));
        let phase = bar(0, "{spinner} {elapsed:>4}  {msg}");
        let inner = Inner {
            terminal: std::io::stderr().is_terminal(),
            rows: bar(0, "  rows     {bar:30} {human_pos} of {human_len}  {msg}"),
            bytes: bar(0, "  bytes    {bar:30} {bytes} of {total_bytes}"),
            mirror: bar(0, "  mirror   {msg}"),
            traffic: bar(1000, "  at green {bar:30} {msg}"),
            clients: bar(0, "  clients  {msg}"),
            wait: bar(0, "  wait     {bar:30} {msg}"),
            phase,
            bars,
            state: Mutex::default(),
        };
        if inner.terminal {
            inner.phase.enable_steady_tick(Duration::from_millis(100));
        }
        Self(Arc::new(inner))
    }

    /// A line that stays.
    pub(super) fn say(&self, what: &str) {
        if self.0.terminal {
            self.0.phase.set_message(what.to_owned());
        } else {
            eprintln!("{what}");
        }
    }

    /// Takes the bars away.
    pub(super) fn finish(&self) {
        if let Err(error) = self.0.bars.clear() {
            tracing::debug!(%error, "the bars could not be taken away");
        }
    }

    /// What the clients have seen by now.
    pub(super) fn clients(&self, live: &Live) {
        let mut state = self.lock();
        let (blue, green) = (live.blue - state.last.blue, live.green - state.last.green);
        let per_mille = (green * 1000).checked_div(blue + green).unwrap_or(0);
        let meant = state.share.as_deref().unwrap_or("0 %");
        let text = format!(
            "{meant} meant; requests: {} to blue, {} to green",
            live.blue, live.green
        );
        self.0.traffic.set_position(per_mille);
        self.0.traffic.set_message(text);
        self.0.clients.set_message(format!(
            "{} requests, {} failed, {} writes acknowledged, longest stall {:.0} ms",
            live.requests,
            live.failed,
            live.acked,
            live.stall_us as f64 / 1000.0
        ));
        state.last = *live;
        let now = SystemClock.now();
        match &state.waits {
            Some((from, until, why)) if *until > now => {
                let (all, left) = (until.since(*from), until.since(now));
                self.0
                    .wait
                    .set_length(u64::try_from(all.as_millis()).unwrap_or(u64::MAX));
                self.0
                    .wait
                    .set_position(u64::try_from((all.saturating_sub(left)).as_millis()).unwrap_or(0));
                self.0
                    .wait
                    .set_message(format!("{:.1} s left: {why}", left.as_secs_f32()));
            }
            _ => {
                self.0.wait.set_position(0);
                self.0.wait.set_message("");
            }
        }
    }

    /// Something the migration says.
    pub(super) fn event(&self, event: &Event) {
        match event {
            Event::Entry { entry } => self.entry(&entry.body),
            Event::Mirror { direction, status } => self.mirror(&direction.to_string(), status),
            Event::Looked { step, what, again } => {
                let mut state = self.lock();
                // A look that comes again at once is no wait to show.
                if again.since(SystemClock.now()) > Duration::from_secs(1) {
                    state.waits = Some((SystemClock.now(), *again, what.clone()));
                }
                drop(state);
                if self.0.terminal {
                    self.0.phase.set_message(format!("{step}: {what}"));
                }
            }
            Event::Warned { what, .. } => self.line(&format!("warning: {what}")),
            _ => {}
        }
    }

    fn entry(&self, body: &Body) {
        match body {
            Body::Started { step } => self.line(&format!("{step}")),
            Body::Waiting { until, why, .. } => self.lock().waits = Some((SystemClock.now(), *until, why.clone())),
            Body::Retrying { step, error, .. } => self.line(&format!("{step}: tried again: {error}")),
            Body::Asked { step, why } => self.line(&format!("{step}: a human is needed: {why}")),
            Body::RollbackRequested { why } => self.line(&format!("going back: {why}")),
            Body::Undone { step } => self.line(&format!("undone: {step}")),
            Body::Closed { outcome } => self.line(&format!("{outcome}")),
            Body::Noted { note, .. } => match note {
                Note::Asking { share, reason, .. } => {
                    self.lock().share = Some(share.to_string());
                    self.line(&format!("  {share} to green: {reason}"));
                }
                Note::Pause { to, length, .. } => {
                    self.line(&format!(
                        "  {to} is the writer; writes paused for {:.1} ms",
                        length.as_secs_f64() * 1000.0
                    ));
                }
                Note::PauseGivenUp { why, .. } => self.line(&format!("  a pause was given up: {why}")),
                _ => {}
            },
            _ => {}
        }
    }

    fn mirror(&self, direction: &str, status: &MirrorStatus) {
        let text = match status {
            MirrorStatus::Absent => "none".to_owned(),
            MirrorStatus::Preparing(what) => format!("{direction}: {what}"),
            MirrorStatus::Copying {
                rows,
                bytes,
                stage,
                left,
            } => {
                self.0.rows.set_length(rows.total.max(rows.done));
                self.0.rows.set_position(rows.done);
                self.0.rows.set_message(stage.clone());
                self.0.bytes.set_length(bytes.total.max(bytes.done));
                self.0.bytes.set_position(bytes.done);
                let left = left.map_or_else(String::new, |left| format!(", about {} s to go", left.as_secs() + 1));
                format!("{direction}: {stage}{left}")
            }
            MirrorStatus::Armed => format!("{direction}: armed"),
            MirrorStatus::Streaming(lag) => {
                let time = lag
                    .time
                    .map_or_else(String::new, |time| format!(", {:.1} ms", time.as_secs_f64() * 1000.0));
                format!("{direction}: streams, {} behind{time}", HumanBytes(lag.bytes))
            }
            MirrorStatus::Failed { why, .. } => format!("{direction}: failed: {why}"),
        };
        self.0.mirror.set_message(text);
    }

    /// A line that scrolls by above the bars.
    fn line(&self, what: &str) {
        if !self.0.terminal {
            eprintln!("{what}");
            return;
        }
        if !what.starts_with(' ') {
            self.0.phase.set_message(what.to_owned());
        }
        if let Err(error) = self.0.bars.println(what) {
            tracing::debug!(%error, "a line could not be shown");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
