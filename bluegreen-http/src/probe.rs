//! `HttpProbe`: one GET over a connection of its own, to the environment's own address.

use crate::error::ProbeError;
use crate::tls;
use async_trait::async_trait;
use bluegreen_core::{Endpoint, Health, HealthProbe, Result};
use reqwest::header::{CONNECTION, HOST, HeaderValue, LOCATION};
use reqwest::{Client, Response, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::time::Instant;

const MAX_BODY: usize = 1 << 20;

/// Asks an endpoint by HTTP or HTTPS: well is a status within the expected range and, if one is expected, a body that
/// holds a text.
///
/// It connects to the host of the endpoint's URL and to nothing else. Where the endpoint names a production host, that
/// is what the server sees as `Host` and as TLS server name, and what its certificate must be valid for; but the
/// production name is never looked up. Every probe is a new connection; nothing is followed: a redirect is a status like
/// any other. Proxies of the environment are not used.
///
/// ```
/// use bluegreen_http::HttpProbe;
/// let probe = HttpProbe::new().expect_status(200..=204).expect_body("\"status\":\"ok\"");
/// ```
pub struct HttpProbe {
    status: RangeInclusive<u16>,
    body: Option<String>,
    roots: Vec<CertificateDer<'static>>,
    tls: OnceLock<ClientConfig>,
}

impl fmt::Debug for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProbe")
            .field("status", &self.status)
            .field("body", &self.body)
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpProbe {
    /// A probe that expects a status of 200 to 299, and any body of at most 1 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            status: 200..=299,
            body: None,
            roots: vec![],
            tls: OnceLock::new(),
        }
    }

    /// The statuses of a well endpoint.
    #[must_use]
    pub fn expect_status(mut self, range: RangeInclusive<u16>) -> Self {
        self.status = range;
        self
    }

    /// A text that the body of a well endpoint holds.
    #[must_use]
    pub fn expect_body(mut self, text: impl Into<String>) -> Self {
        self.body = Some(text.into());
        self
    }

    /// Trusts these certificates (PEM) beside the machine's own: for an environment with a private authority. That a
    /// certificate is valid for its name is always checked.
    ///
    /// # Errors
    /// When there is no certificate in it.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Self> {
        self.roots.extend(tls::parse_roots(pem)?);
        self.tls = OnceLock::new();
        Ok(self)
    }

    fn tls(&self) -> Result<ClientConfig, ProbeError> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let config = tls::config(&self.roots)?;
        Ok(self.tls.get_or_init(|| config).clone())
    }

    /// A client that reaches `to` under the name `url` has now.
    fn client(&self, url: &Url, to: &[SocketAddr]) -> Result<Client, ProbeError> {
        let builder = Client::builder()
            .user_agent(concat!("bluegreen/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0)
            .no_proxy()
            .resolve_to_addrs(url.host_str().unwrap_or_default(), to);
        let secure = url.scheme() == "https";
        // Plain HTTP needs no roots, and must work on a machine that has none.
        let tls = if secure {
            self.tls()?
        } else {
            tls::trusting(RootCertStore::empty())?
        };
        builder
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|e| ProbeError::Tls(root_cause(&e)))
    }

    /// The answer's verdict; an error is one of the connection.
    async fn judge(&self, mut response: Response) -> Result<Result<String, String>, reqwest::Error> {
        let status = response.status();
        if !self.status.contains(&status.as_u16()) {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            return Ok(Err(match to {
                Some(to) if status.is_redirection() => format!("{}, which leads to {to}", status.as_u16()),
                _ => status.as_u16().to_string(),
            }));
        }
        let mut body = vec![];
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BODY {
                return Ok(Err(format!("{}, but its body is larger than 1 MiB", status.as_u16())));
            }
            body.extend_from_slice(&chunk);
        }
        match &self.body {
            Some(text) if !String::from_utf8_lossy(&body).contains(text) => {
                Ok(Err(format!("{}, but its body does not hold {text:?}", status.as_u16())))
            }
            _ => Ok(Ok(status.as_u16().to_string())),
        }
    }
}

#[async_trait]
impl HealthProbe for HttpProbe {
    async fn check(&self, endpoint: &Endpoint) -> Result<Health> {
        let began = Instant::now();
        let (mut url, host) = parse(endpoint)?;
        let asked = tokio::time::timeout(endpoint.deadline, async {
            let to = match addresses(&url).await {
                Ok(to) => to,
                Err(why) => return Ok((began, Err(why))),
            };
            if let Some(host) = &host {
                let bad = |_| ProbeError::Host {
                    host: host.clone(),
                    reason: "it cannot stand in a URL".into(),
                };
                url.set_host(Some(without_port(host))).map_err(bad)?;
            }
            let mut request = self.client(&url, &to)?.get(url).header(CONNECTION, "close");
            if let Some(host) = host {
                let value = HeaderValue::from_str(&host).map_err(|e| ProbeError::Host {
                    reason: e.to_string(),
                    host,
                })?;
                request = request.header(HOST, value);
            }
            let began = Instant::now();
            let seen = match request.send().await {
                Ok(response) => self.judge(response).await.unwrap_or_else(|e| Err(root_cause(&e))),
                Err(e) => Err(root_cause(&e)),
            };
            Ok::<_, ProbeError>((began, seen))
        })
        .await;
        let (began, seen) = match asked {
            Ok(seen) => seen?,
            Err(_) => (began, Err(format!("no whole answer within {:?}", endpoint.deadline))),
        };
        let latency = began.elapsed();
        Ok(match seen {
            Ok(seen) => Health {
                healthy: true,
                latency,
                seen,
            },
            Err(seen) => Health::ill(latency, seen),
        })
    }
}

/// The URL, and the production name where that is another than the URL's own.
fn parse(endpoint: &Endpoint) -> Result<(Url, Option<String>), ProbeError> {
    let bad = |reason: String| ProbeError::Url {
        url: match endpoint.url.rsplit_once('@') {
            Some((_, rest)) => format!("***@{rest}"),
            None => endpoint.url.clone(),
        },
        reason,
    };
    let url = Url::parse(&endpoint.url).map_err(|e| bad(e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("{} is neither http nor https", url.scheme())));
    }
    let host = endpoint
        .host
        .clone()
        .filter(|host| Some(host.as_str()) != url.host_str());
    Ok((url, host))
}

async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    // In a URL an IPv6 address stands in brackets.
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    match tokio::net::lookup_host((host, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(e) => Err(format!("{host} has no address: {e}")),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Wrapping errors repeat one another; the innermost says what happened.
fn root_cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn StdError = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
