//! Extensions: that green's server has their files, of which version, and the rows they keep for the application.

use super::{Look, commands, listed, names, texts};
use crate::ident::ident;
use bluegreen_core::Result;
use std::collections::BTreeMap;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    files(look).await?;
    rows(look).await
}

async fn files(look: &mut Look<'_>) -> Result<()> {
    let installed = texts::<2>(
        look.blue,
        "SELECT extname::text, extversion::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1",
    )
    .await?;
    // What CREATE EXTENSION would make, or what is there.
    let available: BTreeMap<String, String> = texts::<2>(
        look.green,
        "SELECT a.name::text, coalesce(e.extversion, a.default_version)::text FROM pg_available_extensions a \
         LEFT JOIN pg_extension e ON e.extname = a.name",
    )
    .await?
    .into_iter()
    .map(|[name, version]| (name, version))
    .collect();
    let missing: Vec<String> = installed
        .iter()
        .filter(|[name, _]| !available.contains_key(name))
        .map(|[name, version]| format!("{} {version}", ident(name)))
        .collect();
    if !missing.is_empty() {
        look.blocks(
            "missing-extensions",
            format!("green's server has no files of {}", listed("extension", &missing)),
            "blue's schema uses them: it cannot be made on green",
            "install the packages of these extensions on green's machine, for its version of PostgreSQL",
        );
    }
    let other: Vec<(&String, &String, &String)> = installed
        .iter()
        .filter_map(|[name, version]| {
            let there = available.get(name)?;
            (there != version).then_some((name, version, there))
        })
        .collect();
    if !other.is_empty() {
        let seen: Vec<String> = other
            .iter()
            .map(|(name, blue, green)| format!("{name} ({blue} on blue, {green} on green)"))
            .collect();
        let mend = other
            .iter()
            .map(|(name, _, green)| format!("ALTER EXTENSION {} UPDATE TO '{green}';", ident(name)));
        look.notes(
            "extension-versions",
            format!("of another version on green: {}", listed("extension", &seen)),
            "an extension may behave differently in another version",
            format!(
                "read its release notes; where blue has the older one and its files of the newer, at blue: {}",
                commands(mend)
            ),
        );
    }
    Ok(())
}

/// Tables that belong to an extension and hold what users put there: their rows are neither copied nor mirrored.
async fn rows(look: &mut Look<'_>) -> Result<()> {
    let kept = texts::<3>(
        look.blue,
        "SELECT e.extname::text, format('%I.%I', n.nspname, c.relname), k.condition FROM pg_extension e \
         CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) AS k (rel, condition) \
         JOIN pg_class c ON c.oid = k.rel AND c.relkind IN ('r', 'p') JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2",
    )
    .await?;
    let mut full = Vec::new();
    for [extension, table, condition] in kept {
        // The condition is the extension's own, and leaves out what it brought along itself.
        let some = names(
            look.blue,
            &format!("SELECT 'some' WHERE EXISTS (SELECT FROM {table} {condition})"),
            &[],
        )
        .await?;
        if !some.is_empty() {
            full.push((extension, table));
        }
    }
    if full.is_empty() {
        return Ok(());
    }
    let seen: Vec<String> = full
        .iter()
        .map(|(extension, table)| format!("{table} of {extension}"))
        .collect();
    let mend: Vec<String> = full.iter().map(|(_, table)| format!("--table='{table}'")).collect();
    let (blue, green) = (&look.context.settings.blue, &look.context.settings.green);
    let mend = format!(
        "after the copy: pg_dump --data-only {} \"{}\" | psql \"{} options='-c default_transaction_read_only=off'\"",
        mend.join(" "),
        blue.conninfo().without_password_and_options(),
        green.conninfo().without_password_and_options()
    );
    look.warns(
        "extension-rows",
        format!("there are rows of the application's in {}", listed("table", &seen)),
        "a table that an extension made belongs to it: it is made on green by the extension, and its rows do not follow",
        mend,
    );
    Ok(())
}
