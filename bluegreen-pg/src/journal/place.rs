//! Where a journal is: a database, and a migration's name in it.

use super::answer::timely;
use crate::connect::{Session, dial};
use crate::conninfo::Conninfo;
use crate::error::fault;
use crate::ident::application_name;
use bluegreen_core::{Kind, Result};
use std::fmt;

/// A durable commit, whatever the server's default is; what waits for a standby to have applied it is stronger, and stays.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";

#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) conninfo: Conninfo,
    pub(super) migration: String,
}

impl Place {
    /// A session whose commits are durable.
    pub(super) async fn connect(&self) -> Result<Session> {
        let whose = "the journal's database";
        let session = match dial(&self.conninfo, whose, &application_name(&self.migration), "").await {
            // `NotFound` is said of a journal that was never begun: a database that is not there is not that.
            Err(e) if e.kind() == Kind::NotFound => {
                let mend = "is its name right? A journal's database is made by hand, before the first run";
                return Err(fault(
                    Kind::InvalidInput,
                    format!("connect to {whose}"),
                    format!("{}: {mend}", e.message()),
                ));
            }
            session => session?,
        };
        timely(session.query_opt(DURABLE, &[]), "have the journal's commits durable").await?;
        Ok(session)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal of {:?} in {}", self.migration, self.conninfo)
    }
}
