//! Extensions: that green's server has their files, of which version; those that no mirror carries, and those that run jobs.

use super::{Look, commands, listed, names, texts};
use crate::ident::ident;
use bluegreen_core::Result;
use std::collections::BTreeMap;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    files(look).await?;
    unmovable(look).await?;
    jobs(look).await
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

/// Extensions whose tables are more than tables, or which replicate by themselves; and why no mirror of ours carries them.
const UNMOVABLE: [(&str, &str); 7] = [
    ("bdr", "it replicates by itself"),
    ("citus", "its tables' rows are on other servers"),
    (
        "citus_columnar",
        "its tables have no changes in the log that could be decoded",
    ),
    ("pgactive", "it replicates by itself"),
    ("pglogical", "it replicates by itself"),
    ("spock", "it replicates by itself"),
    (
        "timescaledb",
        "its chunks are made by itself, and known in its own catalogue only",
    ),
];

async fn unmovable(look: &mut Look<'_>) -> Result<()> {
    let installed = names(look.blue, "SELECT extname::text FROM pg_extension ORDER BY 1", &[]).await?;
    let (mut seen, mut mend) = (Vec::new(), Vec::new());
    for (name, why) in UNMOVABLE.iter().filter(|(name, _)| installed.iter().any(|e| e == name)) {
        seen.push(format!("{} ({why})", ident(name)));
        mend.push(format!("DROP EXTENSION {};", ident(name)));
    }
    if !seen.is_empty() {
        look.blocks(
            "unmovable-extensions",
            listed("extension", &seen),
            "the mirror carries the rows of ordinary tables: what such an extension keeps would be missing on green, or be doubled",
            format!(
                "move this database by the extension's own means; where nothing uses it, at blue: {}",
                commands(mend)
            ),
        );
    }
    Ok(())
}

/// Extensions with jobs: where they keep them, which of them run here by themselves, and what switches them off.
const JOBS: [(&str, &str, &str, &str); 2] = [
    (
        "pg_cron",
        "job",
        "SELECT jobid::text, coalesce(to_jsonb(j) ->> 'jobname', left(command, 60)) FROM {table} AS j \
         WHERE database = current_database() AND coalesce((to_jsonb(j) ->> 'active')::boolean, true) ORDER BY jobid",
        "UPDATE {table} SET active = false WHERE jobid = {key};",
    ),
    (
        "pg_partman",
        "part_config",
        "SELECT quote_literal(parent_table), 'partitions of ' || parent_table FROM {table} WHERE automatic_maintenance = 'on' ORDER BY 1",
        "UPDATE {table} SET automatic_maintenance = 'off' WHERE parent_table = {key};",
    ),
];

async fn jobs(look: &mut Look<'_>) -> Result<()> {
    let (mut seen, mut mend) = (Vec::new(), Vec::new());
    for (extension, table, list, off) in JOBS {
        let tables = names(
            look.blue,
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_extension e JOIN pg_depend d ON d.deptype = 'e' AND d.refobjid = e.oid \
             AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass JOIN pg_class c ON c.oid = d.objid \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE e.extname = $1 AND c.relname = $2 AND c.relkind = 'r'",
            &[&extension, &table],
        )
        .await?;
        for table in tables {
            for [key, job] in texts::<2>(look.blue, &list.replace("{table}", &table)).await? {
                seen.push(format!("{job} ({extension})"));
                mend.push(off.replace("{table}", &table).replace("{key}", &key));
            }
        }
    }
    if !seen.is_empty() {
        look.warns(
            "extension-jobs",
            format!("runs by itself at blue: {}", listed("job", &seen)),
            "a job that makes or drops tables or partitions while the migration runs stops the cut-over; and its row goes over, so \
             that it runs at green too, where it fails while green is a mirror",
            format!(
                "until the migration is done, and then the same the other way at green (a job of pg_cron names its database), at blue: {}",
                commands(mend)
            ),
        );
    }
    Ok(())
}
