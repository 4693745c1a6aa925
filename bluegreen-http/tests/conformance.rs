//! The suite that every health probe passes, for `HttpProbe`.
#![allow(clippy::unwrap_used, missing_docs)]

use async_trait::async_trait;
use bluegreen_core::{Color, Endpoint, HealthProbe};
use bluegreen_http::HttpProbe;
use bluegreen_testkit::conformance::probe::ProbeHarness;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers by path: `/well`, `/ill`, and nothing at all to `/slow`.
struct Harness {
    probe: HttpProbe,
    at: SocketAddr,
}

impl Harness {
    async fn start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).await.unwrap();
                    let status = match &request[..length] {
                        r if r.starts_with(b"GET /well") => "200 OK",
                        r if r.starts_with(b"GET /ill") => "503 Service Unavailable",
                        _ => return std::future::pending().await,
                    };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                });
            }
        });
        Some(Self {
            probe: HttpProbe::new(),
            at,
        })
    }

    fn endpoint(&self, path: &str, deadline: Duration) -> Endpoint {
        Endpoint {
            color: Some(Color::Green),
            url: format!("http://{}{path}", self.at),
            host: Some("app.example.com".into()),
            deadline,
        }
    }
}

#[async_trait]
impl ProbeHarness for Harness {
    fn probe(&self) -> &dyn HealthProbe {
        &self.probe
    }

    async fn well(&self) -> Endpoint {
        self.endpoint("/well", Duration::from_secs(10))
    }

    async fn ill(&self) -> Endpoint {
        self.endpoint("/ill", Duration::from_secs(10))
    }

    async fn slow(&self) -> Option<Endpoint> {
        Some(self.endpoint("/slow", Duration::from_millis(200)))
    }

    async fn gone(&self) -> Option<Endpoint> {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut endpoint = self.well().await;
        endpoint.url = format!("http://{nobody}/well");
        Some(endpoint)
    }
}

bluegreen_testkit::probe_conformance!(http, async { Harness::start().await });
