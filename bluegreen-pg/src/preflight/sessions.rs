//! Room for our sessions on both sides: the server's, and what the role and the database are limited to.

use super::Look;
use crate::error::{describe, fault};
use crate::ident::{application_name, copy_application_name, guard_application_name, mirror_name};
use bluegreen_core::{Color, Direction, Kind, Result};

/// Beside the copy's streams and those that make its indexes: who looks after the copy, the mirror's walsender, the fence's.
const BESIDE: usize = 6;

/// The finding, which limit, how many sessions it allows, how many others there are, and the command that gives more,
/// before and after the number. Ours are counted as free: who begins again ends them first. A superuser has the
/// server's limit alone, and what is reserved of it. Logical walsenders count for the role and the database (`CountDBConnections`). Of others'
/// sessions not everybody may see the kind; those of no role or no database are the server's own.
const ROOM: &str = "WITH others AS (SELECT usename, datname, kind \
         FROM pg_stat_activity, LATERAL (SELECT coalesce(backend_type, \
             CASE WHEN usesysid IS NOT NULL AND datid IS NOT NULL THEN 'client backend' END)) AS of (kind) \
         WHERE pid <> pg_backend_pid() AND kind IN ('client backend', 'walsender') AND coalesce(application_name, '') <> ALL ($1)), \
     me AS (SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname = session_user AND NOT rolsuper) \
     SELECT 'max-connections', 'max_connections', current_setting('max_connections')::bigint, \
         (SELECT count(*) FROM others WHERE kind = 'client backend') \
             + CASE WHEN EXISTS (SELECT FROM me) THEN current_setting('superuser_reserved_connections')::bigint \
                 + coalesce(current_setting('reserved_connections', true)::bigint, 0) ELSE 0 END, \
         'ALTER SYSTEM SET max_connections =', '; and restart it' \
     UNION ALL SELECT 'role-connection-limit', format('CONNECTION LIMIT of role %I', rolname), rolconnlimit, \
         (SELECT count(*) FROM others WHERE usename = rolname), \
         format('ALTER ROLE %I CONNECTION LIMIT', rolname), ';' FROM me WHERE rolconnlimit >= 0 \
     UNION ALL SELECT 'database-connection-limit', format('CONNECTION LIMIT of database %I', d.datname), d.datconnlimit, \
         (SELECT count(*) FROM others WHERE others.datname = d.datname), \
         format('ALTER DATABASE %I CONNECTION LIMIT', d.datname), ';' FROM me, pg_database d \
         WHERE d.datname = current_database() AND d.datconnlimit >= 0";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let name = &look.context.settings.name;
    let ours = [
        application_name(name),
        copy_application_name(name),
        guard_application_name(name),
        mirror_name(name, Direction::BlueToGreen),
        mirror_name(name, Direction::GreenToBlue),
    ]
    .to_vec();
    // They never run at the same time.
    let jobs = look.context.options.copy_jobs.max(look.context.options.compare.jobs);
    let each = i64::try_from(2 * jobs + BESIDE).unwrap_or(i64::MAX / 4);
    let user = |color| look.context.settings.server(color).conninfo().user().to_owned();
    let one_role = user(Color::Blue) == user(Color::Green);
    for color in [Color::Blue, Color::Green] {
        let rows = look
            .side(color)
            .query(ROOM, &[&ours])
            .await
            .map_err(|e| fault(Kind::Unexpected, format!("look for room at {color}"), describe(&e)))?;
        for row in rows {
            let (id, what): (&str, &str) = (row.get(0), row.get(1));
            let (limit, used): (i64, i64) = (row.get(2), row.get(3));
            let (command, end): (&str, &str) = (row.get(4), row.get(5));
            // Of one server, and of one role there, both sides have the same room.
            let shared = look.is_one_server && (id == "max-connections" || id == "role-connection-limit" && one_role);
            let needed = if shared { 2 * each } else { each };
            if limit - used >= needed || (shared && color == Color::Green) {
                continue;
            }
            let whose = if shared {
                "blue and green".to_owned()
            } else {
                color.to_string()
            };
            look.blocks(
                id,
                format!("{what} of {whose} is {limit}, {used} are in use, and {needed} more are needed"),
                "the copy has two sessions for each of its jobs (copy_jobs), the comparison for its own (compare_jobs), and the mirror \
                 and who watches it some more: without room for them it fails in the midst",
                format!("at {color}: {command} {}{end}", used + needed + 4),
            );
        }
    }
    Ok(())
}
