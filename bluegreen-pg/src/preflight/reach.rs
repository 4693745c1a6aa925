//! Whether everybody reaches everybody: we both sides, each server the other, and that they are two.

use super::{Look, address};
use crate::catalog;
use crate::connect::Settings;
use crate::error::{describe, fault};
use crate::ident::{ident, literal, mirror_name, shell};
use bluegreen_core::{Color, Direction, Error, Finding, Kind, Result, Severity};
use tokio_postgres::error::SqlState;

/// A side that we cannot reach ourselves.
pub(super) fn unreachable(settings: &Settings, color: Color, error: &Error) -> Finding {
    let string = shell(&settings.server(color).conninfo().without_password());
    // PgBouncer's own words; no server of PostgreSQL's says them.
    if error.message().contains("unsupported startup parameter") {
        return Finding {
            id: "pooler".into(),
            severity: Severity::Blocking,
            seen: error.to_string(),
            why: address::POOLER.into(),
            mend: format!("give the address of {color}'s server itself, not of the pooler before it"),
        };
    }
    Finding {
        id: format!("{color}-unreachable"),
        severity: Severity::Blocking,
        seen: error.to_string(),
        why:
            "nothing can be copied from or to a server that cannot be reached; nothing else about it could be looked at"
                .into(),
        mend: match error.kind() {
            Kind::Unauthenticated => {
                format!("correct the user or password; this must work from here: psql {string}")
            }
            Kind::NotFound => {
                format!("create the database, or correct its name; this must work from here: psql {string}")
            }
            _ => {
                format!("correct the address, pg_hba.conf or the firewall; this must work from here: psql {string}")
            }
        },
    }
}

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    if same_server(look).await? {
        return Ok(());
    }
    for follower in [Color::Green, Color::Blue] {
        peer(look, follower).await?;
    }
    Ok(())
}

/// An advisory lock taken on the one side is seen on the other only if they are one.
async fn same_server(look: &mut Look<'_>) -> Result<bool> {
    let doing = "compare the servers";
    let failed = |e: tokio_postgres::Error| fault(Kind::Unexpected, doing, describe(&e));
    let row = look
        .blue
        .query_one(
            "SELECT k, pg_advisory_lock_shared(k), (SELECT oid FROM pg_database WHERE datname = current_database()) \
             FROM (SELECT ('x' || substr(md5(random()::text || clock_timestamp()), 1, 16))::bit(64)::bigint AS k) AS key",
            &[],
        )
        .await
        .map_err(failed)?;
    let key: i64 = row.get(0);
    let database: u32 = row.get(2);
    let seen = look
        .green
        .query_opt(
            "SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) FROM pg_locks \
             WHERE locktype = 'advisory' AND database = $2 AND objsubid = 1 \
             AND (classid::bigint << 32) | objid::bigint = $1",
            &[&key, &database],
        )
        .await
        .map_err(failed)?;
    look.blue
        .query_one("SELECT pg_advisory_unlock_shared($1)", &[&key])
        .await
        .map_err(failed)?;
    let Some(green) = seen else { return Ok(false) };
    look.is_one_server = true;
    if green.get::<_, u32>(0) == database {
        look.blocks(
            "same-database",
            "blue and green are one and the same database",
            "there is nothing to move, and the mirror would copy a table into itself",
            "correct the address or the name of green's database",
        );
        return Ok(true);
    }
    look.warns(
        "same-server",
        "blue and green are two databases of one server",
        "they share its disk, its memory and its failures, and a server's own slots wait for each other",
        "give green a server of its own, unless that is what you mean",
    );
    Ok(false)
}

/// Lets the follower's server connect as the subscription will, in a transaction that is rolled back.
async fn peer(look: &mut Look<'_>, follower: Color) -> Result<()> {
    let other = follower.other();
    let from = look.context.settings.server(other).from_peer();
    let name = mirror_name(&look.context.settings.name, Direction::to(follower));
    let probe = format!("{}_probe", &name[..name.len().min(55)]);
    let limited = match from.get("connect_timeout") {
        Some(_) => from.for_subscription(),
        None => format!("{} connect_timeout=5", from.for_subscription()),
    };
    let create = format!(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (connect = true, create_slot = false, copy_data = false, \
         enabled = false, slot_name = NONE)",
        ident(&probe),
        literal(&limited),
        ident(&name),
    );
    let session = look.side(follower);
    let begin = "BEGIN; SET LOCAL statement_timeout = '20s'; SET LOCAL lock_timeout = '2s'; SET LOCAL client_min_messages = error";
    let tried = match session.batch_execute(begin).await {
        Ok(()) => session.batch_execute(&create).await,
        Err(error) => Err(error),
    };
    let back = session.batch_execute("ROLLBACK").await;
    back.map_err(|e| fault(Kind::Unexpected, "roll the trial back", describe(&e)))?;
    let Err(error) = tried else { return Ok(()) };
    if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
        // A standby: that is another finding, and more cannot be tried there.
        return Ok(());
    }
    let said = from.redact(&describe(&error));
    let code = error.code().cloned();
    let string = shell(&format!("{} replication=database", from.without_password()));
    if code == Some(SqlState::INSUFFICIENT_PRIVILEGE) {
        let user = ident(look.context.settings.server(follower).conninfo().user());
        look.blocks(
            &format!("{follower}-may-not-subscribe"),
            format!("we may not create a subscription at {follower}: {said}"),
            if follower == Color::Green {
                "the mirror is a subscription of green's"
            } else {
                "the mirror back, which keeps the way back open, is a subscription of blue's"
            },
            if catalog::version(look.side(follower)).await? < 160_000 {
                format!("at {follower}, where before version 16 only superusers may: ALTER ROLE {user} SUPERUSER;")
            } else {
                format!("at {follower}: GRANT pg_create_subscription TO {user};")
            },
        );
    } else if code == Some(SqlState::S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED) {
        let user = ident(from.user());
        look.blocks(
            &format!("{follower}-needs-a-password"),
            format!("{follower}'s subscription must come to {other} with a password: {said}"),
            "who is no superuser may subscribe only with a password that the other server really asks for",
            format!(
                "give the password of {user} in {other}'s connection string; at {other}: ALTER ROLE {user} PASSWORD '...'; and in \
                 its pg_hba.conf: host all {user} all scram-sha-256"
            ),
        );
    } else {
        look.blocks(
            &format!("{other}-unreachable-from-{follower}"),
            format!("{follower}'s server cannot connect to {other} ({from}): {said}"),
            if follower == Color::Green {
                "green pulls the changes from blue itself: the mirror runs between the two servers and not through us"
            } else {
                "after the cut-over blue pulls the changes from green, which keeps the way back open"
            },
            format!(
                "on {follower}'s machine this must work: psql {string} -c IDENTIFY_SYSTEM; see \
                 {other}'s pg_hba.conf, its listen_addresses, the user's REPLICATION right; if {other} has another address \
                 there, say so (database_from_peer)"
            ),
        );
    }
    Ok(())
}
