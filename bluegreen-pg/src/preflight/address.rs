//! What stands at an address: one server that writes, and not a pooler, a balancer or a copy of the other side.

use super::{Look, texts};
use crate::catalog;
use bluegreen_core::{Color, Result};

/// How many more sessions are opened to see whether all of them arrive at one server.
const LOOKS: usize = 3;

/// One of the settings that every session of ours is opened with; somebody between us and the server may leave them out.
const OPTIONS_ARRIVED: &str = "SELECT source FROM pg_settings WHERE name = 'row_security' AND source <> 'client'";

/// What only one running server says of itself.
const WHO: &str = "SELECT pg_postmaster_start_time()::text, current_setting('port'), pg_is_in_recovery()::text";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        pooler(look, color).await?;
        balanced(look, color).await?;
    }
    copy_of_the_other(look).await
}

async fn pooler(look: &mut Look<'_>, color: Color) -> Result<()> {
    let lost = texts::<1>(look.side(color), OPTIONS_ARRIVED).await?;
    if let Some([source]) = lost.first() {
        let at = look.context.settings.server(color).conninfo().to_string();
        look.blocks(
            "pooler",
            format!(
                "the settings we open a session with do not arrive at {color} ({at}): row_security is there by {source}"
            ),
            POOLER,
            format!("give the address of {color}'s server itself, not of the pooler before it"),
        );
    }
    Ok(())
}

/// Why a pooler cannot be the way to a side.
pub(super) const POOLER: &str = "a pooler shares sessions and hides settings: a snapshot, a lock or a replication session of ours \
     would be somebody else's in between";

async fn balanced(look: &mut Look<'_>, color: Color) -> Result<()> {
    let mut all = vec![who(look.side(color)).await?];
    for _ in 0..LOOKS {
        let session = look.context.settings.connect(color).await?;
        all.push(who(&session).await?);
    }
    if let Some(other) = all.iter().find(|one| **one != all[0]) {
        let at = look.context.settings.server(color).conninfo().to_string();
        look.blocks(
            "balanced-address",
            format!(
                "behind {color}'s address ({at}) are several servers: one that started {} (port {}, {}) and one that started {} (port {}, {})",
                all[0][0], all[0][1], role(&all[0]), other[0], other[1], role(other)
            ),
            "every session must reach the one server that writes: half a copy from another server is no copy, and a fence there \
             stops nobody",
            format!("give the address of {color}'s primary, not of a balancer or of all replicas"),
        );
    }
    Ok(())
}

async fn who(session: &crate::connect::Session) -> Result<[String; 3]> {
    Ok(texts::<3>(session, WHO).await?.into_iter().next().unwrap_or_default())
}

fn role(of: &[String; 3]) -> &'static str {
    if of[2] == "true" { "a standby" } else { "it writes" }
}

/// Two servers of one identifier were one once. `reach` tells whether they still are.
async fn copy_of_the_other(look: &mut Look<'_>) -> Result<()> {
    let (blue, green) = (identifier(look.blue).await?, identifier(look.green).await?);
    if !blue.is_empty() && blue == green && !look.is_one_server {
        look.notes(
            "same-system-identifier",
            format!("blue's and green's servers have one system identifier, {blue}, and are two servers"),
            "one was made as a physical copy of the other (a backup, a promoted standby): what was in it then is still there, and \
             tools that tell servers apart by this number will mix them up",
            "nothing, if green was emptied; else make green with initdb",
        );
    }
    Ok(())
}

/// Empty where we may not ask: the call alone would fail, whatever stands around it.
async fn identifier(session: &crate::connect::Session) -> Result<String> {
    if !catalog::may_execute(&**session, "pg_control_system()").await? {
        return Ok(String::new());
    }
    let rows = texts::<1>(session, "SELECT system_identifier::text FROM pg_control_system()").await?;
    Ok(rows.into_iter().next().map(|[id]| id).unwrap_or_default())
}
