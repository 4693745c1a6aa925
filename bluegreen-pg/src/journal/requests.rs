//! What operators ask for from other processes: rows beside the entries, read by whoever runs the migration.

use super::answer::{Doing, timely};
use super::place::Place;
use super::schema;
use crate::connect::Session;
use crate::error::fault;
use bluegreen_core::{Kind, Request, Result, Signal};
use std::collections::HashSet;

const LEAVE: &str = "INSERT INTO bluegreen_journal.request (migration, signal) \
     SELECT $1, $2 WHERE EXISTS (SELECT FROM bluegreen_journal.lease WHERE migration = $1)";

/// In the order of their making. An order whose transaction ends late is found at the next look all the same.
const READ: &str = "SELECT ordinal, signal FROM bluegreen_journal.request WHERE migration = $1 ORDER BY ordinal";

const LOOKING: &str = "look for requests";

pub(super) async fn leave(place: &Place, signal: Signal) -> Result<()> {
    let doing = "leave a request";
    let session = place.connect().await?;
    let word = serde_json::to_value(signal)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .ok_or_else(|| fault(Kind::Unexpected, doing, "the signal has no word"))?;
    let left = timely(schema::is_there(&session), doing).await?
        && timely(session.execute(LEAVE, &[&place.migration, &word]), doing).await? == 1;
    if left {
        return Ok(());
    }
    Err(fault(
        Kind::NotFound,
        doing,
        format!("{place}: no migration was ever started with this journal"),
    ))
}

/// Looks for them, again and again.
#[derive(Default)]
pub(super) struct Looks {
    session: Option<Session>,
    /// Those in words of another version that were told of.
    told: HashSet<i64>,
}

impl Looks {
    /// What was asked for so far. A word of another version is told of and passed over: it is no reason to end what runs.
    pub(super) async fn look(&mut self, place: &Place) -> Result<Vec<Request>> {
        let session = match self.session.take().filter(|s| !s.is_closed()) {
            Some(session) => session,
            None => timely(place.connect(), LOOKING).await?,
        };
        let rows = timely(session.query(READ, &[&place.migration]), LOOKING).await?;
        // Only what answered is kept for the next look.
        self.session = Some(session);
        let mut heard = Vec::with_capacity(rows.len());
        for row in rows {
            let (ordinal, word): (i64, String) = (row.get(0), row.get(1));
            match serde_json::from_value(word.clone().into()) {
                Ok(signal) => heard.push(Request {
                    id: format!("request-{ordinal}"),
                    signal,
                }),
                Err(_) if self.told.insert(ordinal) => {
                    tracing::warn!(journal = %place, ordinal, word, "a request in a word that this version does not know is not followed");
                }
                Err(_) => {}
            }
        }
        Ok(heard)
    }
}

/// What was asked of an earlier migration of this name must not be heard by this one.
pub(super) async fn forget(session: &Session, place: &Place) -> Result<()> {
    session
        .execute(
            "DELETE FROM bluegreen_journal.request r WHERE r.migration = $1 \
             AND NOT EXISTS (SELECT FROM bluegreen_journal.entry e WHERE e.migration = r.migration)",
            &[&place.migration],
        )
        .await
        .doing("forget old requests")?;
    Ok(())
}
