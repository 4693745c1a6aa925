//! What is computed from the copied rows: materialized views, and the statistics of what has no rows of its own.

use crate::connect::Session;
use crate::error::Doing;
use crate::ident::Relation;
use bluegreen_core::Result;
use std::collections::HashSet;
use tokio_postgres::Row;

/// The materialized views that have rows.
pub(super) async fn filled(origin: &Session) -> Result<HashSet<Relation>> {
    let rows = origin
        .query(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'm' AND c.relispopulated AND n.nspname !~ '^pg_'",
            &[],
        )
        .await
        .doing("list the materialized views")?;
    Ok(rows.iter().map(named).collect())
}

/// The follower's materialized views, each after all that it reads: also through plain views, and through functions, by what these
/// call and name. A body may only be guessed at, so that any word counts, and whatever is between two quotes, be they a name's or not: one
/// edge too many costs nothing. Words are taken out of each body once.
const IN_ORDER: &str = r#"
    WITH RECURSIVE things (class, oid, name) AS MATERIALIZED (
        SELECT 'pg_class'::regclass::oid, oid, relname::text FROM pg_class WHERE relkind IN ('m', 'v') AND oid >= 16384
        UNION ALL SELECT 'pg_proc'::regclass::oid, oid, proname::text FROM pg_proc WHERE oid >= 16384),
    words (function, word) AS MATERIALIZED (SELECT DISTINCT p.oid, w.word FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        CROSS JOIN LATERAL (
            SELECT unnest(string_to_array(p.prosrc, '"'))
            UNION SELECT unnest(ARRAY[m[1], lower(m[1] COLLATE "C")])
                FROM regexp_matches(p.prosrc, '(?:[^[:space:][:punct:]]|[_$])+', 'g') AS m) AS w (word)
        WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal') AND octet_length(w.word) < 64),
    names (function, class, object) AS MATERIALIZED (
        SELECT w.function, t.class, t.oid FROM words w JOIN things t ON t.name = w.word
        UNION SELECT d.objid, d.refclassid, d.refobjid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
            AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass) AND d.refobjid >= 16384),
    uses (view, class, object) AS (
        SELECT r.ev_class, d.refclassid, d.refobjid FROM pg_rewrite r
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            WHERE d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass) AND d.refobjid >= 16384
        UNION SELECT u.view, n.class, n.object FROM uses u JOIN names n ON n.function = u.object
            WHERE u.class = 'pg_proc'::regclass),
    reads AS (SELECT u.view, c.oid AS other FROM uses u JOIN pg_class c ON c.oid = u.object
        WHERE u.class = 'pg_class'::regclass AND c.relkind IN ('m', 'v') AND c.oid <> u.view),
    depth (view, far) AS (SELECT oid, 0 FROM pg_class WHERE relkind = 'm'
        UNION SELECT r.view, depth.far + 1 FROM depth JOIN reads r ON r.other = depth.view WHERE depth.far < 1000)
    SELECT n.nspname::text, c.relname::text FROM depth JOIN pg_class c ON c.oid = depth.view JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'm' AND n.nspname !~ '^pg_' GROUP BY 1, 2, c.oid ORDER BY max(depth.far), c.oid"#;

/// Refreshes of the follower's materialized views that have rows at the origin.
pub(super) async fn refreshes(follower: &Session, filled: &HashSet<Relation>) -> Result<Vec<String>> {
    if filled.is_empty() {
        return Ok(Vec::new());
    }
    let rows = follower
        .query(IN_ORDER, &[])
        .await
        .doing("list the materialized views")?;
    Ok(rows
        .iter()
        .map(named)
        .filter(|view| filled.contains(view))
        .map(|view| format!("REFRESH MATERIALIZED VIEW {view}"))
        .collect())
}

fn named(row: &Row) -> Relation {
    Relation::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
}

/// Indexes that run a function in a language other than C, themselves or by an operator: they can be right only when all tables are
/// filled, for it may read one (and says `IMMUTABLE` all the same).
pub(super) async fn computed_indexes(origin: &Session) -> Result<HashSet<Relation>> {
    let rows = origin
        .query(
            "SELECT DISTINCT n.nspname::text, c.relname::text FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid \
             LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid \
             JOIN pg_proc p ON p.oid = CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END \
             JOIN pg_language l ON l.oid = p.prolang \
             WHERE l.lanname NOT IN ('c', 'internal') AND n.nspname !~ '^pg_'",
            &[],
        )
        .await
        .doing("list the indexes that compute")?;
    Ok(rows.iter().map(named).collect())
}

/// `ANALYZE` of partitioned tables, parents and materialized views.
pub(super) async fn analyses(follower: &Session) -> Result<Vec<String>> {
    let rows = follower
        .query(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE (c.relkind IN ('p', 'm') OR c.relkind = 'r' AND c.relhassubclass) AND n.nspname !~ '^pg_' \
             AND n.nspname NOT IN ('information_schema', 'bluegreen') ORDER BY 1, 2",
            &[],
        )
        .await
        .doing("list what needs statistics")?;
    Ok(rows.iter().map(|row| format!("ANALYZE {}", named(row))).collect())
}
