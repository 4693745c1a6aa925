//! After the proof: the old writer closed for good, the new one opened; or all of it given back.

use crate::armed::{Armed, BeginAfter, opened_again};
use crate::connect::Session;
use crate::error::fault;
use crate::fence::{look_again, marker_round_trip};
use crate::keeper::{ARMED, Keeper};
use crate::replicator::PgReplicator;
use crate::sequences::Sequences;
use crate::{guard, identity, mirror, shut, slot, writers};
use bluegreen_core::{Color, Direction, Error, Kind, Result};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the guard may take to end the old writer's clients, where that is waited for.
const GUARD_DONE: Duration = Duration::from_secs(10);

/// How long a side that is given the writing back waits for the other one: less than a pause may take.
const OTHER_WITHIN: Duration = Duration::from_millis(500);

/// How long the cut-over's sessions stay open after it.
const LINGER: Duration = Duration::from_millis(300);

/// How long the new writer is kept shut in all for what the old one may have taken after the proof: well below what a pause may
/// take, for neither side writes.
const REST_WITHIN: Duration = Duration::from_secs(3);

/// How often it is tried: an opening that a short budget cuts off is called again.
const REST_TRIES: u32 = 3;

/// What was spent so far on what the old writer may have taken after the proof.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    tries: u32,
    spent: Duration,
}

/// One try; counted once both servers are there, and what it took even when it is cut off.
struct Try<'a> {
    rest: &'a Mutex<Rest>,
    begun: Instant,
    left: Duration,
}

impl<'a> Try<'a> {
    /// None where it was tried enough.
    fn begin(rest: &'a Mutex<Rest>) -> Option<Self> {
        let (tries, left) = {
            let so_far = rest.lock().unwrap_or_else(PoisonError::into_inner);
            (so_far.tries, REST_WITHIN.saturating_sub(so_far.spent))
        };
        let begun = Instant::now();
        (tries < REST_TRIES && !left.is_zero()).then(|| Self { rest, begun, left })
    }

    fn counts(&self) {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).tries += 1;
    }

    /// When so much of its time is over, in percent.
    fn over(&self, percent: u32) -> tokio::time::Instant {
        (self.begun + self.left * percent / 100).into()
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).spent += self.begun.elapsed();
    }
}

/// A part of it that has an end, whatever hangs.
async fn by<T>(until: tokio::time::Instant, part: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || fault(Kind::Timeout, REST, "it took too long");
    tokio::time::timeout_at(until, part)
        .await
        .unwrap_or_else(|_| Err(late()))
}

const REST: &str = "bring what the old writer took since the hand-over";

/// The end of a cut-over's sessions: to end one costs its server milliseconds, and not now, while clients come back. All of them
/// are held until then, which a block that names only some would not do.
async fn linger(mut armed: Armed, migration: String) {
    armed.whole = None;
    tokio::time::sleep(LINGER).await;
    let Some(guard) = armed.guard.take() else { return };
    if let Err(e) = guard.done().await {
        tracing::warn!(error = %e, "the guard did not do its work; it is done for it");
        if let Err(e) = writers::sweep(&armed.from, &migration, None).await {
            tracing::error!(error = %e, "clients of the old writer may not know yet that it is read-only");
        }
    }
}

/// What is read when no client can do anything any more: the sequences, and that all is mirrored; and that the fence held.
async fn last_look(armed: &Armed, publication: &str) -> Result<Vec<(i64, bool)>> {
    let check = &armed.statements.writer_check;
    let (values, (), ()) = futures::try_join!(
        armed.sequences.read(&armed.from_reads),
        look_again(&armed.from_reads, check, publication, armed.sequences.count()),
        // Without a break since the fence, or something may have been written after the marker.
        armed.still_locks(),
    )?;
    Ok(values)
}

impl PgReplicator {
    /// See `Replicator::hand_over`.
    pub(crate) async fn hand_to(&self, to: Color) -> Result<()> {
        let doing = "hand the writing over";
        let mut guard = self.armed.lock().await;
        let armed = guard
            .as_mut()
            .filter(|a| a.to == to && a.held)
            .ok_or_else(|| fault(Kind::Diverged, doing, format!("{} is not fenced here", to.other())))?;
        let started = Instant::now();
        let settings = &self.context.settings;
        let (forth, reverse) = (self.name_of(Direction::to(to)), self.name_of(Direction::from(to)));
        let sequences = armed.sequences.count();
        // Before anything is changed: who slept meanwhile may have been ousted.
        armed.still_locks().await?;
        // From here on the reverse slot must keep what is written at `to`: nobody advances it again but for once below.
        let keeper = self.keeper().take();
        let dbname = settings.server(to.other()).conninfo().dbname();
        // What takes long first, all of it at once, and the sessions are told last: ending takes the server's time.
        let ((), (), values, silent) = tokio::try_join!(
            writers::close_by_default(&armed.from, dbname),
            async {
                if let Some(quiet) = &armed.quiet {
                    quiet.quiet().await;
                }
                drop(keeper);
                armed.begin_way_back(&reverse).await
            },
            armed.sequences.read(&armed.from_reads),
            armed.can_be_guarded(&settings.name),
        )?;
        tracing::debug!(elapsed = ?started.elapsed(), "hand over: read-only, reverse slot advanced");
        if silent {
            armed.set_guard(&settings.name);
            tokio::try_join!(armed.sequences.set(&armed.to_writes, values), async {
                // Looked at when nobody can make a table any more.
                armed.guard_is_set().await?;
                armed.nobody_else_writes(&settings.name).await?;
                look_again(&armed.from_reads, &armed.statements.writer_check, &forth, sequences).await
            })?;
            armed.handed_over = true;
            tracing::debug!(elapsed = ?started.elapsed(), "hand over: guarded");
            return Ok(());
        }
        // In this order on one session: where nobody was left to be told, what is read after it is the last word.
        let (told, values, ()) = futures::try_join!(
            writers::signal(&armed.from_reads, &settings.name, None),
            last_look(armed, &forth),
            armed.sequences.set(&armed.to_writes, values),
        )?;
        tracing::debug!(elapsed = ?started.elapsed(), "hand over: sessions told to end");
        told.everybody()?;
        let values = if told.nobody() {
            values
        } else {
            writers::settle(&armed.from_reads, &settings.name, told).await?;
            // Again, now that nobody can take a number any more.
            last_look(armed, &forth).await?
        };
        armed.sequences.set(&armed.to_writes, values).await?;
        armed.handed_over = true;
        tracing::debug!(elapsed = ?started.elapsed(), "hand over: done");
        Ok(())
    }

    /// See `Replicator::may_promote`.
    pub(crate) async fn may_open_for(&self, to: Color) -> Result<()> {
        let slot = self.armed.lock().await;
        match slot.as_ref().filter(|a| a.to == to && a.handed_over && !a.is_closed()) {
            Some(armed) => still_closed(&armed.from, to.other()).await,
            None => still_closed(&self.context.settings.connect(to.other()).await?, to.other()).await,
        }
    }

    /// See `Replicator::promote`.
    pub(crate) async fn open_for(&self, to: Color) -> Result<()> {
        let settings = &self.context.settings;
        let started = Instant::now();
        let from = to.other();
        let dbname = |color| settings.server(color).conninfo().dbname();
        let mut slot = self.armed.lock().await;
        let ours = slot
            .as_mut()
            .filter(|a| a.to == to && a.held && a.handed_over && !a.is_closed());
        // Asked of the server: another process may have ended the fence, and its session's end has not come to us yet. And a guard
        // that ended before it was told to has let go of the tables, and left its session.
        let held = match ours {
            Some(armed) => {
                let (stands, guarded) = tokio::try_join!(armed.fence_stands(from), armed.still_guards())?;
                (stands && guarded).then_some(armed)
            }
            None => None,
        };
        if let Some(armed) = held {
            let again = std::mem::replace(&mut armed.promoting, true);
            if armed.guard.is_some() {
                if !armed.can_be_guarded(&settings.name).await? {
                    // Somebody was not silent after all, and may have taken a number: ended first, then read again.
                    armed.release_guard().await?;
                    guard::wait_for_guard(&armed.from_reads, &settings.name, GUARD_DONE).await?;
                    // Not once it has given out numbers of its own.
                    if !again || writers::is_closed(&armed.to_writes).await? {
                        let values = armed.sequences.read(&armed.from_reads).await?;
                        armed.sequences.set(&armed.to_writes, values).await?;
                    }
                }
                writers::open_once(&armed.to_writes, &settings.name, dbname(to), again).await?;
                armed.release_guard().await?;
            } else {
                // The old writer is closed already: the second look at it and the opening need not wait for each other.
                tokio::try_join!(
                    writers::sweep(&armed.from, &settings.name, None),
                    writers::open_once(&armed.to_writes, &settings.name, dbname(to), again),
                )?;
                armed.unlock().await?;
            }
        } else {
            let (old, new) = tokio::try_join!(settings.connect(from), settings.connect(to))?;
            identity::check(&self.context, Direction::to(to), &old, &new).await?;
            still_closed(&old, from).await?;
            writers::sweep(&old, &settings.name, None).await?;
            writers::end_fence(&old, &settings.name).await?;
            if writers::is_closed(&new).await? {
                self.bring_the_rest(to).await?;
            }
            writers::open_again(&new, &settings.name, dbname(to)).await?;
        }
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Rest::default();
        if let Some(armed) = slot.take() {
            tokio::spawn(linger(armed, settings.name.clone()));
        }
        tracing::debug!(elapsed = ?started.elapsed(), %to, "promoted");
        Ok(())
    }

    /// Brings what the old writer took after the proof: since the fence died with its process, only a default kept its clients
    /// from writing, and a client may say otherwise. From here on its tables refuse. It was proven once that all is there: nobody
    /// may wait long for what almost surely is not, so what fails is said, and passed over.
    ///
    /// # Errors
    /// `Diverged` where somebody else has gone on.
    async fn bring_the_rest(&self, to: Color) -> Result<()> {
        let Some(trying) = Try::begin(&self.rest) else {
            let enough = fault(Kind::Timeout, REST, "it was tried before, and took too long");
            self.passed_over(to, &enough);
            return Ok(());
        };
        match self.bring_within(to, &trying).await {
            Err(e) if e.kind() != Kind::Diverged => {
                self.passed_over(to, &e);
                Ok(())
            }
            brought => brought,
        }
    }

    fn passed_over(&self, to: Color, why: &Error) {
        tracing::error!(migration = %self.context.settings.name, error = %why, "what a client may have written at {from} since the \
             hand-over, against its read-only default, may be at {from} only; {to} is opened all the same", from = to.other());
    }

    /// On sessions of its own, which may be left in the middle of something.
    async fn bring_within(&self, to: Color, trying: &Try<'_>) -> Result<()> {
        let (settings, from) = (&self.context.settings, to.other());
        let connected =
            Box::pin(async { tokio::try_join!(settings.connect(from), settings.connect(from), settings.connect(to)) });
        let (shuts, old, new) = by(trying.over(50), connected).await?;
        trying.counts();
        let (old, new) = (&old, &new);
        let shut = shut::shut(&shuts, &settings.name, trying.left * 2 / 5);
        if let Err(e) = by(trying.over(50), shut).await {
            tracing::warn!(migration = %settings.name, error = %e, "the tables of {from} are not shut: a client that sets its own \
                 transactions to read-write could write there");
        }
        let marker = async {
            let within = trying.left;
            let came = marker_round_trip(old, new, &settings.name, within).await?;
            came.ok_or_else(|| {
                fault(
                    Kind::Timeout,
                    REST,
                    format!("the mirror did not bring it within {within:?}"),
                )
            })
        };
        if let Err(e) = by(trying.over(80), marker).await {
            self.passed_over(to, &e);
        }
        let numbers = async {
            let sequences = Sequences::prepare(old, new).await?;
            sequences.set(new, sequences.read(old).await?).await
        };
        if let Err(e) = by(trying.over(90), numbers).await {
            tracing::warn!(migration = %settings.name, error = %e, "the sequences of {to} stand as they were handed over");
        }
        // What came since then must not go back to where it was made.
        let back = self.name_of(Direction::from(to));
        let begins = async {
            let at = slot::advance(new, &back).await?;
            let begin_after = BeginAfter::prepare(old).await?;
            begin_after.run(old, &back, &at).await
        };
        match by(trying.over(100), begins).await {
            Err(e) if e.kind() != Kind::Diverged => {
                tracing::warn!(migration = %settings.name, error = %e, "the way back begins where the hand-over left it");
                Ok(())
            }
            begun => begun,
        }
    }

    /// Sees to it that the other side takes no writes, where it is a mirror. One that was replaced is nobody's mirror, and is left
    /// as it is: this is a way out. Refuses where the other side was opened and this one is shut: that is a cut-over to its end,
    /// after a commit record, and who comes now is late.
    async fn shut_other(&self, color: Color, here: &Session, there: &Session) -> Result<()> {
        let (settings, other) = (&self.context.settings, color.other());
        let mirrored = mirror::look(there, &self.name_of(Direction::from(color)))
            .await?
            .is_some();
        if mirrored && !writers::is_closed(there).await? {
            if writers::is_closed(here).await? {
                let why = format!("{other} accepts writes, and {color} does not: the writing was handed over");
                return Err(fault(Kind::Diverged, "give the writing back", why));
            }
            writers::close(there, &settings.name, settings.server(other).conninfo().dbname()).await?;
        }
        Ok(())
    }

    /// See `Replicator::unfence`.
    pub(crate) async fn give_back(&self, color: Color) -> Result<()> {
        let settings = &self.context.settings;
        let started = Instant::now();
        let other = color.other();
        let dbname = |color| settings.server(color).conninfo().dbname();
        let mut guard = self.armed.lock().await;
        // Who fenced here and did not promote knows that the other side was not opened, and need not ask it: it may be
        // the other side's illness that is the reason.
        let ours = guard
            .take()
            .filter(|a| a.to == other && a.held && !a.promoting && !a.is_closed());
        // Asked of the server: another process may have ended the fence, and gone on, and its session's end has not come to us yet.
        let held = match ours {
            Some(armed) => Some((armed.fence_seen().await?, armed)).filter(|((_, there), _)| *there),
            None => None,
        };
        if let Some(((closed, _), mut armed)) = held {
            if closed {
                writers::open(&armed.from, &settings.name, dbname(color)).await?;
            }
            armed.unlock().await?;
            armed.handed_over = false;
            (armed.quiet, armed.whole) = (None, None);
            *guard = Some(armed);
        } else {
            let (here, there) = tokio::join!(
                settings.connect(color),
                tokio::time::timeout(OTHER_WITHIN, settings.connect(other))
            );
            let here = here?;
            let there = match there {
                Ok(Err(e)) if !e.is_transient() => return Err(e),
                Ok(Ok(there)) => Some(there),
                // Nobody of ours opens it before a commit record: that it is out of reach must keep no writer waiting here.
                _ => {
                    tracing::warn!(%color, "given back without a look at {other}, which is out of reach");
                    None
                }
            };
            identity::check_side(&self.context, color, &here, there.as_ref()).await?;
            if let Some(there) = &there {
                self.shut_other(color, &here, there).await?;
            }
            // Of a process that hangs and is not dead: it would keep the tables locked, and wake up to go on.
            writers::end_fence(&here, &settings.name).await?;
            if writers::is_closed(&here).await? {
                writers::open(&here, &settings.name, dbname(color)).await?;
            }
        }
        if guard.is_some() {
            self.keeper()
                .get_or_insert_with(|| Keeper::spawn(self.context.clone(), Direction::from(other), ARMED));
        }
        tracing::debug!(elapsed = ?started.elapsed(), %color, "given back");
        Ok(())
    }
}

/// Refuses where the old writer was opened again.
async fn still_closed(old: &Session, from: Color) -> Result<()> {
    if writers::is_closed(old).await? {
        return Ok(());
    }
    Err(opened_again(from))
}
