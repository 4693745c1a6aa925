//! What we must be allowed to do, asked of the servers' own privilege functions.

use super::{Look, commands, listed, names, owners, texts};
use crate::catalog::APPLICATION;
use crate::ident::ident;
use bluegreen_core::{Color, Result};
use std::collections::BTreeSet;

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        side(look, color).await?;
    }
    tables(look).await?;
    schemas(look).await?;
    sequences(look).await
}

async fn side(look: &mut Look<'_>, color: Color) -> Result<()> {
    let missing = names(
        look.side(color),
        "SELECT right_ FROM (SELECT rolsuper, rolreplication FROM pg_roles WHERE rolname = current_user) AS me, \
         LATERAL (VALUES \
          (rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'rds_replication' \
            AND pg_has_role(r.oid, 'MEMBER')), 'replication'), \
          (rolsuper OR (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()), 'owner'), \
          (rolsuper OR pg_has_role('pg_signal_backend', 'USAGE'), 'signal'), \
          (rolsuper OR pg_has_role('pg_read_all_stats', 'USAGE'), 'stats') \
         ) AS needed (has, right_) WHERE NOT has",
        &[],
    )
    .await?;
    let user = ident(look.context.settings.server(color).conninfo().user());
    for right in missing {
        let (seen, why, mend) = match right.as_str() {
            "replication" => (
                "has no REPLICATION right",
                "the mirror's slot cannot be made",
                format!("ALTER ROLE {user} REPLICATION;"),
            ),
            "owner" => (
                "does not own the database, nor is a member of who does",
                "the fence makes the database read-only (ALTER DATABASE) and the mirror makes a schema and a publication in it",
                owners::join(look, color, &owner_of_database(look, color).await?).await?,
            ),
            "signal" => (
                "may not end other sessions",
                "after the cut-over the sessions that still think they may write on the old side are ended",
                format!("GRANT pg_signal_backend TO {user};"),
            ),
            _ => (
                "may not see what other sessions do",
                "who keeps a cut-over waiting, and long transactions before it, could not be seen and named",
                format!("GRANT pg_read_all_stats TO {user};"),
            ),
        };
        let id = format!("right-{right}");
        look.blocks(
            &id,
            format!("the user {user} {seen} at {color}"),
            why,
            format!("at {color}: {mend}"),
        );
    }
    Ok(())
}

/// Who owns the database, quoted.
async fn owner_of_database(look: &Look<'_>, color: Color) -> Result<Vec<String>> {
    let sql = "SELECT quote_ident(pg_get_userbyid(datdba)) FROM pg_database WHERE datname = current_database()";
    names(look.side(color), sql, &[]).await
}

async fn tables(look: &mut Look<'_>) -> Result<()> {
    let foreign = texts::<2>(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname), pg_get_userbyid(c.relowner)::text FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {APPLICATION} AND c.relkind IN ('r', 'p') \
             AND c.relpersistence <> 't' AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1"
        ),
    )
    .await?;
    if !foreign.is_empty() {
        let user = ident(look.context.settings.blue.conninfo().user());
        let tables: Vec<&String> = foreign.iter().map(|[table, _]| table).collect();
        let owners: BTreeSet<String> = foreign.iter().map(|[_, owner]| ident(owner)).collect();
        let mend = owners::join(look, Color::Blue, &owners.into_iter().collect::<Vec<_>>()).await?;
        look.blocks(
            "right-tables",
            format!(
                "the user {user} does not have the rights of who owns {} at blue",
                listed("table", &tables)
            ),
            "a publication takes the tables of its owner; the copy reads them and the fence locks them",
            format!("at blue: {mend}"),
        );
    }
    Ok(())
}

async fn schemas(look: &mut Look<'_>) -> Result<()> {
    let shut = names(
        look.blue,
        "SELECT quote_ident(nspname) FROM pg_namespace n WHERE nspname !~ '^pg_' \
         AND nspname NOT IN ('information_schema', 'bluegreen') AND NOT has_schema_privilege(n.oid, 'USAGE') \
         AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'S') \
          AND c.relpersistence <> 't') ORDER BY 1",
        &[],
    )
    .await?;
    if !shut.is_empty() {
        let user = ident(look.context.settings.blue.conninfo().user());
        look.blocks(
            "right-schemas",
            format!("the user {user} may not use {} at blue", listed("schema", &shut)),
            "whoever owns a table, without its schema it cannot be copied or locked",
            format!(
                "at blue: {}",
                commands(
                    shut.iter()
                        .map(|schema| format!("GRANT USAGE ON SCHEMA {schema} TO {user};"))
                )
            ),
        );
    }
    Ok(())
}

async fn sequences(look: &mut Look<'_>) -> Result<()> {
    let foreign = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {APPLICATION} AND c.relkind = 'S' AND c.relpersistence <> 't' \
             AND NOT (has_sequence_privilege(c.oid, 'SELECT') AND has_sequence_privilege(c.oid, 'UPDATE')) ORDER BY 1"
        ),
        &[],
    )
    .await?;
    if !foreign.is_empty() {
        let user = ident(look.context.settings.blue.conninfo().user());
        look.blocks(
            "right-sequences",
            format!("the user {user} may not read and set {} at blue", listed("sequence", &foreign)),
            "sequences are no part of the mirror: the cut-over reads all of them at blue, and going back sets them there",
            format!(
                "at blue: {}",
                commands(
                    foreign
                        .iter()
                        .map(|name| format!("GRANT SELECT, UPDATE ON SEQUENCE {name} TO {user};"))
                )
            ),
        );
    }
    Ok(())
}
