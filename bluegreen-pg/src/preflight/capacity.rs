//! Server settings: logical decoding on, and room for a slot, a walsender and a worker on both sides.

use super::{Look, texts};
use crate::error::{describe, fault};
use crate::ident::mirror_name;
use bluegreen_core::{Color, Direction, Kind, Result};

/// What is needed of each limited thing, how many are in use, and the setting that limits it. `$1`: our own names, which
/// are counted as free because they will be used again.
const LIMITS: [(&str, i64, &str); 5] = [
    (
        "max_replication_slots",
        1,
        "(SELECT count(*) FROM pg_replication_slots WHERE slot_name <> ALL ($1))",
    ),
    // The mirror's, and the one that makes the snapshot.
    (
        "max_wal_senders",
        2,
        "(SELECT count(*) FROM pg_stat_replication WHERE application_name <> ALL ($1))",
    ),
    (
        "max_logical_replication_workers",
        1,
        "(SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL AND subname <> ALL ($1))",
    ),
    (
        "max_worker_processes",
        1,
        "(SELECT count(*) FROM pg_stat_activity WHERE pid NOT IN (SELECT pid FROM pg_stat_subscription \
         WHERE pid IS NOT NULL AND subname = ANY ($1)) AND backend_type NOT IN ('client backend', \
         'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer', 'walwriter', 'walsender', \
         'walreceiver', 'walsummarizer', 'startup', 'archiver', 'logger', 'slotsync worker', 'io worker', 'standalone backend'))",
    ),
    // Copies use several sessions on both sides.
    (
        "max_connections",
        12,
        "(SELECT count(*) + current_setting('superuser_reserved_connections')::int FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())",
    ),
];

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        wal_level(look, color).await?;
        limits(look, color).await?;
        kept_wal(look, color).await?;
    }
    Ok(())
}

async fn wal_level(look: &mut Look<'_>, color: Color) -> Result<()> {
    let [[level]] = settings(look, color, ["wal_level"]).await?;
    if level != "logical" {
        look.blocks(
            "wal-level",
            format!("wal_level of {color} is {level}"),
            if color == Color::Blue {
                "blue's changes cannot be decoded and sent to green"
            } else {
                "after the cut-over green's changes go back to blue, which keeps the way back open"
            },
            format!("at {color}: ALTER SYSTEM SET wal_level = 'logical'; and restart it"),
        );
    }
    Ok(())
}

async fn limits(look: &mut Look<'_>, color: Color) -> Result<()> {
    let name = &look.context.settings.name;
    let ours = [
        mirror_name(name, Direction::BlueToGreen),
        mirror_name(name, Direction::GreenToBlue),
    ]
    .to_vec();
    for (setting, needed, used) in LIMITS {
        let row = look
            .side(color)
            .query_one(
                &format!("SELECT current_setting('{setting}')::bigint, {used}::bigint, $1::text[] IS NULL"),
                &[&ours],
            )
            .await
            .map_err(|e| fault(Kind::Unexpected, format!("read {setting} of {color}"), describe(&e)))?;
        let (limit, used): (i64, i64) = (row.get(0), row.get(1));
        if limit - used < needed {
            look.blocks(
                &setting.replace('_', "-"),
                format!("{setting} of {color} is {limit}, {used} are in use, and {needed} more are needed"),
                "without room for it the mirror, or the mirror back after the cut-over, cannot start",
                format!(
                    "at {color}: ALTER SYSTEM SET {setting} = {}; and restart it",
                    used + needed + 4
                ),
            );
        }
    }
    Ok(())
}

async fn kept_wal(look: &mut Look<'_>, color: Color) -> Result<()> {
    let [[keep], [idle]] = settings(look, color, ["max_slot_wal_keep_size", "idle_replication_slot_timeout"]).await?;
    if keep == "-1" {
        look.notes(
            "unbounded-wal",
            format!("max_slot_wal_keep_size of {color} is -1: a slot may keep any amount of log"),
            "if its follower stops for long, the log that the slot keeps fills the disk",
            format!("watch the disk, or at {color}: ALTER SYSTEM SET max_slot_wal_keep_size = '...'; SELECT pg_reload_conf();"),
        );
    }
    if !matches!(idle.as_str(), "" | "0") {
        look.warns(
            "idle-slot-timeout",
            format!("idle_replication_slot_timeout of {color} is {idle}"),
            "a slot that is not read for so long is invalidated, and the mirror must begin again",
            format!("at {color}: ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"),
        );
    }
    Ok(())
}

/// Settings of a side; empty where it does not have one.
async fn settings<const N: usize>(look: &Look<'_>, color: Color, settings: [&str; N]) -> Result<[[String; 1]; N]> {
    let asked: Vec<String> = settings
        .iter()
        .enumerate()
        .map(|(place, name)| format!("({place}, '{name}')"))
        .collect();
    let sql = format!(
        "SELECT current_setting(name, true) FROM (VALUES {}) AS asked (place, name) ORDER BY place",
        asked.join(", ")
    );
    let rows = texts::<1>(look.side(color), &sql).await?;
    let mut rows = rows.into_iter();
    Ok(std::array::from_fn(|_| rows.next().unwrap_or_default()))
}
