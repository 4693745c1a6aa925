//! CHECK constraints and generated columns that read tables: each row is checked and computed as it is copied, when what it asks for
//! may not be there yet.

use super::{Look, commands, listed, texts};
use crate::catalog::APPLICATION;
use bluegreen_core::Result;

/// Which function is used by what is asked for (`{USED}`), those that these name in turn, and the application's tables that any of
/// them reads: by the catalogue where the body is parsed (`BEGIN ATOMIC`), else by what stands after FROM and JOIN in its text.
const READ_TABLES: &str = r#"
    WITH RECURSIVE bodies AS (SELECT p.oid, p.proname, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname NOT IN ('c', 'internal')
        AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen')),
    used (id, function) AS ({USED}
        UNION SELECT u.id, b.oid FROM used u JOIN bodies f ON f.oid = u.function JOIN bodies b
            ON f.prosrc ~* ('(^|[^[:alnum:]_$])"?' || regexp_replace(b.proname, '([^[:alnum:]_])', '\\\1', 'g') || '"?\s*\(')
            OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid
                AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = b.oid)),
    read (id, tables) AS (SELECT u.id, string_agg(DISTINCT format('%I.%I', n.nspname, c.relname), ', ') FROM used u
        JOIN bodies f ON f.oid = u.function JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
            ON f.prosrc ~* ('\m(from|join)\s+(only\s+)?(("[^"]+"|[[:alnum:]_$]+)\s*\.\s*)?"?'
                || regexp_replace(c.relname, '([^[:alnum:]_])', '\\\1', 'g') || '"?(?![[:alnum:]_$"])')
            OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)
        WHERE {APPLICATION} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') GROUP BY u.id)"#;

/// Constraints of tables and domains. Those that are NOT VALID are made after the rows.
const OF_CONSTRAINTS: &str = "SELECT k.oid, d.refobjid FROM pg_constraint k JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass \
     AND d.objid = k.oid AND d.refclassid = 'pg_proc'::regclass WHERE k.contype = 'c' AND k.convalidated AND k.coninhcount = 0";

const CONSTRAINTS: &str = "
    SELECT format('%I on %I.%I (reads %s)', k.conname, n.nspname, coalesce(c.relname, t.typname), r.tables),
        CASE WHEN c.oid IS NOT NULL
            THEN format('ALTER TABLE %I.%I DROP CONSTRAINT %I, ADD CONSTRAINT %3$I %4$s NOT VALID;', n.nspname, c.relname, k.conname,
                pg_get_constraintdef(k.oid))
            ELSE format('ALTER DOMAIN %I.%I DROP CONSTRAINT %I; ALTER DOMAIN %1$I.%2$I ADD CONSTRAINT %3$I %4$s NOT VALID;', n.nspname,
                t.typname, k.conname, pg_get_constraintdef(k.oid)) END
    FROM read r JOIN pg_constraint k ON k.oid = r.id LEFT JOIN pg_class c ON c.oid = k.conrelid
    LEFT JOIN pg_type t ON t.oid = k.contypid JOIN pg_namespace n ON n.oid = k.connamespace ORDER BY 1";

/// Stored generated columns; a partition's are its parent's.
const OF_COLUMNS: &str = "SELECT e.oid, d.refobjid FROM pg_attrdef e JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum \
     JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_proc'::regclass \
     WHERE a.attgenerated = 's' AND a.attinhcount = 0";

const COLUMNS: &str = "
    SELECT format('%I of %I.%I (reads %s)', a.attname, n.nspname, c.relname, r.tables),
        format('ALTER TABLE %I.%I ALTER COLUMN %I DROP EXPRESSION;', n.nspname, c.relname, a.attname)
    FROM read r JOIN pg_attrdef e ON e.oid = r.id JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
    JOIN pg_class c ON c.oid = e.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    constraints(look).await?;
    columns(look).await
}

/// What reads tables, each with the command that mends it.
async fn reading(look: &Look<'_>, used: &str, said: &str) -> Result<Vec<[String; 2]>> {
    let sql = READ_TABLES
        .replace("{USED}", used)
        .replace("{APPLICATION}", APPLICATION);
    texts::<2>(look.blue, &(sql + said)).await
}

async fn constraints(look: &mut Look<'_>) -> Result<()> {
    let found = reading(look, OF_CONSTRAINTS, CONSTRAINTS).await?;
    if found.is_empty() {
        return Ok(());
    }
    let seen: Vec<&String> = found.iter().map(|[seen, _]| seen).collect();
    look.blocks(
        "checks-read-tables",
        listed("constraint", &seen),
        "the copy checks each row as it comes, while the rows that it asks for may not be there yet: it stops, with the constraint's name",
        format!(
            "at blue, where new rows are checked as before, and to be made valid again (VALIDATE CONSTRAINT) when the migration is done: {}",
            commands(found.iter().map(|[_, mend]| mend.clone()))
        ),
    );
    Ok(())
}

async fn columns(look: &mut Look<'_>) -> Result<()> {
    let found = reading(look, OF_COLUMNS, COLUMNS).await?;
    if found.is_empty() {
        return Ok(());
    }
    let seen: Vec<&String> = found.iter().map(|[seen, _]| seen).collect();
    look.blocks(
        "generated-read-tables",
        listed("generated column", &seen),
        "green computes each as its row comes, while the rows that it asks for may not be there yet: it comes out otherwise than at blue",
        format!(
            "at blue, where a trigger then computes what new rows have: {}",
            commands(found.iter().map(|[_, mend]| mend.clone()))
        ),
    );
    Ok(())
}
