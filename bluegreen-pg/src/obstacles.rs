//! Who would make writers wait: transactions that hold what a fence must have.

use crate::connect::Session;
use crate::error::Doing;
use crate::writers::{is_client, ours};
use bluegreen_core::Result;
use std::time::Duration;
use tokio_postgres::types::Type;

/// `$1`: our application names, `$2`: only transactions that are older, in seconds. A reader is in nobody's way; a plain
/// autovacuum gives way by itself; who applies somebody else's changes does not.
const IN_THE_WAY: &str = concat!(
    "SELECT format('pid %s of %s, %s, in a transaction since %s%s%s', a.pid, coalesce(a.usename, a.backend_type), \
         coalesce(a.state, '?'), a.xact_start, \
         (SELECT ', which changes ' || string_agg(DISTINCT l.relation::regclass::text, ', ') FROM pg_locks l \
          WHERE l.pid = a.pid AND l.granted AND l.relation = ANY (SELECT oid FROM held)), \
         ': ' || left(regexp_replace(a.query, '\\s+', ' ', 'g'), 80)) \
     FROM pg_stat_activity a \
     WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.application_name <> ALL ($1) \
     AND (",
    is_client!(),
    " OR a.backend_type ~ '^logical replication' AND a.application_name !~ '^bluegreen_' OR a.query LIKE '%to prevent wraparound%') \
     AND a.xact_start < clock_timestamp() - make_interval(secs => $2) \
     AND (a.backend_xid IS NOT NULL OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted \
          AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock' AND l.relation = ANY (SELECT oid FROM held))) \
     ORDER BY a.xact_start LIMIT 5"
);

/// The tables that a fence locks.
const HELD: &str = "WITH held AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen')) ";

const PREPARED: &str = "SELECT format('the prepared transaction %L of %s, since %s', gid, owner, prepared) FROM pg_prepared_xacts \
     WHERE database = current_database() ORDER BY prepared LIMIT 5";

/// The transactions, ours not among them, that would keep a fence waiting and are older than that.
pub(crate) async fn older_than(session: &Session, migration: &str, age: Duration) -> Result<Vec<String>> {
    let doing = "look who is in the way of a pause";
    let open = session
        .query_typed(
            &format!("{HELD}{IN_THE_WAY}"),
            &[
                (&ours(migration).as_slice(), Type::TEXT_ARRAY),
                (&age.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await
        .doing(doing)?;
    let prepared = session.query(PREPARED, &[]).await.doing(doing)?;
    Ok(open.iter().chain(&prepared).map(|row| row.get(0)).collect())
}
