//! TLS for sessions: libpq's verify modes over rustls.

use crate::conninfo::Conninfo;
use crate::error::{PgError, fault};
use bluegreen_core::{Kind, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// How far TLS goes, as in libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// What the connection string asks for. `require` with a root certificate verifies it, as in libpq.
    pub(crate) fn of(conninfo: &Conninfo) -> Result<Self> {
        if conninfo.host().starts_with('/') {
            return Ok(Self::Disable);
        }
        match conninfo.get("sslmode").unwrap_or("prefer") {
            "disable" => Ok(Self::Disable),
            "allow" | "prefer" => Ok(Self::Prefer),
            "require" if conninfo.get("sslrootcert").is_some() => Ok(Self::VerifyCa),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            other => Err(fault(
                Kind::InvalidInput,
                "read the connection string",
                format!("sslmode {other:?} is none of disable, prefer, require, verify-ca, verify-full"),
            )),
        }
    }
}

/// The TLS configuration the connection string asks for.
pub(crate) fn client_config(conninfo: &Conninfo, mode: SslMode) -> Result<ClientConfig, PgError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(tls)?;
    let builder = match mode {
        SslMode::Disable | SslMode::Prefer | SslMode::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { chain: None, provider })),
        SslMode::VerifyCa => {
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(conninfo)?), provider.clone())
                .build()
                .map_err(tls)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier {
                chain: Some(chain),
                provider,
            }))
        }
        SslMode::VerifyFull => builder.with_root_certificates(roots(conninfo)?),
    };
    match (conninfo.get("sslcert"), conninfo.get("sslkey")) {
        (Some(cert), Some(key)) => {
            let chain: Vec<CertificateDer<'static>> =
                CertificateDer::pem_file_iter(cert)
                    .and_then(Iterator::collect)
                    .map_err(|e| PgError::Tls(format!("cannot read sslcert {cert}: {e}")))?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| PgError::Tls(format!("cannot read sslkey {key}: {e}")))?;
            builder.with_client_auth_cert(chain, key).map_err(tls)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(PgError::Tls("sslcert and sslkey must be given together".into())),
    }
}

fn roots(conninfo: &Conninfo) -> Result<RootCertStore, PgError> {
    let mut roots = RootCertStore::empty();
    match conninfo.get("sslrootcert") {
        None | Some("system") => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(PgError::Tls(
                    "this system has no root certificates; give sslrootcert=FILE".into(),
                ));
            }
        }
        Some(path) => {
            let certs: Vec<CertificateDer<'static>> =
                CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect)
                    .map_err(|e| PgError::Tls(format!("cannot read sslrootcert {path}: {e}")))?;
            for cert in certs {
                roots.add(cert).map_err(tls)?;
            }
        }
    }
    Ok(roots)
}

fn tls(error: impl std::fmt::Display) -> PgError {
    PgError::Tls(error.to_string())
}

/// Verifies the chain but not the name (`verify-ca`), or nothing (`require`, `prefer`).
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain was verified before the name was looked at.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
