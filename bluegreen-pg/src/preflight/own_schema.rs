//! Our schema's name, in use by somebody else: on either side, what is in it is in our way, and we are in its.

use super::{Look, commands, listed};
use crate::made::word;
use crate::marker::strangers;
use bluegreen_core::{Color, Result};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        let (theirs, ours) = strangers(&**look.side(color)).await?;
        if theirs.is_empty() {
            continue;
        }
        let mend = if ours {
            commands(
                theirs
                    .iter()
                    .map(|thing| format!("ALTER {} {} SET SCHEMA public;", word(&thing.kind), thing.name)),
            )
        } else {
            "ALTER SCHEMA bluegreen RENAME TO its_bluegreen;".to_owned()
        };
        look.blocks(
            "own-schema-taken",
            format!("at {color}, the schema bluegreen holds {}", listed("thing", &theirs)),
            "the schema of that name is ours: what is in it is neither copied nor mirrored, and what needs it cannot be made",
            format!("the application must know it by another name, at {color}: {mend}"),
        );
    }
    Ok(())
}
