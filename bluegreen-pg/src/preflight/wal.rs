//! How fast blue writes its log, and what that means for its disk while a slot keeps it.

use super::{Look, texts};
use crate::catalog::{self, APPLICATION};
use crate::error::{Doing, fault};
use crate::wal::units::{size, time};
use bluegreen_core::duration::format_duration;
use bluegreen_core::{Color, Kind, Result};
use std::time::{Duration, Instant};

/// The rate is measured over so long at least; the other checks run meanwhile.
const MEASURED_OVER: Duration = Duration::from_secs(1);

/// Less than this to a full disk, and a mirror that falls behind is an outage of blue.
const TOO_SHORT: Duration = Duration::from_secs(60 * 60);

/// Less than this, and nobody may sleep through it.
const SHORT: Duration = Duration::from_secs(24 * 60 * 60);

/// Where blue's log was, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at: Instant,
    bytes: f64,
}

pub(super) async fn begin(look: &mut Look<'_>) -> Result<()> {
    look.wal = sample(look).await?;
    Ok(())
}

/// None at a standby, which writes no log of its own.
async fn sample(look: &Look<'_>) -> Result<Option<Sample>> {
    let sql =
        "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 END";
    let row = look
        .blue
        .query_one(sql, &[])
        .await
        .doing("read blue's position in its log")?;
    let at = Instant::now();
    Ok(row.get::<_, Option<f64>>(0).map(|bytes| Sample { at, bytes }))
}

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    green_disk(look).await?;
    let Some(first) = look.wal else { return Ok(()) };
    tokio::time::sleep(MEASURED_OVER.saturating_sub(first.at.elapsed())).await;
    let Some(second) = sample(look).await? else {
        return Ok(());
    };
    let elapsed = second.at - first.at;
    let now = (second.bytes - first.bytes) / elapsed.as_secs_f64();
    let log = Log::read(look).await?;
    // The faster of the two: a busy hour must be survived as well as this quiet second.
    let rate = now.max(log.average);
    let measured = format!(
        "blue writes {}/s of log (measured over {}), {}/s on average since its statistics began, and its log holds {} now",
        size(now),
        format_duration(Duration::from_millis(
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
        )),
        size(log.average),
        log.held
            .map_or("an unknown amount (pg_monitor may see it)".to_owned(), size)
    );
    kept(look, &log, rate, &measured);
    disk(look, &log, rate, &measured);
    Ok(())
}

/// What blue says of its log.
struct Log {
    /// Bytes a second, since its statistics were reset.
    average: f64,
    /// Bytes in its folder; none where we may not look.
    held: Option<f64>,
    /// What a slot may keep; none without a limit.
    limit: Option<f64>,
}

impl Log {
    async fn read(look: &Look<'_>) -> Result<Self> {
        // Asked first: a function that we may not call fails a statement that only mentions it.
        let held = match catalog::may_execute(&**look.blue, "pg_ls_waldir()").await? {
            true => "(SELECT sum(size)::float8::text FROM pg_ls_waldir())",
            false => "NULL::text",
        };
        let sql = format!(
            "SELECT (wal_bytes / greatest(extract(epoch FROM clock_timestamp() - stats_reset), 1))::float8::text, {held}, \
                   (SELECT CASE WHEN setting::bigint >= 0 THEN (setting::bigint * 1048576)::text END FROM pg_settings \
                    WHERE name = 'max_slot_wal_keep_size') FROM pg_stat_wal"
        );
        let [average, held, limit] = texts::<3>(look.blue, &sql)
            .await?
            .into_iter()
            .next()
            .unwrap_or_default();
        let number = |text: &str| match text {
            "" => Ok(None),
            text => text.parse::<f64>().map(Some).map_err(|e| {
                fault(
                    Kind::Unexpected,
                    "read the size of blue's log",
                    format!("{text:?}: {e}"),
                )
            }),
        };
        Ok(Self {
            average: number(&average)?.unwrap_or(0.0),
            held: number(&held)?,
            limit: number(&limit)?,
        })
    }
}

/// Whether a slot with a limit would be thrown away soon.
fn kept(look: &mut Look<'_>, log: &Log, rate: f64, measured: &str) {
    let Some((limit, lasts)) = log.limit.and_then(|limit| Some((limit, time(limit, rate)?))) else {
        return;
    };
    if lasts < TOO_SHORT {
        // A whole day of it.
        let better = (rate * SHORT.as_secs_f64() / 1_048_576.0).ceil();
        look.warns(
            "slot-keeps-little",
            format!(
                "max_slot_wal_keep_size of blue is {}: written in {} at this rate; {measured}",
                size(limit),
                format_duration(lasts)
            ),
            "the first copy must be over in that time, and a mirror that is down for longer loses its slot: then it begins again",
            format!("where the disk has room, at blue: ALTER SYSTEM SET max_slot_wal_keep_size = '{better:.0}MB'; SELECT pg_reload_conf();"),
        );
    }
}

/// Time until blue's disk is full with a slot that nobody reads. SQL shows no free disk: without being told, it is unknown.
fn disk(look: &mut Look<'_>, log: &Log, rate: f64, measured: &str) {
    let why = "the mirror's slot keeps the log for as long as green does not take it; a full disk stops blue";
    let Some(free) = look.context.options.free_disk.of(Color::Blue) else {
        let each = time(1e9, rate).map_or("far longer than a migration".to_owned(), format_duration);
        look.notes(
            "wal-headroom",
            format!("how much disk blue has free is unknown; {measured}: each GB of it lasts for {each}"),
            why,
            "see with `df` on blue's machine, and say it: free_disk(Color::Blue, bytes), or free_disk_bytes under [blue]",
        );
        return;
    };
    let room = log.limit.map_or(free, |limit| limit.min(free));
    let bounded = log.limit.is_some_and(|limit| limit < free);
    let Some(left) = time(free, rate) else {
        look.notes(
            "wal-headroom",
            format!("blue has {} of disk free; {measured}", size(free)),
            why,
            "nothing",
        );
        return;
    };
    let seen = format!(
        "blue has {} of disk free, which is full in {} if nobody takes the log; {measured}",
        size(free),
        format_duration(left)
    );
    let mend = format!(
        "give blue's disk more room, or bound what a slot may keep, at blue: ALTER SYSTEM SET max_slot_wal_keep_size = '{:.0}MB'; \
         SELECT pg_reload_conf();",
        (room / 2.0 / 1_048_576.0).floor().max(1.0)
    );
    match left {
        // With a limit below what is free the slot goes first, and blue lives.
        _ if bounded => look.notes(
            "wal-headroom",
            format!("{seen}; a slot keeps {} at most", size(room)),
            why,
            "nothing",
        ),
        left if left < TOO_SHORT => look.blocks("wal-headroom", seen, why, mend),
        left if left < SHORT => look.warns("wal-headroom", seen, why, mend),
        _ => look.notes("wal-headroom", seen, why, "nothing"),
    }
}

/// Whether blue's data has room at green.
async fn green_disk(look: &mut Look<'_>) -> Result<()> {
    if look.ours {
        return Ok(());
    }
    let sql = format!(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::float8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE {APPLICATION} AND c.relkind IN ('r', 'm') AND c.relpersistence <> 't'"
    );
    let needed: f64 = look
        .blue
        .query_one(&sql, &[])
        .await
        .doing("read the size of blue's data")?
        .get(0);
    let why = "a copy that fills green's disk ends in an error after hours";
    match look.context.options.free_disk.of(Color::Green) {
        Some(free) if free < needed => look.blocks(
            "green-disk",
            format!("blue's data is {}, green has {} of disk free", size(needed), size(free)),
            why,
            format!("give green's disk at least {} more", size(needed - free)),
        ),
        Some(free) if free < 2.0 * needed => look.warns(
            "green-disk",
            format!("blue's data is {}, green has {} of disk free", size(needed), size(free)),
            "beside the data the copy writes its log, and files to sort by while indexes are built",
            format!("give green's disk {} more, or watch it during the copy", size(2.0 * needed - free)),
        ),
        Some(_) => {}
        None => look.notes(
            "green-disk",
            format!("blue's data is {}; how much disk green has free is unknown", size(needed)),
            why,
            "see with `df` on green's machine, and say it: free_disk(Color::Green, bytes), or free_disk_bytes under [green]",
        ),
    }
    Ok(())
}
