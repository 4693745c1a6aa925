//! Green's database: that there is nothing in it yet, and that nobody else writes into it.

use super::database::{self, Database};
use super::{Look, listed, names};
use crate::made::{LATE_OBJECTS, OBJECTS};
use crate::writers;
use bluegreen_core::{Color, Result};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    if !look.ours {
        empty(look).await?;
    }
    read_only(look).await
}

async fn empty(look: &mut Look<'_>) -> Result<()> {
    // What a server begins with has a number below the first of its users'. Extensions may wait for the copy.
    let there = names(
        look.green,
        &format!(
            "SELECT concat(CASE i.type WHEN 'default acl' THEN 'default privileges' ELSE i.type END, ' ', i.identity) \
             FROM ({OBJECTS} UNION ALL {LATE_OBJECTS}) AS things, LATERAL pg_identify_object(classid, objid, 0) AS i \
             WHERE objid >= 16384 AND coalesce(i.schema, '') !~ '^(pg_|information_schema$|bluegreen$)' \
             AND i.identity IS NOT NULL AND i.type <> 'extension' AND NOT (i.type = 'schema' AND i.identity IN ('public', 'bluegreen')) \
             ORDER BY i.type <> 'table', i.type, i.identity"
        ),
        &[],
    )
    .await?;
    if there.is_empty() {
        return Ok(());
    }
    let blue = Database::read(look, Color::Blue).await?;
    let again = database::anew(look, &blue).await?;
    look.blocks(
        "target-not-empty",
        format!("green's database is not empty: {}", listed("thing", &there)),
        "rows that are there already would be doubled, what the copy makes would meet its like or get other rights; and it may be \
         somebody's",
        again,
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
