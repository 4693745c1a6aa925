//! Blue's tables: that every row can be identified, and what the apply at green would stumble over.

use super::{Look, OURS_NOT, commands, listed, names, own_schema, texts};
use bluegreen_core::Result;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    identity(look).await?;
    full(look).await?;
    not_mirrored(look).await?;
    partitioned(look).await?;
    own_schema::check(look).await?;
    triggers(look).await
}

/// DEFAULT without a primary key, with a deferrable one, NOTHING, and an index that is gone.
async fn identity(look: &mut Look<'_>) -> Result<()> {
    let without = texts::<3>(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname), CASE c.relreplident WHEN 'n' THEN 'REPLICA IDENTITY NOTHING' \
              WHEN 'i' THEN 'the index of its REPLICA IDENTITY is gone' ELSE coalesce((SELECT 'its primary key is deferrable' \
              FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), 'no primary key') END, \
             (SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid \
              AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
              AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
               AND NOT a.attnotnull) ORDER BY i.indisprimary DESC, i.indnatts, x.relname LIMIT 1) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {OURS_NOT} AND c.relkind = 'r' AND c.relpersistence = 'p' AND (c.relreplident = 'n' \
              OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary \
               AND i.indimmediate) \
              OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)) \
             ORDER BY 1"
        ),
    )
    .await?;
    if without.is_empty() {
        return Ok(());
    }
    let seen: Vec<String> = without
        .iter()
        .map(|[table, how, _]| format!("{table} ({how})"))
        .collect();
    let mend = without.iter().map(|[table, _, index]| match index.as_str() {
        "" => format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"),
        index => format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index};"),
    });
    look.blocks(
        "no-replica-identity",
        format!("nothing identifies a row of {}", listed("table", &seen)),
        "UPDATE and DELETE on it fail on blue as soon as it is published",
        format!("at blue, or better give it a primary key: {}", commands(mend)),
    );
    Ok(())
}

/// Tables identified by the whole row.
async fn full(look: &mut Look<'_>) -> Result<()> {
    let whole = texts::<3>(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname), (SELECT string_agg(quote_ident(a.attname) || ' ' || \
              format_type(a.atttypid, NULL), ', ') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
              AND NOT a.attisdropped AND a.atttypid = ANY (ARRAY['json', 'xml', 'point', 'box', 'circle', 'lseg', 'path', \
              'line', 'polygon', 'jsonpath', 'pg_snapshot', 'txid_snapshot']::regtype[]::oid[])), \
             (c.reltuples > 10000)::text \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS_NOT} AND c.relkind = 'r' \
             AND c.relpersistence = 'p' AND c.relreplident = 'f' ORDER BY 1"
        ),
    )
    .await?;
    let uncomparable: Vec<String> = whole
        .iter()
        .filter(|[_, columns, _]| !columns.is_empty())
        .map(|[table, columns, _]| format!("{table} ({columns})"))
        .collect();
    if !uncomparable.is_empty() {
        look.blocks(
            "full-without-equality",
            format!(
                "identified by the whole row, with columns that cannot be compared: {}",
                listed("table", &uncomparable)
            ),
            "green cannot find the row that an UPDATE or DELETE means, and the mirror stops",
            "give it a primary key, or a unique index on columns that are not null and REPLICA IDENTITY USING INDEX",
        );
    }
    let large: Vec<&String> = whole
        .iter()
        .filter(|[_, columns, large]| columns.is_empty() && large == "true")
        .map(|[table, ..]| table)
        .collect();
    if !large.is_empty() {
        look.warns(
            "full-identity-on-large-table",
            format!("identified by the whole row: {}", listed("large table", &large)),
            "for every UPDATE or DELETE green may read the whole table: the mirror falls behind",
            "give it a primary key, or a unique index on columns that are not null and REPLICA IDENTITY USING INDEX",
        );
    }
    Ok(())
}

/// Tables whose rows are in no log.
async fn not_mirrored(look: &mut Look<'_>) -> Result<()> {
    let unlogged = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {OURS_NOT} AND c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1"
        ),
        &[],
    )
    .await?;
    if !unlogged.is_empty() {
        look.warns(
            "unlogged-tables",
            listed("unlogged table", &unlogged),
            "their rows are in no log: on green they are empty",
            format!(
                "if their rows must come along, at blue: {}",
                commands(unlogged.iter().map(|table| format!("ALTER TABLE {table} SET LOGGED;")))
            ),
        );
    }
    let temporary = names(
        look.blue,
        "SELECT quote_ident(relname) FROM pg_class WHERE relkind IN ('r', 'p') AND relpersistence = 't' ORDER BY 1",
        &[],
    )
    .await?;
    if !temporary.is_empty() {
        look.notes(
            "temporary-tables",
            format!("sessions at blue have {}", listed("temporary table", &temporary)),
            "they live and die with their session: at the cut-over clients get sessions at green, without them",
            "see that the application makes them anew in a new session",
        );
    }
    Ok(())
}

/// Partitions are mirrored one by one, as they were when the mirror began.
async fn partitioned(look: &mut Look<'_>) -> Result<()> {
    let roots = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I (%s partitions)', n.nspname, c.relname, (SELECT count(*) FROM pg_partition_tree(c.oid) WHERE isleaf)) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {OURS_NOT} AND c.relkind = 'p' AND NOT c.relispartition ORDER BY 1"
        ),
        &[],
    )
    .await?;
    if !roots.is_empty() {
        look.notes(
            "partitioned-tables",
            listed("partitioned table", &roots),
            "a partition that is made or attached while the migration runs is not in the mirror: the cut-over is refused before \
             anything is lost, and the mirror must begin again",
            "before it starts, make the partitions that will be needed until blue is given up, and stop the jobs that make them",
        );
    }
    Ok(())
}

async fn triggers(look: &mut Look<'_>) -> Result<()> {
    let firing = texts::<2>(
        look.blue,
        &format!(
            "SELECT format('%I on %I.%I', t.tgname, n.nspname, c.relname), \
             format('ALTER TABLE %I.%I ENABLE TRIGGER %I;', n.nspname, c.relname, t.tgname) \
             FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {OURS_NOT} AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') ORDER BY 1"
        ),
    )
    .await?;
    if !firing.is_empty() {
        let seen: Vec<&String> = firing.iter().map(|[trigger, _]| trigger).collect();
        look.warns(
            "triggers-fire-on-apply",
            format!("ENABLE ALWAYS or ENABLE REPLICA: {}", listed("trigger", &seen)),
            "it fires on green too for every change that arrives: what it does is done twice",
            format!(
                "if it must not, at blue: {}",
                commands(firing.iter().map(|[_, mend]| mend.clone()))
            ),
        );
    }
    Ok(())
}
