//! Drift: what the writer's database has and the follower's lacks, because somebody changed the schema on the way. DDL does
//! not travel; a mirror over two different schemas stops, or goes on and loses what it does not know.

use crate::connect::Session;
use crate::error::{Doing, fault};
use bluegreen_core::{Kind, Result};
use std::collections::BTreeSet;

/// Everything of an application's schema that DDL could change, a line each, in words that every version uses alike. What
/// servers derive by themselves (the constraints and triggers of partitions, NOT NULL as a constraint) is left out, and so is
/// what `pg_dump` leaves out (indexes that are not valid). Sessions of ours have an empty search path: every name is whole.
const LINES: &str = "
WITH ours AS (SELECT oid, nspname FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'bluegreen')),
extension AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
relations AS (SELECT c.oid, c.relname, c.relkind, c.relreplident, n.nspname FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
    WHERE (c.oid, 'pg_class'::regclass) NOT IN (SELECT objid, classid FROM extension))
SELECT format('%s %I.%I', CASE relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
        WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END, nspname, relname)
    FROM relations WHERE relkind IN ('r', 'p', 'S', 'v', 'm', 'f', 'c')
UNION ALL SELECT format('column %I.%I.%I %s%s%s', r.nspname, r.relname, a.attname, format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN ' NOT NULL' END, CASE WHEN a.attgenerated <> '' THEN ' GENERATED' END)
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
UNION ALL SELECT format('index %I.%I on %I', r.nspname, i.relname, r.relname)
    FROM relations r JOIN pg_index x ON x.indrelid = r.oid AND x.indisvalid JOIN pg_class i ON i.oid = x.indexrelid
UNION ALL SELECT format('constraint %I on %I.%I', k.conname, r.nspname, r.relname)
    FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
    WHERE k.contype IN ('p', 'u', 'f', 'x', 'c') AND k.conparentid = 0
UNION ALL SELECT format('trigger %I on %I.%I', t.tgname, r.nspname, r.relname)
    FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal AND t.tgparentid = 0
    AND t.tgname !~ '^bluegreen_.*_shut$'
UNION ALL SELECT format('policy %I on %I.%I', p.polname, r.nspname, r.relname)
    FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL SELECT format('function %I.%I(%s), its text %s', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid),
        left(md5(p.prosrc), 8))
    FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
    WHERE (p.oid, 'pg_proc'::regclass) NOT IN (SELECT objid, classid FROM extension)
UNION ALL SELECT format('label %L of %I.%I', e.enumlabel, n.nspname, t.typname)
    FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN ours n ON n.oid = t.typnamespace
UNION ALL SELECT format('domain %I.%I of %s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod))
    FROM pg_type t JOIN ours n ON n.oid = t.typnamespace
    WHERE t.typtype = 'd' AND (t.oid, 'pg_type'::regclass) NOT IN (SELECT objid, classid FROM extension)
UNION ALL SELECT format('extension %I', extname) FROM pg_extension";

/// So many are named.
const NAMED: usize = 5;

/// Refuses when the writer has what the follower lacks. What only the follower has, an index more for instance, breaks nothing.
pub(crate) async fn check(writer: &Session, follower: &Session) -> Result<()> {
    let digest = format!("SELECT md5(string_agg(line, E'\\n' ORDER BY line COLLATE \"C\")) FROM ({LINES}) AS l (line)");
    let doing = "compare the schemas";
    let (one, other) =
        tokio::try_join!(writer.query_one(&digest, &[]), follower.query_one(&digest, &[])).doing(doing)?;
    if one.get::<_, Option<String>>(0) == other.get::<_, Option<String>>(0) {
        return Ok(());
    }
    let (ours, theirs) = tokio::try_join!(lines(writer), lines(follower))?;
    let missing: Vec<&String> = ours.difference(&theirs).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<&str> = missing.iter().take(NAMED).map(|l| l.as_str()).collect();
    let more = match missing.len() - named.len() {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    Err(fault(
        Kind::Diverged,
        doing,
        format!(
            "the writer has what the follower lacks: {}{more}. DDL does not travel: run the same there (between BEGIN \
             READ WRITE and COMMIT), or take it back at the writer; a new table cannot join this mirror: \
             take it back, or abort and begin again",
            named.join("; ")
        ),
    ))
}

async fn lines(session: &Session) -> Result<BTreeSet<String>> {
    let rows = session.query(LINES, &[]).await.doing("compare the schemas")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
