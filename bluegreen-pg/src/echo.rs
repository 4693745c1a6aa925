//! Echoes: what came to a writer by one mirror, and would be sent back by the other to where it was made.
//!
//! The slot of a mirror that is to run again stands after the proof, until a crash of the writer's server takes it back. Where we
//! may, its subscription is told where to begin. Where we may not, from version 16 on, it passes over all that did not begin at
//! the writer; but only until it has got beyond the proof: what the writer has from a third server has another origin too, and
//! must reach the follower.

use crate::catalog;
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::fence::marker_round_trip;
use crate::ident::ident;
use crate::{marker, mirror};
use bluegreen_core::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// How long a mirror may take to get beyond the proof before a cut-over, and its worker to begin anew.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

const DOING: &str = "let the mirror bring everything again";

/// Lets the idle mirror `forth` of `follower` begin at what the writer itself writes, where we may not say at which point;
/// `back` is the mirror by which the rest came to the writer.
pub(crate) async fn pass_over(writer: &Session, follower: &Session, forth: &str, back: &str) -> Result<()> {
    let (version, from) = tokio::try_join!(catalog::version(follower), catalog::version(writer))?;
    if version.min(from) < 160_000
        || catalog::may_execute(&**follower, "pg_replication_origin_advance(text, pg_lsn)").await?
    {
        return Ok(());
    }
    match from_elsewhere(writer, back).await? {
        None => set_origin(follower, forth, "none").await,
        Some(who) => {
            tracing::warn!(
                mirror = forth,
                who,
                "the writer has rows from elsewhere too, or may have: where its server crashes right after the \
                 hand-over, the mirror is stuck. GRANT EXECUTE ON FUNCTION pg_replication_origin_advance at the follower mends that"
            );
            set_origin(follower, forth, "any").await
        }
    }
}

/// Whether the mirror passes over what did not begin at the writer.
pub(crate) async fn passes_over(follower: &Session, forth: &str) -> Result<bool> {
    if catalog::version(follower).await? < 160_000 {
        return Ok(false);
    }
    let row = follower
        .query_opt(
            "SELECT suborigin = 'none' FROM pg_subscription WHERE subname = $1 \
             AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[&forth],
        )
        .await
        .doing("look at the subscription's origin")?;
    Ok(row.is_some_and(|r| r.get(0)))
}

/// Lets the mirror, which runs again, bring everything, as soon as it is durably beyond the proof: a `Timeout` where it is not
/// `within` this time. Until it has worked, it is to be called again.
pub(crate) async fn let_in(
    writer: &Session,
    follower: &Session,
    migration: &str,
    forth: &str,
    back: &str,
    within: Duration,
) -> Result<()> {
    if !passes_over(follower, forth).await? {
        return Ok(());
    }
    marker_round_trip(writer, follower, migration, within)
        .await?
        .ok_or_else(|| late(within))?;
    // What it has applied may be in memory only, and with it where it is: a commit of our own, flushed, makes both durable.
    follower
        .batch_execute("SET synchronous_commit = on")
        .await
        .doing(DOING)?;
    follower.execute(marker::TOUCH, &[&migration]).await.doing(DOING)?;
    nobody_else(writer, back).await?;
    let before = mirror::look(follower, forth).await?.and_then(|s| s.worker);
    set_origin(follower, forth, "any").await?;
    let begun = async {
        begins_anew(writer, follower, migration, forth, before).await?;
        // The old worker passed over until just now what somebody brought who came after the first look.
        nobody_else(writer, back).await
    };
    let Err(error) = begun.await else {
        return Ok(());
    };
    // The next try is to judge it again.
    if let Err(e) = set_origin(follower, forth, "none").await {
        tracing::error!(error = %e, mirror = forth, "the mirror is not looked at again before a cut-over");
    }
    Err(error)
}

/// Waits for another worker than `before`: it begins anew when it meets a change, and a cut-over must not meet it without one.
async fn begins_anew(
    writer: &Session,
    follower: &Session,
    migration: &str,
    forth: &str,
    before: Option<i32>,
) -> Result<()> {
    let until = Instant::now() + WITHIN;
    loop {
        marker_round_trip(writer, follower, migration, WITHIN)
            .await?
            .ok_or_else(|| late(WITHIN))?;
        let worker = mirror::look(follower, forth).await?.and_then(|s| s.worker);
        if worker.is_some() && worker != before {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(late(WITHIN));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn late(within: Duration) -> Error {
    fault(Kind::Timeout, DOING, format!("no change came by it within {within:?}"))
}

/// `Diverged`, where what the mirror passes over is not only what it is to pass over.
async fn nobody_else(writer: &Session, back: &str) -> Result<()> {
    let Some(who) = from_elsewhere(writer, back).await? else {
        return Ok(());
    };
    let why = format!(
        "{who} brings, or may bring, rows to the writer since the hand-over, and while the mirror was turned round they did not \
         reach the follower: abort, and begin again; or drop it, where it brought nothing"
    );
    Err(fault(Kind::Diverged, DOING, why))
}

/// Who else brings, or may bring, rows to this database: its subscriptions but for `ours`, and other users of replication origins.
/// Those are of the whole server: where one is of another of its databases cannot be told, and it counts.
async fn from_elsewhere(writer: &Session, ours: &str) -> Result<Option<String>> {
    let row = writer
        .query_one(
            "SELECT string_agg(coalesce('the subscription ' || s.subname, 'the replication origin ' || o.roname), ', ') \
             FROM pg_replication_origin o LEFT JOIN pg_subscription s ON s.oid::text = substring(o.roname FROM '^pg_([0-9]+)') \
             WHERE s.oid IS NULL OR s.subname <> $1 \
             AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[&ours],
        )
        .await
        .doing("look who else brings rows")?;
    Ok(row.get(0))
}

async fn set_origin(follower: &Session, forth: &str, origin: &str) -> Result<()> {
    follower
        .batch_execute(&format!("ALTER SUBSCRIPTION {} SET (origin = {origin})", ident(forth)))
        .await
        .doing(format!("set the origin of the subscription {forth}"))
}
