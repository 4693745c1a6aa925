//! The end: everything of ours taken away on both sides, and the proof that nothing is left.

use crate::connect::Session;
use crate::error::Doing;
use crate::ident::mirror_name;
use crate::marker::{self, Stage};
use crate::replicator::PgReplicator;
use crate::{baseline, mirror, shut, slot, writers};
use bluegreen_core::{Color, Direction, Result};

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
        let (blue, mut green) = tokio::try_join!(settings.connect(Color::Blue), settings.connect(Color::Green))?;
        if marker::stage(&green, &settings.name).await? == Stage::Copying {
            // Half a copy is no data: it goes, or the next try would find a database that is not empty.
            baseline::wipe(&self.context, Direction::BlueToGreen, &blue, &mut green).await?;
        }
        let side = |color| match color {
            Color::Blue => &blue,
            Color::Green => &green,
        };
        for direction in DIRECTIONS {
            mirror::unsubscribe(side(direction.follower()), &self.name_of(direction)).await?;
        }
        for direction in DIRECTIONS {
            let (origin, name) = (side(direction.origin()), self.name_of(direction));
            slot::drop(origin, &name).await?;
            mirror::unpublish(origin, &name).await?;
        }
        let dbname = settings.server(writer).conninfo().dbname();
        if writers::is_closed(side(writer)).await? {
            writers::open_again(side(writer), &settings.name, dbname).await?;
        }
        let other = writer.other();
        if other == Color::Green && writers::is_closed(&green).await? {
            // No mirror any more that a write there could break.
            writers::open_again(&green, &settings.name, settings.green.conninfo().dbname()).await?;
        }
        for session in [&blue, &green] {
            shut::take_away(session, &settings.name).await?;
            marker::take_away(session, &settings.name).await?;
        }
        self.guards.end();
        Ok(())
    }

    /// See `Replicator::leftovers`.
    pub(crate) async fn what_is_left(&self) -> Result<Vec<String>> {
        let settings = &self.context.settings;
        let mut left = Vec::new();
        for color in [Color::Blue, Color::Green] {
            let session = settings.connect(color).await?;
            left.extend(found(&session, &settings.name, color).await?);
            // Blue stays read-only when green is the writer; green never does.
            if color == Color::Green && writers::is_closed(&session).await? {
                left.push("green: the read-only default of the database".to_owned());
            }
        }
        Ok(left)
    }
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
