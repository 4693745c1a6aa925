//! `PowerDnsServer`: a throwaway authoritative PowerDNS on 127.0.0.1 with one zone, its HTTP API, Lua records and no caches.

use super::files::TempFolder;
use super::process::{ServerProcess, ServerUser, free_port};
use crate::dns::ask;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where Debian, Fedora and Alpine put the schema of the SQLite backend.
const SCHEMAS: [&str; 4] = [
    "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql",
    "/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql",
    "/usr/share/doc/pdns/schema.sqlite3.sql",
    "/usr/share/doc/pdns-backend-sqlite/schema.sqlite3.sql",
];

/// What is needed to start one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerDnsBinaries {
    server: PathBuf,
    schema: PathBuf,
}

impl PowerDnsBinaries {
    /// What is installed: `pdns_server`, its SQLite backend and `sqlite3`.
    #[must_use]
    pub fn find() -> Option<Self> {
        let on_path = |name: &str| {
            let mut dirs: Vec<PathBuf> = std::env::var_os("PATH")
                .iter()
                .flat_map(std::env::split_paths)
                .collect();
            dirs.extend(["/usr/sbin".into(), "/usr/local/sbin".into()]);
            dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.exists())
        };
        on_path("sqlite3")?;
        Some(Self {
            server: on_path("pdns_server")?,
            schema: SCHEMAS.iter().map(PathBuf::from).find(|path| path.exists())?,
        })
    }
}

/// A running server. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct PowerDnsServer {
    // Before the folder: fields are dropped in this order.
    process: ServerProcess,
    _folder: TempFolder,
    zone: String,
    dns: SocketAddr,
    api: SocketAddr,
    key: String,
}

impl PowerDnsServer {
    /// One that serves `zone`, empty but for SOA and NS.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start(zone: &str) -> io::Result<Self> {
        Self::start_with(zone, &[]).await
    }

    /// One with other settings: the last of a name counts.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start_with(zone: &str, settings: &[(&str, &str)]) -> io::Result<Self> {
        let binaries = PowerDnsBinaries::find().ok_or_else(|| io::Error::other("no PowerDNS is installed here"))?;
        let mut attempts = 0;
        loop {
            match Self::attempt(&binaries, zone, settings).await {
                Ok(server) => return Ok(server),
                // Somebody may have been faster on its ports.
                Err(error) if attempts == 3 => return Err(error),
                Err(_) => attempts += 1,
            }
        }
    }

    async fn attempt(binaries: &PowerDnsBinaries, zone: &str, settings: &[(&str, &str)]) -> io::Result<Self> {
        let user = ServerUser::unprivileged()?;
        let folder = TempFolder::new("bluegreen-pdns-", user)?;
        let database = folder.path().join("zones.sqlite");
        let made = Command::new("sqlite3")
            .arg(&database)
            .stdin(Stdio::from(File::open(&binaries.schema)?))
            .output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        user.own(&database)?;
        let (dns, api) = (local(free_port()?), local(free_port()?));
        let key = format!("key-{:032x}", rand::random::<u128>());
        std::fs::write(
            folder.path().join("pdns.conf"),
            configuration(folder.path(), dns, api, &key, settings),
        )?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new(&binaries.server);
        command
            .arg(format!("--config-dir={}", folder.path().display()))
            .current_dir(folder.path())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = ServerProcess::spawn(user.apply(&mut command), Signal::SIGKILL, &folder)?;
        let mut server = Self {
            process,
            zone: zone.trim_end_matches('.').to_owned(),
            dns,
            api,
            key,
            _folder: folder,
        };
        server.ready().await?;
        let name_server = format!("ns1.{}.", server.zone);
        let body = json!({"name": format!("{}.", server.zone), "kind": "Native", "nameservers": [name_server]});
        match server.request("POST", "/zones", Some(&body)).await? {
            (201, _) => {
                server.answers().await?;
                Ok(server)
            }
            (status, text) => Err(io::Error::other(format!("the zone was not made: {status} {text}"))),
        }
    }

    /// Its API comes before its DNS, which takes a moment more: no client should be the one to wait for it.
    async fn answers(&self) -> io::Result<()> {
        let since = Instant::now();
        loop {
            match ask(self.dns, &self.zone, RecordType::SOA, Duration::from_secs(1)).await {
                Ok(reply) if !reply.answers.is_empty() => return Ok(()),
                Err(error) if since.elapsed() > Duration::from_secs(30) => return Err(error),
                Ok(reply) if since.elapsed() > Duration::from_secs(30) => {
                    return Err(io::Error::other(format!("its zone is not served: {}", reply.code)));
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn ready(&mut self) -> io::Result<()> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.process.ended()? {
                let log = std::fs::read_to_string(self._folder.path().join("log"))?;
                return Err(io::Error::other(format!("pdns_server ended ({status}): {log}")));
            }
            match self.request("GET", "", None).await {
                Ok(_) => return Ok(()),
                Err(error) if since.elapsed() > Duration::from_secs(30) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// The API's address: `http://127.0.0.1:port`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// The API's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where it answers DNS, by UDP and TCP.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        self.dns
    }

    /// Its zone, without a trailing dot.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// Sends the process a signal: `SIGSTOP` makes a server that hangs.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// Every set of the zone, as the API gives them.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn sets(&self) -> io::Result<Vec<Value>> {
        let (status, text) = self.request("GET", &format!("/zones/{}.", self.zone), None).await?;
        let zone: Value = serde_json::from_str(&text)?;
        match zone["rrsets"].as_array() {
            Some(sets) => Ok(sets.clone()),
            None => Err(io::Error::other(format!("{status}: {text}"))),
        }
    }

    /// Replaces a set, with the values as they stand in a zone file.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn set(&self, name: &str, kind: &str, ttl: u32, values: &[&str]) -> io::Result<()> {
        let records: Vec<Value> = values
            .iter()
            .map(|v| json!({"content": v, "disabled": false}))
            .collect();
        let name = format!("{}.", name.trim_end_matches('.'));
        self.patch(json!({"name": name, "type": kind, "changetype": "REPLACE", "ttl": ttl, "records": records}))
            .await
    }

    /// Sends one change of a set in the API's own form.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn patch(&self, change: Value) -> io::Result<()> {
        let body = json!({ "rrsets": [change] });
        match self
            .request("PATCH", &format!("/zones/{}.", self.zone), Some(&body))
            .await?
        {
            (204, _) => Ok(()),
            (status, text) => Err(io::Error::other(format!("{status}: {text}"))),
        }
    }

    /// One request to the API, below `/api/v1/servers/localhost`; the status and the body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, String)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} /api/v1/servers/localhost{path} HTTP/1.1\r\nHost: {}\r\nX-API-Key: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.api,
            self.key,
            body.len()
        );
        let mut stream = TcpStream::connect(self.api).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        match (status, answer.split_once("\r\n\r\n")) {
            (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
            _ => Err(io::Error::other(format!("no HTTP answer: {answer:?}"))),
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn configuration(folder: &Path, dns: SocketAddr, api: SocketAddr, key: &str, settings: &[(&str, &str)]) -> String {
    let (folder, dns_port, api_port) = (folder.display(), dns.port(), api.port());
    let mut text = format!(
        "launch=gsqlite3\ngsqlite3-database={folder}/zones.sqlite\nsocket-dir={folder}\ndaemon=no\nguardian=no\n\
         local-address=127.0.0.1\nlocal-port={dns_port}\n\
         webserver=yes\nwebserver-address=127.0.0.1\nwebserver-port={api_port}\napi=yes\napi-key={key}\n\
         enable-lua-records=yes\nsecurity-poll-suffix=\n\
         cache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nzone-cache-refresh-interval=0\n"
    );
    for (name, value) in settings {
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}
