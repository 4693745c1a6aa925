//! What blue has that logical replication does not carry, or that green needs first.

use super::{Look, OURS_NOT, SHOWN, commands, listed, names, texts};
use crate::ident::{ident, literal, shell};
use bluegreen_core::Result;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    large_objects(look).await?;
    relations(look).await?;
    tablespaces(look).await
}

async fn large_objects(look: &mut Look<'_>) -> Result<()> {
    let objects = texts::<2>(
        look.blue,
        &format!(
            "SELECT (SELECT count(*) FROM pg_largeobject_metadata)::text, (SELECT string_agg(oid::text, ', ') FROM \
             (SELECT oid FROM pg_largeobject_metadata ORDER BY oid LIMIT {SHOWN}) AS first)"
        ),
    )
    .await?;
    let blue = look.context.settings.blue.conninfo().without_password();
    if let Some([count, first]) = objects.first().filter(|[_, first]| !first.is_empty()) {
        look.blocks(
            "large-objects",
            format!("large objects at blue: {count}, the first of them {first}"),
            "they are not replicated: green would not have them",
            format!(
                "keep them in a bytea column instead; those that no column of type oid or lo names any more, which vacuumlo --dry-run \
                 counts, in a shell: vacuumlo --verbose {}",
                shell(&blue)
            ),
        );
    }
    Ok(())
}

async fn relations(look: &mut Look<'_>) -> Result<()> {
    let of = |kind: &str| {
        format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {OURS_NOT} AND c.relkind = '{kind}' ORDER BY 1"
        )
    };
    let foreign = names(look.blue, &of("f"), &[]).await?;
    if !foreign.is_empty() {
        look.warns(
            "foreign-tables",
            listed("foreign table", &foreign),
            "their definition goes over, their rows stay where they are: green's server must reach them itself",
            "try them from green's machine, and add the user mappings' passwords there",
        );
    }
    let views = names(look.blue, &of("m"), &[]).await?;
    if !views.is_empty() {
        look.notes(
            "materialized-views",
            listed("materialized view", &views),
            "they are filled once with the first copy and do not follow blue afterwards: green's are as old when it becomes the writer",
            format!(
                "after the cut-over, at green: {}",
                commands(views.iter().map(|view| format!("REFRESH MATERIALIZED VIEW {view};")))
            ),
        );
    }
    Ok(())
}

/// A tablespace is a folder of the server: it is not made by us.
async fn tablespaces(look: &mut Look<'_>) -> Result<()> {
    let used = texts::<2>(
        look.blue,
        &format!(
            "SELECT DISTINCT t.spcname::text, pg_tablespace_location(t.oid) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_tablespace t ON t.oid = c.reltablespace \
             WHERE {OURS_NOT} ORDER BY 1"
        ),
    )
    .await?;
    let there = names(look.green, "SELECT spcname::text FROM pg_tablespace", &[]).await?;
    // A table's fails at once, an index's after all rows.
    let shut = names(
        look.green,
        "SELECT quote_ident(spcname) FROM pg_tablespace WHERE spcname = ANY ($1) AND NOT has_tablespace_privilege(oid, 'CREATE') ORDER BY 1",
        &[&used.iter().map(|[space, _]| space).collect::<Vec<_>>()],
    )
    .await?;
    if !shut.is_empty() {
        let user = ident(look.context.settings.green.conninfo().user());
        look.blocks(
            "right-tablespaces",
            format!(
                "the user {user} may make nothing at green in {}",
                listed("tablespace", &shut)
            ),
            "blue's schema names them: it cannot be made on green without that right",
            format!(
                "at green: {}",
                commands(
                    shut.iter()
                        .map(|space| format!("GRANT CREATE ON TABLESPACE {space} TO {user};"))
                )
            ),
        );
    }
    let missing: Vec<&[String; 2]> = used.iter().filter(|[space, _]| !there.contains(space)).collect();
    if !missing.is_empty() {
        let seen: Vec<String> = missing
            .iter()
            .map(|[space, place]| format!("{} ({place})", ident(space)))
            .collect();
        let mend = missing
            .iter()
            .map(|[space, place]| format!("CREATE TABLESPACE {} LOCATION {};", ident(space), literal(place)));
        look.blocks(
            "missing-tablespaces",
            format!("green does not have {}", listed("tablespace", &seen)),
            "blue's schema names them: it cannot be made on green without them",
            format!(
                "make the folder for the server's user on green's machine, and at green: {}",
                commands(mend)
            ),
        );
    }
    Ok(())
}
