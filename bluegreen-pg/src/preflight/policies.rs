//! Row policies: that they hide no row from the copy, and stop no change on its way.

use super::{Look, commands, listed, names, texts};
use crate::catalog::{self, APPLICATION};
use crate::ident::ident;
use bluegreen_core::{Color, Result};

const WHY: &str = "a copy that sees only some rows is no copy, and changes are not applied to a table whose policies apply to who applies \
     them: both stop with an error";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        on_us(look, color).await?;
        on_owners(look, color).await?;
    }
    Ok(())
}

/// Policies that apply to us at blue, and that will at green once its tables are those of the same owners.
async fn on_us(look: &mut Look<'_>, color: Color) -> Result<()> {
    let user = look.context.settings.server(color).conninfo().user().to_owned();
    let free = names(
        look.side(color),
        "SELECT 'free' FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)",
        &[],
    )
    .await?;
    if !free.is_empty() {
        return Ok(());
    }
    // A policy that is not forced does not apply to who has its owner's rights.
    let ours = names(
        look.side(color),
        "SELECT rolname::text FROM pg_roles WHERE pg_has_role(oid, 'USAGE')",
        &[],
    )
    .await?;
    let hidden = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {APPLICATION} AND c.relkind IN ('r', 'p') AND c.relrowsecurity \
             AND (c.relforcerowsecurity OR pg_get_userbyid(c.relowner) <> ALL ($1)) ORDER BY 1"
        ),
        &[&ours],
    )
    .await?;
    if !hidden.is_empty() {
        look.blocks(
            "row-security",
            format!("row security applies to us at {color} in {}", listed("table", &hidden)),
            WHY,
            format!("at {color}: ALTER ROLE {} BYPASSRLS;", ident(&user)),
        );
    }
    Ok(())
}

/// From 16 on changes are applied as the table's owner, to whom a policy applies where it is forced.
async fn on_owners(look: &mut Look<'_>, follower: Color) -> Result<()> {
    if catalog::version(look.side(follower)).await? < 160_000 {
        return Ok(());
    }
    let bound = names(
        look.side(follower),
        "SELECT rolname::text FROM pg_roles WHERE NOT rolsuper AND NOT rolbypassrls",
        &[],
    )
    .await?;
    let forced = texts::<2>(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname), pg_get_userbyid(c.relowner)::text FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {APPLICATION} AND c.relkind = 'r' AND c.relpersistence = 'p' \
             AND c.relrowsecurity AND c.relforcerowsecurity ORDER BY 1"
        ),
    )
    .await?;
    let stopped: Vec<&[String; 2]> = forced.iter().filter(|[_, owner]| bound.contains(owner)).collect();
    if stopped.is_empty() {
        return Ok(());
    }
    let seen: Vec<String> = stopped
        .iter()
        .map(|[table, owner]| format!("{table} of {}", ident(owner)))
        .collect();
    let mut owners: Vec<&String> = stopped.iter().map(|[_, owner]| owner).collect();
    owners.sort();
    owners.dedup();
    look.blocks(
        "row-security",
        format!(
            "row security is forced on the owner, as whom {follower} applies changes, in {}",
            listed("table", &seen)
        ),
        WHY,
        format!(
            "at {follower}, and to be taken back when {follower} follows nobody any more: {}",
            commands(
                owners
                    .iter()
                    .map(|owner| format!("ALTER ROLE {} BYPASSRLS;", ident(owner)))
            )
        ),
    );
    Ok(())
}
