//! What the admin console shows, read from its rows by the columns' names: their number differs by version.

use super::Upstream;
use super::error::GateError;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

/// What `SHOW DATABASES` says of our database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) upstream: Upstream,
    pub(super) paused: bool,
    pub(super) disabled: bool,
    pub(super) pool_mode: Option<String>,
    pub(super) min_pool_size: u32,
    pub(super) pool_size: u32,
}

impl Shown {
    /// Finds our database among the rows.
    pub(super) fn read(at: &str, database: &str, rows: &[SimpleQueryRow]) -> Result<Self, GateError> {
        let row = rows.iter().find(|row| row.get("name") == Some(database));
        let row = row.ok_or_else(|| GateError::NoDatabase {
            at: at.to_owned(),
            database: database.to_owned(),
        })?;
        let has = |column: &str| row.columns().iter().any(|c| c.name() == column);
        let text = |column: &str| if has(column) { row.get(column) } else { None };
        Ok(Self {
            upstream: Upstream {
                host: text("host").unwrap_or_default().to_owned(),
                port: text("port").and_then(|port| port.parse().ok()).unwrap_or(5432),
                dbname: text("database").unwrap_or(database).to_owned(),
            },
            paused: text("paused") == Some("1"),
            disabled: text("disabled") == Some("1"),
            pool_mode: text("pool_mode").map(str::to_owned),
            min_pool_size: text("min_pool_size").and_then(|n| n.parse().ok()).unwrap_or(0),
            pool_size: text("pool_size").and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    }
}

/// What `SHOW POOLS` says of our database's server connections, all its users together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pools {
    /// Being opened now.
    pub(super) opening: u32,
    /// Clients that wait for one in a pool that is not full: one will be opened at once.
    pub(super) wanted: u32,
    /// Open.
    pub(super) servers: u32,
}

impl Pools {
    pub(super) fn read(database: &str, pool_size: u32, pools: &[SimpleQueryRow]) -> Self {
        let number =
            |row: &SimpleQueryRow, column: &str| row.get(column).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        let mut all = Self::default();
        for pool in pools.iter().filter(|row| row.get("database") == Some(database)) {
            let opening = number(pool, "sv_login");
            let servers = ["sv_active", "sv_idle", "sv_used", "sv_tested"].map(|column| number(pool, column));
            let servers = servers.iter().sum::<u32>();
            all.opening += opening;
            all.servers += servers;
            if servers + opening < pool_size {
                all.wanted += number(pool, "cl_waiting");
            }
        }
        all
    }
}

/// A setting among the rows of `SHOW CONFIG`.
pub(super) fn value_of(config: &[SimpleQueryRow], key: &str) -> Option<String> {
    let row = config.iter().find(|row| row.get("key") == Some(key));
    row.and_then(|row| row.get("value")).map(str::to_owned)
}

pub(super) fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}
