//! What operators ask for from other processes: rows beside the entries, read by whoever runs the migration.

use super::answer::{Doing, timely};
use super::place::Place;
use super::schema;
use crate::connect::Session;
use crate::error::fault;
use bluegreen_core::{Kind, Request, Result, Signal};

const LEAVE: &str = "INSERT INTO bluegreen_journal.request (migration, signal) \
     SELECT $1, $2 WHERE EXISTS (SELECT FROM bluegreen_journal.lease WHERE migration = $1)";

/// In the order of their making. An order whose transaction ends late is found at the next look all the same.
const READ: &str = "SELECT ordinal, signal FROM bluegreen_journal.request WHERE migration = $1 ORDER BY ordinal";

pub(super) const LOOKING: &str = "look for requests";

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

pub(super) async fn read(session: &Session, place: &Place) -> Result<Vec<Request>> {
    let rows = session.query(READ, &[&place.migration]).await.doing(LOOKING)?;
    let request = |row: &tokio_postgres::Row| {
        let (ordinal, word): (i64, String) = (row.get(0), row.get(1));
        let signal = serde_json::from_value(word.clone().into()).map_err(|e| {
            let message =
                format!("{place}: request {ordinal} asks for {word:?}, which this version does not know: {e}");
            fault(Kind::Unsupported, LOOKING, message)
        })?;
        Ok(Request {
            id: format!("request-{ordinal}"),
            signal,
        })
    };
    rows.iter().map(request).collect()
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
