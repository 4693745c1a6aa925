//! The schema, by `pg_dump` in sections: what was made by it is recorded, so that an unfinished try can be wiped.

use crate::connect::{SESSION_SETTINGS, Session};
use crate::error::{Doing, PgError, fault};
use crate::ident::copy_application_name;
use crate::replicator::Context;
use bluegreen_core::{Color, Kind, Result};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// PostgreSQL's programs of a version that can read the one server and write for the other.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Looks where distributions install them, and on the `PATH`. The target's major is right; a dump by a newer one
    /// has settings the target refuses, so the nearest below it that can read the source is the second choice.
    pub(crate) async fn find(given: Option<&Path>, source: u32, target: u32) -> Result<Self> {
        let mut folders: Vec<PathBuf> = given.map(Path::to_owned).into_iter().collect();
        if folders.is_empty() {
            if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
                folders.extend(versions.flatten().map(|v| v.path().join("bin")));
            }
            if let Some(path) = std::env::var_os("PATH") {
                folders.extend(std::env::split_paths(&path));
            }
        }
        let (source, target) = (source / 10_000, target / 10_000);
        let mut best: Option<(u32, PathBuf)> = None;
        for folder in folders {
            let Some(major) = major_of(&folder).await else { continue };
            let fits = (source..=target).contains(&major) || given.is_some();
            if fits && best.as_ref().is_none_or(|(m, _)| *m < major) {
                best = Some((major, folder));
            }
        }
        best.map(|(_, folder)| Self { folder }).ok_or_else(|| {
            fault(
                Kind::NotFound,
                "find pg_dump and pg_restore",
                format!(
                    "none of version {target} (or {source} and above) in /usr/lib/postgresql/*/bin or on the PATH; \
                     install postgresql-client-{target} or say where they are"
                ),
            )
        })
    }

    fn command(&self, tool: &str, context: &Context, color: Color) -> Command {
        let server = context.settings.server(color);
        let mut command = Command::new(self.folder.join(tool));
        command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .env("PGAPPNAME", copy_application_name(&context.settings.name))
            .env("PGOPTIONS", SESSION_SETTINGS)
            .env_remove("PGPASSWORD")
            .env("LC_MESSAGES", "C");
        if let Some(password) = server.conninfo().password() {
            command.env("PGPASSWORD", password);
        }
        command
    }
}

async fn major_of(folder: &Path) -> Option<u32> {
    if !folder.join("pg_restore").is_file() {
        return None;
    }
    let said = Command::new(folder.join("pg_dump"))
        .arg("--version")
        .output()
        .await
        .ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = text
        .split_whitespace()
        .find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

async fn run(tool: &str, context: &Context, color: Color, mut command: Command) -> Result<Vec<u8>> {
    let doing = format!("run {tool}");
    let done = command.output().await.doing(doing.clone())?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = context.settings.server(color).conninfo().redact(said.trim());
    Err(PgError::Tool {
        tool: tool.to_owned(),
        message: format!("{}: {said}", done.status),
    })
    .doing(doing)
}

/// Writes the schema as the snapshot sees it into `file`.
pub(crate) async fn dump(tools: &Tools, context: &Context, origin: Color, snapshot: &str, file: &Path) -> Result<()> {
    let mut command = tools.command("pg_dump", context, origin);
    command
        .args([
            "--format=custom",
            "--schema-only",
            "--no-publications",
            "--no-subscriptions",
        ])
        .args(["--no-password", "--exclude-schema=bluegreen"])
        .arg(format!("--snapshot={snapshot}"))
        .arg("--file")
        .arg(file)
        .arg("--dbname")
        .arg(libpq_string(context, origin));
    run("pg_dump", context, origin, command).await?;
    Ok(())
}

/// The connection string for a program: its options come by environment and would otherwise be overridden.
fn libpq_string(context: &Context, color: Color) -> String {
    context.settings.server(color).conninfo().without_password_and_options()
}

/// Every kind of thing that a dump's first section may make, and that is not part of another thing.
const OBJECTS: &str = "
    SELECT c AS classid, o AS objid FROM (
        SELECT tableoid, oid FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT tableoid, oid FROM pg_extension
        UNION ALL SELECT tableoid, oid FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'
        UNION ALL SELECT tableoid, oid FROM pg_type
        UNION ALL SELECT tableoid, oid FROM pg_proc
        UNION ALL SELECT tableoid, oid FROM pg_collation
        UNION ALL SELECT tableoid, oid FROM pg_conversion
        UNION ALL SELECT tableoid, oid FROM pg_operator
        UNION ALL SELECT tableoid, oid FROM pg_opfamily
        UNION ALL SELECT tableoid, oid FROM pg_opclass
        UNION ALL SELECT tableoid, oid FROM pg_cast
        UNION ALL SELECT tableoid, oid FROM pg_language
        UNION ALL SELECT tableoid, oid FROM pg_ts_config
        UNION ALL SELECT tableoid, oid FROM pg_ts_dict
        UNION ALL SELECT tableoid, oid FROM pg_ts_parser
        UNION ALL SELECT tableoid, oid FROM pg_ts_template
        UNION ALL SELECT tableoid, oid FROM pg_foreign_data_wrapper
        UNION ALL SELECT tableoid, oid FROM pg_foreign_server
    ) AS things (c, o)
    WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = c AND d.objid = o AND d.deptype IN ('i', 'e'))";

/// Makes schemas, types, functions and tables at `follower`, and records in the same transaction what was made.
pub(crate) async fn restore_tables(
    tools: &Tools,
    context: &Context,
    follower: Color,
    session: &mut Session,
    file: &Path,
) -> Result<()> {
    let mut command = tools.command("pg_restore", context, follower);
    command.args(["--section=pre-data", "--file=-"]).arg(file);
    let sql = run("pg_restore", context, follower, command).await?;
    let sql =
        String::from_utf8(sql).map_err(|_| fault(Kind::Unexpected, "read the schema", "the dump is not in UTF-8"))?;
    // Only psql understands these; a session of ours needs no protection from psql's commands.
    let sql: String = sql
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "))
        .collect();
    let doing = "make the schema";
    let transaction = session.transaction().await.doing(doing)?;
    transaction
        .batch_execute(&format!("CREATE TEMP TABLE before_us ON COMMIT DROP AS {OBJECTS}"))
        .await
        .doing(doing)?;
    transaction.batch_execute(&sql).await.doing(doing)?;
    transaction
        .execute(
            &format!(
                "INSERT INTO bluegreen.made (migration, kind, identity) SELECT $1, i.type, i.identity FROM \
                 ({OBJECTS} EXCEPT SELECT classid, objid FROM pg_temp.before_us) AS t, \
                 LATERAL pg_identify_object(t.classid, t.objid, 0) AS i \
                 ORDER BY t.classid = 'pg_namespace'::regclass, t.objid"
            ),
            &[&context.settings.name],
        )
        .await
        .doing("record what was made")?;
    transaction.commit().await.doing(doing)
}

/// Makes indexes, constraints and triggers at `follower`, several at a time.
pub(crate) async fn restore_rest(tools: &Tools, context: &Context, follower: Color, file: &Path) -> Result<()> {
    let mut command = tools.command("pg_restore", context, follower);
    command
        .args(["--section=post-data", "--exit-on-error", "--no-password"])
        .arg(format!("--jobs={}", context.options.copy_jobs))
        .arg("--dbname")
        .arg(libpq_string(context, follower))
        .arg(file);
    run("pg_restore", context, follower, command).await?;
    Ok(())
}

/// Drops what an unfinished try made, and nothing else.
pub(crate) async fn wipe(session: &mut Session, migration: &str) -> Result<()> {
    let doing = "drop what the unfinished copy made";
    let transaction = session.transaction().await.doing(doing)?;
    let made = transaction
        .query(
            "SELECT kind, identity FROM bluegreen.made WHERE migration = $1 ORDER BY ordinal",
            &[&migration],
        )
        .await
        .doing(doing)?;
    for row in &made {
        let (kind, identity): (&str, &str) = (row.get(0), row.get(1));
        transaction
            .batch_execute(&format!("DROP {kind} IF EXISTS {identity} CASCADE"))
            .await
            .doing(format!("{doing}: {kind} {identity}"))?;
    }
    transaction
        .execute("DELETE FROM bluegreen.made WHERE migration = $1", &[&migration])
        .await
        .doing(doing)?;
    transaction.commit().await.doing(doing)
}
