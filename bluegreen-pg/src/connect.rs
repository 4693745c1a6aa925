//! Sessions: a server to connect to, and the connection with the settings that all our work needs.

use crate::conninfo::Conninfo;
use crate::error::{Doing, PROVIDER, PgError, describe, fault};
use crate::ident::{application_name, copy_application_name, guard_application_name, side};
use crate::tls::{SslMode, client_config};
use bluegreen_core::{Color, Error, Kind, Result};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// When a connection that does not come up is given up, unless the string says `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sent with every session. Timeouts of the role or the database must not cut our work; a mirror's read-only default
/// must not stop us; names must print the same everywhere; a row policy must fail a copy and not thin it out; what is read as
/// text must be what was written; to compile a look at the catalogue takes a hundred times as long as to run it.
pub(crate) const SESSION_SETTINGS: &str = "-c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed \
     -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c search_path= \
     -c row_security=off -c bytea_output=hex -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 \
     -c array_nulls=on -c xmloption=content -c jit=off -c quote_all_identifiers=off";

/// What cannot be sent along. Not every version has these timeouts. And the user's event triggers must not run on what we make and
/// drop: one that keeps a log of it would write into the mirror. Only superusers may say so; before 17 it is what a replica's worker
/// says, whose writes fire nothing else either (an event trigger `ENABLE ALWAYS` does run: the preflight tries it).
pub(crate) const AFTER_CONNECT: &str = "SELECT pg_catalog.set_config(s, v, false) FROM (VALUES \
     ('idle_session_timeout', '0', false), ('transaction_timeout', '0', false), \
     ('event_triggers', 'off', true), ('session_replication_role', 'replica', true)) AS settings (s, v, superusers) \
     WHERE pg_catalog.current_setting(s, true) IS NOT NULL AND (NOT superusers OR pg_catalog.current_setting('is_superuser') = 'on')";

/// One side's server: how we reach it, and how the other server does.
#[derive(Debug, Clone)]
pub struct Server {
    color: Color,
    conninfo: Conninfo,
    from_peer: Conninfo,
}

impl Server {
    /// Reads the connection strings. `from_peer` is how the *other* server reaches this one; the same string if none.
    /// `password` is for both, where they hold none of their own; without it the passfile is looked into.
    ///
    /// # Errors
    /// `InvalidInput` that names what is wrong.
    pub fn new(color: Color, database: &str, from_peer: Option<&str>, password: Option<&str>) -> Result<Self> {
        let read = |text: &str| -> Result<Conninfo> {
            let mut conninfo = Conninfo::parse(text).map_err(|e| {
                fault(
                    e.kind(),
                    format!("read the connection string of {}", side(color)),
                    e.message(),
                )
            })?;
            if let (None, Some(password)) = (conninfo.password(), password) {
                conninfo.set_password(password);
            }
            conninfo.read_passfile()?;
            SslMode::of(&conninfo)?;
            Ok(conninfo)
        };
        let conninfo = read(database)?;
        let mut from_peer = match from_peer {
            Some(text) => read(text)?,
            None => conninfo.clone(),
        };
        if let (None, Some(password)) = (from_peer.password(), conninfo.password()) {
            from_peer.set_password(password);
        }
        Ok(Self {
            color,
            conninfo,
            from_peer,
        })
    }

    /// Which side it is.
    #[must_use]
    pub fn color(&self) -> Color {
        self.color
    }

    /// How we reach it.
    #[must_use]
    pub fn conninfo(&self) -> &Conninfo {
        &self.conninfo
    }

    /// How the other server reaches it.
    #[must_use]
    pub fn from_peer(&self) -> &Conninfo {
        &self.from_peer
    }

    /// A session whose `application_name` is given.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses us; the message names the server and never the password.
    pub async fn connect(&self, application: &str) -> Result<Session> {
        dial(&self.conninfo, side(self.color), application, "").await
    }

    pub(crate) fn connecting(&self) -> String {
        format!("connect to {} ({})", side(self.color), self.conninfo)
    }

    /// The error of a connection that was not had, without its source: a server may repeat what it was given.
    pub(crate) fn refused(&self, error: PgError) -> Error {
        let said = self.conninfo.redact(&error.to_string());
        let error = Err::<(), _>(error).doing(self.connecting()).err();
        let kind = error.map_or(Kind::Unexpected, |e| e.kind());
        Error::new(kind, self.connecting(), said).provider(PROVIDER)
    }

    /// What a connection is made with, and how long that may take.
    pub(crate) fn parts(&self, application: &str) -> Result<(tokio_postgres::Config, MakeRustlsConnect, Duration)> {
        let config = config(&self.conninfo, side(self.color), application, "")?;
        let mode = SslMode::of(&self.conninfo)?;
        let tls = MakeRustlsConnect::new(client_config(&self.conninfo, mode).doing(self.connecting())?);
        let within = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        Ok((config, tls, within))
    }
}

/// A session to a database that is called `whose` in messages; `settings` are sent beside those of every session.
pub(crate) async fn dial(conninfo: &Conninfo, whose: &str, application: &str, settings: &str) -> Result<Session> {
    let operation = || format!("connect to {whose} ({conninfo})");
    let config = config(conninfo, whose, application, settings)?;
    let within = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let session = open(conninfo, whose, config).await?;
    match tokio::time::timeout(within, session.batch_execute(AFTER_CONNECT)).await {
        Ok(set) => set.doing(operation())?,
        Err(_) => return Err(PgError::Elapsed(within)).doing(operation()),
    }
    Ok(session)
}

/// A session with no settings of ours or of the connection string's: it has what a client of the application's gets.
pub(crate) async fn plain(settings: &Settings, color: Color) -> Result<Session> {
    let (conninfo, whose) = (settings.server(color).conninfo(), side(color));
    let mut config = config(conninfo, whose, &application_name(&settings.name), "")?;
    config.options("");
    open(conninfo, whose, config).await
}

async fn open(conninfo: &Conninfo, whose: &str, config: tokio_postgres::Config) -> Result<Session> {
    let operation = || format!("connect to {whose} ({conninfo})");
    let mode = SslMode::of(conninfo)?;
    let tls = MakeRustlsConnect::new(client_config(conninfo, mode).doing(operation())?);
    let within = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let (client, connection) = match tokio::time::timeout(within, config.connect(tls)).await {
        Ok(Ok(pair)) => pair,
        Ok(Err(e)) => {
            let said = conninfo.redact(&describe(&e));
            return Err::<Session, PgError>(e.into())
                .doing(operation())
                .map_err(|e| Error::new(e.kind(), operation(), said).provider(PROVIDER));
        }
        Err(_) => return Err(PgError::Elapsed(within)).doing(operation()),
    };
    let whose = whose.to_owned();
    let task = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(at = whose, error = %describe(&e), "a session ended");
        }
    });
    Ok(Session {
        client,
        task: task.abort_handle(),
        prepared: Mutex::default(),
    })
}

fn config(from: &Conninfo, whose: &str, application: &str, settings: &str) -> Result<tokio_postgres::Config> {
    let mut config = tokio_postgres::Config::new();
    config.user(from.user()).dbname(from.dbname());
    config.application_name(application);
    config.connect_timeout(CONNECT_TIMEOUT);
    config.keepalives_idle(Duration::from_secs(10));
    config.tcp_user_timeout(Duration::from_secs(30));
    config.options(match from.get("options") {
        Some(theirs) => format!("{theirs} {SESSION_SETTINGS}{settings}"),
        None => format!("{SESSION_SETTINGS}{settings}"),
    });
    if let Some(password) = from.password() {
        config.password(password);
    }
    for host in from
        .get("host")
        .unwrap_or_default()
        .split(',')
        .filter(|h| !h.is_empty())
    {
        config.host(host);
    }
    let not = |key: &str| {
        fault(
            Kind::InvalidInput,
            format!("read the connection string of {whose}"),
            format!("{key} is not what it may be"),
        )
    };
    for address in from
        .get("hostaddr")
        .unwrap_or_default()
        .split(',')
        .filter(|h| !h.is_empty())
    {
        config.hostaddr(address.parse().map_err(|_| not("hostaddr"))?);
    }
    for port in from.get("port").unwrap_or("5432").split(',') {
        config.port(if port.is_empty() {
            5432
        } else {
            port.parse().map_err(|_| not("port"))?
        });
    }
    if let Some(seconds) = from.get("connect_timeout") {
        let seconds: u64 = seconds.parse().map_err(|_| not("connect_timeout"))?;
        if seconds > 0 {
            config.connect_timeout(Duration::from_secs(seconds));
        }
    }
    match from.get("target_session_attrs") {
        None | Some("any") => {}
        Some("read-write" | "primary") => {
            config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        }
        Some(_) => return Err(not("target_session_attrs")),
    }
    config.ssl_mode(match SslMode::of(from)? {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
    });
    Ok(config)
}

/// A session. Dropping it closes its socket at once, whatever it was doing: the server rolls back and lets go of locks.
#[derive(Debug)]
pub struct Session {
    client: Client,
    task: AbortHandle,
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

impl Session {
    /// Runs a statement that is prepared when it first comes by: in a pause, to plan it would cost more than to run it.
    pub(crate) async fn query_prepared(
        &self,
        sql: &'static str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let known = self.prepared().get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let types: Vec<Type> = params.iter().map(|(_, t)| t.clone()).collect();
                let statement = self.client.prepare_typed(sql, &types).await?;
                self.prepared().insert(sql, statement.clone());
                statement
            }
        };
        let values: Vec<&(dyn ToSql + Sync)> = params.iter().map(|(value, _)| *value).collect();
        self.client.query(&statement, &values).await
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Statement>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What every part of a migration's replicator shares: its name and the two servers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The migration's name.
    pub name: String,
    /// Blue's server.
    pub blue: Server,
    /// Green's server.
    pub green: Server,
}

impl Settings {
    /// The server of `color`.
    #[must_use]
    pub fn server(&self, color: Color) -> &Server {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// A session at `color`, known as ours by its application name.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn connect(&self, color: Color) -> Result<Session> {
        self.server(color).connect(&application_name(&self.name)).await
    }

    /// The session that holds the fence's table lock.
    pub(crate) async fn connect_guard(&self, color: Color) -> Result<Session> {
        self.server(color).connect(&guard_application_name(&self.name)).await
    }

    /// A session of the first copy: a new try may terminate those and no others.
    pub(crate) async fn connect_copy(&self, color: Color) -> Result<Session> {
        self.server(color).connect(&copy_application_name(&self.name)).await
    }
}
