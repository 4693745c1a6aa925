//! A client's one kept connection: to whichever address the name has for it now.

use super::server::ANSWERED_BY;
use crate::dns::CachingResolver;
use bluegreen_core::Color;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// When an answer that has not come is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) by: Option<Color>,
    pub(super) body: Bytes,
}

/// Keeps its connection alive for as long as the name leads to where it goes.
#[derive(Debug)]
pub(super) struct Browser {
    resolver: Arc<CachingResolver>,
    name: String,
    port: u16,
    kept: Option<(SocketAddr, SendRequest<Full<Bytes>>)>,
}

impl Browser {
    pub(super) fn new(resolver: Arc<CachingResolver>, name: String, port: u16) -> Self {
        Self {
            resolver,
            name,
            port,
            kept: None,
        }
    }

    /// Asks once. A connection that turns out closed before anything was sent is replaced; nothing else is tried again.
    pub(super) async fn ask(&mut self, method: Method, path: &str, body: Vec<u8>) -> io::Result<Answer> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_patiently(method, path, body)).await;
        let result = asked.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s")));
        if result.is_err() {
            self.kept = None;
        }
        result
    }

    async fn ask_patiently(&mut self, method: Method, path: &str, body: Vec<u8>) -> io::Result<Answer> {
        let addresses = self.resolver.resolve(&self.name).await?;
        let kept = self.kept.as_ref().map(|(address, _)| *address);
        let wanted = match kept.filter(|kept| addresses.contains(&kept.ip())) {
            Some(kept) => kept,
            None => SocketAddr::new(addresses[rand::random_range(0..addresses.len())], self.port),
        };
        let mut connection = None;
        if let Some((address, mut kept)) = self.kept.take()
            && address == wanted
            && kept.ready().await.is_ok()
        {
            connection = Some(kept);
        }
        let mut connection = match connection {
            Some(connection) => connection,
            None => connect(wanted).await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{}", self.name, self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(io::Error::other)?;
        let response = connection.send_request(request).await.map_err(io::Error::other)?;
        let by = match response.headers().get(ANSWERED_BY).map(|value| value.as_bytes()) {
            Some(b"blue") => Some(Color::Blue),
            Some(b"green") => Some(Color::Green),
            _ => None,
        };
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        self.kept = Some((wanted, connection));
        Ok(Answer { status, by, body })
    }
}

async fn connect(to: SocketAddr) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // A broken connection shows as the request's own error.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP connection ended");
        }
    });
    Ok(sender)
}
