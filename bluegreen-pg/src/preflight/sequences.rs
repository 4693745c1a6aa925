//! Sequences near their end, counted against the columns they feed.

use super::{Look, commands, listed, names, texts};
use bluegreen_core::Result;

/// Where it begins to matter.
const NEAR: &str = "0.9";

/// The columns that sequence `s` feeds: those it is owned by, and those whose default asks for its next number.
const FED: &str = "(SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.attinhcount FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid \
     AND a.attnum = d.refobjsubid WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass \
     AND d.deptype IN ('a', 'i') UNION SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.attinhcount FROM pg_depend d \
     JOIN pg_attrdef f ON f.oid = d.objid JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum \
     WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid)";

/// So many are read by one statement, which keeps a lock on each until its end: all at once they could fill the server's table of locks.
const AT_ONCE: usize = 500;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let all = names(
        look.blue,
        "SELECT c.oid::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname <> 'bluegreen' ORDER BY c.oid",
        &[],
    )
    .await?;
    let mut near: Vec<[String; 2]> = Vec::new();
    for some in all.chunks(AT_ONCE) {
        near.extend(texts::<2>(look.blue, &near_end(&some.join(","))).await?);
    }
    near.sort();
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

/// The smaller of the sequence's own end and what its columns can hold; descending ones count down. Only the end that it runs
/// towards is taken away: the other may be beyond what it would be by default. A partition's column is its parent's.
fn near_end(oids: &str) -> String {
    format!(
        "WITH s AS MATERIALIZED (SELECT n.nspname, c.relname, c.oid, q.seqincrement AS step, q.seqstart AS start, q.seqmin AS least, \
          q.seqmax AS most, CASE WHEN has_sequence_privilege(c.oid, 'SELECT, USAGE') THEN pg_sequence_last_value(c.oid) END AS now \
          FROM pg_sequence q JOIN pg_class c ON c.oid = q.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
          WHERE q.seqrelid = ANY ('{{{oids}}}'::oid[]) AND NOT q.seqcycle) \
         SELECT format('%I.%I at %s of %s', s.nspname, s.relname, s.now, l.last), \
         concat_ws(' ', l.widen, format('ALTER SEQUENCE %I.%I AS bigint %s;', s.nspname, s.relname, \
          CASE WHEN s.step > 0 THEN 'NO MAXVALUE' ELSE 'NO MINVALUE' END)) \
         FROM s CROSS JOIN LATERAL (SELECT string_agg(format(CASE WHEN EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = a.attrelid \
            AND a.attnum = ANY (p.partattrs)) THEN '/* %s must be made anew: %I is in its partition key, and keeps its type */' \
           ELSE 'ALTER TABLE %s ALTER COLUMN %I TYPE bigint;' END, a.attrelid::regclass, a.attname), ' ' \
           ORDER BY a.attrelid::regclass::text, a.attname) FILTER (WHERE a.atttypid IN ('int2'::regtype, 'int4'::regtype) \
           AND a.attinhcount = 0) AS widen, \
          CASE WHEN s.step > 0 THEN least(s.most, min(CASE a.atttypid WHEN 'int2'::regtype THEN 32767 \
           WHEN 'int4'::regtype THEN 2147483647 END)) ELSE greatest(s.least, max(CASE a.atttypid \
           WHEN 'int2'::regtype THEN -32768 WHEN 'int4'::regtype THEN -2147483648 END)) END AS last \
          FROM {FED} AS a) AS l \
         WHERE s.now IS NOT NULL AND CASE WHEN s.step > 0 THEN (s.now::numeric - s.start) / nullif(l.last::numeric - s.start, 0) \
          ELSE (s.start::numeric - s.now) / nullif(s.start::numeric - l.last, 0) END >= {NEAR}"
    )
}
