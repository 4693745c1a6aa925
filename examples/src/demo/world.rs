//! Everything that is there before the migration: clusters, pooler, name server, both environments of the application.

use super::AnyError;
use super::migrate::{Config, DnsConfig, GateConfig};
use super::options::{Dns, Gate, Options};
use bluegreen_core::{AppGate, Color, Feed, Record, Target};
use bluegreen_dns::PowerDns;
use bluegreen_testkit::app::{App, Database, Pool, schema};
use bluegreen_testkit::dns::{DnsServer, LocalDns, Zone};
use bluegreen_testkit::servers::{PgBouncerServer, PgCluster, PowerDnsServer, free_port};
use std::net::SocketAddr;

/// The name that clients use.
pub(super) const NAME: &str = "shop.example.test";
const ZONE: &str = "example.test";
/// The TTL of the record before anybody touches it, in seconds.
pub(super) const TTL: u32 = 3;
const DATABASE: &str = "shop";
/// Connections an environment has to its database at most.
const POOL: usize = 16;

pub(super) struct World {
    pub(super) blue: PgCluster,
    pub(super) green: PgCluster,
    pub(super) pooler: Option<PgBouncerServer>,
    gate: Option<AppGate<Pool>>,
    pub(super) names: Names,
    pub(super) port: u16,
    pub(super) feed: Feed,
    _apps: [App; 2],
    folder: tempfile::TempDir,
}

pub(super) enum Names {
    Local {
        dns: LocalDns,
        control: SocketAddr,
        server: DnsServer,
    },
    PowerDns(PowerDnsServer),
}

impl World {
    pub(super) async fn start(options: &Options) -> Result<Self, AnyError> {
        // Not one setting that a real one would not have: what is acknowledged is on disk.
        let cluster = || PgCluster::builder().fsync(true).setting("max_wal_size", "4GB").start();
        let (blue, green) = futures::future::try_join(cluster(), cluster()).await?;
        blue.create_database(DATABASE).await?;
        green.create_database(DATABASE).await?;
        schema::create(&blue.url(DATABASE), options.rows).await?;
        // The past is on disk before the clients come; else it is written while they wait.
        blue.execute(DATABASE, "CHECKPOINT").await?;

        let mut pooler = None;
        let mut gate = None;
        let database = if options.kill || options.gate == Gate::PgBouncer {
            let program = PgBouncerServer::find().ok_or("PgBouncer is not installed: run scripts/install")?;
            let line = format!("{DATABASE} = host=127.0.0.1 port={} dbname={DATABASE}", blue.port());
            let server = PgBouncerServer::builder(program).database(line).start().await?;
            let url = server.url("postgres", DATABASE);
            pooler = Some(server);
            Database::Pooled(Pool::new(url, POOL))
        } else {
            let pool = |cluster: &PgCluster| Pool::new(cluster.url(DATABASE), POOL);
            Database::Gated(gate.insert(AppGate::new(pool(&blue), pool(&green))).clone())
        };

        let port = free_port()?;
        let feed = Feed::new();
        let app = |color| App::start_counted(color, port, database.clone(), feed.clone());
        let apps = [app(Color::Blue).await?, app(Color::Green).await?];
        let names = match options.dns {
            Dns::Local => {
                let zone = Zone::new(ZONE).with(NAME, &target(Color::Blue), TTL);
                let (dns, server) = LocalDns::start(zone).await?;
                Names::Local {
                    control: dns.listen().await?,
                    dns,
                    server,
                }
            }
            Dns::PowerDns => {
                let server = PowerDnsServer::start(ZONE).await?;
                server
                    .set(NAME, "A", TTL, &[&App::host(Color::Blue).to_string()])
                    .await?;
                Names::PowerDns(server)
            }
        };
        let folder = tempfile::tempdir()?;
        Ok(Self {
            blue,
            green,
            pooler,
            gate,
            names,
            port,
            feed,
            _apps: apps,
            folder,
        })
    }

    /// Where clients ask for addresses.
    pub(super) fn resolver(&self) -> SocketAddr {
        match &self.names {
            Names::Local { server, .. } => server.address(),
            Names::PowerDns(server) => server.dns(),
        }
    }

    /// The URL of a side's database, past any gate.
    pub(super) fn database(&self, color: Color) -> String {
        match color {
            Color::Blue => self.blue.url(DATABASE),
            Color::Green => self.green.url(DATABASE),
        }
    }

    /// The gate, if it is in this process.
    pub(super) fn in_process_gate(&self) -> Option<AppGate<Pool>> {
        self.gate.clone()
    }

    /// What the migration is told of all this.
    pub(super) fn migration(&self, options: &Options) -> Config {
        let url = |color| format!("http://{}:{}", App::host(color), self.port);
        Config {
            blue_database: self.database(Color::Blue),
            green_database: self.database(Color::Green),
            blue_url: url(Color::Blue),
            green_url: url(Color::Green),
            blue_target: target(Color::Blue),
            green_target: target(Color::Green),
            record: record(),
            dns: match &self.names {
                Names::Local { control, .. } => DnsConfig::Local { control: *control },
                Names::PowerDns(server) => DnsConfig::PowerDns {
                    api: server.api_url(),
                    key: server.key().to_owned(),
                    server: server.dns(),
                },
            },
            gate: self.pooler.as_ref().map(|pooler| GateConfig {
                admin: pooler.admin_url(),
                ini: pooler.ini(),
                database: DATABASE.into(),
                blue_port: self.blue.port(),
                green_port: self.green.port(),
            }),
            journal: self.folder.path().join("shop.journal"),
            go_back: options.go_back,
        }
    }
}

pub(super) fn record() -> Record {
    Record {
        zone: ZONE.into(),
        name: NAME.into(),
    }
}

pub(super) fn target(color: Color) -> Target {
    Target::address(App::host(color).into())
}

impl DnsConfig {
    /// The provider.
    pub(super) fn provider(&self) -> std::sync::Arc<dyn bluegreen_core::DnsProvider> {
        match self {
            Self::Local { control } => std::sync::Arc::new(LocalDns::remote(*control)),
            Self::PowerDns { api, key, server } => std::sync::Arc::new(PowerDns::new(api, key).authorities([*server])),
        }
    }
}
