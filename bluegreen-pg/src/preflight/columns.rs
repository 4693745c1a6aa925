//! Columns and indexes: indexes that are not valid, expressions that do not find their names, numbers that mean something on
//! blue only.

use super::{Look, commands, listed, names, texts};
use crate::catalog::APPLICATION;
use crate::error::describe;
use bluegreen_core::Result;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    invalid_indexes(look).await?;
    functions(look).await?;
    as_text(look).await?;
    numbers(look).await
}

/// Left by a `CREATE INDEX CONCURRENTLY` or `REINDEX CONCURRENTLY` that failed. It is dropped and made again, as it was meant: a
/// REINDEX that fails again would leave another one beside it.
async fn invalid_indexes(look: &mut Look<'_>) -> Result<()> {
    let invalid = texts::<3>(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname), i.indrelid::regclass::text, \
             CASE WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x')) \
               THEN format('REINDEX INDEX CONCURRENTLY %I.%I;', n.nspname, c.relname) \
              ELSE format('DROP INDEX CONCURRENTLY %I.%I;', n.nspname, c.relname) || CASE WHEN c.relname ~ '_cc(new|old)[0-9]*$' THEN '' \
               ELSE ' ' || regexp_replace(pg_get_indexdef(c.oid), '^CREATE( UNIQUE)? INDEX ', 'CREATE\\1 INDEX CONCURRENTLY ') || ';' END END \
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {APPLICATION} AND c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready) ORDER BY 1"
        ),
    )
    .await?;
    if !invalid.is_empty() {
        let seen: Vec<String> = invalid
            .iter()
            .map(|[index, table, _]| format!("{index} on {table}"))
            .collect();
        look.warns(
            "invalid-indexes",
            format!("not valid: {}", listed("index", &seen)),
            "an index whose building failed is not used by blue and is not made on green; if it is unique, nothing keeps keys apart",
            format!(
                "one that nobody needs is only dropped, and a unique one is made when no keys are doubled any more; at blue, each \
                 command by itself: {}",
                commands(invalid.iter().map(|[.., mend]| mend.clone()))
            ),
        );
    }
    Ok(())
}

/// Functions of the application's, in SQL or PL/pgSQL without a path of their own, that are run where there is no
/// `search_path`: by the building of indexes, by constraints and generated columns, by materialized views as they are filled, by
/// triggers that fire on apply.
const RUN_WITHOUT_PATH: &str = "
    SELECT DISTINCT p.oid, p.prosrc, l.lanname, format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name,
        format('ALTER FUNCTION %I.%I(%s) SET search_path = %s;', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid),
            CASE s.nspname WHEN 'public' THEN 'public' ELSE quote_ident(s.nspname) || ', public' END) AS mend
    FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE l.lanname IN ('sql', 'plpgsql') AND p.prosqlbody IS NULL AND s.nspname !~ '^pg_'
    AND s.nspname NOT IN ('information_schema', 'bluegreen')
    AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c (setting) WHERE c.setting LIKE 'search_path=%')
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
    AND (EXISTS (SELECT FROM pg_depend d LEFT JOIN pg_class i ON d.classid = 'pg_class'::regclass AND i.oid = d.objid
            LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
            LEFT JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
            WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
            AND (d.classid = 'pg_constraint'::regclass OR i.relkind IN ('i', 'I', 'p') OR a.attgenerated <> ''))
        OR EXISTS (SELECT FROM pg_depend d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
            JOIN pg_class v ON v.oid = w.ev_class AND v.relkind = 'm' AND v.relispopulated
            WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid)
        OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')))";

async fn functions(look: &mut Look<'_>) -> Result<()> {
    let mut broken = Vec::new();
    let in_sql = texts::<3>(
        look.blue,
        &format!("SELECT oid::text, name, mend FROM ({RUN_WITHOUT_PATH}) AS f WHERE lanname = 'sql' ORDER BY 2"),
    )
    .await?;
    for [oid, name, mend] in in_sql {
        // What CREATE FUNCTION does to see whether the body makes sense; our sessions have no search_path either.
        let tried = look
            .blue
            .query(&format!("SELECT fmgr_sql_validator({oid}::oid)"), &[])
            .await;
        if let Err(error) = tried {
            broken.push((format!("{name} ({})", describe(&error)), mend));
        }
    }
    let why = "indexes are built, materialized views filled, constraints checked and changes applied without a search_path: a name without its schema is not \
               found there, and the copy or the mirror stops";
    if !broken.is_empty() {
        let seen: Vec<&String> = broken.iter().map(|(name, _)| name).collect();
        let seen = format!(
            "does not find what it names without a search_path: {}",
            listed("function", &seen)
        );
        look.blocks(
            "unqualified-functions",
            seen,
            why,
            mend(broken.iter().map(|(_, mend)| mend)),
        );
    }
    // PL/pgSQL looks names up when it runs: what is seen here is a name of the application's without a schema before it.
    let suspect = texts::<3>(
        look.blue,
        &format!(
            "SELECT f.name, f.mend, string_agg(DISTINCT quote_ident(o.name), ', ') FROM ({RUN_WITHOUT_PATH}) AS f \
             JOIN (SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {APPLICATION} \
              AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') UNION SELECT p.proname::text FROM pg_proc p \
              JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_' \
              AND n.nspname NOT IN ('information_schema', 'bluegreen')) AS o (name) \
             ON f.prosrc ~* ('(^|[^.[:alnum:]_\"])\"?' || regexp_replace(o.name, '([^[:alnum:]_])', '\\\\\\1', 'g') || '\"?\\M') \
             WHERE f.lanname = 'plpgsql' GROUP BY 1, 2 ORDER BY 1"
        ),
    )
    .await?;
    if !suspect.is_empty() {
        let seen: Vec<String> = suspect
            .iter()
            .map(|[name, _, what]| format!("{name} (names {what})"))
            .collect();
        look.warns(
            "unqualified-functions",
            format!("names things without their schema: {}", listed("function", &seen)),
            why,
            mend(suspect.iter().map(|[_, mend, _]| mend)),
        );
    }
    Ok(())
}

fn mend<'a>(each: impl Iterator<Item = &'a String>) -> String {
    format!("name the schema in the body, or at blue: {}", commands(each.cloned()))
}

/// Types that have no binary form: the copy of such a table is in text, which is slower.
async fn as_text(look: &mut Look<'_>) -> Result<()> {
    let columns = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I.%I (%s)', n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL)) \
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype \
             LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' \
             WHERE {APPLICATION} AND c.relkind = 'r' AND c.relpersistence = 'p' AND a.attnum > 0 AND NOT a.attisdropped \
             AND (t.typsend = 0 OR b.typsend = 0 OR e.typsend = 0) ORDER BY 1"
        ),
        &[],
    )
    .await?;
    if !columns.is_empty() {
        look.notes(
            "copied-as-text",
            format!("of a type that has no binary form: {}", listed("column", &columns)),
            "their tables are copied as text, which is right and slower",
            "nothing",
        );
    }
    Ok(())
}

/// Numbers of things in blue's catalogue: green gives its own.
async fn numbers(look: &mut Look<'_>) -> Result<()> {
    let columns = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I.%I (%s)', n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL)) \
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {APPLICATION} AND c.relkind = 'r' AND c.relpersistence = 'p' AND a.attnum > 0 AND NOT a.attisdropped \
             AND a.atttypid IN ('oid'::regtype, 'oid[]'::regtype, 'xid'::regtype, 'xid8'::regtype, 'tid'::regtype, \
              'pg_lsn'::regtype, 'pg_snapshot'::regtype) ORDER BY 1"
        ),
        &[],
    )
    .await?;
    if !columns.is_empty() {
        look.notes(
            "catalog-numbers",
            format!("numbers of blue's own server: {}", listed("column", &columns)),
            "the number goes over as it is; the table, transaction or place in the log that it means on blue is another, or none, on green",
            "if the application looks things up by it, keep a name instead (regclass and its like go over by name)",
        );
    }
    Ok(())
}
