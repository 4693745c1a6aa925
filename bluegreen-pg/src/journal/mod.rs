//! `PgJournal`: entries as rows of a table, appended by whoever holds the migration's lease.

mod answer;
mod entries;
mod lease;
mod place;
mod requests;
mod runner;
mod schema;

use crate::connect::Session;
use crate::conninfo::Conninfo;
use crate::error::fault;
use crate::tls::SslMode;
use answer::{Doing, timely};
use async_trait::async_trait;
use bluegreen_core::{Entry, Journal, Kind, Request, Result, Signal};
use entries::Link;
use lease::{Lease, TAKING};
use place::Place;
use requests::Looks;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// A journal in a PostgreSQL table, for services of which several processes may run a migration, one at a time.
///
/// Whoever opened it holds the migration's **lease**: a row with a token, renewed all the while, that every append checks
/// in its own statement. Another opener gets `Conflict`, or [waits](PgJournalBuilder::wait). When the holder dies, another
/// takes over: at once where it can see that the process is gone (the same machine), else when the lease has run out. A
/// holder that was frozen and wakes up can append nothing, and begins no effect: [`Journal::confirm`] says so before each.
///
/// The schema `bluegreen_journal` is made by the first that opens one. Keep it in a database that is **neither blue's nor
/// green's**: it must be writable while they are fenced, must not be mirrored, and must survive what it is to bring back.
///
/// ```no_run
/// # async fn open() -> bluegreen_core::Result<()> {
/// use bluegreen_pg::PgJournal;
/// let journal = PgJournal::open("postgresql://mover@control.example/bluegreen", "shop").await?;
/// # Ok(()) }
/// ```
pub struct PgJournal {
    lease: Arc<Lease>,
    link: tokio::sync::Mutex<Link>,
    /// Looks for requests: an append must not wait for that.
    looks: tokio::sync::Mutex<Looks>,
    keeper: AbortHandle,
}

/// How a journal is opened. See [`PgJournal::builder`].
#[derive(Debug, Clone)]
pub struct PgJournalBuilder {
    place: Result<Place, String>,
    password: Option<Secret>,
    lease: Duration,
    wait: Duration,
    patience: Duration,
}

/// What is kept from one try to open it to the next.
#[derive(Default)]
struct Opening {
    session: Option<Session>,
    holder: Option<String>,
}

#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PgJournal {
    /// Opens the journal of a migration in a database, given in either of libpq's forms, and holds it until it is dropped.
    ///
    /// # Errors
    /// `Conflict` when another runner holds it, and who; else see [`PgJournalBuilder::open`].
    pub async fn open(database: &str, migration: impl Into<String>) -> Result<Self> {
        Self::builder(database, migration).open().await
    }

    /// The same with more to say.
    pub fn builder(database: &str, migration: impl Into<String>) -> PgJournalBuilder {
        let conninfo = Conninfo::parse(database).map_err(|e| e.message().to_owned());
        PgJournalBuilder {
            place: conninfo.map(|conninfo| Place {
                conninfo,
                migration: migration.into(),
            }),
            password: None,
            lease: Duration::from_secs(30),
            wait: Duration::ZERO,
            patience: Duration::from_secs(30),
        }
    }

    /// Gives the migration back, so that the next runner need not wait; from then on nothing can be appended here. Dropping it
    /// does the same, as long as the runtime goes on.
    ///
    /// # Errors
    /// When the server cannot be reached: then the lease runs out by itself.
    pub async fn close(&self) -> Result<()> {
        self.keeper.abort();
        self.lease.release().await
    }
}

impl PgJournalBuilder {
    /// The password, where the connection string holds none.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret(password.into()));
        self
    }

    /// How long a holder that is not heard of keeps it; 30 seconds when not said. Not shorter than three times the pause
    /// budget: who puts right what a dead runner left in a pause (the fence, where the gate points, its release) needs so long,
    /// should the journal fall silent. For a pause of its own a runner asks for longer: [`Journal::assure`].
    #[must_use]
    pub fn lease(mut self, length: Duration) -> Self {
        self.lease = length.max(Duration::from_millis(200));
        self
    }

    /// How long to wait for another holder to end or to die; not at all when not said.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// How long a server that is out of reach is waited for, before a call says so; 30 seconds when not said.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn place(&self) -> Result<Place> {
        let doing = "read the connection string of the journal's database";
        let wrong = |message: &str| fault(Kind::InvalidInput, doing, message);
        let mut place = self.place.clone().map_err(|message| wrong(&message))?;
        if let (None, Some(Secret(password))) = (place.conninfo.password(), &self.password) {
            place.conninfo.set_password(password);
        }
        place.conninfo.read_passfile()?;
        SslMode::of(&place.conninfo)?;
        Ok(place)
    }

    /// Opens it, makes what is not there, and holds it until it is dropped.
    ///
    /// # Errors
    /// `Conflict` when another runner holds it and did not end in time; `InvalidInput` when the database is blue's or
    /// green's of a migration; `Unsupported` when a newer version made its schema; when the server cannot be reached.
    pub async fn open(self) -> Result<PgJournal> {
        let place = self.place()?;
        let until = Instant::now() + self.wait;
        let mut opening = Opening::default();
        loop {
            let error = match self.try_open(&place, &mut opening).await {
                Err(e) if (e.kind() == Kind::Conflict || e.is_transient()) && Instant::now() < until => e,
                decided => return decided,
            };
            if error.is_transient() {
                tracing::warn!(journal = %place, "the journal could not be opened, tried again: {error}");
            }
            let pause = (self.lease / 5).min(Duration::from_secs(1));
            tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn try_open(&self, place: &Place, opening: &mut Opening) -> Result<PgJournal> {
        let session = match opening.session.take().filter(|s| !s.is_closed()) {
            Some(session) => session,
            None => {
                let session = place.connect().await?;
                timely(schema::make(&session), "make the journal's schema").await?;
                session
            }
        };
        let holder = match &opening.holder {
            Some(holder) => holder.clone(),
            None => {
                let made = timely(Lease::holder(&session), TAKING).await?;
                opening.holder.insert(made).clone()
            }
        };
        let taken = timely(Lease::take(place.clone(), self.lease, &session, holder), TAKING).await;
        let (lease, token) = match taken {
            Ok((lease, token)) => (Arc::new(lease), token),
            Err(e) => {
                if e.kind() == Kind::Conflict {
                    opening.session = Some(session);
                }
                return Err(e);
            }
        };
        let link = timely(self.link(&lease, session, token), "open the journal").await;
        match link {
            Ok(link) => {
                let keeper = tokio::spawn(Arc::clone(&lease).keep()).abort_handle();
                Ok(PgJournal {
                    lease,
                    link: tokio::sync::Mutex::new(link),
                    looks: tokio::sync::Mutex::default(),
                    keeper,
                })
            }
            Err(e) => {
                // The next who opens it need not wait for what we do not use.
                if let Err(e) = lease.release().await {
                    tracing::warn!("the lease was not given back, it runs out by itself: {e}");
                }
                Err(e)
            }
        }
    }

    async fn link(&self, lease: &Arc<Lease>, session: Session, token: i64) -> Result<Link> {
        warn_if_unsafe(&session, &lease.place).await?;
        requests::forget(&session, &lease.place).await?;
        Link::new(Arc::clone(lease), self.patience, session, token).await
    }

    /// Reads the entries without holding the journal, for a look from outside while a migration runs.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Corrupt` when it is damaged, `Unsupported` when a newer version wrote it.
    pub async fn read(self) -> Result<Vec<Entry>> {
        let place = self.place()?;
        let session = place.connect().await?;
        let doing = "read the journal";
        let entries = if timely(schema::is_there(&session), doing).await? {
            timely(entries::read(&session, &place.migration), doing).await?
        } else {
            vec![]
        };
        if entries.is_empty() {
            return Err(fault(Kind::NotFound, doing, format!("{place}: there is none")));
        }
        Ok(entries)
    }

    /// Leaves a request for whoever runs the migration, durably; it is heard at the runner's next look.
    ///
    /// # Errors
    /// `NotFound` when no migration was ever started with this journal; otherwise when it could not be written.
    pub async fn request(self, signal: Signal) -> Result<()> {
        requests::leave(&self.place()?, signal).await
    }
}

/// A journal on a server that forgets what it said was durable is worth a word.
async fn warn_if_unsafe(session: &Session, place: &Place) -> Result<()> {
    let fsync: String = session
        .query_one("SHOW fsync", &[])
        .await
        .doing("look at the journal's server")?
        .get(0);
    if fsync != "on" {
        tracing::warn!(journal = %place, fsync, "this server may lose what it called durable when its machine stops");
    }
    Ok(())
}

#[async_trait]
impl Journal for PgJournal {
    async fn load(&self) -> Result<Vec<Entry>> {
        self.link.lock().await.load().await
    }

    async fn append(&self, entry: &Entry) -> Result<()> {
        if self.lease.is_lost() {
            return Err(self.lease.lost());
        }
        self.link.lock().await.append(entry).await
    }

    async fn confirm(&self) -> Result<()> {
        self.lease.confirm().await
    }

    async fn assure(&self, lasting: Duration) -> Result<()> {
        self.lease.assure(lasting).await
    }

    async fn requests(&self) -> Result<Vec<Request>> {
        if self.lease.is_lost() {
            return Err(self.lease.lost());
        }
        self.looks.lock().await.look(&self.lease.place).await
    }

    fn has_requests(&self) -> bool {
        true
    }
}

impl fmt::Debug for PgJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PgJournal").field(&self.lease.place.to_string()).finish()
    }
}

impl Drop for PgJournal {
    fn drop(&mut self) {
        self.keeper.abort();
        let lease = Arc::clone(&self.lease);
        // Without a runtime it runs out by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(e) = lease.release().await {
                    tracing::warn!("the lease was not given back, it runs out by itself: {e}");
                }
            });
        }
    }
}
