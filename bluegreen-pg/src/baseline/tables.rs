//! The first section of a schema at the follower: made by one session or several, and recorded, so that an unfinished try can be
//! wiped.

use super::apart::Part;
use crate::connect::Session;
use crate::error::{Doing, describe};
use crate::made::{self, OBJECTS, TOGETHER};
use crate::replicator::Context;
use bluegreen_core::{Color, Error, Result};
use std::collections::BTreeMap;

/// Makes schemas, types, functions and tables at the follower, and records in the same transactions what was made.
pub(super) async fn restore(context: &Context, follower: Color, session: &mut Session, parts: &[Part]) -> Result<()> {
    let (doing, migration) = ("make the schema", &context.settings.name);
    made::begin(session, migration).await?;
    let before = format!("CREATE TEMP TABLE before_us AS {OBJECTS}");
    session.batch_execute(&before).await.doing(doing)?;
    for part in parts {
        match part {
            Part::InOrder(statements) => {
                let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
                in_order(session, migration, &statements).await?;
            }
            Part::Apart { settings, lanes } => {
                // It may do anything to any table.
                let triggers = "SELECT count(*) FROM pg_event_trigger WHERE evtenabled <> 'D'";
                let done = match session.query_one(triggers, &[]).await.doing(doing)?.get::<_, i64>(0) {
                    0 => apart(context, follower, settings, lanes).await?,
                    _ => vec![0; lanes.len()],
                };
                let seen = format!("INSERT INTO pg_temp.before_us {OBJECTS} EXCEPT SELECT * FROM pg_temp.before_us");
                session.batch_execute(&seen).await.doing(doing)?;
                let left = lanes.iter().zip(done).flat_map(|(lane, done)| &lane[done..]);
                let left: BTreeMap<usize, &str> = left.map(|(i, sql)| (*i, sql.as_str())).collect();
                in_order(session, migration, &left.into_values().collect::<Vec<_>>()).await?;
            }
        }
    }
    session.batch_execute("DROP TABLE pg_temp.before_us").await.doing(doing)
}

async fn in_order(session: &mut Session, migration: &str, statements: &[&str]) -> Result<()> {
    let new = format!(
        "WITH new AS ({OBJECTS} EXCEPT SELECT classid, objid FROM pg_temp.before_us), \
         known AS (INSERT INTO pg_temp.before_us SELECT classid, objid FROM new)"
    );
    for some in statements.chunks(TOGETHER) {
        make(session, migration, some, &new).await.doing("make the schema")?;
    }
    Ok(())
}

/// What a lane makes has its transaction's number; what it only changes has it too, and is ours, or an extension's.
const OF_A_LANE: &str = "WITH new AS (SELECT c.tableoid AS classid, c.oid AS objid FROM pg_class c \
     WHERE c.xmin = pg_current_xact_id()::xid AND c.relkind IN ('r', 'p', 'v', 'S') \
     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 \
         AND d.deptype IN ('e', 'i')))";

/// Runs lanes at the same time, each to its end, so that none goes on behind a clean-up's back. Returns how many statements of each
/// are done.
async fn apart(
    context: &Context,
    follower: Color,
    settings: &str,
    lanes: &[Vec<(usize, String)>],
) -> Result<Vec<usize>> {
    let together = (TOGETHER / lanes.len().max(1)).max(1);
    let running = lanes
        .iter()
        .map(|lane| in_a_lane(context, follower, settings, lane, together));
    futures::future::join_all(running).await.into_iter().collect()
}

/// Runs a lane, until the server refuses a statement. Returns how many are done.
async fn in_a_lane(
    context: &Context,
    follower: Color,
    settings: &str,
    lane: &[(usize, String)],
    together: usize,
) -> Result<usize> {
    let doing = "make the schema";
    let connected = async {
        let session = context.settings.connect_copy(follower).await?;
        session.batch_execute(settings).await.doing(doing)?;
        Ok::<_, Error>(session)
    };
    let mut session = match connected.await {
        Ok(session) => session,
        // The one that is there can do it.
        Err(error) => {
            tracing::warn!(%error, "the schema is made by fewer sessions");
            return Ok(0);
        }
    };
    let mut done = 0;
    for some in lane.chunks(together) {
        let statements: Vec<&str> = some.iter().map(|(_, sql)| sql.as_str()).collect();
        match make(&mut session, &context.settings.name, &statements, OF_A_LANE).await {
            Ok(()) => done += some.len(),
            // Nothing of it is there; whether a session that was ended committed before, nobody said.
            Err(error) if error.code().is_some_and(|code| !code.code().starts_with("57")) => {
                tracing::warn!(error = %describe(&error), "what is left of the schema is made in its order");
                break;
            }
            Err(error) => return Err(error).doing(doing),
        }
    }
    Ok(done)
}

/// Runs statements and records what they made, which `new` selects, in one transaction.
async fn make(
    session: &mut Session,
    migration: &str,
    statements: &[&str],
    new: &str,
) -> Result<(), tokio_postgres::Error> {
    let transaction = session.transaction().await?;
    transaction.batch_execute(&statements.join(";\n")).await?;
    let record = format!(
        "{new} INSERT INTO bluegreen.made (migration, kind, identity) SELECT $1, i.type, i.identity FROM new, \
         LATERAL pg_identify_object(new.classid, new.objid, 0) AS i ORDER BY new.classid = 'pg_namespace'::regclass, new.objid"
    );
    transaction.execute(&record, &[&migration]).await?;
    transaction.commit().await
}
