//! Server settings: logical decoding on, and room for a slot, a walsender and a worker on both sides.

use super::{Look, commands, texts};
use crate::catalog::APPLICATION;
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
    // From 18 on; before, the same number is of slots. One for each subscription that runs.
    (
        "max_active_replication_origins",
        1,
        "(SELECT count(*) FROM pg_subscription WHERE subenabled AND subname <> ALL ($1))",
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
];

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        wal_level(look, color).await?;
        plugin(look, color).await?;
        limits(look, color).await?;
        timeouts(look, color).await?;
        kept_wal(look, color).await?;
        locks(look, color).await?;
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

/// Servers that let decode by listed plugins only.
async fn plugin(look: &mut Look<'_>, color: Color) -> Result<()> {
    // Not everybody may examine it, and who may not sees no such setting: then the slot itself will tell.
    let shown = "SELECT setting FROM pg_settings WHERE name = 'output_plugin_libraries'";
    let [allowed] = texts::<1>(look.side(color), shown)
        .await?
        .into_iter()
        .next()
        .unwrap_or_default();
    let names_ours = |list: &str| list.split(',').any(|one| one.trim().trim_matches('"') == "pgoutput");
    if !allowed.is_empty() && !names_ours(&allowed) {
        look.blocks(
            "output-plugin",
            format!("output_plugin_libraries of {color} is {allowed}: pgoutput is not among them"),
            "the mirror's slot decodes with pgoutput, and is refused",
            format!(
                "at {color}: ALTER SYSTEM SET output_plugin_libraries = {allowed}, pgoutput; SELECT pg_reload_conf();"
            ),
        );
    }
    Ok(())
}

/// Timeouts of the replication connection between the servers, for this user or database too.
async fn timeouts(look: &mut Look<'_>, color: Color) -> Result<()> {
    let set = texts::<2>(
        look.side(color),
        "SELECT name, setting FROM pg_settings WHERE name IN ('wal_sender_timeout', 'wal_receiver_timeout') \
         AND setting::int BETWEEN 1 AND 9999 ORDER BY 1",
    )
    .await?;
    if !set.is_empty() {
        let seen: Vec<String> = set
            .iter()
            .map(|[name, value]| format!("{name} is {value} ms"))
            .collect();
        look.warns(
            "replication-timeout",
            format!("at {color}, {}", seen.join(" and ")),
            "while a large change is applied or decoded nothing is said for some seconds: the connection is cut and what was sent is \
             sent again, over and over",
            format!(
                "at {color}: {}",
                commands(set.iter().map(|[name, _]| format!("ALTER SYSTEM SET {name} = '60s';"))) + " SELECT pg_reload_conf();"
            ),
        );
    }
    Ok(())
}

/// One transaction makes all tables at green, one reads them at blue, and one locks them for the fence.
async fn locks(look: &mut Look<'_>, color: Color) -> Result<()> {
    let [[each], [sessions], [prepared]] = settings(
        look,
        color,
        [
            "max_locks_per_transaction",
            "max_connections",
            "max_prepared_transactions",
        ],
    )
    .await?;
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|e| fault(Kind::Unexpected, "read the settings", format!("{text:?}: {e}")))
    };
    let (each, sessions) = (number(&each)?, number(&sessions)? + number(&prepared)?);
    let table = each * sessions;
    let kinds = match color {
        Color::Blue => "c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f')",
        Color::Green => "c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f', 'c')",
    };
    let count = format!(
        "SELECT count(*) + CASE WHEN $1 THEN 2 * count(*) FILTER (WHERE c.reltoastrelid <> 0) ELSE 0 END \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {APPLICATION} AND {kinds}"
    );
    let row = look
        .blue
        .query_one(&count, &[&(color == Color::Green)])
        .await
        .map_err(|e| fault(Kind::Unexpected, "count blue's tables", describe(&e)))?;
    let needed: i64 = row.get(0);
    let seen = format!(
        "the lock table of {color} has room for about {table} locks (max_locks_per_transaction {each}, for {sessions} sessions), \
         and one transaction needs {needed}"
    );
    let why = match color {
        Color::Blue => {
            "the schema is read and the fence is taken in one transaction each, with a lock on every table: blue's own \
                        transactions need locks beside it, and any of them may fail"
        }
        Color::Green => {
            "its tables are shut in one transaction, with a lock on each of them: out of shared memory, it fails"
        }
    };
    let mend = format!(
        "at {color}: ALTER SYSTEM SET max_locks_per_transaction = {}; and restart it",
        (4 * needed / sessions.max(1)).max(each + 1)
    );
    if needed > table {
        look.blocks("max-locks-per-transaction", seen, why, mend);
    } else if needed > table / 2 {
        look.warns("max-locks-per-transaction", seen, why, mend);
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
                &format!("SELECT current_setting('{setting}', true)::bigint, {used}::bigint, $1::text[] IS NULL"),
                &[&ours],
            )
            .await
            .map_err(|e| fault(Kind::Unexpected, format!("read {setting} of {color}"), describe(&e)))?;
        let (limit, used): (Option<i64>, i64) = (row.get(0), row.get(1));
        let Some(limit) = limit else { continue };
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
        let half = look
            .context
            .options
            .free_disk
            .of(color)
            .map(|free| (free / 2.0 / 1_048_576.0).floor().max(1.0));
        let set = |limit: String| {
            format!("at {color}: ALTER SYSTEM SET max_slot_wal_keep_size = '{limit}'; SELECT pg_reload_conf();")
        };
        let mend = match half {
            Some(half) => set(format!("{half:.0}MB")),
            None => format!("with half of what is free in place of 100GB, {}", set("100GB".into())),
        };
        look.notes(
            "unbounded-wal",
            format!("max_slot_wal_keep_size of {color} is -1: a slot may keep any amount of log"),
            "if its follower stops for long, the log that the slot keeps fills the disk",
            format!("watch the disk, or let the slot go before it is full, {mend}"),
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
