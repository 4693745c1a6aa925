//! The schema, by `pg_dump` in sections.

use crate::connect::{SESSION_SETTINGS, Session};
use crate::error::{Doing, PgError, describe, fault};
use crate::ident::copy_application_name;
use crate::replicator::Context;
use bluegreen_core::{Color, Kind, Result};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_postgres::error::SqlState;

/// PostgreSQL's programs of a version that can read the one server and write for the other.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Looks in the given folder and then in those in it; else where distributions install them, and then on the `PATH`. The
    /// first of the target's major is right; a dump by a newer one has settings the target refuses, so the nearest below it that
    /// can read the source is the second choice.
    pub(crate) async fn find(given: Option<&Path>, source: u32, target: u32) -> Result<Self> {
        let (source, target) = (source / 10_000, target / 10_000);
        let mut there = Vec::new();
        for folder in folders(given, target) {
            match major_of(&folder).await {
                // Each one asked costs some hundredths of a second, and none fits better.
                Some(major) if major == target => return Ok(Self { folder }),
                Some(major) => there.push((major, folder)),
                None => {}
            }
        }
        there.sort_by_key(|(major, _)| *major);
        let fits = |(major, _): &&(u32, PathBuf)| (source..=target).contains(major);
        if let Some((_, folder)) = there.iter().rfind(fits) {
            return Ok(Self { folder: folder.clone() });
        }
        there.dedup_by_key(|(major, _)| *major);
        let seen: Vec<String> = there.iter().map(|(m, f)| format!("{m} in {}", f.display())).collect();
        let place = match given {
            Some(folder) => folder.display().to_string(),
            None => "/usr/lib/postgresql/*/bin and /usr/pgsql-*/bin and on the PATH".into(),
        };
        Err(fault(
            Kind::NotFound,
            "find pg_dump and pg_restore",
            format!(
                "they must be of version {target}{}; looked in {place}, found {}. Install postgresql-client-{target}, or say \
                 where they are",
                if source < target {
                    format!(", or at least {source}")
                } else {
                    String::new()
                },
                if seen.is_empty() {
                    "none".to_owned()
                } else {
                    seen.join(", ")
                },
            ),
        ))
    }

    fn command(&self, tool: &str, context: &Context, color: Color) -> Command {
        let server = context.settings.server(color);
        let mut command = Command::new(self.folder.join(tool));
        command
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

/// Where the programs may be: a given folder has them itself, or in `18/bin` for a version.
fn folders(given: Option<&Path>, major: u32) -> Vec<PathBuf> {
    let bins = |parent: &Path, prefix: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        entries
            .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
            .map(|e| e.path().join("bin"))
            .collect()
    };
    if let Some(folder) = given {
        let mut all = vec![folder.to_owned()];
        all.extend(likely_first(bins(folder, ""), major));
        return all;
    }
    let mut all = bins(Path::new("/usr/lib/postgresql"), "");
    all.extend(bins(Path::new("/usr"), "pgsql-"));
    let mut all = likely_first(all, major);
    all.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    all
}

/// Those in a folder that is named like the major come first.
fn likely_first(mut bins: Vec<PathBuf>, major: u32) -> Vec<PathBuf> {
    let major = major.to_string();
    let named = |bin: &Path| {
        let parent = bin.parent().and_then(Path::file_name).map(|n| n.to_string_lossy());
        parent.is_some_and(|name| name.strip_prefix("pgsql-").unwrap_or(&name) == major)
    };
    bins.sort_by_key(|bin| !named(bin));
    bins
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

/// Runs a tool, with something to read; returns what it wrote.
async fn run(tool: &str, context: &Context, color: Color, mut command: Command, input: &[u8]) -> Result<Vec<u8>> {
    let doing = format!("run {tool}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().doing(doing.clone())?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).await?;
            stdin.shutdown().await?;
        }
        std::io::Result::Ok(())
    };
    let (fed, done) = tokio::join!(feed, child.wait_with_output());
    let done = done.doing(doing.clone())?;
    if done.status.success() {
        fed.doing(doing)?;
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

/// The schema as the snapshot sees it, in `pg_dump`'s own form. It is kept in memory: nothing is left behind by a death.
pub(crate) async fn dump(tools: &Tools, context: &Context, origin: Color, snapshot: &str) -> Result<Vec<u8>> {
    let mut command = tools.command("pg_dump", context, origin);
    command
        .args([
            "--format=custom",
            "--compress=0",
            "--schema-only",
            "--no-publications",
            "--no-subscriptions",
        ])
        // Each version has more words of its own than the one before, and the older one's names may be among them.
        .arg("--quote-all-identifiers")
        // What another encoding has no character for could not be said in it, and we read one only.
        .args(["--no-password", "--exclude-schema=bluegreen", "--encoding=UTF8"])
        .arg(format!("--snapshot={snapshot}"))
        .arg("--dbname")
        .arg(libpq_string(context, origin));
    run("pg_dump", context, origin, command, &[]).await
}

/// A section of the dump (`pre-data`, `post-data`) as a script.
pub(crate) async fn section(
    tools: &Tools,
    context: &Context,
    follower: Color,
    dump: &[u8],
    section: &str,
) -> Result<String> {
    let mut command = tools.command("pg_restore", context, follower);
    command.arg(format!("--section={section}")).arg("--file=-");
    let sql = run("pg_restore", context, follower, command, dump).await?;
    let sql =
        String::from_utf8(sql).map_err(|_| fault(Kind::Unexpected, "read the schema", "the dump is not in UTF-8"))?;
    Ok(without_restriction(&sql))
}

/// The script without its `\restrict` and `\unrestrict`: only psql understands these, and a session of ours needs no protection
/// from psql's commands. They stand before the first statement and after the last; the same words elsewhere are the user's.
fn without_restriction(script: &str) -> String {
    let comment = |line: &&str| line.starts_with("--") || line.trim().is_empty();
    let head: usize = script.split_inclusive('\n').take_while(comment).map(str::len).sum();
    let (head, rest) = script.split_at(head);
    let (first, body) = rest.split_at(rest.find('\n').map_or(rest.len(), |end| end + 1));
    let Some(token) = first.strip_prefix("\\restrict ") else {
        return script.to_owned();
    };
    let last = format!("\n\\unrestrict {}", token.trim_end());
    let body = body.trim_end();
    format!("{head}{}\n", body.strip_suffix(&last).unwrap_or(body))
}

/// The connection string for a program: its options come by environment and would otherwise be overridden.
fn libpq_string(context: &Context, color: Color) -> String {
    context.settings.server(color).conninfo().without_password_and_options()
}

/// Gives the same rights on the server's own objects, as far as that can be: they are the server's, the preflight tells of them, and
/// what may not be changed here, or what this version has not, is no reason to have no copy.
pub(crate) async fn restore_system_rights(session: &Session, entries: &[String]) -> Result<()> {
    let passing = [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_OBJECT,
    ];
    for entry in entries {
        match session.batch_execute(&format!("BEGIN; {entry}; COMMIT")).await {
            Ok(()) => {}
            Err(error) if error.code().is_some_and(|code| passing.contains(code)) => {
                tracing::warn!(error = %describe(&error), entry, "rights and comments on what is the server's own are not taken over");
                session.batch_execute("ROLLBACK").await.doing("make the schema")?;
            }
            Err(error) => return Err(PgError::from(error)).doing("make the schema"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_dumps_own_restriction_is_taken_out() {
        let body = "SELECT 1;\nAS $$\n\\restrict abc\n\\unrestrict abc\n$$;\n";
        let dump = format!("--\n-- head\n--\n\n\\restrict abc\n\n{body}\n-- complete\n\n\\unrestrict abc\n\n");
        assert_eq!(
            without_restriction(&dump),
            format!("--\n-- head\n--\n\n\n{body}\n-- complete\n\n")
        );
        // A program that knows none of it.
        let old = format!("--\n-- head\n--\n\n{body}");
        assert_eq!(without_restriction(&old), old);
    }

    #[test]
    fn the_folder_that_names_the_major_is_asked_first() {
        let bins = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let sorted = likely_first(
            bins(&[
                "/usr/lib/postgresql/14/bin",
                "/usr/pgsql-15/bin",
                "/15/150/bin",
                "/opt/15/bin",
            ]),
            15,
        );
        let expected = bins(&[
            "/usr/pgsql-15/bin",
            "/opt/15/bin",
            "/usr/lib/postgresql/14/bin",
            "/15/150/bin",
        ]);
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_given_folder_is_asked_before_those_in_it_and_no_other_is() {
        let given = tempfile::tempdir().unwrap();
        for major in ["14", "15", "16"] {
            std::fs::create_dir_all(given.path().join(major).join("bin")).unwrap();
        }
        let all = folders(Some(given.path()), 15);
        assert_eq!(all[..2], [given.path().to_owned(), given.path().join("15/bin")]);
        assert_eq!(all.len(), 4);
    }
}
