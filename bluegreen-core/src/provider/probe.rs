//! `HealthProbe`: whether an endpoint is well. Being ill is data; an error means the probe could not look.

use crate::error::Result;
use crate::model::Endpoint;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the endpoint is well.
    pub healthy: bool,
    /// From the start of the request (a new connection included) to the last byte of the answer, or to the failure.
    pub latency: Duration,
    /// What was seen, for people: `200`, `503`, `connection refused`.
    pub seen: String,
}

impl Health {
    /// A well endpoint.
    #[must_use]
    pub fn well(latency: Duration) -> Self {
        Self {
            healthy: true,
            latency,
            seen: "well".into(),
        }
    }

    /// An ill endpoint, and what was seen.
    #[must_use]
    pub fn ill(latency: Duration, seen: impl Into<String>) -> Self {
        Self {
            healthy: false,
            latency,
            seen: seen.into(),
        }
    }
}

/// Looks whether an endpoint is well, once, within the endpoint's deadline.
///
/// A refused connection, a timeout, a certificate that is not valid for the name, a wrong status: all are
/// [`Health::ill`], never an error. `Err` means the probe itself could not look (a URL it cannot read).
#[async_trait]
#[diagnostic::on_unimplemented(
    message = "the migration has no health probe: call `.probe(..)` before `.build()`",
    label = "`{Self}` is no `HealthProbe`",
    note = "a migration of a database alone says so: `.probe(NoProbe)`"
)]
pub trait HealthProbe: fmt::Debug + Send + Sync + 'static {
    /// Whether it can look at all. Only [`NoProbe`](crate::NoProbe) answers false.
    fn is_present(&self) -> bool {
        true
    }

    /// Asks once.
    ///
    /// # Errors
    /// When it could not look at all.
    async fn check(&self, endpoint: &Endpoint) -> Result<Health>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: HealthProbe + ?Sized> HealthProbe for Arc<T> {
    fn is_present(&self) -> bool {
        (**self).is_present()
    }
    async fn check(&self, endpoint: &Endpoint) -> Result<Health> {
        (**self).check(endpoint).await
    }
}

/// A probe made of a closure; see [`probe_fn`].
#[derive(Clone)]
pub struct ProbeFn<F>(F);

impl<F> fmt::Debug for ProbeFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeFn")
    }
}

/// Makes a probe of an async closure.
///
/// ```
/// use bluegreen_core::{Health, probe_fn};
/// let probe = probe_fn(|_endpoint| async { Ok(Health::well(std::time::Duration::from_millis(3))) });
/// # let _: &dyn bluegreen_core::HealthProbe = &probe;
/// ```
pub fn probe_fn<F, Fut>(f: F) -> ProbeFn<F>
where
    F: Fn(Endpoint) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Health>> + Send,
{
    ProbeFn(f)
}

#[async_trait]
impl<F, Fut> HealthProbe for ProbeFn<F>
where
    F: Fn(Endpoint) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Health>> + Send,
{
    async fn check(&self, endpoint: &Endpoint) -> Result<Health> {
        (self.0)(endpoint.clone()).await
    }
}
