//! Whether text means the same on both sides: encodings, collations and their versions, and how money is written.

use super::database::{self, Database, spelled};
use super::{Look, OURS_NOT, commands, listed, names, texts};
use crate::catalog::{self, APPLICATION};
use crate::error::describe;
use crate::ident::literal;
use bluegreen_core::{Color, Result};

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    let (blue, green) = (
        Database::read(look, Color::Blue).await?,
        Database::read(look, Color::Green).await?,
    );
    encoding(look, &blue, &green).await?;
    for color in [Color::Blue, Color::Green] {
        stale(look, color).await?;
    }
    lacking(look).await?;
    money(look).await
}

async fn encoding(look: &mut Look<'_>, blue: &Database, green: &Database) -> Result<()> {
    let again = database::anew(look, blue).await?;
    if blue.encoding != green.encoding {
        let seen = format!("blue's database is in {}, green's in {}", blue.encoding, green.encoding);
        if green.encoding == "UTF8" && blue.encoding != "SQL_ASCII" {
            let why = "text is converted on its way; every character has its place in UTF8";
            look.notes("encoding", seen, why, "nothing");
        } else {
            let why = "a character that green's encoding does not have stops the mirror";
            look.blocks("encoding", seen, why, again);
        }
    } else if !blue.sorts_like(green) {
        look.warns(
            "collation",
            format!("blue sorts by {}, green by {}", blue.sorting(), green.sorting()),
            "ORDER BY, LIKE and ranges may answer differently on green",
            again,
        );
    } else if blue.version != green.version {
        look.notes(
            "collation-version",
            format!(
                "both sort by {}, which is of version {} on blue and {} on green",
                blue.sorting(),
                or_none(&blue.version),
                or_none(&green.version)
            ),
            "the order of some characters changed between such versions; green's indexes are built by green's, so they are right",
            "nothing, unless the application compares what it sorted itself with what the database sorted",
        );
    }
    Ok(())
}

fn or_none(version: &str) -> &str {
    if version.is_empty() { "none" } else { version }
}

/// Indexes that were built by another version of what sorts.
async fn stale(look: &mut Look<'_>, color: Color) -> Result<()> {
    let session = look.side(color);
    let mut old = Vec::new();
    if catalog::version(session).await? >= 150_000 {
        old = texts::<2>(
            session,
            "SELECT format('the database (built by %s, now %s)', datcollversion, pg_database_collation_actual_version(oid)), \
             format('ALTER DATABASE %I REFRESH COLLATION VERSION;', datname) \
             FROM pg_database WHERE datname = current_database() \
             AND datcollversion <> pg_database_collation_actual_version(oid)",
        )
        .await?;
    }
    old.extend(
        texts::<2>(
            session,
            &format!(
                "SELECT DISTINCT format('%I.%I (built by %s, now %s)', s.nspname, o.collname, o.collversion, \
                  pg_collation_actual_version(o.oid)), \
                 format('ALTER COLLATION %I.%I REFRESH VERSION;', s.nspname, o.collname) \
                 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                 JOIN pg_collation o ON o.oid = a.attcollation JOIN pg_namespace s ON s.oid = o.collnamespace \
                 WHERE {OURS_NOT} AND c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped \
                 AND o.collversion <> pg_collation_actual_version(o.oid) ORDER BY 1"
            ),
        )
        .await?,
    );
    if old.is_empty() {
        return Ok(());
    }
    let seen: Vec<&String> = old.iter().map(|[what, _]| what).collect();
    // Refreshed, the catalogue says that all is well: not before it is.
    let mend = format!(
        "when each table can bear a lock against writes in its turn, at {color}: REINDEX DATABASE {}; -- and only when that \
         succeeded (it fails on a doubled key: remove that row first): {}",
        look.dbname(color),
        commands(old.iter().map(|[_, refresh]| refresh.clone()))
    );
    look.warns(
        "collation-stale",
        format!("at {color}, sorted by a version that is no longer installed: {}", listed("collation", &seen)),
        "indexes that were built in another order miss rows and let doubled keys in: green's fresh unique index would refuse them \
         in the middle of the copy",
        mend,
    );
    Ok(())
}

/// What green's server was built without, or its machine lacks, and blue's tables need: locales, ICU, libxml.
async fn lacking(look: &mut Look<'_>) -> Result<()> {
    // Those of the system by name; those of the application are made anew, and need their library only.
    let used = texts::<3>(
        look.blue,
        &format!(
            "SELECT DISTINCT o.collname::text, o.collprovider::text, (s.nspname = 'pg_catalog')::text FROM pg_collation o \
             JOIN pg_namespace s ON s.oid = o.collnamespace WHERE o.collprovider IN ('i', 'c') AND (s.nspname !~ '^pg_' \
              AND s.nspname <> 'information_schema' OR o.oid IN (SELECT a.attcollation FROM pg_attribute a \
               JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS_NOT} AND NOT a.attisdropped)) ORDER BY 1"
        ),
    )
    .await?;
    let there = texts::<2>(
        look.green,
        "SELECT collname::text, collprovider::text FROM pg_collation WHERE collnamespace = 'pg_catalog'::regnamespace",
    )
    .await?;
    // "unicode" is in the catalogue of every server from 16 on, with ICU or without.
    let has_icu = there
        .iter()
        .any(|[name, provider]| provider == "i" && name != "unicode");
    let missing: Vec<String> = used
        .iter()
        .filter(
            |[name, provider, of_system]| match (provider.as_str(), of_system.as_str()) {
                ("i", "false") => !has_icu,
                (_, "false") => false,
                // From 17 on some of the C library's are built in.
                (provider, _) => {
                    let is_it = |p: &str| p == provider || (provider, p) == ("c", "b");
                    !there.iter().any(|[n, p]| n == name && is_it(p))
                }
            },
        )
        .map(|[name, provider, _]| {
            let library = if provider == "i" { "ICU" } else { "the C library" };
            format!("{} of {library}", crate::ident::ident(name))
        })
        .collect();
    if !missing.is_empty() {
        look.blocks(
            "missing-collations",
            format!("green's server does not have {}", listed("collation", &missing)),
            "columns of blue's sort by them: its schema cannot be made on green",
            "install the locales on green's machine and, at green: SELECT pg_import_system_collations('pg_catalog'); or give it a \
             PostgreSQL that was built with ICU",
        );
    }
    let xml = columns_of(look, "xml").await?;
    if !xml.is_empty()
        && let Err(error) = look.green.query("SELECT '<a/>'::xml::text", &[]).await
    {
        look.blocks(
            "missing-xml",
            format!(
                "green's server cannot read XML ({}), and there is {}",
                describe(&error),
                listed("column of type xml", &xml)
            ),
            "the rows of these tables cannot be copied",
            "give green a PostgreSQL that was built with libxml",
        );
    }
    let compressed = names(
        look.blue,
        &format!(
            "SELECT format('%I.%I.%I', n.nspname, c.relname, a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS_NOT} AND c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 \
             AND NOT a.attisdropped AND a.attcompression = 'l' ORDER BY 1"
        ),
        &[],
    )
    .await?;
    let lz4 = "SELECT 'lz4' FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)";
    if !compressed.is_empty() && names(look.green, lz4, &[]).await?.is_empty() {
        look.blocks(
            "missing-compression",
            format!("green's server was built without LZ4, and there is {}", listed("column of COMPRESSION lz4", &compressed)),
            "its schema cannot be made on green",
            "give green a PostgreSQL that was built with LZ4, or at blue: ALTER TABLE .. ALTER COLUMN .. SET COMPRESSION pglz;",
        );
    }
    Ok(())
}

/// Blue's columns of a type, or of arrays of it.
async fn columns_of(look: &Look<'_>, kind: &str) -> Result<Vec<String>> {
    names(
        look.blue,
        &format!(
            "SELECT format('%I.%I.%I', n.nspname, c.relname, a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {APPLICATION} AND c.relkind = 'r' AND a.attnum > 0 \
             AND a.atttypid IN ('{kind}'::regtype, '{kind}[]'::regtype) ORDER BY 1"
        ),
        &[],
    )
    .await
}

/// Money travels as text, in the notation of the place.
async fn money(look: &mut Look<'_>) -> Result<()> {
    let columns = columns_of(look, "money").await?;
    if columns.is_empty() {
        return Ok(());
    }
    let sql = "SELECT current_setting('lc_monetary')";
    let place = |rows: Vec<String>| rows.into_iter().next().unwrap_or_default();
    let (blue, green) = (
        place(names(look.blue, sql, &[]).await?),
        place(names(look.green, sql, &[]).await?),
    );
    if spelled(&blue) != spelled(&green) {
        let mend = format!(
            "at green: ALTER DATABASE {} SET lc_monetary = {};",
            look.dbname(Color::Green),
            literal(&blue)
        );
        look.blocks(
            "money",
            format!(
                "lc_monetary is {blue} at blue and {green} at green, and there is {}",
                listed("column of type money", &columns)
            ),
            "changes travel as text: an amount written in the one notation is another amount, or none, in the other",
            mend,
        );
    }
    Ok(())
}
