//! The migration itself: the library as another program embeds it.

use super::AnyError;
use super::course::Course;
use bluegreen_core::{
    AppGate, Clock, Environment, Event, Feed, FileJournal, Kind, Migration, Outcome, Record, Spec, StepName, Steps,
    SystemClock, Target, WriteGate, WritePath,
};
use bluegreen_http::HttpProbe;
use bluegreen_pg::{PgBouncer, PgReplicator, Upstream};
use bluegreen_testkit::app::Pool;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What moves where; written to a file for a migration in a process of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Config {
    pub(super) blue_database: String,
    pub(super) green_database: String,
    pub(super) blue_url: String,
    pub(super) green_url: String,
    pub(super) blue_target: Target,
    pub(super) green_target: Target,
    pub(super) record: Record,
    pub(super) dns: DnsConfig,
    pub(super) gate: Option<GateConfig>,
    pub(super) journal: PathBuf,
    pub(super) go_back: bool,
}

/// Who serves the name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum DnsConfig {
    Local {
        control: SocketAddr,
    },
    PowerDns {
        api: String,
        key: String,
        server: SocketAddr,
    },
}

/// The PgBouncer that makes writes wait.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct GateConfig {
    pub(super) admin: String,
    pub(super) ini: PathBuf,
    pub(super) database: String,
    pub(super) blue_port: u16,
    pub(super) green_port: u16,
}

/// How long blue stays a way back here; two days in earnest.
const HOLD: Duration = Duration::from_secs(4);

impl Config {
    fn spec(&self) -> Spec {
        let environment = |url: &str, target: &Target| {
            Environment::at(url)
                .health("/api/health")
                .health("/api/ready")
                .target(target.clone())
        };
        let blue = environment(&self.blue_url, &self.blue_target);
        let green = environment(&self.green_url, &self.green_target);
        let mut spec = Spec::new("shop", blue, green)
            .record(&self.record.zone, &self.record.name)
            .write_path(WritePath::BlueDatabase)
            .hold(if self.go_back { HOLD * 10 } else { HOLD });
        // Everything short: a person is watching.
        spec.ttl = Duration::from_secs(1);
        spec.slack = Duration::from_millis(200);
        spec.soak = Duration::from_secs(1);
        spec.look = Duration::from_millis(200);
        spec.watch = Duration::from_millis(500);
        spec.cut_over_retry = Duration::from_secs(1);
        spec
    }

    pub(super) async fn migration(
        &self,
        gate: Option<AppGate<Pool>>,
        feed: Option<Feed>,
    ) -> Result<Migration, AnyError> {
        let gate: Arc<dyn WriteGate> = match (gate, &self.gate) {
            (Some(gate), _) => Arc::new(gate),
            (None, Some(config)) => Arc::new(config.gate()?),
            (None, None) => return Err("the gate is in another process".into()),
        };
        let journal = journal(&self.journal).await?;
        let mut builder = Migration::builder("shop")
            .dns(self.dns.provider())
            .replicator(PgReplicator::new("shop", &self.blue_database, &self.green_database)?)
            .probe(HttpProbe::new().expect_body("\"status\":"))
            .policy(Steps::new([10, 50, 100]).bake("2s"))
            .gate(gate)
            .journal(journal)
            .spec(self.spec());
        if let Some(feed) = feed {
            builder = builder.feed(feed);
        }
        Ok(builder.build()?)
    }
}

/// Opens the journal; a process that was killed a moment ago may still hold its lock.
async fn journal(path: &std::path::Path) -> Result<FileJournal, bluegreen_core::Error> {
    for _ in 0..200 {
        match FileJournal::open(path) {
            Err(error) if error.kind() == Kind::Conflict => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other,
        }
    }
    FileJournal::open(path)
}

/// Runs it to its end, showing what happens; on the way back if that is asked.
pub(super) async fn run(
    config: &Config,
    gate: Option<AppGate<Pool>>,
    feed: Feed,
    course: &Course,
) -> Result<Outcome, AnyError> {
    let migration = config.migration(gate, Some(feed)).await?;
    drive(&migration, config.go_back, |event| course.saw(event)).await
}

/// Runs a migration, hands on its events, and asks it to go back once it has held for a while.
pub(super) async fn drive(
    migration: &Migration,
    go_back: bool,
    mut see: impl FnMut(&Event),
) -> Result<Outcome, AnyError> {
    let mut events = migration.events();
    let handle = migration.handle();
    let mut running = std::pin::pin!(migration.run());
    let mut back = go_back;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            ended = &mut running => {
                // What is still in the stream happened before the end.
                while let Some(Some(event)) = futures::FutureExt::now_or_never(events.next()) {
                    see(&event);
                }
                return Ok(ended?);
            }
            Some(event) = events.next() => see(&event),
            _ = tick.tick(), if back => {
                let status = migration.status();
                back = status.unwinding.is_none();
                let since = status.since.filter(|_| status.step == Some(StepName::Hold));
                if since.is_some_and(|since| SystemClock.now().since(since) > HOLD / 2) {
                    handle.go_back();
                    back = false;
                }
            }
        }
    }
}

impl GateConfig {
    fn gate(&self) -> Result<PgBouncer, AnyError> {
        let upstream = |port| Upstream::new("127.0.0.1", port, &self.database);
        let gate = PgBouncer::new(&self.database, upstream(self.blue_port), upstream(self.green_port));
        Ok(gate.instance(&self.admin, &self.ini)?)
    }
}
