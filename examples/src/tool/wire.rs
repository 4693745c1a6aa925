//! From a [`Config`] to a [`Migration`]: providers chosen at run time are handed over by the same calls as any others.

use super::command::Shell;
use super::config::{Config, Databases, Dns, Gate, JournalPlace, Probe, Secret};
use super::render::complain;
use async_trait::async_trait;
use bluegreen_core::{
    AllDatabases, AllGates, Color, DnsProvider, Entry, Error, FileJournal, HealthProbe, Journal, Kind, Migration,
    NoDatabase, NoDns, NoGate, NoProbe, Replicator, Result, Signal, WriteGate,
};
use bluegreen_dns::PowerDns;
use bluegreen_http::HttpProbe;
use bluegreen_pg::{PgBouncer, PgJournal, PgJournalBuilder, PgReplicator, Upstream};
use std::sync::Arc;
use std::time::Duration;

/// Builds the migration that the file describes. Nothing is contacted.
///
/// # Errors
/// When the parts do not fit together; the sentence says what is expected.
pub fn migration(config: &Config, journal: impl Journal) -> Result<Migration> {
    let spec = &config.spec;
    let mut builder = Migration::builder(&spec.name)
        .dns(
            config
                .dns
                .as_ref()
                .map_or_else(|| Arc::new(NoDns) as Arc<dyn DnsProvider>, dns),
        )
        .replicator(replicator(config)?)
        .probe(match &config.probe {
            Some(table) => probe(table)?,
            None => Arc::new(NoProbe),
        })
        .policy(Arc::clone(&config.policy))
        .gate(gate(config)?)
        .journal(journal)
        .spec(spec.clone());
    for command in &config.verify {
        let shell = shell(config, command, Some(config.verify_timeout));
        builder = builder.verify(command, move || shell.clone().run());
    }
    if let Some(command) = &config.deploy {
        let shell = shell(config, command, None);
        builder = builder.deploy(move || shell.clone().run());
    }
    if let Some(command) = &config.decommission {
        let shell = shell(config, command, None);
        builder = builder.decommission(move || shell.clone().run());
    }
    builder.build()
}

fn shell(config: &Config, command: &str, timeout: Option<Duration>) -> Shell {
    Shell {
        command: command.to_owned(),
        folder: config.folder.clone(),
        base_url: config.spec.green.url.clone(),
        timeout,
    }
}

fn dns(table: &Dns) -> Arc<dyn DnsProvider> {
    let mut dns = PowerDns::new(&table.api, table.key.reveal()).stickiness(table.stickiness);
    if let Some(server) = &table.server {
        dns = dns.server(server);
    }
    if let Some(timeout) = table.timeout {
        dns = dns.timeout(timeout);
    }
    if let Some(authorities) = &table.authorities {
        dns = dns.authorities(authorities.iter().copied());
    }
    if table.lua_is_enabled {
        dns = dns.lua_is_enabled();
    }
    Arc::new(dns)
}

fn probe(table: &Probe) -> Result<Arc<dyn HealthProbe>> {
    let mut probe = HttpProbe::new().expect_status(table.status.clone());
    if let Some(text) = &table.body {
        probe = probe.expect_body(text);
    }
    if let Some(pem) = &table.roots {
        probe = probe.root_certificates(pem)?;
    }
    Ok(Arc::new(probe))
}

/// The replicator that the file describes.
///
/// # Errors
/// When a connection string cannot be read.
pub fn replicator(config: &Config) -> Result<Arc<dyn Replicator>> {
    if let Some(databases) = &config.databases {
        return Ok(Arc::new(postgres(config, &config.spec.name, databases)?));
    }
    if config.several.is_empty() {
        return Ok(Arc::new(NoDatabase));
    }
    let mut all = AllDatabases::new();
    for named in &config.several {
        // On one server, what is made for one must not meet what is made for another.
        let migration = format!("{}-{}", config.spec.name, named.name);
        all = all.with(&named.name, postgres(config, &migration, &named.databases)?)?;
    }
    Ok(Arc::new(all))
}

fn postgres(config: &Config, migration: &str, databases: &Databases) -> Result<PgReplicator> {
    let (blue, green) = (&databases.blue, &databases.green);
    let mut builder = PgReplicator::builder(migration, blue.url.reveal(), green.url.reveal());
    for (color, side) in [(Color::Blue, blue), (Color::Green, green)] {
        if let Some(from_peer) = &side.from_peer {
            builder = builder.database_from_peer(color, from_peer.reveal());
        }
        if let Some(bytes) = side.free_disk {
            builder = builder.free_disk(color, bytes);
        }
        if let Some(bytes) = side.wal_limit {
            builder = builder.wal_limit(color, bytes);
        }
    }
    if let Some(jobs) = config.copy_jobs {
        builder = builder.copy_jobs(jobs);
    }
    if let Some(jobs) = config.compare_jobs {
        builder = builder.compare_jobs(jobs);
    }
    if let Some(share) = config.compare_share {
        builder = builder.compare_share(share);
    }
    if let Some(folder) = &config.pg_tools {
        builder = builder.tools(folder);
    }
    builder.build()
}

fn gate(config: &Config) -> Result<Arc<dyn WriteGate>> {
    let mut all = AllGates::new();
    for named in &config.several {
        if let Some(gate) = pgbouncer(&named.gate)? {
            all = all.with(&named.name, gate)?;
        }
    }
    if all.is_present() {
        return Ok(Arc::new(all));
    }
    Ok(match pgbouncer(&config.gate)? {
        Some(gate) => Arc::new(gate),
        None => Arc::new(NoGate),
    })
}

/// The gate of a table; none where none is asked for.
fn pgbouncer(gate: &Gate) -> Result<Option<PgBouncer>> {
    let Gate::PgBouncer {
        instances,
        database,
        blue,
        green,
    } = gate
    else {
        return Ok(None);
    };
    let upstream = |(host, port, name): &(String, u16, String)| Upstream::new(host, *port, name);
    let mut gate = PgBouncer::new(database, upstream(blue), upstream(green));
    for (admin, ini) in instances {
        gate = gate.instance(admin.reveal(), ini)?;
    }
    Ok(Some(gate))
}

/// A journal as it stands, for looking on: it holds nothing, makes nothing and takes nothing.
#[derive(Debug)]
pub struct ReadJournal(pub JournalPlace);

#[async_trait]
impl Journal for ReadJournal {
    async fn load(&self) -> Result<Vec<Entry>> {
        Ok(self.0.read().await?.unwrap_or_default())
    }

    async fn append(&self, _: &Entry) -> Result<()> {
        Err(Error::new(
            Kind::Unsupported,
            "write the journal",
            "it was opened for reading only",
        ))
    }
}

/// How long giving it back may take.
const CLOSING: Duration = Duration::from_secs(5);

/// A journal that is held.
#[derive(Debug)]
pub enum Held {
    /// As long as this process lives.
    File(Arc<FileJournal>),
    /// Until it is given back, or runs out.
    Postgres(Arc<PgJournal>),
}

impl Held {
    /// The journal itself.
    #[must_use]
    pub fn journal(&self) -> Arc<dyn Journal> {
        match self {
            Self::File(journal) => Arc::clone(journal) as Arc<dyn Journal>,
            Self::Postgres(journal) => Arc::clone(journal) as Arc<dyn Journal>,
        }
    }

    /// Gives it back, so that nobody who stands by has to wait until it runs out.
    pub async fn close(self) {
        let Self::Postgres(journal) = self else { return };
        let why = match tokio::time::timeout(CLOSING, journal.close()).await {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "its server does not answer".to_owned(),
        };
        complain(format!(
            "the journal was not given back, it is free when its lease has run out: {why}"
        ));
    }
}

impl JournalPlace {
    fn builder(url: &Secret, migration: &str) -> PgJournalBuilder {
        PgJournal::builder(url.reveal(), migration)
    }

    /// The entries, without holding the journal; none when there is no journal yet.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub async fn read(&self) -> Result<Option<Vec<Entry>>> {
        let read = match self {
            Self::File(path) => FileJournal::read(path),
            Self::Postgres { url, migration, .. } => Self::builder(url, migration).read().await,
        };
        match read {
            Ok(entries) => Ok(Some(entries)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens it and holds it; a stand-by waits until whoever holds it has ended or died.
    ///
    /// # Errors
    /// `Conflict` when another runner holds it; when it cannot be opened.
    pub async fn open(&self, stand_by: bool) -> Result<Held> {
        // Why it stands by, as it was told last.
        let mut told = None;
        loop {
            let opened = match self {
                Self::File(path) => FileJournal::open(path).map(|journal| Held::File(Arc::new(journal))),
                Self::Postgres { url, migration, lease } => {
                    // The first try is for the word to who waits.
                    let wait = Duration::from_secs(if told.is_some() { 3600 } else { 0 });
                    let journal = Self::builder(url, migration).lease(*lease).wait(wait).open().await;
                    journal.map(|journal| Held::Postgres(Arc::new(journal)))
                }
            };
            match opened {
                // A journal out of reach for a while is what a stand-by is there to outlast.
                Err(e) if stand_by && (e.kind() == Kind::Conflict || e.is_transient()) => {
                    if told.replace(e.kind()) != Some(e.kind()) {
                        complain(format!("standing by: {}", e.message()));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                opened => return opened,
            }
        }
    }

    /// Leaves an operator's word for whoever runs the migration.
    ///
    /// # Errors
    /// When no migration was ever started with it; when it could not be written.
    pub async fn request(&self, signal: Signal) -> Result<()> {
        match self {
            Self::File(path) => FileJournal::request(path, signal),
            Self::Postgres { url, migration, .. } => Self::builder(url, migration).request(signal).await,
        }
    }
}
