//! What of the file is about databases: a side's keys, and the tables of several databases.

use super::check::{Fault, Key, Reader, value};
use super::gate::gate;
use super::secret::Sources;
use super::{Database, Databases, Named, raw};
use bluegreen_pg::conninfo::Conninfo;
use std::ops::Range;
use toml::Spanned;

/// A side's database; none when none of its keys is there.
pub(super) fn database(side: &str, table: raw::Database, reader: &Reader<'_>) -> Result<Option<Database>, Fault> {
    let url = Sources {
        name: "database",
        plain: table.database,
        env: table.database_env,
        file: table.database_file,
    };
    let from_peer = Sources {
        name: "database_from_peer",
        plain: table.database_from_peer,
        env: table.database_from_peer_env,
        file: table.database_from_peer_file,
    };
    let url = url.find(reader.folder, reader.environment)?;
    let from_peer = from_peer.find(reader.folder, reader.environment)?;
    for (key, secret) in [("database", &url), ("database_from_peer", &from_peer)] {
        if let Some(secret) = secret {
            Conninfo::parse(secret.get_ref().reveal()).map_err(|e| {
                let expected = "expected postgres://user@host:port/database or \"host=.. user=.. dbname=..\"";
                Fault::at(secret.span(), format!("{key}: {}; {expected}", e.message()))
            })?;
        }
    }
    match (url, from_peer) {
        (Some(url), from_peer) => Ok(Some(Database {
            url: url.into_inner(),
            from_peer: from_peer.map(Spanned::into_inner),
            free_disk: value(table.free_disk_bytes),
            wal_limit: value(table.wal_limit_bytes),
        })),
        (None, Some(stray)) => Err(Fault::at(
            stray.span(),
            format!("database_from_peer has no meaning without `database` in [{side}]"),
        )),
        (None, None) => Ok(None),
    }
}

/// The tables of several databases.
pub(super) fn all(tables: Vec<Spanned<raw::Named>>, reader: &Reader<'_>) -> Result<Vec<Named>, Fault> {
    let mut all: Vec<Named> = vec![];
    for table in tables {
        let at = table.span();
        let table = table.into_inner();
        let (at_name, name) = (table.name.span(), table.name.into_inner());
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) || all.iter().any(|other| other.name == name)
        {
            let what = format!(
                "name: {name:?} is taken or not usable: expected 1 to 32 letters, digits, '-' or '_', another for each"
            );
            return Err(Fault::at(at_name, what));
        }
        let databases = Databases {
            blue: side("blue", &name, table.blue, &at, reader)?,
            green: side("green", &name, table.green, &at, reader)?,
        };
        if table.gate.is_none() {
            let what = format!(
                "the database {name} has no gate: expected gate.kind = \"pgbouncer\", or gate.kind = \"none\" if clients may see \
                 errors while writes pause"
            );
            return Err(Fault::at(at, what));
        }
        let gate = gate(table.gate, reader, Some(&databases), &at)?;
        all.push(Named { name, databases, gate });
    }
    Ok(all)
}

fn side(
    side: &str,
    name: &str,
    table: Key<raw::Database>,
    at: &Range<usize>,
    reader: &Reader<'_>,
) -> Result<Database, Fault> {
    let at = table.as_ref().map_or_else(|| at.clone(), Spanned::span);
    let found = match table {
        Some(table) => database(side, table.into_inner(), reader)?,
        None => None,
    };
    found.ok_or_else(|| {
        Fault::at(at, format!("{side}'s database of {name} is missing: expected {side}.database, {side}.database_env or {side}.database_file"))
    })
}

/// Where there are several, all of them are in tables of their own.
pub(super) fn are_alone(
    several: &[Named],
    single: bool,
    gate: Option<&Spanned<raw::Gate>>,
    whole: &Range<usize>,
) -> Result<(), Fault> {
    if several.is_empty() {
        return Ok(());
    }
    if single {
        let what = "[blue] and [green] have a `database`, and there are [[database]] tables: expected all databases in tables of \
                    their own, with a name each";
        return Err(Fault::at(whole.clone(), what));
    }
    gate.map_or(Ok(()), |gate| {
        let what = "[gate] is of one database, and there are [[database]] tables: expected a gate in each of them: gate.kind = ..";
        Err(Fault::at(gate.span(), what))
    })
}
