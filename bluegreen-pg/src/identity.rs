//! Whose database it is. A host, a port and a name may lead to another server tomorrow; what a migration began with is
//! recorded at both sides, each with both identities, so that the side that is left tells of the one that was replaced.
//!
//! A server that was restored from a base backup, or a standby that was promoted, is the same one by its identifier.

use crate::catalog;
use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::application_name;
use crate::marker;
use crate::replicator::Context;
use crate::slot;
use bluegreen_core::{Color, Direction, Kind, Result};
use std::fmt;

/// What tells a database from every other: its server's system identifier, where it may be known, and its own number there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    system: Option<String>,
    database: String,
}

/// Both sides' identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Both {
    pub(crate) blue: Identity,
    pub(crate) green: Identity,
}

impl Both {
    fn of(&self, color: Color) -> &Identity {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

/// As it is recorded: `7428315532301435812 16384`, with `?` for what may not be known.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.system.as_deref().unwrap_or("?"), self.database)
    }
}

impl Identity {
    fn parse(text: &str) -> Option<Self> {
        let (system, database) = text.split_once(' ')?;
        Some(Self {
            system: Some(system.to_owned()).filter(|s| s != "?"),
            database: database.to_owned(),
        })
    }

    /// How it is another than what was recorded, as far as both are known.
    fn differs_from(&self, was: &Self) -> Option<String> {
        match (&was.system, &self.system) {
            (Some(was), Some(is)) if was != is => Some(format!(
                "it is another server: its system identifier is {is}, and was {was} when the migration began"
            )),
            _ if was.database != self.database => Some(format!(
                "it is another database of that name: its oid is {}, and was {} when the migration began",
                self.database, was.database
            )),
            _ => None,
        }
    }
}

async fn of(context: &Context, color: Color, session: &Session) -> Result<Identity> {
    let doing = "ask the database who it is";
    let database = session
        .query_one(
            "SELECT oid::text FROM pg_database WHERE datname = current_database()",
            &[],
        )
        .await
        .doing(doing)?
        .get(0);
    let system = if catalog::may_execute(&**session, "pg_control_system()").await? {
        let row = session
            .query_one("SELECT system_identifier::text FROM pg_control_system()", &[])
            .await
            .doing(doing)?;
        Some(row.get(0))
    } else {
        let settings = &context.settings;
        match slot::identify_system(settings.server(color), &application_name(&settings.name)).await {
            Ok(system) => Some(system),
            Err(error) => {
                tracing::warn!(%color, %error, "its system identifier may not be known: only its database's oid is compared");
                None
            }
        }
    };
    Ok(Identity { system, database })
}

fn by_color<'a>(direction: Direction, origin: &'a Session, follower: &'a Session) -> (&'a Session, &'a Session) {
    match direction {
        Direction::BlueToGreen => (origin, follower),
        Direction::GreenToBlue => (follower, origin),
    }
}

/// Who both sides are now.
pub(crate) async fn read(
    context: &Context,
    direction: Direction,
    origin: &Session,
    follower: &Session,
) -> Result<Both> {
    let (blue, green) = by_color(direction, origin, follower);
    let (blue, green) = tokio::try_join!(of(context, Color::Blue, blue), of(context, Color::Green, green))?;
    Ok(Both { blue, green })
}

/// Refuses when one of them is not what the migration began with. Changes nothing.
pub(crate) async fn check(context: &Context, direction: Direction, origin: &Session, follower: &Session) -> Result<()> {
    let migration = &context.settings.name;
    let (at_origin, at_follower) = tokio::try_join!(
        marker::identities(origin, migration),
        marker::identities(follower, migration)
    )?;
    if at_origin.is_none() && at_follower.is_none() {
        return Ok(());
    }
    let now = read(context, direction, origin, follower).await?;
    for color in [Color::Blue, Color::Green] {
        for recorded in [&at_origin, &at_follower].into_iter().flatten() {
            is_same(context, color, now.of(color), recorded)?;
        }
    }
    Ok(())
}

fn is_same(context: &Context, color: Color, now: &Identity, recorded: &(Option<String>, Option<String>)) -> Result<()> {
    let (settings, migration) = (&context.settings, &context.settings.name);
    let recorded = if color == Color::Blue { &recorded.0 } else { &recorded.1 };
    let was = recorded.as_deref().and_then(Identity::parse);
    match was.and_then(|was| now.differs_from(&was)) {
        None => Ok(()),
        Some(how) => Err(fault(
            Kind::Diverged,
            format!("look whether {color} is the database that the migration {migration} began with"),
            format!(
                "{} is not: {how}. Nothing was changed. Let it lead there again; or, where that one is gone for good, abort, \
                 which takes away what is left of the migration, and begin again",
                settings.server(color).conninfo()
            ),
        )),
    }
}

/// The same of one side only, by its own record and, where that one is within reach, the other side's: which of them may have been
/// replaced is no reason to leave this one as it is.
pub(crate) async fn check_side(context: &Context, color: Color, side: &Session, other: Option<&Session>) -> Result<()> {
    let mut recorded = Vec::new();
    for session in [Some(side), other].into_iter().flatten() {
        recorded.extend(marker::identities(session, &context.settings.name).await?);
    }
    if recorded.is_empty() {
        return Ok(());
    }
    let now = of(context, color, side).await?;
    recorded
        .iter()
        .try_for_each(|recorded| is_same(context, color, &now, recorded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_both_is_compared() {
        let of = |text: &str| Identity::parse(text).unwrap();
        assert_eq!(of("7 16384").to_string(), "7 16384");
        assert_eq!(of("? 16384").to_string(), "? 16384");
        assert_eq!(Identity::parse("7"), None);
        assert_eq!(of("7 1").differs_from(&of("7 1")), None);
        assert_eq!(of("? 1").differs_from(&of("7 1")), None);
        assert_eq!(of("7 1").differs_from(&of("? 1")), None);
        assert!(of("8 1").differs_from(&of("7 1")).unwrap().contains("another server"));
        assert!(of("? 2").differs_from(&of("7 1")).unwrap().contains("another database"));
    }
}
