//! Asking a step, and turning its answer into an entry.

use super::commit::Kept;
use super::{Engine, Turn, guarded};
use crate::duration::format_duration;
use crate::error::{Error, Kind, Remedy, Result};
use crate::event::Event;
use crate::journal::{Body, Note, StepName};
use crate::model::Color;
use crate::phase::{self, Progress};
use futures::future::{Either, select};
use std::time::Duration;

const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// However long the other side asks us to stay away, it is looked again after so long.
const MAX_AWAY: Duration = Duration::from_secs(3600);

impl Engine {
    /// Asks a step for the next bit of it, for a bounded time: every step may be asked again.
    pub(super) async fn ask(&self, step: StepName, undoing: bool) -> Result<Progress> {
        let cx = self.context(step);
        let deadline = cx.now() + self.spec.step_deadline + self.spec.pause_budget.saturating_mul(8);
        let call = async {
            match undoing {
                true => phase::of(step).undo(&cx).await,
                false => phase::of(step).advance(&cx).await,
            }
        };
        let call = std::pin::pin!(guarded(call));
        let answer = if !undoing && phase::of(step).runs_a_hook(&cx) {
            // A user's suite takes as long as it takes, or until somebody says that it is to end. Then it is dropped, and is
            // run again should the step be asked again: as after a death.
            match select(call, std::pin::pin!(self.told_to_end(step))).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Ok(Progress::Look {
                    after: Duration::ZERO,
                    what: "the hook was ended: an operator said so".into(),
                }),
            }
        } else {
            match select(call, self.with.clock.sleep_until(deadline)).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(Error::new(
                    Kind::Timeout,
                    format!("{step}"),
                    format!(
                        "a provider did not answer within {}",
                        format_duration(self.spec.step_deadline)
                    ),
                )),
            }
        };
        self.pass_on_warnings(step);
        if answer.is_err() && step == StepName::CutOver {
            // Whatever broke may have broken in the middle of a pause.
            self.live.lock().settled = false;
        }
        answer
    }

    /// What the replicator has to say beside its answers.
    pub(super) fn pass_on_warnings(&self, step: StepName) {
        for what in self.with.replicator.warnings() {
            self.context(step).warn(what);
        }
    }

    /// Turns a step's answer into an entry.
    pub(super) async fn answered(&mut self, step: StepName, answer: Result<Progress>, undoing: bool) -> Result<Turn> {
        let now = self.with.clock.now();
        let body = match answer {
            Ok(Progress::Done) if undoing => Body::Undone { step },
            Ok(Progress::Done) => Body::Finished { step },
            Ok(Progress::Note(note)) => return self.note(step, note).await,
            Ok(Progress::Wait { until, why }) => Body::Waiting { step, until, why },
            Ok(Progress::Look { after, what }) => {
                self.live.lock().answered = true;
                let again = now + after;
                self.events.send(|| Event::Looked { step, what, again });
                return Ok(Turn::At(again));
            }
            Ok(Progress::Ask(why)) => Body::Asked { step, why },
            Ok(Progress::GiveUp(why)) => self.give_up(step, why, undoing),
            Err(error) => match error.remedy() {
                Remedy::Retry(after) => {
                    // A look is not durable, but it is an answer: what failed before it is another row.
                    let answered = std::mem::take(&mut self.live.lock().answered);
                    let before = if answered { 0 } else { self.state.step(step).attempts };
                    let attempt = before + 1;
                    if attempt > self.spec.retries {
                        self.give_up(step, format!("{error} (tried {attempt} times)"), undoing)
                    } else {
                        let backoff = self
                            .spec
                            .look
                            .saturating_mul(1 << (attempt - 1).min(6))
                            .min(MAX_BACKOFF);
                        let until = now + after.unwrap_or(Duration::ZERO).min(MAX_AWAY).max(backoff);
                        Body::Retrying {
                            step,
                            attempt,
                            until,
                            error: error.to_string(),
                        }
                    }
                }
                Remedy::Ask(what) if undoing => Body::UndoFailed {
                    step,
                    error: format!("{error}: {what}"),
                },
                Remedy::Ask(what) => Body::Asked {
                    step,
                    why: format!("{error}: {what}"),
                },
                Remedy::GiveUp => self.give_up(step, error.to_string(), undoing),
            },
        };
        self.append(body).await?;
        Ok(Turn::Again)
    }

    /// Before the commit a failure unwinds by itself; after it both ways are open, and a human says which.
    fn give_up(&self, step: StepName, why: String, undoing: bool) -> Body {
        if undoing {
            let error = format!("{why}. Mend it and run again: it goes on undoing");
            return Body::UndoFailed { step, error };
        }
        if self.state.writer() == Color::Green {
            let way = if self.state.past_no_return() || self.in_pause() {
                ""
            } else {
                ", or go back"
            };
            return Body::Asked {
                step,
                why: format!("{why}. Green is the writer: mend it and run again{way}"),
            };
        }
        Body::RollbackRequested {
            why: format!("{step}: {why}"),
        }
    }

    async fn note(&mut self, step: StepName, note: Note) -> Result<Turn> {
        if matches!(note, Note::Asking { .. }) {
            self.live.lock().patience.clear();
        }
        let Note::Commit { to, parts, .. } = &note else {
            self.append(Body::Noted { step, note }).await?;
            return Ok(Turn::Again);
        };
        let (to, held) = (*to, parts.iter().map(|p| p.took).sum::<Duration>());
        let (kept, why) = match self.commit(Body::Noted { step, note }, held).await {
            Kept::Yes => return Ok(Turn::Again),
            // They have the next word, and settle what is held.
            Kept::Another(error) => return Err(error),
            Kept::No(error) => (false, error),
            Kept::InItsPlace(error) => (true, error),
            Kept::Unknown(error) => {
                // Blue is production: it goes on. Should the record turn up, `promote` refuses it: blue is open again.
                phase::abandon(&self.context(step), to.other()).await?;
                let message = format!(
                    "it cannot be told whether the commit record is in the journal; writes go on at {}. Make the journal \
                     readable before it is run again",
                    to.other()
                );
                return Err(Error::new(Kind::Corrupt, "commit", message).because(error));
            }
        };
        tracing::warn!(migration = %self.spec.name, "the commit record could not be written, writes go on: {why}");
        let undoing = self.state.unwinding.is_some();
        if let Err(e) = phase::abandon(&self.context(step), to.other()).await {
            return Box::pin(self.answered(step, Err(e), undoing)).await;
        }
        if why.kind() == Kind::Conflict {
            // Nothing of theirs is there yet, but it is no longer ours to go on.
            return Err(why);
        }
        if !kept {
            let why = why.to_string();
            let note = Note::PauseGivenUp { held, why };
            self.append(Body::Noted { step, note }).await?;
        }
        Ok(Turn::Again)
    }
}
