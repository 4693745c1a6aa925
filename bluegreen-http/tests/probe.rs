//! `HttpProbe` against small servers on loopback, well and ill, plain and with TLS.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{Color, Endpoint, Health, HealthProbe, Kind};
use bluegreen_http::HttpProbe;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "app.example.com";

/// What a server does with a connection whose request it has read.
#[derive(Clone)]
enum Does {
    Answers(&'static str, String),
    Hangs,
    StopsHalfway,
    HangsUp,
}

/// A server, and the requests it has seen.
struct Server {
    at: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(does: Does) -> Self {
        Self::start_with(does, None).await
    }

    async fn start_with(does: Does, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(vec![]));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (does, log, tls) = (does.clone(), Arc::clone(&log), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, does, log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, does, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { at, seen }
    }

    fn endpoint(&self, scheme: &str, host: Option<&str>) -> Endpoint {
        Endpoint {
            color: Some(Color::Green),
            url: format!("{scheme}://{}/api/health?deep=1", self.at),
            host: host.map(Into::into),
            deadline: Duration::from_secs(10),
        }
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, does: Does, log: Arc<Mutex<Vec<String>>>) {
    let mut request = vec![];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    log.lock()
        .unwrap()
        .push(String::from_utf8(request).unwrap().to_ascii_lowercase());
    match does {
        Does::Answers(head, body) => {
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            // A client that has seen enough may be gone by now.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Does::StopsHalfway => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                .await
                .unwrap();
            std::future::pending().await
        }
        Does::Hangs => std::future::pending().await,
        Does::HangsUp => {}
    }
}

fn ok(body: &str) -> Does {
    Does::Answers("200 OK", body.into())
}

async fn check(probe: &HttpProbe, endpoint: &Endpoint) -> Health {
    probe.check(endpoint).await.unwrap()
}

#[tokio::test]
async fn a_good_answer_is_well() {
    let server = Server::start(ok("{\"status\":\"ok\"}")).await;
    let probe = HttpProbe::new().expect_body("\"status\":\"ok\"");
    let health = check(&probe, &server.endpoint("http", None)).await;
    assert!(
        health.healthy && health.seen == "200" && health.latency > Duration::ZERO,
        "{health:?}"
    );
}

#[tokio::test]
async fn each_probe_is_a_connection_with_the_production_name() {
    let server = Server::start(ok("")).await;
    let endpoint = server.endpoint("http", Some(NAME));
    for _ in 0..3 {
        assert!(check(&HttpProbe::new(), &endpoint).await.healthy);
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert!(request.starts_with("get /api/health?deep=1 http/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nhost: app.example.com\r\n"), "{request}");
        assert_eq!(request.matches("\r\nhost:").count(), 1, "{request}");
        assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
    }
}

#[tokio::test]
async fn without_a_production_name_the_url_has_its_own() {
    let server = Server::start(ok("")).await;
    let mut endpoint = server.endpoint("http", None);
    endpoint.url = format!("http://localhost:{}/", server.at.port());
    assert!(check(&HttpProbe::new(), &endpoint).await.healthy);
    assert!(server.requests()[0].contains(&format!("\r\nhost: localhost:{}\r\n", server.at.port())));
}

#[tokio::test]
async fn wrong_statuses_and_bodies_are_ill() {
    let cases = [
        (Does::Answers("503 Service Unavailable", String::new()), "503"),
        (
            Does::Answers("302 Found\r\nLocation: http://127.0.0.1:1/login", String::new()),
            "302, which leads to http://127.0.0.1:1/login",
        ),
        (ok("down"), "200, but its body does not hold \"ready\""),
        (ok(&"x".repeat((1 << 20) + 1)), "200, but its body is larger than 1 MiB"),
    ];
    for (does, expected) in cases {
        let server = Server::start(does).await;
        let health = check(&HttpProbe::new().expect_body("ready"), &server.endpoint("http", None)).await;
        assert!(!health.healthy);
        assert_eq!(health.seen, expected);
        assert_eq!(
            server.requests().len(),
            1,
            "nothing is followed, nothing is tried again"
        );
    }
}

#[tokio::test]
async fn a_status_that_is_expected_is_well() {
    let server = Server::start(Does::Answers("404 Not Found", String::new())).await;
    assert!(
        check(
            &HttpProbe::new().expect_status(400..=404),
            &server.endpoint("http", None)
        )
        .await
        .healthy
    );
}

#[tokio::test]
async fn hanging_and_broken_servers_are_ill() {
    for does in [Does::Hangs, Does::StopsHalfway] {
        let server = Server::start(does).await;
        let mut endpoint = server.endpoint("http", None);
        endpoint.deadline = Duration::from_millis(300);
        let health = check(&HttpProbe::new(), &endpoint).await;
        assert!(!health.healthy && health.latency >= endpoint.deadline, "{health:?}");
        assert_eq!(health.seen, "no whole answer within 300ms");
    }
    let server = Server::start(Does::HangsUp).await;
    let health = check(&HttpProbe::new(), &server.endpoint("http", None)).await;
    assert!(!health.healthy && !health.seen.is_empty(), "{health:?}");
    assert_eq!(server.requests().len(), 1, "a probe that failed is not sent again");
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_ill() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let mut endpoint = Server::start(ok("")).await.endpoint("http", None);
    endpoint.url = format!("http://{at}/");
    let health = check(&HttpProbe::new(), &endpoint).await;
    assert!(!health.healthy && health.seen.contains("refused"), "{health:?}");
    endpoint.url = "http://nowhere.invalid/".into();
    let health = check(&HttpProbe::new(), &endpoint).await;
    assert!(
        !health.healthy && health.seen.contains("nowhere.invalid has no address"),
        "{health:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_asked_is_an_error_without_secrets() {
    let mut endpoint = Server::start(ok("")).await.endpoint("http", None);
    for url in ["", "green", "ftp://green/", "http://user:secret@[::/"] {
        endpoint.url = url.into();
        let error = HttpProbe::new().check(&endpoint).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(
        HttpProbe::new().root_certificates(b"no PEM").unwrap_err().kind(),
        Kind::InvalidInput
    );
}

/// A private authority, and a server certificate for `name` signed by it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[tokio::test]
async fn a_certificate_must_be_valid_for_the_production_name() {
    let authority = Authority::new();
    let trusting = || HttpProbe::new().root_certificates(authority.pem().as_bytes()).unwrap();
    let right = Server::start_with(ok(""), Some(authority.server(NAME))).await;
    let health = check(&trusting(), &right.endpoint("https", Some(NAME))).await;
    assert!(health.healthy, "{health:?}");
    assert!(right.requests()[0].contains("\r\nhost: app.example.com\r\n"));

    let wrong = Server::start_with(ok(""), Some(authority.server("other.example.com"))).await;
    let health = check(&trusting(), &wrong.endpoint("https", Some(NAME))).await;
    assert!(!health.healthy && health.seen.contains("certificate"), "{health:?}");
    assert!(wrong.requests().is_empty());

    let own_address = check(&trusting(), &right.endpoint("https", None)).await;
    assert!(!own_address.healthy, "the certificate is not for 127.0.0.1");
    let untrusted = Authority::new();
    let other = HttpProbe::new().root_certificates(untrusted.pem().as_bytes()).unwrap();
    let health = check(&other, &right.endpoint("https", Some(NAME))).await;
    assert!(!health.healthy && health.seen.contains("certificate"), "{health:?}");
}

#[tokio::test]
async fn plain_http_where_tls_is_spoken_is_ill_and_the_other_way_round() {
    let authority = Authority::new();
    let tls = Server::start_with(ok(""), Some(authority.server(NAME))).await;
    assert!(
        !check(&HttpProbe::new(), &tls.endpoint("http", Some(NAME)))
            .await
            .healthy
    );
    let plain = Server::start(ok("")).await;
    let mut endpoint = plain.endpoint("https", Some(NAME));
    // The server waits for a request that ends, the client for a handshake.
    endpoint.deadline = Duration::from_millis(500);
    let probe = HttpProbe::new().root_certificates(authority.pem().as_bytes()).unwrap();
    assert!(!check(&probe, &endpoint).await.healthy);
}
