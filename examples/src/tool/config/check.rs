//! From the file's keys to a [`Config`]: everything that can be found wrong without contacting anybody, with its place.

use super::gate::gate;
use super::journal;
use super::raw;
use super::several;
use super::traffic::{dns, policy, target};
use super::{Config, Database, Databases, Environment, Probe};
use bluegreen_core::spec::Environment as Place;
use bluegreen_core::{Spec, WritePath};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// A key that may be absent, with its place.
pub(super) type Key<T> = Option<Spanned<T>>;

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: Option<Range<usize>>,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn at(at: Range<usize>, what: impl Into<String>) -> Self {
        Self {
            at: Some(at),
            what: what.into(),
        }
    }
}

/// Whoever reads the file gets its folder and the environment for the secrets.
pub(super) struct Reader<'a> {
    pub(super) folder: &'a Path,
    pub(super) environment: Environment<'a>,
}

pub(super) fn check(file: raw::File, folder: PathBuf, environment: Environment<'_>) -> Result<Config, Fault> {
    let reader = Reader {
        folder: &folder,
        environment,
    };
    let whole = file.migration.span();
    let mut migration = file.migration;
    let journal = journal::place(&mut migration, &reader)?;
    let migration = migration.into_inner();
    let (blue, blue_database) = side("blue", file.blue, &reader)?;
    let (green, green_database) = side("green", file.green, &reader)?;
    let mut spec = Spec::new(migration.name.get_ref().clone(), blue.place, green.place);
    let probe = probe(file.probe, &reader, &mut spec)?;
    let dns = match file.dns {
        Some(table) => dns(table, &reader, &mut spec)?,
        None => None,
    };
    let several = several::all(file.database, &reader)?;
    let databases = match (blue_database, green_database) {
        (Some(blue), Some(green)) => Some(Databases { blue, green }),
        (None, None) => None,
        (Some(_), None) => return Err(one_sided(green.at.unwrap_or(whole), "green", "blue")),
        (None, Some(_)) => return Err(one_sided(blue.at.unwrap_or(whole), "blue", "green")),
    };
    let moves = databases.is_some() || !several.is_empty();
    if dns.is_none() && !moves {
        let what = "nothing would move: expected a `database` in [blue] and [green] (or several in [[database]] tables), a [dns], or both";
        return Err(Fault::at(whole, what));
    }
    several::are_alone(&several, databases.is_some(), file.gate.as_ref(), &whole)?;
    let gate = gate(file.gate, &reader, databases.as_ref(), &whole)?;
    if let Some(url) = &migration.production_url {
        check_url("production_url", url)?;
    }
    settings(&migration, &mut spec);
    if dns.is_some() && moves && spec.write_path.is_none() {
        let what = "write_path is missing: users reach green before its database is the writer; expected \
                    \"blue-database\" (green's application writes to blue's database until the cut-over), \
                    \"read-only-green\" or \"no-live-traffic\"";
        return Err(Fault::at(whole, what));
    }
    if dns.is_none() && spec.write_path.is_none() {
        spec.write_path = Some(WritePath::NoLiveTraffic);
    }
    let policy = policy(file.policy, dns.is_some(), &whole, &mut spec)?;
    spec.validate()
        .map_err(|e| Fault::at(migration.name.span(), e.message().to_owned()))?;
    let (verify, verify_timeout) = verify(file.verify)?;
    let hooks = file.hooks.map(Spanned::into_inner);
    let (deploy, decommission) = hooks.map(|h| (h.deploy, h.decommission)).unwrap_or_default();
    let asked = spec.blue.url.is_some() || spec.green.url.is_some();
    let every = databases.iter().chain(several.iter().map(|named| &named.databases));
    every
        .into_iter()
        .try_for_each(|both| journal::is_apart(&journal, both, whole.clone()))?;
    let pg_tools = value(migration.pg_tools).map(|path| folder.join(path));
    let copy_jobs = value(migration.copy_jobs);
    let compare_jobs = value(migration.compare_jobs);
    if let Some(share) = &migration.compare_share
        && !(*share.get_ref() > 0.0 && *share.get_ref() <= 1.0)
    {
        let what = format!(
            "compare_share is {}: expected more than 0 and at most 1",
            share.get_ref()
        );
        return Err(Fault::at(share.span(), what));
    }
    let compare_share = value(migration.compare_share);
    Ok(Config {
        folder,
        spec,
        journal,
        dns,
        databases,
        several,
        copy_jobs,
        compare_jobs,
        compare_share,
        pg_tools,
        gate,
        policy,
        probe: asked.then_some(probe),
        verify,
        verify_timeout,
        deploy: deploy.map(Spanned::into_inner),
        decommission: decommission.map(Spanned::into_inner),
    })
}

fn one_sided(at: Range<usize>, missing: &str, there: &str) -> Fault {
    Fault::at(
        at,
        format!(
            "[{there}] has a database and [{missing}] has none: expected a `database` in [{missing}] too, or in neither"
        ),
    )
}

struct Side {
    place: Place,
    at: Option<Range<usize>>,
}

fn side(name: &str, table: Key<raw::Side>, reader: &Reader<'_>) -> Result<(Side, Option<Database>), Fault> {
    let Some(table) = table else {
        let place = Place::none();
        return Ok((Side { place, at: None }, None));
    };
    let at = table.span();
    let side = table.into_inner();
    let mut place = Place::none();
    if let Some(url) = side.url {
        check_url("url", &url)?;
        place.url = Some(url.into_inner());
    } else if let Some(path) = side.health.first() {
        return Err(Fault::at(
            path.span(),
            format!("health has nothing to ask: expected a `url` in [{name}] too"),
        ));
    }
    for path in side.health {
        if !path.get_ref().starts_with('/') {
            let what = format!(
                "health: {:?} is no path: expected one such as \"/api/health\"",
                path.get_ref()
            );
            return Err(Fault::at(path.span(), what));
        }
        place.health.push(path.into_inner());
    }
    place.target = side.target.map(target).transpose()?;
    let database = raw::Database {
        database: side.database,
        database_env: side.database_env,
        database_file: side.database_file,
        database_from_peer: side.database_from_peer,
        database_from_peer_env: side.database_from_peer_env,
        database_from_peer_file: side.database_from_peer_file,
        free_disk_bytes: side.free_disk_bytes,
        wal_limit_bytes: side.wal_limit_bytes,
    };
    let database = several::database(name, database, reader)?;
    Ok((Side { place, at: Some(at) }, database))
}

pub(super) fn check_url(name: &str, url: &Spanned<String>) -> Result<(), Fault> {
    bluegreen_core::spec::check_url(url.get_ref()).map_err(|why| Fault::at(url.span(), format!("{name} {why}")))
}

fn probe(table: Key<raw::Probe>, reader: &Reader<'_>, spec: &mut Spec) -> Result<Probe, Fault> {
    let table = table.map(Spanned::into_inner).unwrap_or_default();
    let status = match table.status {
        None => 200..=299,
        Some(range) => match *range.get_ref() {
            [from, to] if (100..=599).contains(&from) && from <= to && to <= 599 => from..=to,
            _ => {
                return Err(Fault::at(
                    range.span(),
                    "status: expected the first and the last status that is well: [200, 299]",
                ));
            }
        },
    };
    let read = |path: Spanned<String>| {
        let file = reader.folder.join(path.get_ref());
        std::fs::read(&file)
            .map_err(|e| Fault::at(path.span(), format!("roots: {} cannot be read: {e}", file.display())))
    };
    set(&mut spec.probe_deadline, table.deadline);
    spec.healthy_in_a_row = value(table.healthy_in_a_row).unwrap_or(spec.healthy_in_a_row);
    Ok(Probe {
        status,
        body: value(table.body),
        roots: table.roots.map(read).transpose()?,
    })
}

fn settings(table: &raw::Migration, spec: &mut Spec) {
    let lengths = [
        (&mut spec.pause_budget, &table.pause_budget),
        (&mut spec.hold, &table.hold),
        (&mut spec.soak, &table.soak),
        (&mut spec.patience, &table.patience),
        (&mut spec.look, &table.look),
        (&mut spec.watch, &table.watch),
        (&mut spec.cut_over_retry, &table.cut_over_retry),
    ];
    for (setting, key) in lengths {
        if let Some(key) = key {
            *setting = key.get_ref().0;
        }
    }
    let get = |key: &Key<u32>, default| key.as_ref().map_or(default, |k| *k.get_ref());
    spec.retries = get(&table.retries, spec.retries);
    spec.cut_over_attempts = get(&table.cut_over_attempts, spec.cut_over_attempts);
    spec.max_lag_bytes = table
        .max_lag_bytes
        .as_ref()
        .map_or(spec.max_lag_bytes, |k| *k.get_ref());
    spec.compare = table.compare;
    spec.write_path = table.write_path.as_ref().map(|k| *k.get_ref());
    spec.production_url = table.production_url.as_ref().map(|k| k.get_ref().clone());
}

fn verify(table: Key<raw::Verify>) -> Result<(Vec<String>, Duration), Fault> {
    let default = Duration::from_secs(30 * 60);
    let Some(table) = table else {
        return Ok((vec![], default));
    };
    let table = table.into_inner();
    let mut commands: Vec<String> = vec![];
    for command in table.commands {
        if command.get_ref().trim().is_empty() || commands.contains(command.get_ref()) {
            let what = format!(
                "commands: {:?} is empty or there twice: expected commands for a shell, each once",
                command.get_ref()
            );
            return Err(Fault::at(command.span(), what));
        }
        commands.push(command.into_inner());
    }
    Ok((commands, timeout(table.timeout)?.unwrap_or(default)))
}

pub(super) fn set(setting: &mut Duration, key: Key<raw::Length>) {
    if let Some(key) = key {
        *setting = key.into_inner().0;
    }
}

/// How long something may take: not at all is a mistake.
pub(super) fn timeout(key: Key<raw::Length>) -> Result<Option<Duration>, Fault> {
    let Some(key) = key else { return Ok(None) };
    if key.get_ref().0.is_zero() {
        let what = "timeout: nothing is done in no time: expected a length of time such as \"5s\"";
        return Err(Fault::at(key.span(), what));
    }
    Ok(Some(key.into_inner().0))
}

pub(super) fn value<T>(key: Key<T>) -> Option<T> {
    key.map(Spanned::into_inner)
}
