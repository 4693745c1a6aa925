//! Whom the fence would not stop: roles that a read-only database does not bind, and sessions that we may not end. Arming refuses
//! both, hours later.

use super::{Look, commands, listed, names};
use crate::{unbound, writers};
use bluegreen_core::{Color, Result};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        not_bound(look, color).await?;
    }
    superusers(look).await
}

async fn not_bound(look: &mut Look<'_>, color: Color) -> Result<()> {
    let free = unbound::exceptions(look.side(color)).await?;
    if !free.is_empty() {
        look.blocks(
            "not-bound-by-read-only",
            format!("at {color} default_transaction_read_only is off for {}", listed("role", &free)),
            "a read-only database is what keeps clients from writing on the side that is not the writer: a role's own setting \
             overrides the database's, so the cut-over is refused",
            format!("at {color}: {}", commands(free.iter().map(unbound::Exception::mend))),
        );
    }
    Ok(())
}

/// Only at blue: it is the side whose clients the cut-over ends.
async fn superusers(look: &mut Look<'_>) -> Result<()> {
    let pids = writers::beyond_us(look.blue, &look.context.settings.name).await?;
    if pids.is_empty() {
        return Ok(());
    }
    let who = names(
        look.blue,
        "SELECT format('pid %s of %I (%s)', pid, usename, coalesce(nullif(application_name, ''), backend_type)) \
         FROM pg_stat_activity WHERE pid = ANY ($1) ORDER BY pid",
        &[&pids],
    )
    .await?;
    if !who.is_empty() {
        look.warns(
            "superuser-sessions",
            format!("superusers are connected to blue's database: {}", listed("session", &who)),
            "only a superuser may end them, and they could write at blue after the cut-over: while one is there, it does not begin",
            format!(
                "let them disconnect before the cut-over, or at blue as a superuser: {}",
                commands(pids.iter().map(|pid| format!("SELECT pg_terminate_backend({pid});")))
            ),
        );
    }
    Ok(())
}
