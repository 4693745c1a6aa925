//! The suite that every replicator passes, on two real servers.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use async_trait::async_trait;
use bluegreen_core::{Color, Replicator};
use bluegreen_pg::PgReplicator;
use bluegreen_testkit::conformance::replicator::{OpenWrite, ReplicatorHarness};
use common::{Pair, connect};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_postgres::Client;

struct Harness {
    pair: Pair,
    replicator: Mutex<Arc<PgReplicator>>,
}

struct Open(Client);

#[async_trait]
impl OpenWrite for Open {
    async fn commit(self: Box<Self>) -> Result<(), String> {
        self.0.batch_execute("COMMIT").await.map_err(|e| e.to_string())
    }
}

async fn harness() -> Option<Harness> {
    let pair = Pair::start().await?;
    pair.client(Color::Blue)
        .await
        .batch_execute("CREATE TABLE rows (id bigserial PRIMARY KEY, token bigint NOT NULL)")
        .await
        .unwrap();
    let replicator = Mutex::new(Arc::new(pair.replicator()));
    Some(Harness { pair, replicator })
}

impl Harness {
    async fn client(&self, color: Color) -> Result<Client, String> {
        let client = connect(&self.pair.url(color)).await.map_err(|e| e.to_string())?;
        client
            .batch_execute("SET lock_timeout = '300ms'")
            .await
            .map_err(|e| e.to_string())?;
        Ok(client)
    }
}

#[async_trait]
impl ReplicatorHarness for Harness {
    fn replicator(&self) -> Arc<dyn Replicator> {
        self.replicator.lock().unwrap().clone()
    }

    async fn crash(&self) {
        let new = Arc::new(self.pair.replicator());
        let old = std::mem::replace(&mut *self.replicator.lock().unwrap(), new);
        drop(old);
        self.pause().await;
    }

    async fn write(&self, color: Color, token: u64) -> Result<(), String> {
        let client = self.client(color).await?;
        let token = i64::try_from(token).unwrap();
        let done = client.execute("INSERT INTO rows (token) VALUES ($1)", &[&token]).await;
        done.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn open(&self, color: Color, token: u64) -> Result<Box<dyn OpenWrite>, String> {
        let client = self.client(color).await?;
        client
            .batch_execute(&format!("BEGIN; INSERT INTO rows (token) VALUES ({token})"))
            .await
            .map_err(|e| e.to_string())?;
        Ok(Box::new(Open(client)))
    }

    async fn tamper(&self, color: Color, token: u64, instead: u64) {
        let client = connect(&self.pair.url(color)).await.unwrap();
        client
            .batch_execute("SET default_transaction_read_only = off; SET bluegreen.mend = on")
            .await
            .unwrap();
        let sql = format!("UPDATE rows SET token = {instead} WHERE token = {token}");
        client.batch_execute(&sql).await.unwrap();
    }

    async fn tokens(&self, color: Color) -> Vec<u64> {
        let client = connect(&self.pair.url(color)).await.unwrap();
        // Before the copy green has no table at all.
        match client.query("SELECT token FROM rows ORDER BY token", &[]).await {
            Ok(rows) => rows
                .iter()
                .map(|r| u64::try_from(r.get::<_, i64>(0)).unwrap())
                .collect(),
            Err(_) => Vec::new(),
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

bluegreen_testkit::replicator_conformance!(postgres, harness());
