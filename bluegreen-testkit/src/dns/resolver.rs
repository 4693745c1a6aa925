//! A resolver with a cache, as a client of the application has it: it keeps an answer for its TTL.

use super::ask::ask;
use super::zone::canonical;
use hickory_proto::rr::RecordType;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Resolves names by asking one server, and keeps each answer for as long as its TTL says. One resolver is one client:
/// all who share it are on the same side.
#[derive(Debug)]
pub struct CachingResolver {
    server: SocketAddr,
    stretch: f64,
    cache: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    addresses: Vec<IpAddr>,
    until: Instant,
}

const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

impl CachingResolver {
    /// One that asks `server`.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            stretch: 1.0,
            cache: Mutex::default(),
        }
    }

    /// Keeps answers that many times longer than it may, as some resolvers do.
    #[must_use]
    pub fn stretch_ttl(mut self, factor: f64) -> Self {
        self.stretch = factor;
        self
    }

    /// The addresses of a name, from the cache while they are fresh. A server that does not answer is asked again; while it
    /// is silent, an answer that has grown old is better than none.
    ///
    /// # Errors
    /// When the name has no addresses, or the server does not answer.
    pub async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let name = canonical(name);
        let kept = self.lock().get(&name).cloned();
        if let Some(kept) = &kept
            && kept.until > Instant::now()
        {
            return Ok(kept.addresses.clone());
        }
        match self.fetch(&name).await {
            Ok(fresh) => {
                self.lock().insert(name, fresh.clone());
                Ok(fresh.addresses)
            }
            Err(error) => match kept {
                Some(stale) if error.kind() == io::ErrorKind::TimedOut => Ok(stale.addresses),
                _ => Err(error),
            },
        }
    }

    async fn fetch(&self, name: &str) -> io::Result<Kept> {
        let mut last = None;
        for _ in 0..TRIES {
            let reply = match ask(self.server, name, RecordType::A, PATIENCE).await {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::warn!(name, %error, "a DNS question is asked again");
                    last = Some(error);
                    continue;
                }
            };
            let addresses: Vec<IpAddr> = reply.addresses().collect();
            let Some(ttl) = reply.ttl().filter(|_| !addresses.is_empty()) else {
                let code = reply.code;
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{name} has no address: {code}"),
                ));
            };
            let keep = Duration::from_secs(u64::from(ttl)).mul_f64(self.stretch);
            return Ok(Kept {
                addresses,
                until: Instant::now() + keep,
            });
        }
        Err(last.unwrap_or_else(|| io::Error::other("never asked")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Kept>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
