//! What of the file is about the gate.

use super::check::{Fault, Key, Reader};
use super::raw::{self, GateKind};
use super::secret::{Secret, Sources};
use super::{Database, Databases, Gate};
use bluegreen_pg::conninfo::Conninfo;
use std::ops::Range;

pub(super) fn gate(
    table: Key<raw::Gate>,
    reader: &Reader<'_>,
    databases: Option<&Databases>,
    whole: &Range<usize>,
) -> Result<Gate, Fault> {
    let Some(table) = table else {
        if databases.is_some() {
            let what = "a database moves and there is no [gate]: expected kind = \"pgbouncer\", or kind = \"none\" if \
                        clients may see errors while writes pause";
            return Err(Fault::at(whole.clone(), what));
        }
        return Ok(Gate::None);
    };
    let at = table.span();
    let table = table.into_inner();
    if *table.kind.get_ref() == GateKind::None {
        return Ok(Gate::None);
    }
    let Some(databases) = databases else {
        let what = "a gate without a database has nothing to hold: expected kind = \"none\"";
        return Err(Fault::at(table.kind.span(), what));
    };
    let missing = |what: &str| Fault::at(at.clone(), format!("{what} is missing in [gate]"));
    let admin = admin(table.admin, table.admin_env, table.admin_file, reader)?;
    let admin = admin.ok_or_else(|| missing("admin = [\"postgres://admin@127.0.0.1:6432/pgbouncer\"]"))?;
    let config = table
        .config
        .ok_or_else(|| missing("config, the ini file whose line is rewritten,"))?;
    let database = table
        .database
        .ok_or_else(|| missing("database, its name in that ini,"))?;
    let (at_config, files) = (config.span(), config.into_inner().0);
    if files.len() != admin.len() {
        let (files, admin) = (files.len(), admin.len());
        let what =
            format!("config: {files} ini files for {admin} admin consoles: expected one for each, in the same order");
        return Err(Fault::at(at_config, what));
    }
    let mut instances = vec![];
    for (console, file) in admin.into_iter().zip(files) {
        let path = reader.folder.join(file);
        if !path.is_file() {
            let what = format!("config: there is no file {}", path.display());
            return Err(Fault::at(at_config, what));
        }
        instances.push((console, path));
    }
    Ok(Gate::PgBouncer {
        instances,
        database: database.into_inner(),
        blue: upstream("blue", table.blue, &databases.blue)?,
        green: upstream("green", table.green, &databases.green)?,
    })
}

/// The admin consoles, checked; none when there is no such key.
fn admin(
    list: Key<Vec<String>>,
    env: Key<String>,
    file: Key<String>,
    reader: &Reader<'_>,
) -> Result<Option<Vec<Secret>>, Fault> {
    if let (Some(_), Some(second)) = (&list, env.as_ref().or(file.as_ref())) {
        let what = "admin is given twice: expected one of admin, admin_env and admin_file";
        return Err(Fault::at(second.span(), what));
    }
    let (at, consoles) = if let Some(list) = list {
        (list.span(), list.into_inner())
    } else {
        let sources = Sources {
            name: "admin",
            plain: None,
            env,
            file,
        };
        let Some(found) = sources.find(reader.folder, reader.environment)? else {
            return Ok(None);
        };
        // A line a console: connection strings may hold spaces.
        let lines = found.get_ref().reveal().lines().map(str::trim);
        let consoles = lines.filter(|l| !l.is_empty()).map(str::to_owned).collect();
        (found.span(), consoles)
    };
    if consoles.is_empty() {
        let what = "admin is empty: expected the admin console of each PgBouncer";
        return Err(Fault::at(at, what));
    }
    for console in &consoles {
        Conninfo::parse(console).map_err(|e| Fault::at(at.clone(), format!("admin: {}", e.message())))?;
    }
    Ok(Some(consoles.into_iter().map(Secret::new).collect()))
}

/// Where PgBouncer finds a side's database: where we find it, unless the file says otherwise.
fn upstream(side: &str, given: Key<String>, database: &Database) -> Result<(String, u16, String), Fault> {
    let Some(given) = given else {
        let url = Conninfo::parse(database.url.reveal()).map_err(|e| Fault {
            at: None,
            what: format!("[{side}] database: {}", e.message()),
        })?;
        return Ok((url.host().to_owned(), url.port(), url.dbname().to_owned()));
    };
    let address = || {
        let (address, name) = given.get_ref().split_once('/')?;
        let (host, port) = address.rsplit_once(':')?;
        let whole = !host.is_empty() && !name.is_empty();
        Some((host.to_owned(), port.parse().ok()?, name.to_owned())).filter(|_| whole)
    };
    address().ok_or_else(|| {
        let what = format!(
            "{side}: {:?} is no address of a database: expected host:port/name",
            given.get_ref()
        );
        Fault::at(given.span(), what)
    })
}
