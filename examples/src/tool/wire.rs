//! From a [`Config`] to a [`Migration`]: providers chosen at run time are handed over by the same calls as any others.

use super::command::Shell;
use super::config::{Config, Dns, Gate, Probe};
use async_trait::async_trait;
use bluegreen_core::{
    Color, DnsProvider, Entry, Error, FileJournal, HealthProbe, Journal, Kind, Migration, NoDatabase, NoDns, NoGate,
    NoProbe, Replicator, Result, WriteGate,
};
use bluegreen_dns::PowerDns;
use bluegreen_http::HttpProbe;
use bluegreen_pg::{PgBouncer, PgReplicator, Upstream};
use std::path::PathBuf;
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

fn replicator(config: &Config) -> Result<Arc<dyn Replicator>> {
    let Some(databases) = &config.databases else {
        return Ok(Arc::new(NoDatabase));
    };
    let (blue, green) = (&databases.blue, &databases.green);
    let mut builder = PgReplicator::builder(&config.spec.name, blue.url.reveal(), green.url.reveal());
    for (color, side) in [(Color::Blue, blue), (Color::Green, green)] {
        if let Some(from_peer) = &side.from_peer {
            builder = builder.database_from_peer(color, from_peer.reveal());
        }
        if let Some(bytes) = side.free_disk {
            builder = builder.free_disk(color, bytes);
        }
    }
    if let Some(jobs) = config.copy_jobs {
        builder = builder.copy_jobs(jobs);
    }
    if let Some(folder) = &config.pg_tools {
        builder = builder.tools(folder);
    }
    Ok(Arc::new(builder.build()?))
}

fn gate(config: &Config) -> Result<Arc<dyn WriteGate>> {
    let Gate::PgBouncer {
        instances,
        database,
        blue,
        green,
    } = &config.gate
    else {
        return Ok(Arc::new(NoGate));
    };
    let upstream = |(host, port, name): &(String, u16, String)| Upstream::new(host, *port, name);
    let mut gate = PgBouncer::new(database, upstream(blue), upstream(green));
    for (admin, ini) in instances {
        gate = gate.instance(admin.reveal(), ini)?;
    }
    Ok(Arc::new(gate))
}

/// A journal as it stands, for looking on: it holds nothing, makes nothing and takes nothing.
#[derive(Debug)]
pub struct ReadJournal(pub PathBuf);

#[async_trait]
impl Journal for ReadJournal {
    async fn load(&self) -> Result<Vec<Entry>> {
        match FileJournal::read(&self.0) {
            Err(e) if e.kind() == Kind::NotFound => Ok(vec![]),
            other => other,
        }
    }

    async fn append(&self, _: &Entry) -> Result<()> {
        Err(Error::new(
            Kind::Unsupported,
            "write the journal",
            "it was opened for reading only",
        ))
    }
}
