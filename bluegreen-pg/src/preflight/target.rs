//! Green's database: that there is nothing in it yet, and that nobody else writes into it.

use super::{Look, OURS_NOT, listed, names};
use crate::ident::ident;
use crate::writers;
use bluegreen_core::{Color, Result};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    if !look.ours {
        empty(look).await?;
    }
    read_only(look).await
}

async fn empty(look: &mut Look<'_>) -> Result<()> {
    let there = names(
        look.green,
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {OURS_NOT} AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' \
             UNION ALL SELECT format('%I.%I()', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
             WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') AND NOT EXISTS (SELECT FROM \
              pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e') \
             UNION ALL SELECT format('%I.%I', n.nspname, t.typname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
             WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') AND t.typtype IN ('e', 'd', 'r') \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e') \
             UNION ALL SELECT format('schema %I', nspname) FROM pg_namespace n WHERE n.nspname !~ '^pg_' \
             AND n.nspname NOT IN ('information_schema', 'bluegreen', 'public') AND NOT EXISTS (SELECT FROM pg_depend d \
              WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')"
        ),
        &[],
    )
    .await?;
    if there.is_empty() {
        return Ok(());
    }
    let dbname = look.dbname(Color::Green);
    let owner = ident(look.context.settings.green.conninfo().user());
    look.blocks(
        "target-not-empty",
        format!("green's database is not empty: {}", listed("thing", &there)),
        "rows that are there already would be doubled or stop the copy; and they may be somebody's",
        format!("if nobody needs them, in another database of green's server: DROP DATABASE {dbname}; CREATE DATABASE {dbname} OWNER {owner};"),
    );
    Ok(())
}

async fn read_only(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        if look.ours || !writers::is_closed(look.side(color)).await? {
            continue;
        }
        let (seen, mend) = (
            format!("{color}'s database is read-only by default"),
            format!(
                "at {color}: ALTER DATABASE {} RESET default_transaction_read_only;",
                look.dbname(color)
            ),
        );
        match color {
            Color::Blue => look.blocks(
                "read-only-blue",
                seen,
                "an earlier migration made it so: its application cannot be writing here, the writer is another database",
                mend,
            ),
            Color::Green => look.notes("read-only-green", seen, "it will be while it is a mirror, and open afterwards", mend),
        }
    }
    Ok(())
}
