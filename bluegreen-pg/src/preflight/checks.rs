//! CHECK constraints and generated columns that read tables: each row is checked and computed as it is copied, when what it asks for
//! may not be there yet.

use super::{Look, commands, listed, texts};
use crate::catalog::APPLICATION;
use bluegreen_core::Result;

/// Which function is used by what is asked for (`{USED}`), those that these name in turn, and the application's tables that any of
/// them reads: by the catalogue where the body is parsed (`BEGIN ATOMIC`), else by what stands after FROM and JOIN in its text, where
/// that is not a part of an expression. Names are taken out of each body once: bodies times tables would be too many to try.
const READ_TABLES: &str = r#"
    WITH RECURSIVE bodies AS MATERIALIZED (SELECT p.oid, p.proname, regexp_replace(regexp_replace(p.prosrc, '\mdistinct\s+from\M', ' ', 'gi'),
            '\m(extract|substring|trim|overlay|position)\s*\([^()]*\mfrom\M', ' ', 'gi') AS text
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname NOT IN ('c', 'internal')
        AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen')),
    calls (function, called) AS MATERIALIZED (SELECT f.oid, b.oid
            FROM bodies f CROSS JOIN LATERAL regexp_matches(f.text, '("[^"]+"|[[:alnum:]_$]+)\s*\(', 'g') AS m
            JOIN bodies b ON b.proname = CASE WHEN m[1] LIKE '"%' THEN btrim(m[1], '"') ELSE lower(m[1]) END
        UNION SELECT d.objid, d.refobjid FROM pg_depend d
            WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_proc'::regclass),
    used (id, function) AS ({USED}
        UNION SELECT u.id, c.called FROM used u JOIN calls c ON c.function = u.function),
    names (function, schema, name) AS MATERIALIZED (SELECT f.oid,
            CASE WHEN m[1] LIKE '"%' THEN btrim(m[1], '"') ELSE lower(m[1]) END,
            CASE WHEN m[2] LIKE '"%' THEN btrim(m[2], '"') ELSE lower(m[2]) END
        FROM bodies f CROSS JOIN LATERAL regexp_matches(f.text,
            '\m(?:from|join)\s+(?:only\s+)?(?:("[^"]+"|[[:alnum:]_$]+)\s*\.\s*)?("[^"]+"|[[:alnum:]_$]+)', 'gi') AS m),
    reads (function, relation) AS MATERIALIZED (SELECT m.function, c.oid FROM names m JOIN pg_class c ON c.relname = m.name
            JOIN pg_namespace s ON s.oid = c.relnamespace WHERE m.schema IS NULL OR s.nspname = m.schema
        UNION SELECT d.objid, d.refobjid FROM pg_depend d
            WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass),
    read (id, tables) AS (SELECT u.id, string_agg(DISTINCT format('%I.%I', n.nspname, c.relname), ', ') FROM used u
        JOIN reads r ON r.function = u.function JOIN pg_class c ON c.oid = r.relation JOIN pg_namespace n ON n.oid = c.relnamespace
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
        format('BEGIN; ALTER TABLE %1$I.%2$I ALTER COLUMN %3$I DROP EXPRESSION; CREATE FUNCTION %1$I.%4$I() RETURNS trigger LANGUAGE plpgsql
 AS $compute$ BEGIN NEW.%3$I := (SELECT %5$s FROM (SELECT NEW.*) AS new_row); RETURN NEW; END $compute$; CREATE TRIGGER %4$I
 BEFORE INSERT OR UPDATE ON %1$I.%2$I FOR EACH ROW EXECUTE FUNCTION %1$I.%4$I(); COMMIT;', n.nspname, c.relname, a.attname,
            left('compute_' || c.relname || '_' || a.attname, 60), pg_get_expr(e.adbin, e.adrelid))
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
            "at blue, where a trigger computes it from then on: {}",
            commands(found.iter().map(|[_, mend]| mend.clone()))
        ),
    );
    Ok(())
}
