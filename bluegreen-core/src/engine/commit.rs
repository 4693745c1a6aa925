//! The commit record: durable, or certain never to be, or known to be unknown.

use super::Engine;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::journal::state::State;
use crate::journal::{Body, Note};
use futures::future::{Either, select};
use std::sync::Arc;
use std::time::Duration;

/// What became of a commit record.
#[derive(Debug)]
pub(super) enum Kept {
    /// It is durable.
    Yes,
    /// It is not there, and cannot be.
    No(Error),
    /// It is not there: that the pause was given up stands in its place.
    InItsPlace(Error),
    /// Another runner was here first.
    Another(Error),
    /// It cannot be told.
    Unknown(Error),
}

/// What stands where a record was meant to.
#[derive(Debug)]
enum Found {
    Ours,
    Theirs,
    Nothing,
    Replaced,
}

impl Engine {
    /// Makes the commit record durable, or finds out that it is not and never will be.
    pub(super) async fn commit(&mut self, body: Body, held: Duration) -> Kept {
        let Body::Noted { step, .. } = body else {
            return Kept::No(Error::new(Kind::Unexpected, "commit", "not a record"));
        };
        let (clock, seq) = (Arc::clone(&self.with.clock), self.state.next_seq);
        // One budget for both, for writes wait (`BUDGETS_OUT`): half of it to be told, the rest to find out.
        let (told, deadline) = (
            clock.now() + self.spec.pause_budget / 2,
            clock.now() + self.spec.pause_budget,
        );
        let error = match select(std::pin::pin!(self.append_once(body.clone())), clock.sleep_until(told)).await {
            Either::Left((Ok(()), _)) => return Kept::Yes,
            Either::Left((Err(error), _)) => error,
            Either::Right(_) => Error::new(
                Kind::Corrupt,
                "commit",
                "the journal did not answer within half of the pause budget",
            ),
        };
        if !matches!(error.kind(), Kind::Corrupt | Kind::Conflict) {
            return Kept::No(error);
        }
        self.loaded = false;
        let mut pause = Duration::from_millis(5);
        loop {
            // A record that is on its way is kept out for good by what takes its place.
            let instead = (error.kind() == Kind::Corrupt).then(|| Note::PauseGivenUp {
                held,
                why: error.to_string(),
            });
            let instead = instead.map(|note| Body::Noted { step, note });
            let look = std::pin::pin!(self.look_for(seq, &body, instead));
            match select(look, clock.sleep_until(deadline)).await {
                Either::Left((Ok(Found::Ours), _)) => return Kept::Yes,
                Either::Left((Ok(Found::Theirs), _)) => return Kept::Another(error),
                Either::Left((Ok(Found::Nothing), _)) => return Kept::No(error),
                Either::Left((Ok(Found::Replaced), _)) => return Kept::InItsPlace(error),
                Either::Left((Err(_), _)) if clock.now() + pause < deadline => {}
                _ => return Kept::Unknown(error),
            }
            clock.sleep_until(clock.now() + pause).await;
            pause *= 2;
        }
    }

    /// What stands at a place of the journal; where nothing does, what is given is put there.
    async fn look_for(&mut self, seq: u64, body: &Body, instead: Option<Body>) -> Result<Found> {
        let entries = self.journal.load().await?;
        let state = State::of(&entries)?;
        let there = usize::try_from(seq).ok().and_then(|at| entries.get(at).cloned());
        match (there, instead) {
            (Some(entry), instead) if state.next_seq == seq + 1 => {
                let found = if entry.body == *body {
                    Found::Ours
                } else if instead.is_some_and(|instead| entry.body == instead) {
                    // An earlier try put it there, and was answered with an error or late.
                    Found::Replaced
                } else {
                    return Ok(Found::Theirs);
                };
                self.state = state;
                self.loaded = true;
                self.show();
                self.events.send(|| Event::Entry { entry });
                Ok(found)
            }
            (Some(_), _) => Ok(Found::Theirs),
            (None, None) => Ok(Found::Nothing),
            (None, Some(instead)) => {
                self.append_once(instead).await?;
                self.loaded = true;
                Ok(Found::Replaced)
            }
        }
    }
}
