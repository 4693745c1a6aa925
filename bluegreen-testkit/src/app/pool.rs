//! A tiny pool of PostgreSQL connections, as a robust application has it: broken connections are thrown away, and a
//! server that is briefly gone is waited for.

use crate::servers::postgres::connect;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Client;

/// How long a unit of work waits for a server that does not take connections.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections to one database. Cloning it shares them.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    url: String,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Client>>,
}

impl fmt::Debug for Pool {
    // Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.0.idle.lock().map(|idle| idle.len()).unwrap_or_default();
        f.debug_struct("Pool").field("idle", &idle).finish_non_exhaustive()
    }
}

impl Pool {
    /// At most `size` connections, made when they are needed.
    #[must_use]
    pub fn new(url: impl Into<String>, size: usize) -> Self {
        let free = Arc::new(Semaphore::new(size));
        Self(Arc::new(Inner {
            url: url.into(),
            free,
            idle: Mutex::default(),
        }))
    }

    /// A connection that was alive a moment ago.
    ///
    /// # Errors
    /// When the server takes none for a while.
    ///
    /// # Panics
    /// Never: the pool does not close its semaphore.
    pub async fn get(&self) -> Result<Lease, tokio_postgres::Error> {
        let permit = Arc::clone(&self.0.free)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let since = Instant::now();
        loop {
            let idle = self.0.lock().pop();
            let connected = match idle {
                Some(client) if client.is_closed() => continue,
                Some(client) => Ok(client),
                None => connect(&self.0.url).await,
            };
            match connected {
                Ok(client) => {
                    return Ok(Lease {
                        client: Some(client),
                        pool: Arc::clone(&self.0),
                        _permit: permit,
                    });
                }
                Err(error) if since.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use; it goes back to the pool when dropped, unless it broke.
pub struct Lease {
    client: Option<Client>,
    pool: Arc<Inner>,
    // After the client has gone back, so that the pool never has more than its size.
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Deref for Lease {
    type Target = Client;
    fn deref(&self) -> &Client {
        self.client.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(client) = self.client.take().filter(|client| !client.is_closed()) {
            self.pool.lock().push(client);
        }
    }
}
