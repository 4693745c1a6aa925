//! A session whose bytes are ours: opened, authenticated and prepared by the client library, then taken from it, so that
//! the rows of a `COPY` need not be cut into messages and joined again, nor ever be whole in memory.

use crate::connect::{AFTER_CONNECT, Server};
use crate::error::{Doing, PgError};
use crate::ident::side;
use bluegreen_core::Result;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a server may take nothing of what is sent: with its log on a disk that stands still it reads no rows, and lives. It
/// is no longer than a dead one may keep a stream.
const TAKES_NOTHING: Duration = Duration::from_secs(300);

/// A session of which only the bytes are left.
pub(crate) struct Wire {
    /// What the server is spoken to through.
    pub(crate) io: Io,
    /// The server's process for it.
    pub(crate) pid: i32,
}

/// A socket, with TLS or without.
pub(crate) type Io = Box<dyn Socket>;

/// What a session needs of its socket.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {
    fn binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl Socket for TcpStream {}
impl Socket for UnixStream {}

struct Secured<S>(S);

/// A socket that is lent to the client library and taken back afterwards.
#[derive(Clone, Default)]
struct Lent(Arc<Mutex<Option<Io>>>);

impl Lent {
    fn new(io: Io) -> Self {
        Self(Arc::new(Mutex::new(Some(io))))
    }

    fn with<T>(&self, f: impl FnOnce(Pin<&mut dyn Socket>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(io) => f(Pin::new(&mut **io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn take(&self) -> Option<Io> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}

impl TlsStream for Lent {
    fn channel_binding(&self) -> ChannelBinding {
        let io = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        io.as_ref().map_or_else(ChannelBinding::none, |io| io.binding())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Secured<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Send + Unpin> Socket for Secured<S> {
    fn binding(&self) -> ChannelBinding {
        self.0.channel_binding()
    }
}

/// Makes TLS as the client library's own connector does, and keeps a hand on the stream.
struct Lender<C> {
    inner: C,
    place: Lent,
}

impl<C> TlsConnect<Lent> for Lender<C>
where
    C: TlsConnect<Lent> + Send + 'static,
    C::Stream: TlsStream + Send + Unpin + 'static,
    C::Future: Send,
{
    type Stream = Lent;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Lent, C::Error>> + Send>>;

    fn connect(self, stream: Lent) -> Self::Future {
        let made = self.inner.connect(stream);
        Box::pin(async move {
            let stream = made.await?;
            *self.place.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(Secured(stream)));
            Ok(self.place)
        })
    }
}

impl Server {
    /// Opens a session, runs `prepare` in it, and hands out its bytes.
    pub(crate) async fn connect_wire(&self, application: &str, prepare: &str) -> Result<Wire> {
        let doing = self.connecting();
        let (config, tls, within) = self.parts(application)?;
        let opened = tokio::time::timeout(within, open(&config, tls, prepare));
        match opened.await {
            Ok(Ok(prepared)) => prepared.doing(format!("prepare a session at {}", side(self.color()))),
            Ok(Err(e)) => Err(self.refused(e)),
            Err(_) => Err(PgError::Elapsed(within)).doing(doing),
        }
    }
}

/// A session, or why its preparation failed; or why there is none at all.
type Opened = std::result::Result<std::result::Result<Wire, PgError>, PgError>;

async fn open(config: &Config, tls: MakeRustlsConnect, prepare: &str) -> Opened {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "there is no host");
    for place in places(config) {
        match place.dial(config).await {
            Ok(io) => return greet(config, tls, &place.name, io, prepare).await,
            Err(e) => last = e,
        }
    }
    Err(last.into())
}

async fn greet(config: &Config, mut tls: MakeRustlsConnect, name: &str, io: Io, prepare: &str) -> Opened {
    let (plain, secured) = (Lent::new(io), Lent::default());
    let connector =
        MakeTlsConnect::<Lent>::make_tls_connect(&mut tls, name).map_err(|e| PgError::Tls(e.to_string()))?;
    let lender = Lender {
        inner: connector,
        place: secured.clone(),
    };
    let (client, connection) = config.connect_raw(plain.clone(), lender).await?;
    let driver = tokio::spawn(connection);
    let prepared = async {
        client.batch_execute(AFTER_CONNECT).await?;
        client.batch_execute(prepare).await?;
        client.query_one("SELECT pg_backend_pid()", &[]).await
    }
    .await;
    // Between two statements nothing is under way on the socket: what the driver has is nothing.
    driver.abort();
    let ended = driver.await;
    let pid = match prepared {
        Ok(row) => row.get(0),
        Err(e) => return Ok(Err(e.into())),
    };
    match (ended, secured.take().or_else(|| plain.take())) {
        (Err(e), Some(io)) if e.is_cancelled() => Ok(Ok(Wire { io, pid })),
        _ => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
    }
}

/// One of the places where a server may be.
struct Place {
    name: String,
    host: Option<Host>,
    address: Option<IpAddr>,
    port: u16,
}

fn places(config: &Config) -> Vec<Place> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    (0..hosts.len().max(addresses.len()))
        .map(|i| {
            let (host, address) = (hosts.get(i).cloned(), addresses.get(i).copied());
            let name = match (&host, address) {
                (Some(Host::Tcp(name)), _) => name.clone(),
                (_, Some(address)) => address.to_string(),
                _ => String::new(),
            };
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            Place {
                name,
                host,
                address,
                port,
            }
        })
        .collect()
}

impl Place {
    async fn dial(&self, config: &Config) -> io::Result<Io> {
        let stream = match (&self.host, self.address) {
            (_, Some(address)) => TcpStream::connect((address, self.port)).await?,
            (Some(Host::Tcp(name)), None) => TcpStream::connect((name.as_str(), self.port)).await?,
            (Some(Host::Unix(folder)), None) => {
                let path = folder.join(format!(".s.PGSQL.{}", self.port));
                return Ok(Box::new(UnixStream::connect(path).await?));
            }
            (None, None) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no host")),
        };
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_keepalive(
            &socket2::TcpKeepalive::new()
                .with_time(config.get_keepalives_idle())
                .with_interval(Duration::from_secs(5))
                .with_retries(4),
        )?;
        socket.set_tcp_user_timeout(Some(TAKES_NOTHING))?;
        Ok(Box::new(stream))
    }
}
