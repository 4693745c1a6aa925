//! One PgBouncer's admin console: connections kept open, and the few commands the gate needs. It takes only the simple
//! protocol.

use super::Upstream;
use super::error::GateError;
use super::rows::{Pools, Shown, rows, value_of};
use crate::conninfo::Conninfo;
use crate::error::describe;
use crate::tls::{SslMode, client_config};
use bluegreen_core::Result;
use futures::future::join_all;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;

/// When an answer that has not come will not come. PgBouncer answers in well under a millisecond.
const ANSWER: Duration = Duration::from_secs(3);

/// While the gate opens, PgBouncer tries a failed login again after so long, in seconds; by default it is 15. See [`Admin::resume`].
const LOGIN_RETRY: &str = "0.001";

/// For how long no server connection may come or go before a pause: whoever opens some opens several.
const SETTLED: Duration = Duration::from_millis(10);

/// A connection; dropping it closes the socket at once, whatever was asked on it.
pub(super) struct Console {
    client: Client,
    task: AbortHandle,
}

impl Drop for Console {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = Result<Vec<SimpleQueryRow>, GateError>;

/// What was seen before the pause.
#[derive(Debug, Clone)]
pub(super) struct Before {
    /// What the database's line is.
    pub(super) shown: Shown,
    /// Whether a server connection was being opened.
    pub(super) opening: bool,
    /// Whether none was opened or closed for a moment.
    pub(super) settled: bool,
    /// Whether a process that is no more left `server_login_retry` short.
    pub(super) left_short: bool,
}

/// The console of one instance. Commands go over one connection and PAUSE, which blocks its own, over another.
pub(super) struct Admin {
    conninfo: Conninfo,
    at: String,
    control: Mutex<Option<Arc<Console>>>,
    pauser: Mutex<Option<Arc<Console>>>,
    /// How many server connections there were, and since when as many.
    settled: std::sync::Mutex<Option<(u32, Instant)>>,
    /// `server_login_retry` before we shortened it.
    login_retry: std::sync::Mutex<Option<String>>,
    /// Whether we shortened it ourselves.
    shortened: AtomicBool,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at)
    }
}

impl Admin {
    pub(super) fn new(connection: &str) -> Result<Self> {
        let mut conninfo = Conninfo::parse(connection)?;
        conninfo.read_passfile()?;
        SslMode::of(&conninfo)?;
        let at = format!("{}:{}", conninfo.host(), conninfo.port());
        Ok(Self {
            conninfo,
            at,
            control: Mutex::default(),
            pauser: Mutex::default(),
            settled: std::sync::Mutex::default(),
            login_retry: std::sync::Mutex::default(),
            shortened: AtomicBool::default(),
        })
    }

    /// Where it is, always in the same form.
    pub(super) fn place(&self) -> String {
        self.conninfo.place()
    }

    /// Where it is, for messages.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// Opens what is not open.
    pub(super) async fn connect(&self) -> Result<(), GateError> {
        futures::try_join!(self.open(&self.control), self.open(&self.pauser))?;
        Ok(())
    }

    async fn open(&self, kept: &Mutex<Option<Arc<Console>>>) -> Result<Arc<Console>, GateError> {
        let mut kept = kept.lock().await;
        if let Some(console) = kept.as_ref().filter(|console| !console.client.is_closed()) {
            return Ok(Arc::clone(console));
        }
        let opened = tokio::time::timeout(ANSWER, self.console()).await;
        let console = Arc::new(opened.map_err(|_| self.silent("the login"))??);
        *kept = Some(Arc::clone(&console));
        Ok(console)
    }

    async fn console(&self) -> Result<Console, GateError> {
        let login = |message: String| GateError::Login {
            at: self.at.clone(),
            message,
        };
        let from = &self.conninfo;
        let mut config = tokio_postgres::Config::new();
        // A plain startup message: PgBouncer turns away parameters it does not know.
        config
            .user(from.user())
            .dbname(from.get("dbname").unwrap_or("pgbouncer"));
        config.host(from.host()).port(from.port());
        config.keepalives_idle(Duration::from_secs(10));
        if let Some(password) = from.password() {
            config.password(password);
        }
        let mode = SslMode::of(from).map_err(|e| login(e.message().to_owned()))?;
        config.ssl_mode(match mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        });
        let tls = client_config(from, mode).map_err(|e| login(from.redact(&e.to_string())))?;
        match config.connect(MakeRustlsConnect::new(tls)).await {
            Ok((client, connection)) => {
                let at = self.at.clone();
                let task = tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(pgbouncer = at, error = %describe(&error), "an admin connection ended");
                    }
                });
                Ok(Console {
                    client,
                    task: task.abort_handle(),
                })
            }
            Err(error) if error.as_db_error().is_some() => Err(login(from.redact(&describe(&error)))),
            Err(error) => Err(GateError::Unreachable {
                at: self.at.clone(),
                source: Box::new(error),
            }),
        }
    }

    fn login_retry(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.login_retry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silent(&self, command: &str) -> GateError {
        GateError::Silent {
            at: self.at.clone(),
            command: command.to_owned(),
            within: ANSWER,
        }
    }

    fn refused(&self, command: &str, error: tokio_postgres::Error) -> GateError {
        match error.as_db_error() {
            Some(said) => GateError::Refused {
                at: self.at.clone(),
                command: command.to_owned(),
                message: said.message().to_owned(),
            },
            None => GateError::Unreachable {
                at: self.at.clone(),
                source: Box::new(error),
            },
        }
    }

    /// One command on the kept connection.
    async fn command(&self, command: &str) -> Result<Vec<SimpleQueryRow>, GateError> {
        let [answer] = self.commands([command]).await?;
        answer
    }

    /// Commands sent together: one round trip, done in this order. All once more on a new connection if the kept one turns
    /// out to be broken: none of our commands does more when it is done twice.
    async fn commands<const N: usize>(&self, commands: [&str; N]) -> Result<[Answer; N], GateError> {
        let mut fresh = false;
        loop {
            let console = self.open(&self.control).await?;
            // Sent in the order in which they are first polled, which is theirs.
            let answers = join_all(commands.map(|command| console.client.simple_query(command)));
            let Ok(answers) = tokio::time::timeout(ANSWER, answers).await else {
                // An answer that comes late must not be taken for the next one's.
                *self.control.lock().await = None;
                return Err(self.silent(&commands.join("; ")));
            };
            let broken = |answer: &Result<_, tokio_postgres::Error>| {
                answer.as_ref().is_err_and(|error| error.as_db_error().is_none())
            };
            if answers.iter().any(broken) && !fresh {
                *self.control.lock().await = None;
                fresh = true;
                continue;
            }
            let mut answers = answers
                .into_iter()
                .zip(commands)
                .map(|(answer, command)| answer.map(rows).map_err(|error| self.refused(command, error)));
            return Ok(std::array::from_fn(|_| {
                answers.next().expect("an answer for each command")
            }));
        }
    }

    pub(super) async fn shown(&self, database: &str) -> Result<Shown, GateError> {
        Shown::read(&self.at, database, &self.command("SHOW DATABASES").await?)
    }

    /// The names of the other databases that are sent to the same place.
    pub(super) async fn beside(&self, database: &str, upstream: &Upstream) -> Result<Vec<String>, GateError> {
        let rows = self.command("SHOW DATABASES").await?;
        let names = rows.iter().filter_map(|row| row.get("name"));
        let mut beside = Vec::new();
        for name in names.filter(|name| *name != database) {
            if Shown::read(&self.at, name, &rows)?.upstream == *upstream {
                beside.push(name.to_owned());
            }
        }
        Ok(beside)
    }

    /// A setting as `SHOW CONFIG` has it.
    pub(super) async fn setting(&self, key: &str) -> Result<Option<String>, GateError> {
        Ok(value_of(&self.command("SHOW CONFIG").await?, key))
    }

    /// `PgBouncer 1.18.0`.
    pub(super) async fn version(&self) -> Result<String, GateError> {
        let rows = self.command("SHOW VERSION").await?;
        Ok(rows.first().and_then(|row| row.get(0)).unwrap_or_default().to_owned())
    }

    /// What must be seen before anything is touched: that it answers, has the database, and opens no connection for it.
    pub(super) async fn before(&self, database: &str) -> Result<Before, GateError> {
        let known = self.login_retry().is_some();
        let config = if known { "SHOW VERSION" } else { "SHOW CONFIG" };
        let [databases, pools, config] = self.commands(["SHOW DATABASES", "SHOW POOLS", config]).await?;
        let shown = Shown::read(&self.at, database, &databases?)?;
        let config = config?;
        let mut left_short = false;
        if !known {
            let now = value_of(&config, "server_login_retry");
            left_short = now.as_deref().is_some_and(shortened) && !self.shortened.load(Ordering::SeqCst);
            *self.login_retry() = now.filter(|now| !shortened(now));
        }
        // Nobody opens a connection to a database that is paused.
        let pools = match shown.paused {
            true => Pools::default(),
            false => Pools::read(database, shown.pool_size, &pools?),
        };
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.opening + pools.wanted > 0 {
            *settled = None;
        } else if settled.is_none_or(|(servers, _)| servers != pools.servers) {
            *settled = Some((pools.servers, Instant::now()));
        }
        Ok(Before {
            opening: pools.opening > 0,
            settled: shown.paused || settled.is_some_and(|(_, since)| since.elapsed() >= SETTLED),
            shown,
            left_short,
        })
    }

    /// Whether we may command and not only look. Asked of a database that is not paused, RESUME does nothing.
    pub(super) async fn is_admin(&self, database: &str) -> Result<bool, GateError> {
        match self.command(&format!("RESUME {}", crate::ident::ident(database))).await {
            Err(GateError::Refused { message, .. }) => Ok(!message.contains("admin access needed")),
            other => other.map(|_| true),
        }
    }

    /// Makes it read its file again, and says what it then shows.
    pub(super) async fn reload(&self, database: &str) -> Result<Shown, GateError> {
        let [reloaded, shown] = self.commands(["RELOAD", "SHOW DATABASES"]).await?;
        reloaded?;
        Shown::read(&self.at, database, &shown?)
    }

    /// Asks for the pause and waits until it is complete, however long that is. Fails at once when the pause met a login. Dropping this future does not take the
    /// pause back: [`resume`](Self::resume) does.
    pub(super) async fn pause(&self, database: &str) -> Result<(), GateError> {
        let console = self.open(&self.pauser).await?;
        let pause = format!("PAUSE {}", crate::ident::ident(database));
        // PgBouncer does nothing in between the two: what the first shows is what the pause met.
        let shows = async {
            let pools = console.client.simple_query("SHOW POOLS").await;
            let pools = rows(pools.map_err(|error| self.refused("SHOW POOLS", error))?);
            match Pools::read(database, 0, &pools).opening {
                0 => Ok(()),
                _ => Err(GateError::CutOff),
            }
        };
        let pauses = async {
            let paused = console.client.simple_query(&pause).await;
            paused.map_err(|error| self.refused(&pause, error))
        };
        futures::try_join!(shows, pauses).map(drop)
    }

    /// Closes the connection on which a pause is still being waited for; nothing is left to be sent on it.
    pub(super) async fn forget_pause(&self) {
        *self.pauser.lock().await = None;
    }

    /// Lets clients through; that it was not paused is success.
    ///
    /// A client that logs in while the database is paused makes PgBouncer open a connection to it, and so does
    /// `min_pool_size`; the pause cuts that off, it counts as a failed login, and for `server_login_retry`, 15 s by default,
    /// nobody at all would be served. So that is shortened for the moment of the release.
    pub(super) async fn resume(&self, database: &str) -> Result<(), GateError> {
        if self.login_retry().is_none() {
            let now = self.setting("server_login_retry").await?;
            *self.login_retry() = now.filter(|now| !shortened(now));
        }
        self.shortened.store(true, Ordering::SeqCst);
        let shorten = format!("SET server_login_retry = '{LOGIN_RETRY}'");
        let resume = format!("RESUME {}", crate::ident::ident(database));
        let [shortened, resumed] = self.commands([shorten.as_str(), resume.as_str()]).await?;
        if let Err(refused @ GateError::Refused { .. }) = resumed {
            // It says "not paused" in words that differ by version: what it shows counts.
            if self.shown(database).await?.paused {
                return Err(refused);
            }
            return self.restore_login_retry().await;
        }
        resumed?;
        shortened.map(drop)
    }

    /// Undoes what [`resume`](Self::resume) shortened; RELOAD does where it is not known what it was.
    pub(super) async fn restore_login_retry(&self) -> Result<(), GateError> {
        let was = self.login_retry().clone();
        match was {
            Some(was) => self
                .command(&format!("SET server_login_retry = '{was}'"))
                .await
                .map(drop),
            None => self.command("RELOAD").await.map(drop),
        }
    }
}

fn shortened(value: &str) -> bool {
    value.parse::<f64>().ok() == LOGIN_RETRY.parse::<f64>().ok()
}
