//! Clients that write through everything, and the ledger of what was acknowledged to them.

use super::{Pair, connect};
use async_trait::async_trait;
use bluegreen_core::{Color, Error, GateState, Kind, Result, WriteGate};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

pub const LEDGER: &str =
    "CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, token text NOT NULL, \
     at timestamptz NOT NULL DEFAULT clock_timestamp());
     CREATE TABLE balance (who int PRIMARY KEY, amount bigint NOT NULL);
     INSERT INTO balance SELECT i, 0 FROM generate_series(0, 15) i";

pub struct Writers {
    stop: Arc<AtomicBool>,
    green: Arc<AtomicBool>,
    gate: Arc<RwLock<()>>,
    tasks: Vec<JoinHandle<Told>>,
}

/// What one writer knows.
#[derive(Default)]
pub struct Told {
    pub acked: Vec<String>,
    pub failed: u64,
    pub longest: Duration,
}

impl Writers {
    pub fn start(pair: &Pair, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let green = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(RwLock::new(()));
        let tasks = (0..count)
            .map(|n| {
                tokio::spawn(write(
                    n,
                    [pair.url(Color::Blue), pair.url(Color::Green)],
                    stop.clone(),
                    green.clone(),
                    gate.clone(),
                ))
            })
            .collect();
        Self {
            stop,
            green,
            gate,
            tasks,
        }
    }

    /// The gate that a migration holds and points.
    pub fn gate(&self) -> WritersGate {
        WritersGate {
            green: self.green.clone(),
            gate: self.gate.clone(),
            held: Arc::default(),
        }
    }

    /// From now on they connect there.
    pub fn point_at(&self, color: Color) {
        self.green.store(color == Color::Green, Ordering::SeqCst);
    }

    /// New transactions wait, running ones are drained, until it is dropped.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }

    pub async fn end(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Told::default();
        for task in self.tasks {
            let told = task.await.unwrap();
            all.acked.extend(told.acked);
            all.failed += told.failed;
            all.longest = all.longest.max(told.longest);
        }
        all
    }
}

/// What stands between the writers and their database.
#[derive(Debug)]
pub struct WritersGate {
    green: Arc<AtomicBool>,
    gate: Arc<RwLock<()>>,
    held: Arc<Mutex<Option<OwnedRwLockWriteGuard<()>>>>,
}

#[async_trait]
impl WriteGate for WritersGate {
    fn name(&self) -> &str {
        "writers"
    }

    async fn hold(&self, within: Duration) -> Result<()> {
        let guard = tokio::time::timeout(within, self.gate.clone().write_owned()).await;
        let guard = guard.map_err(|_| Error::new(Kind::Timeout, "hold", "a writer does not end"))?;
        *self.held.lock().unwrap() = Some(guard);
        Ok(())
    }

    async fn point_at(&self, color: Color) -> Result<()> {
        self.green.store(color == Color::Green, Ordering::SeqCst);
        Ok(())
    }

    async fn release(&self) -> Result<()> {
        self.held.lock().unwrap().take();
        Ok(())
    }

    async fn state(&self) -> Result<GateState> {
        let at = if self.green.load(Ordering::SeqCst) {
            Color::Green
        } else {
            Color::Blue
        };
        Ok(GateState {
            held: self.held.lock().unwrap().is_some(),
            at,
        })
    }
}

async fn write(
    n: usize,
    urls: [String; 2],
    stop: Arc<AtomicBool>,
    green: Arc<AtomicBool>,
    gate: Arc<RwLock<()>>,
) -> Told {
    let mut told = Told::default();
    let mut open: Option<(bool, Client)> = None;
    let mut since = Instant::now();
    let mut i = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let _through = gate.read().await;
        let side = green.load(Ordering::SeqCst);
        if open
            .as_ref()
            .is_none_or(|(at, client)| *at != side || client.is_closed())
        {
            open = connect(&urls[usize::from(side)]).await.ok().map(|c| (side, c));
        }
        let Some((_, client)) = &open else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        // After an error nobody knows whether it was committed: the token is given up, never sent again.
        i += 1;
        let token = format!("{n}-{i}");
        let done = client
            .batch_execute(&format!(
                "BEGIN; INSERT INTO ledger (token) VALUES ('{token}'); \
                 UPDATE balance SET amount = amount + 1 WHERE who = {n}; COMMIT"
            ))
            .await;
        match done {
            Ok(()) => {
                told.acked.push(token);
                told.longest = told.longest.max(since.elapsed());
                since = Instant::now();
            }
            Err(_) => {
                told.failed += 1;
                open = None;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    told
}

/// Every acknowledged token is there exactly once, and the sums fit.
pub async fn check(client: &Client, told: &Told) {
    let rows = client.query("SELECT token FROM ledger", &[]).await.unwrap();
    let all: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
    let found: HashSet<&String> = all.iter().collect();
    assert_eq!(found.len(), all.len(), "a token is there twice");
    let lost: Vec<&String> = told.acked.iter().filter(|t| !found.contains(t)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {:?}",
        lost.len(),
        told.acked.len(),
        &lost[..lost.len().min(5)]
    );
    let sum: i64 = client
        .query_one("SELECT sum(amount)::bigint FROM balance", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(sum, i64::try_from(all.len()).unwrap());
}
