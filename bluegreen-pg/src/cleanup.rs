//! The end: everything of ours taken away on both sides, and the proof that nothing is left.

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::mirror_name;
use crate::marker::{self, Stage};
use crate::replicator::PgReplicator;
use crate::{baseline, mirror, shut, slot, writers};
use bluegreen_core::{Color, Direction, Error, Kind, Result};
use futures::future::join;
use std::time::Duration;

const TAKE_AWAY: &str = "take everything of ours away";

/// A server that takes longer than all that a subscription is waited for does not answer at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);

const DIRECTIONS: [Direction; 2] = [Direction::BlueToGreen, Direction::GreenToBlue];

impl PgReplicator {
    /// See `Replicator::stop`.
    pub(crate) async fn clean_up(&self, writer: Color) -> Result<()> {
        let settings = &self.context.settings;
        // First what a pause may still hold: the guard of the log among it.
        self.armed.lock().await.take();
        // Until the slots are gone somebody guards what they keep.
        let _busy = self.guards.shared.busy.lock().await;
        self.keeper().take();
        self.work().clear();
        self.watch.lock().await.clear();
        let (blue, mut green) = join(settings.connect(Color::Blue), settings.connect(Color::Green)).await;
        // Half a copy is no data: it goes, or the next try would find a database that is not empty.
        let mut half = false;
        if let Ok(green) = &mut green {
            half = marker::stage(green, &settings.name).await? == Stage::Copying;
            if let (true, Ok(blue)) = (half, &blue) {
                baseline::wipe(&self.context, Direction::BlueToGreen, blue, green).await?;
                half = false;
            }
        }
        // Where one server is out of reach, for good perhaps, or somebody there is in the way, the other must not keep its log for it.
        let mut both = [(Color::Blue, blue), (Color::Green, green)];
        let mut held = self.unsubscribe(&mut both).await;
        let there: Vec<(Color, &Session)> = both
            .iter()
            .filter_map(|(color, session)| Some((*color, session.as_ref().ok()?)))
            .collect();
        for (color, session) in &there {
            let name = self.name_of(Direction::from(*color));
            slot::drop(session, &name).await?;
            mirror::unpublish(session, &name).await?;
        }
        for (color, session) in &there {
            if half && *color == Color::Green {
                // Left to who reaches both.
                continue;
            }
            let is_held = held.iter().any(|(of, _)| of == color);
            // Green is no mirror any more that a write there could break.
            let opens = *color == writer || *color == Color::Green && !is_held;
            if opens && writers::is_closed(session).await? {
                let dbname = settings.server(*color).conninfo().dbname();
                writers::open_again(session, &settings.name, dbname).await?;
            }
            if is_held {
                continue;
            }
            match shut::take_away(session, &settings.name).await {
                // What a trigger looks at stays as long as it does; the other side is not left as it is for it.
                Err(e) if e.kind() == Kind::Timeout => {
                    held.push((*color, e));
                    continue;
                }
                taken => taken?,
            }
            marker::take_away(session, &settings.name).await?;
        }
        let clean = |color: &Color| held.iter().all(|(of, _)| of != color);
        let cleaned: Vec<String> = there
            .iter()
            .filter(|(color, _)| clean(color))
            .map(|(color, _)| color.to_string())
            .collect();
        for (color, session) in both {
            session.map_err(|e| out_of_reach(color, &cleaned, &e))?;
        }
        if let Some((color, error)) = held.first() {
            let why = format!("at {color}: {error}{}", done(&cleaned));
            return Err(fault(error.kind(), TAKE_AWAY, why));
        }
        self.guards.end();
        Ok(())
    }

    /// Drops the subscriptions at the sides that are there; those where that could not be, and why. A side that does not answer counts
    /// as out of reach.
    async fn unsubscribe(&self, both: &mut [(Color, Result<Session>); 2]) -> Vec<(Color, Error)> {
        let mut held = Vec::new();
        for (color, side) in both {
            let Ok(session) = &*side else { continue };
            let name = self.name_of(Direction::from(color.other()));
            match tokio::time::timeout(ANSWERS_WITHIN, mirror::unsubscribe(session, &name)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => held.push((*color, error)),
                Err(_) => {
                    let why = format!("no answer within {ANSWERS_WITHIN:?}");
                    *side = Err(fault(Kind::Timeout, format!("drop the subscription {name}"), why));
                }
            }
        }
        held
    }

    /// See `Replicator::leftovers`.
    pub(crate) async fn what_is_left(&self) -> Result<Vec<String>> {
        let settings = &self.context.settings;
        let mut left = Vec::new();
        let (blue, green) = join(settings.connect(Color::Blue), settings.connect(Color::Green)).await;
        if let (Err(e), Err(_)) = (&blue, &green) {
            return Err(out_of_reach(Color::Blue, &[], e));
        }
        for (color, session) in [(Color::Blue, blue), (Color::Green, green)] {
            let session = match session {
                Ok(session) => session,
                Err(e) => {
                    left.push(format!("{color}: what may be there, it is out of reach ({e})"));
                    continue;
                }
            };
            left.extend(found(&session, &settings.name, color).await?);
            // Blue stays read-only when green is the writer; green never does.
            if color == Color::Green && writers::is_closed(&session).await? {
                left.push("green: the read-only default of the database".to_owned());
            }
        }
        Ok(left)
    }
}

/// What was done all the same.
fn done(cleaned: &[String]) -> String {
    match cleaned {
        [] => String::new(),
        cleaned => format!("; at {} nothing of ours is left", cleaned.join(" and ")),
    }
}

/// The same, and what cannot be.
fn out_of_reach(color: Color, cleaned: &[String], error: &Error) -> Error {
    let done = done(cleaned);
    let why = format!("{color} is out of reach: {error}{done}. If it is gone for good, so is what we made there");
    fault(error.kind(), TAKE_AWAY, why)
}

async fn found(session: &Session, migration: &str, color: Color) -> Result<Vec<String>> {
    let names: Vec<String> = DIRECTIONS.iter().map(|d| mirror_name(migration, *d)).collect();
    let rows = session
        .query(
            "SELECT 'replication slot ' || slot_name FROM pg_replication_slots WHERE slot_name = ANY ($1) \
             AND database = current_database() \
             UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname = ANY ($1) \
             UNION ALL SELECT 'subscription ' || subname FROM pg_subscription WHERE subname = ANY ($1) \
             AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE tgname = $2 \
             ORDER BY 1",
            &[&names, &shut::trigger(migration)],
        )
        .await
        .doing("look for what is left")?;
    let mut left: Vec<String> = rows
        .iter()
        .map(|r| format!("{color}: {}", r.get::<_, &str>(0)))
        .collect();
    if marker::stage(session, migration).await? != Stage::Unknown {
        left.push(format!("{color}: this migration's rows in the schema bluegreen"));
    }
    Ok(left)
}
