//! What comes in from outside while the loop runs.

use super::Engine;
use crate::error::{Error, Kind, Result};
use crate::journal::{Body, Request, Signal, StepName};
use futures::future::{Either, select};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// What comes in from outside while the loop runs: operators' signals, and the wish that it stops.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    signals: Mutex<Vec<Signal>>,
    pub(super) stop: AtomicBool,
    pub(super) woken: Notify,
}

impl Inbox {
    pub(crate) fn send(&self, signal: Signal) {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).push(signal);
        self.woken.notify_one();
    }

    /// Asks the loop to end where nothing is held.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.woken.notify_one();
    }

    /// Whether somebody gives up, or wishes that the loop ends.
    fn ends(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.signals().contains(&Signal::Abort)
    }

    fn take(&self) -> Vec<Signal> {
        std::mem::take(&mut *self.signals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn signals(&self) -> Vec<Signal> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Engine {
    /// Hears operators, in this process and from others. An order is durable before it is followed.
    pub(super) async fn hear(&mut self) -> Result<()> {
        if self.state.closed.is_some() || self.in_pause() && self.state.asked.is_none() {
            return Ok(());
        }
        if self.state.no_way_back().is_some() && self.is_sent_back().await? {
            // What was seen some time ago may have been mended since.
            self.look_on().await?;
        }
        // In a pause that a human was asked about there is one thing to say; the rest is heard after it.
        let heard = |signal: Signal, in_pause: bool| !in_pause || signal == Signal::Resume;
        for signal in self.inbox.take() {
            if !heard(signal, self.in_pause()) {
                self.inbox.send(signal);
            } else if let Err(e) = self.append_order(signal, None).await {
                self.inbox.send(signal);
                return Err(e);
            }
        }
        if self.journal.has_requests() {
            for request in self.requests().await? {
                if !self.state.heard.contains(&request.id) && heard(request.signal, self.in_pause()) {
                    self.append_order(request.signal, Some(request.id)).await?;
                }
            }
        }
        Ok(())
    }

    /// What was asked for from outside. A look that fails in a way that may pass is taken at the next turn: what was asked
    /// for is durable, and is there then too.
    pub(super) async fn requests(&self) -> Result<Vec<Request>> {
        let before = self.inbox.signals().len();
        let mut look = self.journal.requests();
        let mut limit = self
            .with
            .clock
            .sleep_until(self.with.clock.now() + self.spec.step_deadline);
        let mut woken = false;
        let answer = loop {
            let notified = std::pin::pin!(self.inbox.woken.notified());
            match select(&mut look, select(notified, &mut limit)).await {
                Either::Left((answer, _)) => break answer,
                Either::Right((Either::Left(_), _)) => woken = true,
                Either::Right((Either::Right(_), _)) => {
                    break Err(Error::new(
                        Kind::Timeout,
                        "look for requests",
                        "the journal did not answer",
                    ));
                }
            }
            // A word of this process's own comes first: what is asked for from outside is there at the next turn too.
            if self.inbox.stop.load(Ordering::SeqCst) || self.inbox.signals().len() > before {
                break Ok(Vec::new());
            }
        };
        if woken {
            // Who waits next is to hear of it.
            self.inbox.woken.notify_one();
        }
        match answer {
            Err(e) if e.is_transient() => {
                tracing::warn!(migration = %self.spec.name, "could not look for requests: {e}");
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// Whether somebody says that it shall go back.
    async fn is_sent_back(&self) -> Result<bool> {
        let back = |signal: &Signal| matches!(signal, Signal::GoBack | Signal::SwitchBack);
        if self.inbox.signals().iter().any(back) {
            return Ok(true);
        }
        let requests = match self.journal.has_requests() {
            true => self.requests().await?,
            false => Vec::new(),
        };
        let new = requests.iter().filter(|r| !self.state.heard.contains(&r.id));
        Ok(new.map(|r| r.signal).any(|signal| back(&signal)))
    }

    /// Comes back when a running hook is to end: an operator stops the run or gives up. Every other word is heard after it.
    /// What takes blue away is never ended: nothing can be unwound any more.
    pub(super) async fn told_to_end(&self, step: StepName) {
        if step == StepName::CleanUp {
            return std::future::pending().await;
        }
        while !self.inbox.ends() {
            let woken = std::pin::pin!(self.inbox.woken.notified());
            if !self.journal.has_requests() {
                woken.await;
                continue;
            }
            let look = self.with.clock.now() + self.spec.look;
            select(woken, self.with.clock.sleep_until(look)).await;
            match self.requests().await {
                Ok(requests) => {
                    let new = |r: &Request| !self.state.heard.contains(&r.id);
                    if requests.iter().any(|r| new(r) && r.signal == Signal::Abort) {
                        return;
                    }
                }
                // The hook is not ended for that; the next look is a moment away.
                Err(e) => tracing::warn!(migration = %self.spec.name, "what operators ask cannot be read: {e}"),
            }
        }
    }

    /// An order that comes before the first entry still comes after the plan.
    async fn append_order(&mut self, signal: Signal, request: Option<String>) -> Result<()> {
        if self.state.planned.is_none() {
            self.write_plan().await?;
        }
        let why = self.state.no_way_back().map(str::to_owned);
        self.append(Body::Operator { signal, request }).await?;
        if let (Signal::GoBack | Signal::SwitchBack, Some(why)) = (signal, why) {
            let what = format!("{signal} is not followed: {why}");
            self.context(StepName::Hold).warn(what);
        }
        Ok(())
    }
}
