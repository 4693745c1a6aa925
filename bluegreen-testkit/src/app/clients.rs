//! Writers and readers who use the application by its name, and keep on.

use super::http::Browser;
use super::measure::{Acked, Counters, Diary, Live, Outcome};
use super::orders::Order;
use super::schema::ACCOUNTS;
use crate::dns::CachingResolver;
use hyper::{Method, StatusCode};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Who uses the application, and how.
#[derive(Debug, Clone)]
pub struct ClientsConfig {
    /// The name they resolve.
    pub name: String,
    /// The port behind it.
    pub port: u16,
    /// The DNS server each of them asks, through a cache of its own.
    pub resolver: SocketAddr,
    /// How many write.
    pub writers: usize,
    /// How many read what was written.
    pub readers: usize,
    /// How long each thinks between an answer and the next request.
    pub think: Duration,
}

/// Running clients.
#[derive(Debug)]
pub struct Clients {
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Diary>>,
}

/// What readers look for: a few tokens that were acknowledged not long ago.
type Recent = Arc<Mutex<Vec<Order>>>;

struct Client {
    config: ClientsConfig,
    browser: Browser,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    recent: Recent,
    index: usize,
}

impl Clients {
    /// Starts them.
    #[must_use]
    pub fn start(config: &ClientsConfig) -> Self {
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let recent = Recent::default();
        let tasks = (0..config.writers + config.readers).map(|index| {
            let resolver = Arc::new(CachingResolver::new(config.resolver));
            let client = Client {
                browser: Browser::new(resolver, config.name.clone(), config.port),
                config: config.clone(),
                counters: Arc::clone(&counters),
                stop: Arc::clone(&stop),
                recent: Arc::clone(&recent),
                index,
            };
            if index < config.writers {
                tokio::spawn(client.write())
            } else {
                tokio::spawn(client.read())
            }
        });
        Self {
            tasks: tasks.collect(),
            counters,
            stop,
        }
    }

    /// What they have seen so far.
    #[must_use]
    pub fn live(&self) -> Live {
        self.counters.look()
    }

    /// The same, for somebody else to call.
    pub fn monitor(&self) -> impl Fn() -> Live + Send + Sync + use<> {
        let counters = Arc::clone(&self.counters);
        move || counters.look()
    }

    /// Lets each finish the request it is at, and sums up.
    ///
    /// # Errors
    /// When a client panicked: what it wrote is not known then.
    pub async fn stop(self) -> io::Result<Outcome> {
        self.stop.store(true, Relaxed);
        let mut diaries = Vec::new();
        for task in self.tasks {
            diaries.push(task.await.map_err(io::Error::other)?);
        }
        Ok(Outcome::of(&self.counters, diaries))
    }
}

impl Client {
    async fn write(mut self) -> Diary {
        let mut diary = Diary::new();
        let mut number = 0_u64;
        // Runs against the same database must not share tokens.
        let run: u64 = rand::random();
        while !self.stop.load(Relaxed) {
            number += 1;
            let order = Order {
                token: format!("{run:016x}-{}-{number}", self.index),
                acct: rand::random_range(1..=ACCOUNTS),
                amount: rand::random_range(1..100),
            };
            let body = serde_json::to_vec(&order).unwrap_or_default();
            let since = Instant::now();
            match self.browser.ask(Method::POST, "/orders", body).await {
                Ok(answer) if answer.status == StatusCode::CREATED => {
                    self.counters.answered(answer.by);
                    self.remember(&order, number);
                    diary.took(since.elapsed());
                    let waited = diary.note(Acked { order, by: answer.by });
                    self.counters.acked(waited);
                }
                other => self.failed("write", other).await,
            }
            tokio::time::sleep(self.config.think).await;
        }
        diary
    }

    async fn read(mut self) -> Diary {
        let mut diary = Diary::new();
        while !self.stop.load(Relaxed) {
            let Some(order) = self.something() else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let since = Instant::now();
            let path = format!("/orders/{}", order.token);
            match self.browser.ask(Method::GET, &path, vec![]).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    self.counters.answered(answer.by);
                    diary.took(since.elapsed());
                    match serde_json::from_slice::<Order>(&answer.body) {
                        Ok(read) if read == order => {}
                        Ok(read) => self
                            .counters
                            .failed(format!("read something else than was written: {read:?}")),
                        Err(error) => self.counters.failed(format!("read: {error}")),
                    }
                }
                other => self.failed("read", other).await,
            }
            tokio::time::sleep(self.config.think).await;
        }
        diary
    }

    async fn failed(&self, what: &str, result: io::Result<super::http::Answer>) {
        let why = match result {
            Ok(answer) => {
                self.counters.answered(answer.by);
                let (status, said) = (answer.status, String::from_utf8_lossy(&answer.body).into_owned());
                let by = answer.by.map_or_else(|| "nobody known".to_owned(), |by| by.to_string());
                format!("{what}: {by} answered {status}: {said}")
            }
            Err(error) => {
                self.counters.answered(None);
                format!("{what}: {error}")
            }
        };
        self.counters.failed(why);
        // One that fails at once must not spin.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    fn remember(&self, order: &Order, number: u64) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() < 64 {
            recent.push(order.clone());
        } else if number.is_multiple_of(8) {
            let place = rand::random_range(0..recent.len());
            recent[place] = order.clone();
        }
    }

    fn something(&self) -> Option<Order> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (!recent.is_empty()).then(|| recent[rand::random_range(0..recent.len())].clone())
    }
}
