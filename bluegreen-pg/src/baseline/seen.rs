//! What the snapshot sees of the origin's catalogue: what there is to copy, and whether it is still there.

use super::plan::{self, Load};
use super::{Stop, copy, finish, unchanged, views};
use crate::connect::Session;
use crate::drift;
use crate::error::{Doing, PgError};
use crate::ident::Relation;
use bluegreen_core::{Error, Kind, Result};
use std::collections::{HashMap, HashSet};

/// What the snapshot sees.
pub(super) struct Seen {
    pub(super) loads: Vec<Load>,
    /// About.
    pub(super) rows: u64,
    /// The indexes that run functions.
    pub(super) computed: HashSet<Relation>,
    /// The materialized views that have rows.
    pub(super) filled: HashSet<Relation>,
    pub(super) index_sizes: HashMap<Relation, u64>,
    pub(super) columns: drift::columns::Columns,
}

impl Seen {
    /// What the dump has not, nobody has a place for: a column or table that came since is not read.
    pub(super) async fn read(
        origin: &Session,
        follower: &Session,
        snapshot: &str,
        streams: usize,
    ) -> Result<Self, Stop> {
        let sizes = plan::Sizes {
            chunk: plan::CHUNK_BYTES,
            streams: u64::try_from(streams).unwrap_or(1),
        };
        see(origin, snapshot).await?;
        let (loads, rows) = plan::plan(origin, follower, sizes).await?;
        let seen = Self {
            loads,
            rows,
            computed: views::computed_indexes(origin).await?,
            filled: views::filled(origin).await?,
            index_sizes: finish::sizes(origin).await?,
            columns: drift::columns::read(&**origin).await?,
        };
        let over = origin.batch_execute("ROLLBACK").await;
        over.doing("look at what the snapshot sees")?;
        Ok(seen)
    }
}

/// From here on the session sees the catalogue as the snapshot does; functions of the server's see it as it is. Where its connection
/// is lost, so early, to begin again costs less than to look whether the snapshot's own was lost with it.
async fn see(origin: &Session, snapshot: &str) -> Result<(), Stop> {
    let seen = origin.batch_execute(&copy::seeing(snapshot)).await;
    seen.doing("look at what the snapshot sees").map_err(|error| {
        if copy::snapshot_is_gone(&error) || error.kind() == Kind::Unavailable {
            Stop::Snapshot(error)
        } else {
            Stop::Fault(error)
        }
    })
}

/// Why the schema could not be dumped: what the snapshot sees of it may be gone, or the snapshot itself.
pub(super) async fn unreadable(origin: &Session, snapshot: &str, error: Error) -> Stop {
    let doing = "look whether what the snapshot sees is there";
    match see(origin, snapshot).await {
        Err(Stop::Snapshot(_)) => return Stop::Snapshot(error),
        Err(_) => return Stop::Fault(error),
        Ok(()) => {}
    }
    let gone = origin.query_opt(unchanged::GONE, &[]).await;
    match gone.doing(doing) {
        Ok(Some(row)) => match Err::<(), _>(PgError::Changed(row.get(0))).doing(doing) {
            Err(changed) => {
                tracing::warn!(%error, %changed, "the schema could not be dumped");
                Stop::Changed(changed)
            }
            Ok(()) => Stop::Fault(error),
        },
        _ => Stop::Fault(error),
    }
}
