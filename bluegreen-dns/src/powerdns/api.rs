//! PowerDNS's HTTP API as far as we need it: read a zone, change it in one transaction, read a setting.

use crate::error::DnsError;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, StatusCode, redirect};
use rustls::crypto::ring;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

/// All records of one type at one name, in the API's own form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RrSet {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) ttl: u32,
    #[serde(default)]
    pub(super) records: Vec<Rr>,
    #[serde(default)]
    pub(super) comments: Vec<Comment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rr {
    pub(super) content: String,
    #[serde(default)]
    pub(super) disabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Comment {
    content: String,
    #[serde(default)]
    account: String,
    modified_at: u64,
}

#[derive(Deserialize)]
struct Zone {
    #[serde(default)]
    rrsets: Vec<RrSet>,
}

#[derive(Deserialize)]
struct Setting {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// A client of one PowerDNS server.
pub(super) struct Api {
    client: Client,
    base: String,
    wait: Duration,
}

impl Api {
    pub(super) fn new(url: &str, server: &str, key: &str, wait: Duration) -> Result<Self, DnsError> {
        let bad = |reason: String| DnsError::Url {
            url: without_credentials(url),
            reason,
        };
        let parsed = reqwest::Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
            return Err(bad("it must begin with http:// or https:// and a host".into()));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(bad(
                "it must hold no credentials: the key goes into its own setting".into()
            ));
        }
        let root = parsed.as_str().trim_end_matches('/').trim_end_matches("/api/v1");
        let mut key = HeaderValue::from_str(key).map_err(|_| DnsError::Key)?;
        key.set_sensitive(true);
        let client = Client::builder()
            .default_headers(HeaderMap::from_iter([(
                "x-api-key".parse().map_err(|_| DnsError::Key)?,
                key,
            )]))
            .timeout(wait)
            // A redirect would carry the key to whoever it names.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .tls_backend_preconfigured(tls(parsed.scheme() == "https")?)
            .build()
            .map_err(|e| DnsError::Tls(e.to_string()))?;
        Ok(Self {
            client,
            base: format!("{root}/api/v1/servers/{server}"),
            wait,
        })
    }

    /// The whole zone. The API could filter by name, but 4.7 then leaves out disabled records and mixes in comments of
    /// other names, and what is left out could not be put back.
    pub(super) async fn zone(&self, zone: &str) -> Result<Vec<RrSet>, DnsError> {
        let zone: Zone = self.get(&format!("/zones/{zone}.")).await?;
        Ok(zone.rrsets)
    }

    /// Changes several sets in one transaction.
    pub(super) async fn patch(&self, zone: &str, body: &serde_json::Value) -> Result<(), DnsError> {
        let request = self.request(Method::PATCH, &format!("/zones/{zone}.")).json(body);
        self.send(request).await.map(|_| ())
    }

    /// One of the server's settings; none when it has no such setting.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>, DnsError> {
        let all: Vec<Setting> = self.get("/config").await?;
        Ok(all.into_iter().find(|s| s.name == name).map(|s| s.value))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DnsError> {
        let body = self.send(self.request(Method::GET, path)).await?;
        serde_json::from_slice(&body).map_err(|e| DnsError::Body(e.to_string()))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, DnsError> {
        let response = request.send().await.map_err(|e| self.failed(e))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.map_err(|e| self.failed(e))?;
        if status.is_success() {
            return Ok(body.into());
        }
        let words = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.error,
            Err(_) => String::from_utf8_lossy(&body).chars().take(200).collect(),
        };
        // Older servers answer 422 for a zone they do not have.
        let unknown_zone = status == StatusCode::UNPROCESSABLE_ENTITY && words.starts_with("Could not find domain");
        Err(DnsError::Status {
            status: if unknown_zone { 404 } else { status.as_u16() },
            message: words.trim().to_owned(),
            retry_after,
        })
    }

    fn failed(&self, error: reqwest::Error) -> DnsError {
        if error.is_connect() {
            DnsError::Connect(root_cause(&error))
        } else if error.is_timeout() {
            DnsError::Silent(self.wait)
        } else {
            DnsError::Broken(root_cause(&error))
        }
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

/// Where the API is, always in the same form: no credentials, nothing after a question mark.
pub(super) fn place(url: &str, server: &str) -> String {
    let Ok(mut parsed) = reqwest::Url::parse(url) else {
        return format!("{} server {server}", without_credentials(url));
    };
    parsed.set_query(None);
    parsed.set_fragment(None);
    let root = parsed
        .as_str()
        .trim_end_matches('/')
        .trim_end_matches("/api/v1")
        .to_owned();
    format!("{}/api/v1/servers/{server}", without_credentials(&root))
}

fn without_credentials(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        _ => url.to_owned(),
    }
}

fn tls(needed: bool) -> Result<rustls::ClientConfig, DnsError> {
    let mut roots = rustls::RootCertStore::empty();
    if needed {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(DnsError::Tls(format!(
                "this machine has no root certificates {}",
                why.join(", ")
            )));
        }
    }
    Ok(
        rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| DnsError::Tls(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn the_same_place_reads_the_same_and_shows_no_credentials() {
        let same = "http://dns.example:8081/api/v1/servers/localhost";
        for url in [
            "http://dns.example:8081",
            "http://DNS.example:8081/",
            "http://dns.example:8081/api/v1/",
            "http://dns.example:8081/?key=s3cret#s3cret",
        ] {
            assert_eq!(place(url, "localhost"), same);
        }
        for url in ["https://u:s3cret@dns.example", "u:s3cret@dns"] {
            assert!(!place(url, "localhost").contains("s3cret"), "{url}");
        }
    }
}
