//! The application's HTTP server, once per environment.

use super::orders::{Database, Order, OrderError};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use bluegreen_core::{Color, Feed};
use serde_json::json;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The header in which every response says which environment answered.
pub(super) const ANSWERED_BY: HeaderName = HeaderName::from_static("x-answered-by");

/// A running environment of the application. Dropping it stops it.
#[derive(Debug)]
pub struct App {
    color: Color,
    address: SocketAddr,
    server: JoinHandle<io::Result<()>>,
}

impl App {
    /// The loopback address of an environment: an A record carries no port, so that each has an address of its own.
    #[must_use]
    pub const fn host(color: Color) -> Ipv4Addr {
        match color {
            Color::Blue => Ipv4Addr::new(127, 0, 0, 2),
            Color::Green => Ipv4Addr::new(127, 0, 0, 3),
        }
    }

    /// Serves an environment on its address and this port.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(color: Color, port: u16, database: Database) -> io::Result<Self> {
        Self::start_counted(color, port, database, Feed::new()).await
    }

    /// The same, and counts every request it answers into a feed that a migration may judge it by.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start_counted(color: Color, port: u16, database: Database, feed: Feed) -> io::Result<Self> {
        let listener = TcpListener::bind((Self::host(color), port)).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/orders", post(write))
            .route("/orders/{token}", get(read))
            .route("/api/health", get(health))
            .route("/api/ready", get(ready))
            .with_state(Environment { color, database })
            .layer(axum::middleware::from_fn(move |request: Request, next: Next| {
                let feed = feed.clone();
                async move {
                    let since = Instant::now();
                    let mut response = next.run(request).await;
                    feed.record(color, !response.status().is_server_error(), since.elapsed());
                    let name = HeaderValue::from_static(match color {
                        Color::Blue => "blue",
                        Color::Green => "green",
                    });
                    response.headers_mut().insert(ANSWERED_BY, name);
                    response
                }
            }));
        let listener = listener.tap_io(|stream| {
            // Without it, an answer may wait for an acknowledgement; it still comes.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY");
            }
        });
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { color, address, server })
    }

    /// Which environment it is.
    #[must_use]
    pub fn color(&self) -> Color {
        self.color
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its own URL, not through the production name.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug, Clone)]
struct Environment {
    color: Color,
    database: Database,
}

impl IntoResponse for OrderError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoAccount(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Database(_) | Self::Unknown(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

async fn write(State(here): State<Environment>, Json(order): Json<Order>) -> Result<StatusCode, OrderError> {
    here.database.write(&order).await?;
    Ok(StatusCode::CREATED)
}

async fn read(State(here): State<Environment>, Path(token): Path<String>) -> Result<Response, OrderError> {
    Ok(match here.database.read(&token).await? {
        Some(order) => Json(order).into_response(),
        None => (StatusCode::NOT_FOUND, format!("no order {token}")).into_response(),
    })
}

async fn health(State(here): State<Environment>) -> Response {
    Json(json!({ "status": "ok", "environment": here.color })).into_response()
}

async fn ready(State(here): State<Environment>) -> Result<Response, OrderError> {
    here.database.ping().await?;
    Ok(Json(json!({ "status": "ready", "environment": here.color })).into_response())
}
