//! Who has a lock that is in our way, in words.

use crate::connect::Session;
use tokio_postgres::types::ToSql;

/// Which of `pg_locks l` are in the way, and what is said after who has one. With `strong`: those that keep a table's definition
/// from being changed beside it.
pub(crate) struct Locks {
    pub(crate) which: &'static str,
    pub(crate) and: &'static str,
}

/// Names those who have such locks, `parameter` being the `$1` of them; the first few. Of a prepared transaction `pg_locks` has no
/// process, and no other number than that of its session's transaction: by that, the lock on its own number tells which one it is.
pub(crate) async fn holders(
    session: &Session,
    Locks { which, and }: &Locks,
    parameter: &(dyn ToSql + Sync),
) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT DISTINCT CASE WHEN l.pid IS NULL THEN coalesce(( \
             SELECT string_agg(DISTINCT format('the prepared transaction %L', p.gid), ' or ') \
             FROM pg_locks t JOIN pg_prepared_xacts p ON p.transaction = t.transactionid \
             WHERE t.pid IS NULL AND t.virtualtransaction = l.virtualtransaction), 'a prepared transaction') \
         ELSE format('pid %s of %s, in a transaction since %s', l.pid, coalesce(a.usename, a.backend_type, '?'), \
             coalesce(a.xact_start::text, '?')) END || {and} \
         FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         CROSS JOIN LATERAL (SELECT l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') AS strong) s \
         WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND ({which}) ORDER BY 1 LIMIT 5"
    );
    let rows = session.query(&sql, &[parameter]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
