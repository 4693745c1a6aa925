//! Sequences near their end, counted against the columns they feed.

use super::{Look, commands, listed, texts};
use bluegreen_core::Result;

/// Where it begins to matter.
const NEAR: &str = "0.9";

/// The columns that sequence `c` feeds: those it is owned by, and those whose default asks for its next number.
const FED: &str = "(SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.attinhcount FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid \
     AND a.attnum = d.refobjsubid WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass \
     AND d.deptype IN ('a', 'i') UNION SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.attinhcount FROM pg_depend d \
     JOIN pg_attrdef f ON f.oid = d.objid JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum \
     WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    // The smaller of the sequence's own end and what its columns can hold; descending ones count down. Only the end that it runs
    // towards is taken away: the other may be beyond what it would be by default. A partition's column is its parent's.
    let near = texts::<2>(
        look.blue,
        &format!(
            "SELECT format('%I.%I at %s of %s', s.schemaname, s.sequencename, s.last_value, l.last), \
             concat_ws(' ', l.widen, format('ALTER SEQUENCE %I.%I AS bigint %s;', s.schemaname, s.sequencename, \
              CASE WHEN s.increment_by > 0 THEN 'NO MAXVALUE' ELSE 'NO MINVALUE' END)) \
             FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname \
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename AND c.relkind = 'S' \
             CROSS JOIN LATERAL (SELECT string_agg(format(CASE WHEN EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = a.attrelid \
                AND a.attnum = ANY (p.partattrs)) THEN '/* %s must be made anew: %I is in its partition key, and keeps its type */' \
               ELSE 'ALTER TABLE %s ALTER COLUMN %I TYPE bigint;' END, a.attrelid::regclass, a.attname), ' ' \
               ORDER BY a.attrelid::regclass::text, a.attname) FILTER (WHERE a.atttypid IN ('int2'::regtype, 'int4'::regtype) \
               AND a.attinhcount = 0) AS widen, \
              CASE WHEN s.increment_by > 0 THEN least(s.max_value, min(CASE a.atttypid WHEN 'int2'::regtype THEN 32767 \
               WHEN 'int4'::regtype THEN 2147483647 END)) ELSE greatest(s.min_value, max(CASE a.atttypid \
               WHEN 'int2'::regtype THEN -32768 WHEN 'int4'::regtype THEN -2147483648 END)) END AS last \
              FROM {FED} AS a) AS l \
             WHERE s.last_value IS NOT NULL AND NOT s.cycle AND CASE WHEN s.increment_by > 0 \
              THEN (s.last_value::numeric - s.start_value) / nullif(l.last::numeric - s.start_value, 0) \
              ELSE (s.start_value::numeric - s.last_value) / nullif(s.start_value::numeric - l.last, 0) END >= {NEAR} ORDER BY 1"
        ),
    )
    .await?;
    if near.is_empty() {
        return Ok(());
    }
    let seen: Vec<&String> = near.iter().map(|[sequence, _]| sequence).collect();
    look.warns(
        "sequences-near-end",
        listed("sequence", &seen),
        "when it is used up every INSERT fails, on blue as on green; on green it would look like the migration's fault",
        format!(
            "at blue (another type of a column writes its table anew, and nobody reads or writes it meanwhile): {}",
            commands(near.iter().map(|[_, mend]| mend.clone()))
        ),
    );
    Ok(())
}
