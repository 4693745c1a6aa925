//! Where a mirror is, and whether it is late or dead.

use crate::connect::Session;
use crate::error::Doing;
use crate::fence::marker_round_trip;
use crate::marker::{self, Stage};
use crate::replicator::PgReplicator;
use crate::stuck::{self, Stuck};
use crate::{drift, identity, mirror, mirrored, shut, slot};
use bluegreen_core::{Direction, Kind, Lag, MirrorStatus, Result};
use std::time::{Duration, Instant};

/// A worker that is restarted by the server is back within this (its retry interval is 5 s by default).
const WORKER_GRACE: Duration = Duration::from_secs(20);

/// How long a look waits for the marker; a mirror that is slower is behind, not ill.
const MARKER_WITHIN: Duration = Duration::from_millis(250);

/// How often the schemas are compared: every change of them is seen before anything rests on it, since a cut-over compares
/// them too.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// A comparison of thousands of tables takes its time: so many times that long nothing is compared after it.
const COMPARE_SELDOM: u32 = 20;

/// So many new errors of the apply worker without a change getting through mean that it will not mend itself.
const ERRORS: i64 = 3;

/// What the looks at one mirror saw.
#[derive(Debug)]
pub(crate) struct Watch {
    origin: Session,
    follower: Session,
    /// Since when there is no worker.
    missing: Option<Instant>,
    /// The worker's errors when a change last got through.
    errors: i64,
    /// When the schemas are to be compared again.
    compare_at: Option<Instant>,
    alike: drift::Alike,
    time: Option<Duration>,
}

impl PgReplicator {
    /// See `Replicator::status`.
    pub(crate) async fn mirror_status(&self, direction: Direction) -> Result<MirrorStatus> {
        if let Some(why) = self.guards.given_up(direction) {
            return Ok(failed(Kind::Unexpected, why));
        }
        let working = self.work().get(&direction).and_then(crate::progress::Work::status);
        if let Some(status) = working {
            return Ok(status);
        }
        let mut all = self.watch.lock().await;
        let mut watch = match all.remove(&direction) {
            Some(w) if !w.origin.is_closed() && !w.follower.is_closed() => w,
            _ => self.watch_anew(direction).await?,
        };
        let status = self.look(direction, &mut watch).await?;
        // Put back only after a look that worked: a broken session is not used again, and what was counted up to a failure does
        // not count against what somebody mended.
        if !matches!(status, MirrorStatus::Failed { .. }) {
            all.insert(direction, watch);
        }
        Ok(status)
    }

    async fn watch_anew(&self, direction: Direction) -> Result<Watch> {
        let settings = &self.context.settings;
        let (origin, follower) = tokio::try_join!(
            settings.connect(direction.origin()),
            settings.connect(direction.follower())
        )?;
        identity::check(&self.context, direction, &origin, &follower).await?;
        let errors = apply_errors(&follower, &self.name_of(direction)).await?;
        Ok(Watch {
            origin,
            follower,
            missing: None,
            errors,
            compare_at: None,
            alike: None,
            time: None,
        })
    }

    async fn look(&self, direction: Direction, watch: &mut Watch) -> Result<MirrorStatus> {
        let name = self.name_of(direction);
        let migration = &self.context.settings.name;
        let Some(subscription) = mirror::look(&watch.follower, &name).await? else {
            let stage = marker::stage(&watch.follower, migration).await?;
            if stage != Stage::Unknown
                && let Some(why) = marker::gave_up(&watch.origin, migration).await?
            {
                return Ok(failed(Kind::Unexpected, why));
            }
            return Ok(if stage == Stage::Copying {
                failed(
                    Kind::Unavailable,
                    "the first copy was interrupted: start it again, it begins anew",
                )
            } else {
                MirrorStatus::Absent
            });
        };
        match slot::look(&watch.origin, &name).await? {
            Some(state) if !state.lost => {}
            found => {
                if let Some(why) = marker::gave_up(&watch.origin, migration).await? {
                    return Ok(failed(Kind::Unexpected, why));
                }
                let how = if found.is_some() {
                    "lost its log (max_slot_wal_keep_size)"
                } else {
                    "is gone"
                };
                let why = format!("the replication slot {name} {how}: stop the mirror and begin again");
                return Ok(failed(Kind::Unexpected, why));
            }
        }
        if !subscription.enabled {
            watch.missing = None;
            return Ok(MirrorStatus::Armed);
        }
        let started = Instant::now();
        if watch.compare_at.is_none_or(|at| started > at) {
            if let Some(failed) = drifted(watch, migration, &name).await? {
                return Ok(failed);
            }
            watch.compare_at = Some(Instant::now() + COMPARE_EVERY.max(started.elapsed() * COMPARE_SELDOM));
        }
        let errors = apply_errors(&watch.follower, &name).await?;
        if subscription.worker.is_none() {
            let since = *watch.missing.get_or_insert_with(Instant::now);
            let dead = since.elapsed() > WORKER_GRACE || errors - watch.errors >= ERRORS;
            return if dead {
                broken(watch, migration, &name, subscription.oid, errors).await
            } else {
                Ok(MirrorStatus::Preparing("the subscription's apply worker starts".into()))
            };
        }
        watch.missing = None;
        let (arrived, bytes) = tokio::try_join!(
            marker_round_trip(&watch.origin, &watch.follower, migration, MARKER_WITHIN),
            async {
                let row = watch
                    .origin
                    .query_opt(
                        // By the slot: of two of that name one is about to end. What has not been told is not zero.
                        "SELECT CASE WHEN r.replay_lsn IS NOT NULL \
                             THEN greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn), 0)::bigint END \
                         FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid \
                         WHERE s.slot_name = $1 AND s.database = current_database()",
                        &[&name],
                    )
                    .await
                    .doing("read the lag")?;
                Ok(row.and_then(|r| r.get::<_, Option<i64>>(0)))
            }
        )?;
        if arrived.is_some() {
            watch.errors = errors;
            watch.time = arrived;
        } else if errors - watch.errors >= ERRORS {
            return broken(watch, migration, &name, subscription.oid, errors).await;
        }
        let bytes = bytes.and_then(|b| u64::try_from(b).ok());
        if bytes.is_none() && arrived.is_none() {
            // Nothing is known of how far behind it is: that is not zero.
            return Ok(MirrorStatus::Preparing(
                "the writer's server does not see the follower yet".into(),
            ));
        }
        Ok(MirrorStatus::Streaming(Lag {
            bytes: bytes.unwrap_or(0),
            time: arrived.or(watch.time.filter(|t| *t > MARKER_WITHIN)).or(None),
        }))
    }
}

async fn broken(watch: &mut Watch, migration: &str, name: &str, oid: u32, errors: i64) -> Result<MirrorStatus> {
    // The schemas first: a change of them is the usual reason.
    if let Some(failed) = drifted(watch, migration, name).await? {
        return Ok(failed);
    }
    let why = match stuck::why(&watch.origin, &watch.follower, name, oid).await? {
        Stuck::At(why) => why,
        Stuck::Unknown => "the follower's server log says why".into(),
        Stuck::Moves => {
            (watch.errors, watch.missing) = (errors, None);
            return Ok(MirrorStatus::Preparing("the subscription's apply worker starts".into()));
        }
    };
    let errors = errors - watch.errors;
    Ok(failed(
        Kind::Diverged,
        format!(
            "the subscription {name} does not get on ({errors} errors of its apply worker): {why}. It goes on by itself once that \
             is mended (there, between BEGIN READ WRITE; SET LOCAL {} = on; and COMMIT); or abort and begin again",
            shut::MEND
        ),
    ))
}

/// The mirror's failure where the schemas are not alike, or not all tables are mirrored; not to have seen them is an error.
async fn drifted(watch: &mut Watch, migration: &str, name: &str) -> Result<Option<MirrorStatus>> {
    let alike = async {
        drift::check(&watch.origin, &watch.follower, migration, &mut watch.alike).await?;
        mirrored::check(&watch.origin, &watch.follower, name).await
    };
    match alike.await {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == Kind::Diverged => Ok(Some(failed(Kind::Diverged, e.message()))),
        // Somebody has a table locked: it is looked at again soon, and the mirror is none the worse for it.
        Err(e) if e.kind() == Kind::Timeout => {
            tracing::debug!(migration, error = %e, "the schemas are not compared now");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn failed(kind: Kind, why: impl Into<String>) -> MirrorStatus {
    MirrorStatus::Failed { kind, why: why.into() }
}

/// How often the apply worker failed; unknown before version 15.
async fn apply_errors(follower: &Session, name: &str) -> Result<i64> {
    let doing = "read the apply worker's errors";
    let known: bool = follower
        .query_one(
            "SELECT to_regclass('pg_catalog.pg_stat_subscription_stats') IS NOT NULL",
            &[],
        )
        .await
        .doing(doing)?
        .get(0);
    if !known {
        return Ok(0);
    }
    let row = follower
        .query_opt(
            "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = $1",
            &[&name],
        )
        .await
        .doing(doing)?;
    Ok(row.map_or(0, |r| r.get(0)))
}
