//! What would make the pause fail or last, seen before anything starts.

use super::ini::Ini;
use super::{Instance, Shared, same_file};
use crate::ident::shell;
use crate::pgbouncer::error::GateError;
use bluegreen_core::{Color, Finding, Severity};
use std::path::Path;

/// Waits longer than this are the application's; a client dropped earlier may be dropped by the pause.
const LEAST_QUERY_WAIT: f64 = 30.0;

pub(super) async fn look(shared: &Shared, instance: &Instance, findings: &mut Vec<Finding>) {
    let ini = file(shared, instance, findings);
    if let Err(error) = console(shared, instance, ini.as_ref(), findings).await {
        let mend = match &error {
            GateError::NoDatabase { .. } => {
                format!("add `{} = {}` to [databases] and RELOAD", shared.database, shared.blue)
            }
            _ => format!(
                "psql {} -c 'SHOW DATABASES' must work from this machine",
                shell(&format!(
                    "host={} dbname=pgbouncer user=...",
                    instance.admin.at().replace(':', " port=")
                ))
            ),
        };
        findings.push(finding(
            "gate-unreachable",
            Severity::Blocking,
            error.to_string(),
            "without its admin console the gate cannot make writes wait, and the cut-over would lose or refuse them",
            mend,
        ));
    }
}

fn file(shared: &Shared, instance: &Instance, findings: &mut Vec<Finding>) -> Option<Ini> {
    let why = "the cut-over rewrites the database's line in this file, in one step: a temporary file beside it takes its place";
    let found = Ini::read(&instance.ini, &shared.database).and_then(|ini| ini.replaceable().map(|()| ini));
    let ini = match found {
        Ok(ini) => ini,
        Err(error) => {
            let mend = match &error {
                GateError::NoLine { .. } => {
                    format!("add `{} = {}` to [databases] and RELOAD", shared.database, shared.blue)
                }
                GateError::File { path, .. } => {
                    let folder = path.parent().unwrap_or(Path::new("/")).display();
                    format!(
                        "let the user of the migration read {} and write in {folder}",
                        path.display()
                    )
                }
                _ => String::from("correct the file"),
            };
            findings.push(finding("gate-ini", Severity::Blocking, error.to_string(), why, mend));
            return None;
        }
    };
    let seen = ini.upstream();
    if shared.color(&seen) != Some(Color::Blue) {
        let (severity, then) = match shared.color(&seen) {
            Some(_) => (Severity::Blocking, "green already"),
            None => (Severity::Blocking, "neither blue nor green"),
        };
        findings.push(finding(
            "gate-points-elsewhere",
            severity,
            format!(
                "{} points {:?} at {seen}, which is {then}",
                ini.path().display(),
                shared.database
            ),
            "writes must go to blue when the migration starts, or it would move a database that nobody writes to",
            format!(
                "set the line to {}, or correct the addresses of blue and green in the migration",
                shared.blue
            ),
        ));
    }
    Some(ini)
}

async fn console(
    shared: &Shared,
    instance: &Instance,
    ini: Option<&Ini>,
    findings: &mut Vec<Finding>,
) -> Result<(), GateError> {
    let (admin, database) = (&instance.admin, &shared.database);
    let at = admin.at();
    admin.connect().await?;
    let shown = admin.shown(database).await?;
    if let Some(ini) = ini
        && ini.upstream() != shown.upstream
    {
        findings.push(finding(
            "gate-other-ini",
            Severity::Blocking,
            format!("the PgBouncer at {at} sends {database:?} to {}, its file says {}", shown.upstream, ini.upstream()),
            "it reads another file, or this one was changed and not loaded: the cut-over's change would not take effect",
            format!("give the file that it reads (SHOW CONFIG: conffile) instead of {}, or RELOAD", instance.ini.display()),
        ));
    } else if let Some(conffile) = admin.setting("conffile").await?
        && Path::new(&conffile).exists()
        && !same_file(Path::new(&conffile), &instance.ini)
        && ini.is_none_or(|ini| !same_file(Path::new(&conffile), ini.path()))
    {
        findings.push(finding(
            "gate-other-ini",
            Severity::Warning,
            format!(
                "the PgBouncer at {at} was started with {conffile}, not with {}",
                instance.ini.display()
            ),
            "if it does not include the file that is rewritten, the cut-over's change does not take effect",
            format!("give {conffile} in the migration, unless it includes the other"),
        ));
    }
    if shown.paused {
        findings.push(finding(
            "gate-held",
            Severity::Warning,
            format!("the PgBouncer at {at} is paused for {database:?} now"),
            "clients wait: by an earlier try that was killed, or by somebody else",
            format!("RESUME \"{database}\" on its admin console"),
        ));
    } else if !admin.is_admin(database).await? {
        findings.push(finding(
            "gate-rights",
            Severity::Blocking,
            format!("the user of the migration may look at the PgBouncer at {at} but not command it"),
            "PAUSE, RELOAD and RESUME need a user in admin_users",
            "add the user to admin_users and RELOAD".to_owned(),
        ));
    }
    if shown.disabled {
        findings.push(finding(
            "gate-disabled",
            Severity::Warning,
            format!("the PgBouncer at {at} lets no new client to {database:?}"),
            "it was disabled by somebody",
            format!("ENABLE \"{database}\" on its admin console"),
        ));
    }
    settings(shared, instance, &shown, findings).await
}

async fn settings(
    shared: &Shared,
    instance: &Instance,
    shown: &super::rows::Shown,
    findings: &mut Vec<Finding>,
) -> Result<(), GateError> {
    let (admin, database) = (&instance.admin, &shared.database);
    let at = admin.at();
    let mode = match &shown.pool_mode {
        Some(mode) => Some(mode.clone()),
        None => admin.setting("pool_mode").await?,
    };
    if mode.as_deref() == Some("session") {
        findings.push(finding(
            "gate-session-mode",
            Severity::Warning,
            format!("the PgBouncer at {at} pools {database:?} by session"),
            "a pause waits until clients disconnect: with connections that stay open it runs into its budget and is given up",
            "pool_mode = transaction, if the application allows it; else a cut-over in which clients reconnect".to_owned(),
        ));
    }
    if shown.min_pool_size > 0 {
        findings.push(finding(
            "gate-min-pool-size",
            Severity::Warning,
            format!("the PgBouncer at {at} keeps min_pool_size = {} connections for {database:?}", shown.min_pool_size),
            "it opens them while it is paused and cuts them off again; that counts as a failed login, and clients that come \
             right after the pause can be turned away",
            "min_pool_size = 0 until the migration is done, then RELOAD".to_owned(),
        ));
    }
    if admin.setting("so_reuseport").await?.as_deref() == Some("1") {
        findings.push(finding(
            "gate-so-reuseport",
            Severity::Warning,
            format!("several processes may share the port of the PgBouncer at {at} (so_reuseport)"),
            "a command reaches one of them, by chance: the others are neither held nor pointed at green",
            "give each process as an instance of its own, by an address that only it listens at (unix_socket_dir)"
                .to_owned(),
        ));
    }
    let beside = admin.beside(database, &shown.upstream).await?;
    if !beside.is_empty() {
        findings.push(finding(
            "gate-other-names",
            Severity::Warning,
            format!("the PgBouncer at {at} sends {} to the same database", beside.join(", ")),
            "what comes by another name is not held in the pause, and meets a read-only database after the cut-over",
            format!(
                "let these clients use {database:?}; or point those lines at green yourself, right after the cut-over"
            ),
        ));
    }
    let wait = admin.setting("query_wait_timeout").await?;
    let wait: f64 = wait.and_then(|wait| wait.parse().ok()).unwrap_or(0.0);
    if wait > 0.0 && wait < LEAST_QUERY_WAIT {
        findings.push(finding(
            "gate-query-wait-timeout",
            Severity::Warning,
            format!("the PgBouncer at {at} disconnects a client that waited {wait} s (query_wait_timeout)"),
            "clients wait as long as the pause lasts: one that reaches its budget would cost them their connection",
            "query_wait_timeout = 120, and RELOAD".to_owned(),
        ));
    }
    let version = admin.version().await?;
    let prepared = admin.setting("max_prepared_statements").await?;
    if mode.as_deref() != Some("session") && prepared.as_deref().is_none_or(|n| n == "0") {
        findings.push(finding(
            "gate-prepared-statements",
            Severity::Note,
            format!("the PgBouncer at {at} ({version}) does not carry prepared statements from one server connection to another"),
            "a driver that prepares statements at the protocol level fails through it, now as after the cut-over",
            "PgBouncer 1.21 or newer with max_prepared_statements above 0, or a driver that does not prepare".to_owned(),
        ));
    }
    Ok(())
}

fn finding(id: &str, severity: Severity, seen: String, why: &str, mend: String) -> Finding {
    debug_assert!(
        crate::preflight::ids::known(id, severity),
        "{id} ({severity}) is not in the list of findings"
    );
    Finding {
        id: id.to_owned(),
        severity,
        seen,
        why: why.to_owned(),
        mend,
    }
}
