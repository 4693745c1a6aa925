//! What blue has that logical replication does not carry, or that green needs first.

use super::{Look, OURS_NOT, commands, listed, names, texts};
use crate::ident::ident;
use bluegreen_core::Result;
use std::collections::{BTreeMap, BTreeSet};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    large_objects(look).await?;
    relations(look).await?;
    event_triggers(look).await?;
    extensions(look).await?;
    roles(look).await?;
    tablespaces(look).await
}

async fn large_objects(look: &mut Look<'_>) -> Result<()> {
    let objects = names(
        look.blue,
        "SELECT oid::text FROM pg_largeobject_metadata ORDER BY oid LIMIT 1000",
        &[],
    )
    .await?;
    if !objects.is_empty() {
        look.blocks(
            "large-objects",
            listed("large object", &objects),
            "they are not replicated: green would not have them",
            "keep them in a bytea column instead; those nobody needs: SELECT lo_unlink(oid) FROM pg_largeobject_metadata;",
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
            "they are filled once with the first copy and do not follow blue afterwards",
            format!(
                "after the cut-over, at green: {}",
                commands(views.iter().map(|view| format!("REFRESH MATERIALIZED VIEW {view};")))
            ),
        );
    }
    Ok(())
}

async fn event_triggers(look: &mut Look<'_>) -> Result<()> {
    let triggers = names(
        look.blue,
        "SELECT quote_ident(evtname) FROM pg_event_trigger t WHERE evtenabled <> 'D' AND NOT EXISTS (SELECT FROM pg_depend d \
         WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = t.oid AND d.deptype = 'e') ORDER BY 1",
        &[],
    )
    .await?;
    if !triggers.is_empty() {
        look.warns(
            "event-triggers",
            listed("event trigger", &triggers),
            "they may run on what the migration itself creates and drops; and changes of the schema are not replicated",
            "see that they do no harm to the schema `bluegreen`, and change no table until the migration is done",
        );
    }
    Ok(())
}

async fn extensions(look: &mut Look<'_>) -> Result<()> {
    let installed = texts::<2>(
        look.blue,
        "SELECT extname::text, extversion::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1",
    )
    .await?;
    let available: BTreeMap<String, String> = texts::<2>(
        look.green,
        "SELECT a.name::text, coalesce(e.extversion, a.default_version)::text FROM pg_available_extensions a \
         LEFT JOIN pg_extension e ON e.extname = a.name",
    )
    .await?
    .into_iter()
    .map(|[name, version]| (name, version))
    .collect();
    let missing: Vec<&String> = installed
        .iter()
        .map(|[name, _]| name)
        .filter(|name| !available.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        look.blocks(
            "missing-extensions",
            format!("green's server has no files of {}", listed("extension", &missing)),
            "blue's schema uses them: it cannot be made on green",
            "install the packages of these extensions on green's machine, for its version of PostgreSQL",
        );
    }
    let other: Vec<String> = installed
        .iter()
        .filter_map(|[name, version]| {
            let there = available.get(name)?;
            (there != version).then(|| format!("{name} ({version} on blue, {there} on green)"))
        })
        .collect();
    if !other.is_empty() {
        look.notes(
            "extension-versions",
            format!("of another version on green: {}", listed("extension", &other)),
            "an extension may behave differently in another version",
            "read its release notes, or at blue: ALTER EXTENSION ... UPDATE",
        );
    }
    Ok(())
}

/// Roles are the server's, not the database's: they do not come with it.
async fn roles(look: &mut Look<'_>) -> Result<()> {
    let used = names(
        look.blue,
        &format!(
            "SELECT r.rolname::text FROM pg_roles r JOIN (SELECT refobjid FROM pg_shdepend \
              WHERE refclassid = 'pg_authid'::regclass AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
              UNION SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS_NOT}) AS u \
             ON u.refobjid = r.oid WHERE r.rolname !~ '^pg_' ORDER BY 1"
        ),
        &[],
    )
    .await?;
    let there: BTreeSet<String> = names(look.green, "SELECT rolname::text FROM pg_roles", &[])
        .await?
        .into_iter()
        .collect();
    let missing: Vec<String> = used
        .iter()
        .filter(|role| !there.contains(*role))
        .map(|role| ident(role))
        .collect();
    if !missing.is_empty() {
        look.blocks(
            "missing-roles",
            format!("green does not know {}", listed("role", &missing)),
            "they own things in blue's database or were granted rights there: its schema cannot be made on green without them",
            format!(
                "pg_dumpall --roles-only at blue, or at green: {}",
                commands(missing.iter().map(|role| format!("CREATE ROLE {role} LOGIN;")))
            ),
        );
    }
    Ok(())
}

async fn tablespaces(look: &mut Look<'_>) -> Result<()> {
    let used = names(
        look.blue,
        &format!(
            "SELECT DISTINCT t.spcname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE {OURS_NOT} ORDER BY 1"
        ),
        &[],
    )
    .await?;
    let there: BTreeSet<String> = names(look.green, "SELECT spcname::text FROM pg_tablespace", &[])
        .await?
        .into_iter()
        .collect();
    let missing: Vec<String> = used
        .iter()
        .filter(|space| !there.contains(*space))
        .map(|space| ident(space))
        .collect();
    if !missing.is_empty() {
        look.blocks(
            "missing-tablespaces",
            format!("green does not have {}", listed("tablespace", &missing)),
            "blue's schema names them: it cannot be made on green without them",
            commands(
                missing
                    .iter()
                    .map(|space| format!("CREATE TABLESPACE {space} LOCATION '...';")),
            ),
        );
    }
    Ok(())
}
