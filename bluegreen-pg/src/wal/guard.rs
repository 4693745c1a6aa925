//! The task that guards one direction's slot.

use super::judge::{Judge, Kept, Known, Level};
use super::{Shared, Works, locked, units};
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::mirror_name;
use crate::marker::{self, Stage};
use crate::progress::Work;
use crate::replicator::Context;
use crate::{catalog, mirror, slot, writers};
use bluegreen_core::{Direction, Error, Kind, Result};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio_postgres::types::Type;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// A look that takes longer has failed.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Who could not look for so long says so: shorter is a server that is restarted.
const BLIND: Duration = Duration::from_secs(5);

/// How long the follower may take to be told that its slot is gone.
const TELL_WITHIN: Duration = Duration::from_secs(10);

/// What it knows.
pub(super) struct Guard {
    context: Arc<Context>,
    direction: Direction,
    slot: String,
    shared: Arc<Shared>,
    works: Weak<Works>,
    judge: Judge,
    session: Option<Session>,
    /// Since when nothing can be seen, and whether that was said.
    blind: Option<(Instant, bool)>,
}

/// What a look found.
enum Seen {
    /// Neither a slot nor anything else of the migration.
    Nothing,
    /// No slot.
    NoSlot,
    /// A slot; idle where its side is read-only: nobody follows by it now.
    Slot { kept: Kept, idle: bool },
}

impl Guard {
    pub(super) fn new(context: Arc<Context>, direction: Direction, shared: Arc<Shared>, works: Weak<Works>) -> Self {
        Self {
            slot: mirror_name(&context.settings.name, direction),
            context,
            direction,
            shared,
            works,
            judge: Judge::new(),
            session: None,
            blind: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.turn().await {
                Ok(true) => self.sees(),
                Ok(false) => break,
                Err(error) => self.is_blind(&error),
            }
            tokio::time::sleep(EVERY).await;
        }
        self.shared.set_short(self.direction, false);
    }

    /// A look, and what follows from it. False when there is nothing to guard any more.
    async fn turn(&mut self) -> Result<bool> {
        let looked = tokio::time::timeout(LOOK_WITHIN, async {
            let session = match self.session.take().filter(|s| !s.is_closed()) {
                Some(session) => session,
                None => self.context.settings.connect(self.direction.origin()).await?,
            };
            let seen = self.look(&session).await?;
            Ok::<_, Error>((session, seen))
        });
        let (session, seen) = looked.await.unwrap_or_else(|_| {
            let message = format!("no answer within {LOOK_WITHIN:?}");
            Err(fault(Kind::Timeout, "look at the replication slot", message))
        })?;
        let goes_on = match seen {
            Seen::Nothing => false,
            Seen::NoSlot => {
                self.judge = Judge::new();
                self.shared.set_short(self.direction, false);
                true
            }
            Seen::Slot { kept, idle } => self.judged(&session, kept, idle).await?,
        };
        self.session = Some(session);
        Ok(goes_on)
    }

    async fn look(&self, session: &Session) -> Result<Seen> {
        let sql = format!(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8, safe_wal_size::float8, {} \
             FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database() \
             AND restart_lsn IS NOT NULL AND wal_status <> 'lost' AND NOT pg_is_in_recovery()",
            writers::CLOSED
        );
        let rows = session
            .query_typed(&sql, &[(&self.slot, Type::NAME)])
            .await
            .doing("look at the replication slot")?;
        let Some(row) = rows.first() else {
            let stage = marker::stage(session, &self.context.settings.name).await?;
            return Ok(if stage == Stage::Unknown {
                Seen::Nothing
            } else {
                Seen::NoSlot
            });
        };
        let (bytes, safe): (f64, Option<f64>) = (row.get(0), row.get(1));
        let (color, options) = (self.direction.origin(), &self.context.options);
        Ok(Seen::Slot {
            kept: Kept {
                at: Instant::now(),
                bytes: bytes.max(0.0),
                known: Known {
                    said: options.wal_limit.of(color),
                    free: options.free_disk.of(color),
                    keeps: safe.map(|safe| bytes + safe.max(0.0)),
                },
            },
            idle: row.get(2),
        })
    }

    async fn judged(&mut self, session: &Session, kept: Kept, idle: bool) -> Result<bool> {
        let change = self.judge.look(kept);
        let level = self.judge.level();
        self.shared.set_short(self.direction, level >= Level::Slow && !idle);
        let (color, direction) = (self.direction.origin(), self.direction);
        if level == Level::GiveUp {
            return if idle {
                self.drop_idle(session, kept).await
            } else {
                self.give_up(session, kept).await
            };
        }
        let Some(level) = change else { return Ok(true) };
        // Without the folder's size it is worth saying all the same.
        let folder = tokio::time::timeout(LOOK_WITHIN, folder(session)).await;
        let folder = folder.unwrap_or_else(|_| Ok(String::new())).unwrap_or_default();
        let keeps = format!("{color} keeps {}{folder}", self.judge.words(kept));
        let means = match level {
            Level::Fine => "that is little again".to_owned(),
            Level::Warn(_) if kept.known.limit().is_none() => format!(
                "nothing is done about it. Say how much disk is free (free_disk, free_disk_bytes) or how much may be kept \
                 (wal_limit, wal_limit_bytes); see why {} does not take it",
                direction.follower()
            ),
            Level::Warn(_) => format!(
                "at 75 % what reads beside the mirror yields, at 100 % the mirror is given up. See why {} does not take it: it \
                 is down, cut off or too slow, or a transaction at {color} is open for long",
                direction.follower()
            ),
            Level::Slow | Level::GiveUp if self.copies() => {
                "the first copy goes on as fast as it may: slower, it would keep the log for longer. At 100 % it is given up".to_owned()
            }
            Level::Slow | Level::GiveUp => {
                "the comparison of the data rests. At 100 % the mirror is given up".to_owned()
            }
        };
        self.shared.say(format!("{keeps} for the mirror {direction}: {means}"));
        Ok(true)
    }

    fn copies(&self) -> bool {
        self.works.upgrade().is_some_and(|works| {
            let works = locked(&works);
            works.get(&self.direction).is_some_and(Work::is_running)
        })
    }

    /// The way back as it waits: it is made anew when a cut-over is armed.
    async fn drop_idle(&mut self, session: &Session, kept: Kept) -> Result<bool> {
        let shared = self.shared.clone();
        let _busy = shared.busy.lock().await;
        // A cut-over may have gone by meanwhile: what waited for it is then somebody's way back.
        match self.look(session).await? {
            Seen::Slot { kept: now, idle: true } if now.bytes >= kept.bytes => {}
            _ => return Ok(true),
        }
        slot::drop(session, &self.slot).await?;
        let (color, slot) = (self.direction.origin(), &self.slot);
        self.shared.say(format!(
            "the idle replication slot {slot} of the way back was dropped at {color}, which kept {} for it; the next cut-over makes \
             it anew",
            self.judge.words(kept)
        ));
        self.judge = Judge::new();
        Ok(true)
    }

    /// Gives the mirror up: nothing of ours holds the log any more, and why that was done outlives this process.
    async fn give_up(&mut self, session: &Session, kept: Kept) -> Result<bool> {
        let shared = self.shared.clone();
        let _busy = shared.busy.lock().await;
        // It may have got on, or a cut-over gone by, while we waited.
        match self.look(session).await? {
            Seen::Slot { kept: now, idle: false } if now.bytes >= kept.bytes => {}
            _ => return Ok(true),
        }
        let (direction, color) = (self.direction, self.direction.origin());
        let why = format!(
            "the mirror {direction} was given up and its slot dropped, before {color}'s disk is full: {color} kept {}. {follower} \
             did not take it: it is down, cut off or too slow, or a transaction at {color} was open for long. Begin again when that \
             is mended, or with room for more (wal_limit, or wal_limit_bytes under [{color}])",
            self.judge.words(kept),
            follower = direction.follower(),
        );
        let migration = &self.context.settings.name;
        let recorded = tokio::time::timeout(TELL_WITHIN, marker::give_up(session, migration, &why));
        let late = |_| {
            let message = format!("no answer within {TELL_WITHIN:?}");
            Err(fault(Kind::Timeout, "record why a mirror is given up", message))
        };
        if let Err(error) = recorded.await.unwrap_or_else(late) {
            // A slot that is gone says as much without its reason, and a disk must not wait for words.
            self.shared.say(format!(
                "why the mirror {direction} is given up could not be recorded: {error}"
            ));
        }
        slot::drop(session, &self.slot).await?;
        locked(&self.shared.given_up).insert(direction, why.clone());
        if let Some(works) = self.works.upgrade() {
            locked(&works).remove(&direction);
        }
        self.shared.say(why);
        let told = tokio::time::timeout(TELL_WITHIN, self.tell_follower()).await;
        let told = told.unwrap_or_else(|_| {
            let message = format!("no answer within {TELL_WITHIN:?}");
            Err(fault(Kind::Timeout, "disable the subscription", message))
        });
        if let Err(error) = told {
            self.shared.say(format!(
                "the subscription at {} could not be switched off, and asks for a slot that is gone until the clean-up: {error}",
                direction.follower()
            ));
        }
        Ok(false)
    }

    async fn tell_follower(&self) -> Result<()> {
        let follower = self.context.settings.connect(self.direction.follower()).await?;
        match mirror::look(&follower, &self.slot).await? {
            Some(subscription) if subscription.enabled => mirror::disable(&follower, &self.slot).await,
            _ => Ok(()),
        }
    }

    fn sees(&mut self) {
        if let Some((_, true)) = self.blind.take() {
            let color = self.direction.origin();
            self.shared
                .say(format!("what {color} keeps of its log for the mirror is seen again"));
        }
    }

    /// What could not be read is not little: the level stays, and it is said.
    fn is_blind(&mut self, error: &Error) {
        tracing::debug!(%error, slot = self.slot, "what the slot keeps could not be read");
        let (since, said) = *self.blind.get_or_insert_with(|| (Instant::now(), false));
        if !said && since.elapsed() >= BLIND {
            self.blind = Some((since, true));
            let color = self.direction.origin();
            self.shared.say(format!(
                "how much {color} keeps of its log for the mirror {} cannot be seen, so its disk is not guarded now: {error}",
                self.direction
            ));
        }
    }
}

/// How much the folder of the log holds, where we may look.
async fn folder(session: &Session) -> Result<String> {
    if !catalog::may_execute(&**session, "pg_ls_waldir()").await? {
        return Ok(String::new());
    }
    let held: f64 = session
        .query_typed_one("SELECT coalesce(sum(size), 0)::float8 FROM pg_ls_waldir()", &[])
        .await
        .doing("read the size of the log's folder")?
        .get(0);
    Ok(format!(" (its log's folder holds {})", units::size(held)))
}
