//! Whom an HTTPS probe trusts: the machine's root certificates and those it was given.

use crate::error::ProbeError;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// Every certificate in a PEM file's text.
pub(crate) fn parse_roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ProbeError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(roots) if roots.is_empty() => Err(ProbeError::Root("it holds none".into())),
        Ok(roots) => Ok(roots),
        Err(e) => Err(ProbeError::Root(e.to_string())),
    }
}

pub(crate) fn config(extra: &[CertificateDer<'static>]) -> Result<ClientConfig, ProbeError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Machines carry odd certificates: one that cannot be read takes none of the others away.
    roots.add_parsable_certificates(found.certs);
    for root in extra {
        roots.add(root.clone()).map_err(|e| ProbeError::Root(e.to_string()))?;
    }
    if roots.is_empty() {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(ProbeError::Tls(format!(
            "no root certificates were found {}",
            why.join(", ")
        )));
    }
    trusting(roots)
}

pub(crate) fn trusting(roots: RootCertStore) -> Result<ClientConfig, ProbeError> {
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| ProbeError::Tls(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
