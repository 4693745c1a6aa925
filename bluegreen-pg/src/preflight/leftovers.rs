//! Slots, publications and subscriptions that are there already: this migration's, another's, or somebody else's.

use super::{Look, commands, listed, texts};
use crate::ident::{ident, literal, mirror_name};
use bluegreen_core::{Color, Direction, Result};

/// What there is, how it is taken away, and whether it is in use.
const THINGS: &str = "SELECT 'slot', slot_name::text, active::text, coalesce(database::text, ''), NULL FROM pg_replication_slots \
     WHERE NOT temporary \
     UNION ALL SELECT 'publication', pubname::text, 'false', current_database()::text, NULL FROM pg_publication \
     UNION ALL SELECT 'subscription', subname::text, subenabled::text, current_database()::text, subslotname::text FROM pg_subscription \
     WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2";

struct Thing {
    kind: String,
    name: String,
    active: bool,
    here: bool,
    /// A subscription's at the server it comes from; empty without one.
    slot: String,
}

impl Thing {
    fn remove(&self) -> String {
        let name = ident(&self.name);
        match self.kind.as_str() {
            "slot" => format!("SELECT pg_drop_replication_slot({});", literal(&self.name)),
            "publication" => format!("DROP PUBLICATION {name};"),
            _ => format!(
                "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name};"
            ),
        }
    }
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    for color in [Color::Blue, Color::Green] {
        side(look, color).await?;
    }
    Ok(())
}

async fn side(look: &mut Look<'_>, color: Color) -> Result<()> {
    let migration = &look.context.settings.name;
    let ours = [Direction::BlueToGreen, Direction::GreenToBlue].map(|direction| mirror_name(migration, direction));
    let here = look.context.settings.server(color).conninfo().dbname();
    let things = texts::<5>(look.side(color), THINGS)
        .await?
        .into_iter()
        .map(|[kind, name, active, database, slot]| Thing {
            kind,
            active: active == "true",
            here: database == here,
            name,
            slot,
        });
    let (own, foreign): (Vec<Thing>, Vec<Thing>) = things.partition(|thing| thing.here && ours.contains(&thing.name));
    let (other, foreign): (Vec<Thing>, Vec<Thing>) = foreign
        .into_iter()
        .partition(|thing| thing.name.starts_with("bluegreen_"));
    if !own.is_empty() {
        look.notes(
            "own-leftovers",
            format!(
                "at {color}, of an earlier try of this migration: {}",
                listed("thing", &own)
            ),
            "the migration takes them over or begins them again",
            format!(
                "nothing; to be rid of them: {}",
                commands(own.iter().map(Thing::remove))
            ),
        );
    }
    if !other.is_empty() {
        look.warns(
            "other-migrations",
            format!("at {color}, of a migration of another name: {}", listed("thing", &other)),
            "a slot that nobody reads keeps blue's log until its disk is full; two migrations of one database stop each other",
            format!("if it does not run any more, at {color}: {}", commands(other.iter().map(Thing::remove))),
        );
    }
    strangers(look, color, foreign);
    Ok(())
}

fn strangers(look: &mut Look<'_>, color: Color, foreign: Vec<Thing>) {
    let (subscriptions, foreign): (Vec<Thing>, Vec<Thing>) =
        foreign.into_iter().partition(|thing| thing.kind == "subscription");
    let (running, still): (Vec<Thing>, Vec<Thing>) = subscriptions.into_iter().partition(|thing| thing.active);
    subscribed(look, color, &running);
    subscribed(look, color, &still);
    let (slots, publications): (Vec<Thing>, Vec<Thing>) = foreign.into_iter().partition(|thing| thing.kind == "slot");
    let (used, idle): (Vec<Thing>, Vec<Thing>) = slots.into_iter().partition(|slot| slot.active);
    if !idle.is_empty() {
        look.warns(
            "idle-slots",
            format!("at {color}, read by nobody: {}", listed("slot", &idle)),
            "a slot that nobody reads keeps the log until the disk is full",
            format!(
                "if nobody will come back for it, at {color}: {}",
                commands(idle.iter().map(Thing::remove))
            ),
        );
    }
    let consumed = used.iter().any(|slot| slot.here) || !publications.is_empty();
    if color == Color::Blue && consumed {
        let all: Vec<&Thing> = used.iter().filter(|slot| slot.here).chain(&publications).collect();
        look.warns(
            "other-consumers",
            format!("others follow blue: {}", listed("thing", &all)),
            "after the cut-over blue gets its changes from green only; who must follow the writer has to be pointed at green",
            "point them at green after the cut-over, or make their publications and slots there before it",
        );
    }
}

/// Subscriptions of somebody else's, all of which run or none.
fn subscribed(look: &mut Look<'_>, color: Color, subscriptions: &[Thing]) {
    let Some(first) = subscriptions.first() else { return };
    let slots: Vec<String> = subscriptions
        .iter()
        .filter(|thing| !thing.slot.is_empty())
        .map(|thing| format!("SELECT pg_drop_replication_slot({});", literal(&thing.slot)))
        .collect();
    // They are not dropped with it, for who subscribes may not reach them: nobody would read them.
    let there = match slots.as_slice() {
        [] => String::new(),
        _ => format!(" -- and then, at the server each comes from: {}", commands(slots)),
    };
    let drop = format!(
        "at {color}: {}{there}",
        commands(subscriptions.iter().map(Thing::remove))
    );
    let state = if first.active { "" } else { ", disabled" };
    let seen = format!("at {color}{state}: {}", listed("subscription", subscriptions));
    let id = "foreign-subscriptions";
    match (color, first.active) {
        (Color::Green, _) => look.blocks(
            id,
            seen,
            "somebody else's changes arrive in green's database while it is a mirror: the two meet",
            format!("if it is not needed, {drop}"),
        ),
        (Color::Blue, true) => {
            let disable = |thing: &Thing| format!("ALTER SUBSCRIPTION {} DISABLE;", ident(&thing.name));
            look.blocks(
                id,
                seen,
                "what arrives by it is a write that no gate holds and no read-only default stops: after the cut-over it would land \
                 on blue only, which green does not follow then",
                format!(
                    "let it rest until green has one in its place, at blue: {} -- or, if it is not needed, {drop}",
                    commands(subscriptions.iter().map(disable))
                ),
            );
        }
        (Color::Blue, false) => look.warns(
            id,
            seen,
            "enabled again after the cut-over, it brings changes to blue only; and while it rests, its slot keeps the log of the \
             server it comes from",
            format!("make one at green after the cut-over; if it is not needed, {drop}"),
        ),
    }
}
