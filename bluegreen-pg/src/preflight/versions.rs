//! Versions of the servers and of the tools, and whether text means the same on both sides.

use super::{Look, names, texts};
use crate::schema::Tools;
use crate::{catalog, ident};
use bluegreen_core::{Color, Result};

/// What was tried.
const OLDEST: u32 = 14;

/// The first minor of each major without a known loss of replicated data.
const SOUND: [(u32, u32); 5] = [(14, 21), (15, 16), (16, 12), (17, 8), (18, 2)];

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let blue = catalog::version(look.blue).await?;
    let green = catalog::version(look.green).await?;
    for (color, version) in [(Color::Blue, blue), (Color::Green, green)] {
        one(look, color, version / 10_000, version % 10_000).await?;
    }
    if blue / 10_000 > green / 10_000 {
        look.blocks(
            "older-target",
            format!("blue runs PostgreSQL {}, green {}", blue / 10_000, green / 10_000),
            "a newer server's schema does not load into an older one",
            format!("give green PostgreSQL {} or newer", blue / 10_000),
        );
    } else if let Err(error) = Tools::find(look.context.options.tools.as_deref(), blue, green).await {
        look.blocks(
            "no-tools",
            error.message().to_owned(),
            "the schema goes over by pg_dump and pg_restore, which must fit both versions",
            format!("apt-get install postgresql-client-{}", green / 10_000),
        );
    }
    text(look).await
}

async fn one(look: &mut Look<'_>, color: Color, major: u32, minor: u32) -> Result<()> {
    if major < OLDEST {
        look.blocks(
            "old-version",
            format!("{color} runs PostgreSQL {major}"),
            "nothing below 14 was tried",
            format!("upgrade {color} to PostgreSQL {OLDEST} first"),
        );
    }
    if let Some((_, sound)) = SOUND.into_iter().find(|&(of, sound)| of == major && minor < sound) {
        look.warns(
            "old-minor",
            format!("{color} runs PostgreSQL {major}.{minor}"),
            "this minor version has known bugs by which logical replication loses data",
            format!("install {major}.{sound} or newer and restart {color}"),
        );
    }
    let standby = names(look.side(color), "SELECT 'standby' WHERE pg_is_in_recovery()", &[]).await?;
    if !standby.is_empty() {
        look.blocks(
            "standby",
            format!("{color} is a standby: it is in recovery"),
            "a mirror begins and ends at a server that writes",
            format!("give the address of {color}'s primary"),
        );
    }
    Ok(())
}

async fn text(look: &mut Look<'_>) -> Result<()> {
    let sql = "SELECT pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text FROM pg_database \
               WHERE datname = current_database()";
    let of = |rows: Vec<[String; 3]>| rows.into_iter().next().unwrap_or_default();
    let blue = of(texts::<3>(look.blue, sql).await?);
    let green = of(texts::<3>(look.green, sql).await?);
    let dbname = ident::ident(look.context.settings.green.conninfo().dbname());
    let again = format!(
        "DROP DATABASE {dbname}; CREATE DATABASE {dbname} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {};",
        ident::literal(&blue[0]),
        ident::literal(&blue[1]),
        ident::literal(&blue[2])
    );
    if blue[0] != green[0] {
        let seen = format!("blue's database is in {}, green's in {}", blue[0], green[0]);
        let why = "a character that green's encoding does not have stops the mirror";
        if green[0] == "UTF8" && blue[0] != "SQL_ASCII" {
            look.notes("encoding", seen, "every character of it has one in UTF8", "nothing");
        } else {
            look.blocks("encoding", seen, why, again);
        }
    } else if blue[1..] != green[1..] {
        look.warns(
            "collation",
            format!(
                "blue sorts by {} ({}), green by {} ({})",
                blue[1], blue[2], green[1], green[2]
            ),
            "ORDER BY, LIKE and ranges may answer differently on green",
            again,
        );
    }
    Ok(())
}
