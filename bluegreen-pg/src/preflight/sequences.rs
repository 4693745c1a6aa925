//! Sequences near their end, counted against the column they feed.

use super::{Look, commands, listed, texts};
use bluegreen_core::Result;

/// Where it begins to matter.
const NEAR: &str = "0.9";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    // The smaller of the sequence's own end and what its column can hold; descending ones count down.
    let near = texts::<2>(
        look.blue,
        &format!(
            "SELECT format('%I.%I at %s of %s', s.schemaname, s.sequencename, s.last_value, l.last), \
             concat_ws(' ', CASE WHEN l.narrow IS NOT NULL THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint;', l.tab, l.narrow) END, \
              CASE WHEN NOT l.identity OR l.narrow IS NULL THEN \
               format('ALTER SEQUENCE %I.%I AS bigint NO MAXVALUE NO MINVALUE;', s.schemaname, s.sequencename) END) \
             FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname \
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename AND c.relkind = 'S' \
             CROSS JOIN LATERAL (SELECT coalesce(min(a.attrelid::regclass::text), '') AS tab, coalesce(bool_or(d.deptype = 'i'), false) AS identity, \
              min(a.attname) FILTER (WHERE a.atttypid IN ('int2'::regtype, 'int4'::regtype)) AS narrow, \
              CASE WHEN s.increment_by > 0 THEN least(s.max_value, min(CASE a.atttypid WHEN 'int2'::regtype THEN 32767 \
               WHEN 'int4'::regtype THEN 2147483647 END)) ELSE greatest(s.min_value, max(CASE a.atttypid \
               WHEN 'int2'::regtype THEN -32768 WHEN 'int4'::regtype THEN -2147483648 END)) END AS last \
              FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
              WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass \
              AND d.deptype IN ('a', 'i')) AS l \
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
        commands(near.iter().map(|[_, mend]| mend.clone())),
    );
    Ok(())
}
