//! What every gate owes, of the PgBouncer gate on a real PgBouncer: work is a transaction through it.
#![allow(clippy::unwrap_used)]

mod bouncer;

use async_trait::async_trait;
use bluegreen_core::{Color, WriteGate};
use bluegreen_pg::PgBouncer;
use bluegreen_testkit::conformance::gate::{GateHarness, GateUnit};
use bouncer::{Stage, app_role, connect};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage};

struct Bouncer {
    stage: Stage,
    gate: PgBouncer,
}

impl Bouncer {
    async fn set() -> Option<Self> {
        let stage = Stage::set("", &[]).await?;
        app_role(&stage).await;
        let gate = stage.gate();
        Some(Self { stage, gate })
    }
}

struct Transaction {
    client: Client,
    color: Color,
}

#[async_trait]
impl GateUnit for Transaction {
    fn color(&self) -> Color {
        self.color
    }

    async fn end(self: Box<Self>) {
        self.client.batch_execute("COMMIT").await.unwrap();
    }
}

#[async_trait]
impl GateHarness for Bouncer {
    fn gate(&self) -> &dyn WriteGate {
        &self.gate
    }

    async fn enter(&self) -> Box<dyn GateUnit> {
        let client = connect(&self.stage.bouncer.url("app", "shop")).await;
        client.batch_execute("BEGIN").await.unwrap();
        let messages = client.simple_query("SHOW port").await.unwrap();
        let port = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u16>().ok(),
            _ => None,
        });
        let color = if port == Some(self.stage.green.port()) {
            Color::Green
        } else {
            Color::Blue
        };
        Box::new(Transaction { client, color })
    }

    async fn try_enter(&self) -> Option<Box<dyn GateUnit>> {
        tokio::time::timeout(Duration::from_millis(1500), self.enter())
            .await
            .ok()
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

bluegreen_testkit::gate_conformance!(pgbouncer, Bouncer::set());
