//! The suite that every DNS provider passes, for `PowerDns` on a real PowerDNS.
#![allow(clippy::unwrap_used, missing_docs)]

use async_trait::async_trait;
use bluegreen_core::{DnsProvider, Record};
use bluegreen_dns::{PowerDns, Stickiness};
use bluegreen_testkit::conformance::dns::DnsHarness;
use bluegreen_testkit::servers::{PowerDnsBinaries, PowerDnsServer, available};
use std::time::Duration;

struct Harness {
    server: PowerDnsServer,
    provider: PowerDns,
}

impl Harness {
    async fn start(stickiness: Stickiness) -> Option<Self> {
        available("PowerDNS", PowerDnsBinaries::find())?;
        let server = PowerDnsServer::start("example.com").await.unwrap();
        let provider = PowerDns::new(server.api_url(), server.key());
        let provider = provider.authorities([server.dns()]).stickiness(stickiness);
        Some(Self { server, provider })
    }
}

#[async_trait]
impl DnsHarness for Harness {
    fn provider(&self) -> &dyn DnsProvider {
        &self.provider
    }

    fn record(&self) -> Record {
        Record {
            zone: "example.com".into(),
            name: "app.example.com".into(),
        }
    }

    async fn put_foreign(&self) -> bool {
        let lua = "A \"ifportup(443, {'192.0.2.1', '192.0.2.2'})\"";
        self.server.set("app.example.com", "LUA", 60, &[lua]).await.unwrap();
        true
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

bluegreen_testkit::dns_conformance!(per_query, async { Harness::start(Stickiness::PerQuery).await });
bluegreen_testkit::dns_conformance!(by_client, async { Harness::start(Stickiness::ByClient).await });
