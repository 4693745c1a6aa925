//! Whether a migration's journal is kept in a database that it fences and mirrors.

use super::{Look, names};
use bluegreen_core::{Color, Result};

const THERE: &str =
    "SELECT to_regclass('bluegreen_journal.lease')::text WHERE to_regclass('bluegreen_journal.lease') IS NOT NULL";

/// This migration's, and any that somebody holds now.
const JOURNALS: &str = "SELECT migration FROM bluegreen_journal.lease \
     WHERE migration = $1 OR (holder IS NOT NULL AND expires_at > clock_timestamp()) ORDER BY 1";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        let session = look.side(color);
        if names(session, THERE, &[]).await?.is_empty() {
            continue;
        }
        let kept = names(session, JOURNALS, &[&look.context.settings.name]).await?;
        if !kept.is_empty() {
            look.blocks(
                "journal-in-migrated-database",
                format!("at {color}, in schema bluegreen_journal, the journal of {}", kept.join(", ")),
                "it would be fenced in the pause in which the commit record must be written, mirrored like any table, and \
                 given up with the side it is to bring back",
                "keep the journal in another database, best on another server; of a migration that is over: \
                 DROP SCHEMA bluegreen_journal CASCADE;",
            );
        }
    }
    Ok(())
}
