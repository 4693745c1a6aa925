//! The clients of the simulated application: they resolve its name, keep answers and connections, read, write, and wait.
//! They act most around the calls of the migration, where an unlucky instant can be hit.

use super::{color_of, production};
use crate::clock::VirtualClock;
use crate::fake::{Databases, FakeDns, FakeGate, FakeUnit, Transaction};
use crate::fault::Point;
use bluegreen_core::{Clock, Color, Record, Timestamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const CLIENTS: usize = 6;

/// What the clients saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    pub(super) acked: Vec<u64>,
    pub(super) requests: u64,
    pub(super) seen: [u64; 2],
    pub(super) failed: Vec<String>,
    pub(super) longest_stall: Duration,
    pub(super) waiting: usize,
}

/// All clients.
pub(super) struct Crowd {
    clock: VirtualClock,
    dns: FakeDns,
    databases: Databases,
    gate: FakeGate,
    record: Record,
    inner: Mutex<Inner>,
}

struct Inner {
    rng: SmallRng,
    clients: Vec<Client>,
    ledger: Ledger,
    tokens: u64,
    blue_is_down: bool,
    /// Part of the writes that go past the gate, in per mille: a job with its own connection to blue.
    bypass: u16,
    /// Part of the transactions that stay open for seconds, in per mille.
    long: u16,
    gone: bool,
}

#[derive(Default)]
struct Client {
    /// Where its cache says the application is, and until when.
    cached: Option<(Color, Timestamp)>,
    /// A connection that it keeps, and until when.
    connected: Option<(Color, Timestamp)>,
    busy: bool,
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crowd")
            .field("ledger", &self.lock().ledger)
            .finish_non_exhaustive()
    }
}

impl Crowd {
    pub(super) fn gather(
        seed: u64,
        clock: &VirtualClock,
        dns: &FakeDns,
        databases: &Databases,
        gate: &FakeGate,
        record: Option<Record>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            dns: dns.clone(),
            databases: databases.clone(),
            gate: gate.clone(),
            record: record.unwrap_or_else(production),
            inner: Mutex::new(Inner {
                rng: SmallRng::seed_from_u64(seed ^ 0x00c1_1e47),
                clients: (0..CLIENTS).map(|_| Client::default()).collect(),
                ledger: Ledger::default(),
                tokens: 0,
                blue_is_down: false,
                bypass: 0,
                long: 0,
                gone: false,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.lock().ledger.clone()
    }

    pub(super) fn misbehave(&self, bypass: u16, long: u16) {
        let mut inner = self.lock();
        inner.bypass = bypass;
        inner.long = long;
    }

    /// Blue's application is switched off for good.
    pub(super) fn take_blue_down(&self) {
        self.lock().blue_is_down = true;
    }

    /// Everybody ends what they began and goes home.
    pub(super) fn go_home(&self) {
        self.lock().gone = true;
    }

    /// Something of the migration is about to happen, or has just happened: some of the clients act now.
    pub(super) fn stir(self: &Arc<Self>, _: Point) {
        let acting = {
            let mut inner = self.lock();
            let n = inner.rng.random_range(0..3_usize).saturating_sub(1);
            (0..n).map(|_| inner.rng.random_range(0..CLIENTS)).collect::<Vec<_>>()
        };
        for client in acting {
            self.act(client);
        }
    }

    /// Somebody acts, and again after a while: between a millisecond and some minutes, each scale as likely.
    pub(super) fn tick(self: &Arc<Self>) {
        let (client, pause) = {
            let mut inner = self.lock();
            if inner.gone {
                return;
            }
            let client = inner.rng.random_range(0..CLIENTS);
            (
                client,
                Duration::from_secs_f64(10_f64.powf(inner.rng.random_range(-3.0..2.3))),
            )
        };
        self.act(client);
        let crowd = Arc::downgrade(self);
        self.clock.after(pause, move || {
            if let Some(crowd) = crowd.upgrade() {
                crowd.tick();
            }
        });
    }

    fn act(self: &Arc<Self>, client: usize) {
        let now = self.clock.now();
        let mut inner = self.lock();
        if inner.clients[client].busy || inner.gone {
            return;
        }
        let bypass = inner.bypass;
        if inner.draw(bypass) {
            drop(inner);
            return self.write_past_the_gate();
        }
        inner.ledger.requests += 1;
        let Some(environment) = self.find(&mut inner, client, now) else {
            return;
        };
        inner.ledger.seen[environment as usize] += 1;
        if environment == Color::Blue && inner.blue_is_down {
            inner.ledger.failed.push(format!("{now}: connection to blue refused"));
            return;
        }
        if inner.draw(300) {
            return;
        }
        inner.tokens += 1;
        inner.clients[client].busy = true;
        let token = inner.tokens;
        drop(inner);
        self.write(client, token, now, Duration::from_millis(1));
    }

    /// The environment that a client's request goes to: its connection's, its cache's, or a fresh answer's.
    fn find(&self, inner: &mut Inner, client: usize, now: Timestamp) -> Option<Color> {
        let fresh = |at: Option<(Color, Timestamp)>| at.filter(|(_, until)| *until > now).map(|(color, _)| color);
        let known = &inner.clients[client];
        if let Some(color) = fresh(known.connected).or(fresh(known.cached)) {
            return Some(color);
        }
        let authority = inner.rng.random_range(0..self.dns.authorities());
        let silent = |n| self.dns.is_silent(n);
        let authority = (0..self.dns.authorities())
            .map(|n| (authority + n) % self.dns.authorities())
            .find(|n| !silent(*n));
        let reply = authority.and_then(|authority| self.dns.resolve(&self.record, authority));
        let Some((color, ttl)) = reply.and_then(|reply| Some((color_of(&reply.values)?, reply.ttl))) else {
            inner.ledger.failed.push(format!("{now}: the name does not resolve"));
            return None;
        };
        // Some resolvers keep an answer a little longer than they may.
        let stretch = if inner.draw(90) {
            Duration::from_millis(1500)
        } else {
            Duration::ZERO
        };
        let keeps = inner
            .draw(300)
            .then(|| Duration::from_secs(inner.rng.random_range(1..120)));
        let client = &mut inner.clients[client];
        client.cached = Some((color, now + Duration::from_secs(u64::from(ttl)) + stretch));
        client.connected = keeps.map(|keeps| (color, now + keeps));
        Some(color)
    }

    /// A write through the gate: it waits while the gate is held, and is then a transaction of some milliseconds.
    fn write(self: &Arc<Self>, client: usize, token: u64, since: Timestamp, patience: Duration) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Some(unit) = self.gate.try_enter() else {
            inner.ledger.waiting += usize::from(since == now);
            let crowd = Arc::downgrade(self);
            self.clock.after(patience, move || {
                if let Some(crowd) = crowd.upgrade() {
                    crowd.write(client, token, since, (patience * 2).min(Duration::from_secs(60)));
                }
            });
            return;
        };
        inner.ledger.longest_stall = inner.ledger.longest_stall.max(now.since(since));
        match self.databases.begin(unit.color(), token) {
            Ok(transaction) => self.commit_later(&mut inner, transaction, token, Some((client, unit))),
            Err(why) => {
                inner.clients[client].busy = false;
                let at = unit.color();
                inner.ledger.failed.push(format!("{now}: write {token} at {at}: {why}"));
            }
        }
    }

    /// A job that knows blue's database and nothing of the gate. It bears errors; what it was told is written stays written.
    fn write_past_the_gate(self: &Arc<Self>) {
        let mut inner = self.lock();
        inner.tokens += 1;
        let token = inner.tokens;
        if let Ok(transaction) = self.databases.begin(Color::Blue, token) {
            self.commit_later(&mut inner, transaction, token, None);
        }
    }

    fn commit_later(
        self: &Arc<Self>,
        inner: &mut Inner,
        transaction: Transaction,
        token: u64,
        through: Option<(usize, FakeUnit)>,
    ) {
        let long = inner.long;
        let longest = if inner.draw(long) { 8_000_000 } else { 8_000 };
        let lasts = Duration::from_micros(inner.rng.random_range(100..longest));
        let crowd = Arc::downgrade(self);
        self.clock.after(lasts, move || {
            let Some(crowd) = crowd.upgrade() else { return };
            let mut inner = crowd.lock();
            let committed = crowd.databases.commit(transaction);
            if committed.is_ok() {
                inner.ledger.acked.push(token);
            }
            if let Some((client, unit)) = through {
                inner.clients[client].busy = false;
                if let Err(why) = committed {
                    let (now, at) = (crowd.clock.now(), unit.color());
                    inner
                        .ledger
                        .failed
                        .push(format!("{now}: commit of {token} at {at}: {why}"));
                }
                drop(inner);
                drop(unit);
            }
        });
    }
}

impl Inner {
    fn draw(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.rng.random_range(0..1000) < per_mille
    }
}
