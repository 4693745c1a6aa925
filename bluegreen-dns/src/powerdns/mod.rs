//! `PowerDns`: its HTTP API, with weights by Lua records that we write and recognise.
//!
//! What it owes and cannot give: the API has no compare-and-swap, so a change is read, compared and then sent, and two
//! writers within that instant overwrite each other (the owner's TXT record tells afterwards who was last). It accepts Lua
//! that does not run and then answers SERVFAIL: only asking the authorities shows it.

mod api;
mod change;
mod lua;
mod shape;

use crate::authority;
use crate::error::DnsError;
use api::Api;
use async_trait::async_trait;
use bluegreen_core::{
    Applied, AuthorityAnswer, ChangePlan, ChangeStatus, DnsCapabilities, DnsProvider, Error, Intent, Kind, Receipt,
    Record, Result, Shape, Snapshot, Weights,
};
use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

const NAME: &str = "powerdns";

/// How a client (in DNS: a resolver with all its users, until its TTL runs out) comes to its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stickiness {
    /// Every question is a draw of its own (`pickwrandom`). The share comes true in every sample, and a resolver that
    /// asks again after its TTL may be given the other side. The default: what was asked for is what is served, and it
    /// can be checked from one place.
    #[default]
    PerQuery,
    /// The asking address decides (`pickwhashed`). A resolver stays where it is, and whoever is on green stays there
    /// while the share grows. With few resolvers the share is lumpy: one large resolver is a large step, and asked from
    /// one address the servers always say the same, so the share cannot be checked from there.
    ByClient,
}

impl Stickiness {
    fn function(self) -> &'static str {
        match self {
            Self::PerQuery => "pickwrandom",
            Self::ByClient => "pickwhashed",
        }
    }
}

/// A [`DnsProvider`] for PowerDNS's authoritative server (4.3 or later, with `enable-lua-records`).
///
/// ```
/// use bluegreen_dns::{PowerDns, Stickiness};
/// let dns = PowerDns::new("https://dns.example.net:8081", "the key").stickiness(Stickiness::ByClient);
/// assert!(!format!("{dns:?}").contains("the key"));
/// ```
pub struct PowerDns {
    url: String,
    key: String,
    server: String,
    timeout: Duration,
    stickiness: Stickiness,
    authorities: Option<Vec<SocketAddr>>,
    lua_enabled: bool,
    api: OnceLock<Api>,
}

impl fmt::Debug for PowerDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PowerDns")
            .field("server", &self.server)
            .field("stickiness", &self.stickiness)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

impl PowerDns {
    /// The server whose API is at `url` (`http://host:8081`), with its API key.
    #[must_use]
    pub fn new(url: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key: key.into(),
            server: "localhost".into(),
            timeout: Duration::from_secs(5),
            stickiness: Stickiness::default(),
            authorities: None,
            lua_enabled: false,
            api: OnceLock::new(),
        }
    }

    /// The server's id in the API; `localhost`, unless something stands in between.
    #[must_use]
    pub fn server(mut self, id: impl Into<String>) -> Self {
        self.server = id.into();
        self
    }

    /// How long one request to the API may take; 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How a client comes to its side.
    #[must_use]
    pub fn stickiness(mut self, stickiness: Stickiness) -> Self {
        self.stickiness = stickiness;
        self
    }

    /// The addresses to ask what is really served, instead of those of the zone's NS records at port 53.
    #[must_use]
    pub fn authorities(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.authorities = Some(servers.into_iter().collect());
        self
    }

    /// Says that every server of the zone runs Lua records, where the API's `/config` may not be read. Otherwise the
    /// setting is read before a plain record is first replaced, because a server without Lua would answer nothing.
    #[must_use]
    pub fn lua_is_enabled(mut self) -> Self {
        self.lua_enabled = true;
        self
    }

    fn api(&self) -> Result<&Api, DnsError> {
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let api = Api::new(&self.url, &self.server, &self.key, self.timeout)?;
        Ok(self.api.get_or_init(|| api))
    }

    async fn look(&self, record: &Record) -> Result<Snapshot, DnsError> {
        let zone = self.api()?.zone(&shape::relative(&record.zone)).await?;
        Ok(shape::snapshot(record, zone))
    }

    /// Why a weighted shape would not answer here, if it would not.
    async fn lua_missing(&self) -> Result<Option<String>, DnsError> {
        if self.lua_enabled {
            return Ok(None);
        }
        let mend = "set `enable-lua-records=yes` on every server of the zone (or say `lua_is_enabled` if they have it)";
        Ok(match self.api()?.setting("enable-lua-records").await {
            Ok(Some(value)) if matches!(value.as_str(), "yes" | "shared" | "true" | "on") => None,
            Ok(_) => Some(format!("this server runs no Lua records: {mend}")),
            Err(DnsError::Status { status: 403 | 404, .. }) => Some(format!(
                "whether this server runs Lua records could not be read: {mend}"
            )),
            Err(other) => return Err(other),
        })
    }
}

#[async_trait]
impl DnsProvider for PowerDns {
    fn name(&self) -> &str {
        NAME
    }

    fn acts_on(&self) -> String {
        api::place(&self.url, &self.server)
    }

    fn capabilities(&self) -> DnsCapabilities {
        let capabilities = DnsCapabilities::new(Weights::UpTo(1000));
        match self.stickiness {
            Stickiness::PerQuery => capabilities,
            Stickiness::ByClient => capabilities.with_sticky_clients(),
        }
    }

    async fn read(&self, record: &Record) -> Result<Snapshot> {
        within_zone(record)?;
        self.look(record)
            .await
            .map_err(|e| e.into_error(NAME, format!("read {record} in the zone {}", record.zone)))
    }

    fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan> {
        change::compile(snapshot, intent, self.stickiness)
    }

    async fn apply(&self, plan: &ChangePlan) -> Result<Applied> {
        let receipt = || Receipt(shape::digest(&plan.body.to_string()));
        if !plan.changes {
            return Ok(Applied::Accepted(receipt()));
        }
        let operation = || format!("change {}", plan.record);
        let failed = |e: DnsError| e.into_error(NAME, operation());
        let now = self.look(&plan.record).await.map_err(failed)?;
        if now != plan.before {
            // Sent before, by us or by who we were before a crash: said twice is done once.
            let done = self.compile(&now, &plan.intent).is_ok_and(|again| !again.changes);
            return Ok(if done {
                Applied::Accepted(receipt())
            } else {
                Applied::Conflict(Box::new(now))
            });
        }
        let adopts = matches!(plan.intent, Intent::Weighted { .. }) && !matches!(now.shape, Shape::Weighted { .. });
        if adopts && let Some(reason) = self.lua_missing().await.map_err(failed)? {
            return Ok(Applied::Rejected(reason));
        }
        let api = self.api().map_err(failed)?;
        match api.patch(&shape::relative(&plan.record.zone), &plan.body).await {
            Ok(()) => Ok(Applied::Accepted(receipt())),
            Err(DnsError::Status {
                status: 400 | 422,
                message,
                ..
            }) => Ok(Applied::Rejected(message)),
            Err(open) if open.is_open() => Ok(Applied::Unknown(open.to_string())),
            Err(certain) => Err(failed(certain)),
        }
    }

    /// The API does not tell: one server is done when it answers, and what others serve only they can say.
    async fn poll(&self, _: &Receipt) -> Result<ChangeStatus> {
        Ok(ChangeStatus::Submitted)
    }

    async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>> {
        let servers = match &self.authorities {
            Some(servers) => servers.clone(),
            None => {
                let zone = shape::absolute(&record.zone);
                let failed = |e: DnsError| e.into_error(NAME, "find the authoritative servers");
                let sets = self
                    .api()
                    .map_err(failed)?
                    .zone(&shape::relative(&zone))
                    .await
                    .map_err(failed)?;
                let ns = sets
                    .into_iter()
                    .filter(|s| s.kind == "NS" && shape::absolute(&s.name) == zone);
                let live = ns.flat_map(|s| s.records).filter(|r| !r.disabled);
                let names: Vec<String> = live.map(|r| r.content).collect();
                authority::addresses(&names).await.map_err(|e| e.provider(NAME))?
            }
        };
        authority::ask(&servers, record, samples, authority::DEFAULT_TIMEOUT).await
    }
}

fn within_zone(record: &Record) -> Result<()> {
    let (name, zone) = (shape::absolute(&record.name), shape::absolute(&record.zone));
    if !lua::is_name(&record.name) || !lua::is_name(&record.zone) {
        let message = format!("{:?} in the zone {:?} is no DNS name", record.name, record.zone);
        return Err(Error::invalid("read the record", message).provider(NAME));
    }
    if name == zone || name.ends_with(&format!(".{zone}")) {
        return Ok(());
    }
    let message = format!(
        "{} does not lie in the zone {}: correct one of them",
        record.name, record.zone
    );
    Err(Error::new(Kind::InvalidInput, "read the record", message).provider(NAME))
}
