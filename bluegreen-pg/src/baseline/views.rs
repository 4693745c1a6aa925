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

/// Refreshes of the follower's materialized views that have rows at the origin. One may read another, also through plain views, and
/// through functions, by what their bodies name: it comes after all that it reads.
pub(super) async fn refreshes(follower: &Session, filled: &HashSet<Relation>) -> Result<Vec<String>> {
    let rows = follower
        .query(
            "WITH RECURSIVE reads AS ( \
                 SELECT DISTINCT r.ev_class AS view, d.refobjid AS other FROM pg_rewrite r \
                 JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class \
                 JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('m', 'v') \
                 UNION SELECT r.ev_class, c.oid FROM pg_rewrite r \
                 JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass \
                 JOIN pg_proc p ON p.oid = d.refobjid AND p.oid >= 16384 \
                 JOIN pg_class c ON c.relkind IN ('m', 'v') AND c.oid <> r.ev_class AND (EXISTS (SELECT FROM pg_depend b \
                     WHERE b.classid = 'pg_proc'::regclass AND b.objid = p.oid AND b.refobjid = c.oid) \
                     OR p.prosrc ~* ('(^|[^[:alnum:]_$])' || regexp_replace(c.relname, '([^[:alnum:]_])', '\\\\\\1', 'g') \
                         || '($|[^[:alnum:]_$])'))), \
             depth (view, far) AS ( \
                 SELECT oid, 0 FROM pg_class WHERE relkind = 'm' \
                 UNION SELECT r.view, depth.far + 1 FROM depth JOIN reads r ON r.other = depth.view WHERE depth.far < 1000) \
             SELECT n.nspname::text, c.relname::text FROM depth JOIN pg_class c ON c.oid = depth.view \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'm' AND n.nspname !~ '^pg_' \
             GROUP BY 1, 2, c.oid ORDER BY max(depth.far), c.oid",
            &[],
        )
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
