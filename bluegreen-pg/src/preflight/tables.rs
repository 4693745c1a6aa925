//! Blue's tables: what of them is not mirrored, and what the apply at green would stumble over.

use super::{Look, commands, listed, names, own_schema, texts};
use crate::catalog::APPLICATION;
use bluegreen_core::Result;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    not_mirrored(look).await?;
    partitioned(look).await?;
    own_schema::check(look).await?;
    triggers(look).await
}

/// Tables whose rows are in no log.
async fn not_mirrored(look: &mut Look<'_>) -> Result<()> {
    let unlogged = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {APPLICATION} AND c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1"
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
                "if their rows must come along, at blue (each writes its table anew, and nobody reads or writes it meanwhile): {}",
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
             WHERE {APPLICATION} AND c.relkind = 'p' AND NOT c.relispartition ORDER BY 1"
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

/// Triggers that fire for changes that arrive: ALWAYS ones also where the change was made, REPLICA ones only then.
async fn triggers(look: &mut Look<'_>) -> Result<()> {
    let firing = texts::<3>(
        look.blue,
        &format!(
            "SELECT format('%I on %I.%I', t.tgname, n.nspname, c.relname), t.tgenabled::text, \
             format('ALTER TABLE %I.%I %s TRIGGER %I;', n.nspname, c.relname, \
              CASE t.tgenabled WHEN 'A' THEN 'ENABLE' ELSE 'DISABLE' END, t.tgname) \
             FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {APPLICATION} AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') ORDER BY 1"
        ),
    )
    .await?;
    if !firing.is_empty() {
        let seen: Vec<String> = firing
            .iter()
            .map(|[trigger, when, _]| match when.as_str() {
                "A" => format!("{trigger} (ENABLE ALWAYS)"),
                _ => format!("{trigger} (ENABLE REPLICA)"),
            })
            .collect();
        look.warns(
            "triggers-fire-on-apply",
            listed("trigger", &seen),
            "it fires on green for every change that arrives: what an ALWAYS one does is done twice, and what a REPLICA one does \
             is done though blue's application never made it fire",
            format!(
                "if it must not, at blue: {}",
                commands(firing.iter().map(|[.., mend]| mend.clone()))
            ),
        );
    }
    Ok(())
}
