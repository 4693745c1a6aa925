//! `FakeProbe`: says what it was told of each environment.

use async_trait::async_trait;
use bluegreen_core::{Color, Endpoint, Error, Health, HealthProbe, Kind, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A probe in memory. Clones are the same one.
///
/// It finds everything well in 3 ms until it is told otherwise. What is asked through the production name gets blue's answer.
#[derive(Debug, Clone, Default)]
pub struct FakeProbe(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    blue: Told,
    green: Told,
    checks: u64,
}

#[derive(Debug, Default)]
struct Told {
    always: Option<Health>,
    next: VecDeque<Health>,
}

impl FakeProbe {
    /// A probe that finds everything well.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is how it is with `color`.
    pub fn set(&self, color: Color, health: Health) {
        self.lock().told(color).always = Some(health);
    }

    /// This is what the next check of `color` that nothing else is queued for sees.
    pub fn queue(&self, color: Color, health: Health) {
        self.lock().told(color).next.push_back(health);
    }

    /// How often it was asked.
    #[must_use]
    pub fn checks(&self) -> u64 {
        self.lock().checks
    }
}

impl Inner {
    fn told(&mut self, color: Color) -> &mut Told {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }
}

#[async_trait]
impl HealthProbe for FakeProbe {
    async fn check(&self, endpoint: &Endpoint) -> Result<Health> {
        if !endpoint.url.contains("://") {
            let message = format!("{:?} is not a URL: write it as http://host/path", endpoint.url);
            return Err(Error::invalid("check health", message).provider("fake probe"));
        }
        let mut inner = self.lock();
        inner.checks += 1;
        let told = inner.told(endpoint.color.unwrap_or(Color::Blue));
        let health = told.next.pop_front().or_else(|| told.always.clone());
        let health = health.unwrap_or_else(|| Health::well(Duration::from_millis(3)));
        if health.latency > endpoint.deadline {
            return Ok(Health::ill(
                endpoint.deadline,
                format!("no answer in {:?}", endpoint.deadline),
            ));
        }
        Ok(health)
    }
}

/// A probe that cannot look at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlindProbe;

#[async_trait]
impl HealthProbe for BlindProbe {
    async fn check(&self, _: &Endpoint) -> Result<Health> {
        Err(Error::new(Kind::Unavailable, "check health", "the probe's own network is down").provider("blind probe"))
    }
}
