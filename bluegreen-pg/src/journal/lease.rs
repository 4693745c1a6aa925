//! The lease: who may append, until when, and what this process knows of it without asking.
//!
//! Time is the server's. This process counts from before it asked, so it always believes its lease to be shorter than the
//! server does. A takeover raises the token in the same row that every append checks: whoever was deposed while it slept
//! can append nothing, whatever it believes.

use super::answer::{Doing, timely};
use super::place::Place;
use super::runner::Runner;
use crate::connect::Session;
use crate::error::{PgError, fault};
use bluegreen_core::{Error, Kind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const TAKE: &str = "INSERT INTO bluegreen_journal.lease AS l (migration, token, holder, process, expires_at) \
     VALUES ($1, 1, $2, $3, clock_timestamp() + $4::bigint * interval '1 millisecond') \
     ON CONFLICT (migration) DO UPDATE SET token = l.token + 1, holder = excluded.holder, process = excluded.process, \
     taken_at = clock_timestamp(), expires_at = excluded.expires_at \
     WHERE l.holder IS NULL OR l.expires_at < clock_timestamp() OR l.holder IN ($2, $5) RETURNING token";

const LOOK: &str = "SELECT holder, process, to_char(taken_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
     FROM bluegreen_journal.lease WHERE migration = $1 AND holder IS NOT NULL";

const RENEW: &str = "UPDATE bluegreen_journal.lease SET expires_at = clock_timestamp() + $3::bigint * interval '1 millisecond' \
     WHERE migration = $1 AND holder = $2";

/// A new token of our own: what was sent under the old one can no longer be appended once this has been answered.
const RAISE: &str = "UPDATE bluegreen_journal.lease SET token = token + 1, \
     expires_at = clock_timestamp() + $3::bigint * interval '1 millisecond' WHERE migration = $1 AND holder = $2 RETURNING token";

const RELEASE: &str = "UPDATE bluegreen_journal.lease SET holder = NULL, expires_at = clock_timestamp() \
     WHERE migration = $1 AND holder = $2";

pub(super) const TAKING: &str = "take the migration's lease";

/// What both the appends and the renewals know.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) place: Place,
    /// Who we are: another journal of the same process is somebody else.
    pub(super) holder: String,
    length: Duration,
    known: Mutex<Known>,
    session: tokio::sync::Mutex<Option<Session>>,
}

#[derive(Debug)]
enum Known {
    /// Ours.
    Ours(Ours),
    /// Another runner's, or nobody's: never ours again.
    Lost,
}

/// Until when, on both clocks: one stands still while a machine sleeps, the other may be set back.
#[derive(Debug)]
struct Ours {
    until: Instant,
    wall: SystemTime,
    /// For how long it was given last.
    granted: Duration,
    /// What was assured: no renewal may end before it.
    at_least: Instant,
}

/// A question that renews the lease when it is answered with yes: for how long, counted from before it was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    instant: Instant,
    wall: SystemTime,
    length: Duration,
}

impl Asking {
    fn now(length: Duration) -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
            length,
        }
    }

    pub(super) fn millis(self) -> i64 {
        i64::try_from(self.length.as_millis()).unwrap_or(i64::MAX)
    }

    fn granted(self, at_least: Instant) -> Known {
        Known::Ours(Ours {
            until: self.instant + self.length,
            wall: self.wall + self.length,
            granted: self.length,
            at_least,
        })
    }
}

impl Lease {
    /// Somebody who can hold it. Made once for several tries: the answer to one that took it may be lost.
    pub(super) async fn holder(session: &Session) -> Result<String> {
        let row = session.query_one("SELECT gen_random_uuid()::text", &[]).await;
        Ok(row.doing(TAKING)?.get(0))
    }

    /// Takes it, if it is free, run out, or held by a process that is certainly dead; the token.
    pub(super) async fn take(place: Place, length: Duration, session: &Session, holder: String) -> Result<(Self, i64)> {
        let doing = TAKING;
        let process = Runner::this().to_text();
        let mut dead: Option<String> = None;
        loop {
            let asking = Asking::now(length);
            let row = session
                .query_opt(TAKE, &[&place.migration, &holder, &process, &asking.millis(), &dead])
                .await
                .doing(doing)?;
            if let Some(row) = row {
                let lease = Self {
                    holder,
                    length,
                    known: Mutex::new(asking.granted(asking.instant)),
                    session: tokio::sync::Mutex::default(),
                    place,
                };
                return Ok((lease, row.get(0)));
            }
            let Some(row) = session.query_opt(LOOK, &[&place.migration]).await.doing(doing)? else {
                continue;
            };
            let (other, process, since): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            let runner = Runner::of(&process);
            if runner.as_ref().is_some_and(Runner::is_dead) && dead.as_ref() != Some(&other) {
                dead = Some(other);
                continue;
            }
            let who = runner.map_or_else(|| "another runner".to_owned(), |r| r.to_string());
            return Err(fault(
                Kind::Conflict,
                doing,
                format!(
                    "{place} is held by {who} since {since}: this migration runs there; let it finish, or stop it first. \
                     If that machine is dead, the lease runs out within {length:?}"
                ),
            ));
        }
    }

    /// What a question that renews it asks for.
    pub(super) fn asking(&self) -> Asking {
        let mut asking = Asking::now(self.length);
        if let Known::Ours(ours) = &*self.known() {
            asking.length = asking
                .length
                .max(ours.at_least.saturating_duration_since(asking.instant));
        }
        asking
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was sent then was answered with yes.
    pub(super) fn renewed(&self, asking: Asking) {
        let mut known = self.known();
        if let Known::Ours(ours) = &*known {
            *known = asking.granted(ours.at_least);
        }
    }

    /// Another runner has it, or a human gave it away.
    pub(super) fn lost(&self) -> Error {
        *self.known() = Known::Lost;
        fault(
            Kind::Conflict,
            "write the journal",
            format!(
                "{}: another runner has taken the migration over, this one stops: it goes on there",
                self.place
            ),
        )
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(*self.known(), Known::Lost)
    }

    /// Whether it is ours with something to spare, from what is known here.
    fn is_fresh(&self) -> bool {
        match &*self.known() {
            Known::Ours(ours) => {
                let (now, today, spare) = (Instant::now(), SystemTime::now(), self.spare());
                // A wall clock that was set back far says nothing; asking is cheap.
                now + spare < ours.until
                    && today + spare < ours.wall
                    && today + ours.granted.saturating_mul(2) > ours.wall
            }
            Known::Lost => false,
        }
    }

    /// Left over when an effect begins, so that it has ended when another runner may begin its own.
    fn spare(&self) -> Duration {
        self.length / 5
    }

    /// How long an answer to a renewal is waited for.
    fn answer(&self) -> Duration {
        self.length / 4
    }

    /// Whether it is still ours: from memory while it is fresh, else by renewing it.
    pub(super) async fn confirm(&self) -> Result<()> {
        if self.is_fresh() {
            return Ok(());
        }
        self.renew().await
    }

    /// See `Journal::assure`. What the answer takes and what must be left over come on top, so that for as long as `lasting`
    /// after it memory is enough.
    pub(super) async fn assure(&self, lasting: Duration) -> Result<()> {
        let until = Instant::now() + self.answer() + lasting + self.spare();
        if let Known::Ours(ours) = &mut *self.known() {
            ours.at_least = ours.at_least.max(until);
        }
        self.renew().await
    }

    /// Renews it, over a session of its own: an append must not wait for it.
    pub(super) async fn renew(&self) -> Result<()> {
        if self.is_lost() {
            return Err(self.lost());
        }
        let within = self.answer();
        match tokio::time::timeout(within, self.renew_once()).await {
            Ok(answer) => answer,
            Err(_) => Err(PgError::Elapsed(within).while_doing(format!("renew the lease of {}", self.place))),
        }
    }

    async fn renew_once(&self) -> Result<()> {
        let mut slot = self.session.lock().await;
        let session = match slot.take().filter(|s| !s.is_closed()) {
            Some(session) => session,
            None => self.place.connect().await?,
        };
        let asking = self.asking();
        let count = session
            .execute(RENEW, &[&self.place.migration, &self.holder, &asking.millis()])
            .await
            .doing(format!("renew the lease of {}", self.place))?;
        // Only what answered is kept for the next time.
        *slot = Some(session);
        if count == 0 {
            return Err(self.lost());
        }
        self.renewed(asking);
        Ok(())
    }

    /// A new token, so that nothing sent under an earlier one can still arrive; none when the lease is not ours any more.
    pub(super) async fn raise(&self, session: &Session) -> Result<Option<i64>> {
        let asking = self.asking();
        let row = session
            .query_opt(RAISE, &[&self.place.migration, &self.holder, &asking.millis()])
            .await
            .doing("settle what was written before")?;
        Ok(row.map(|row| {
            self.renewed(asking);
            row.get(0)
        }))
    }

    /// Gives it back, so that the next runner need not wait.
    pub(super) async fn release(&self) -> Result<()> {
        if self.is_lost() {
            return Ok(());
        }
        let doing = "give the lease back";
        let session = timely(self.place.connect(), doing).await?;
        timely(session.execute(RELEASE, &[&self.place.migration, &self.holder]), doing).await?;
        *self.known() = Known::Lost;
        Ok(())
    }

    /// Renews it as long as it is ours.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.length / 5).await;
            match self.renew().await {
                Ok(()) => {}
                Err(e) if self.is_lost() => {
                    tracing::warn!("{e}");
                    return;
                }
                Err(e) => tracing::warn!("the lease was not renewed: {e}"),
            }
        }
    }
}
