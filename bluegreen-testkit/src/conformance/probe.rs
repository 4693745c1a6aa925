//! What every `HealthProbe` owes: being ill is data, and an error means that it could not look.

use async_trait::async_trait;
use bluegreen_core::{Endpoint, HealthProbe};

/// What the suite needs beside the probe. An endpoint that cannot be made here is `None`.
#[async_trait]
pub trait ProbeHarness: Send + Sync {
    /// The probe.
    fn probe(&self) -> &dyn HealthProbe;

    /// An endpoint that is well.
    async fn well(&self) -> Endpoint;

    /// An endpoint that answers that it is ill.
    async fn ill(&self) -> Endpoint;

    /// An endpoint that answers long after its deadline.
    async fn slow(&self) -> Option<Endpoint>;

    /// An endpoint where nobody is.
    async fn gone(&self) -> Option<Endpoint>;
}

/// Makes a module of tests of the [probe suite](crate::conformance::probe).
#[macro_export]
macro_rules! probe_conformance {
    ($module:ident, $harness:expr) => {
        $crate::conformance_tests!(
            $module,
            probe,
            $harness,
            [
                a_well_endpoint_is_well,
                an_ill_endpoint_is_data,
                no_answer_in_time_is_ill,
                nobody_there_is_ill,
                what_it_cannot_read_is_an_error,
                one_answer_says_nothing_of_the_next,
            ]
        );
    };
}

/// A well one, and it says what it saw.
pub async fn a_well_endpoint_is_well(h: &dyn ProbeHarness) {
    let endpoint = h.well().await;
    let health = h.probe().check(&endpoint).await.expect("it can look");
    assert!(health.healthy, "{health:?}");
    assert!(!health.seen.is_empty());
    assert!(health.latency <= endpoint.deadline);
}

/// Not an error.
pub async fn an_ill_endpoint_is_data(h: &dyn ProbeHarness) {
    let health = h.probe().check(&h.ill().await).await.expect("it can look");
    assert!(!health.healthy, "{health:?}");
    assert!(!health.seen.is_empty());
}

/// The deadline is the endpoint's own.
pub async fn no_answer_in_time_is_ill(h: &dyn ProbeHarness) {
    let Some(endpoint) = h.slow().await else { return };
    let health = h.probe().check(&endpoint).await.expect("it can look");
    assert!(!health.healthy, "{health:?}");
    assert!(!health.seen.is_empty());
}

/// A refused connection is an ill endpoint.
pub async fn nobody_there_is_ill(h: &dyn ProbeHarness) {
    let Some(endpoint) = h.gone().await else { return };
    let health = h.probe().check(&endpoint).await.expect("it can look");
    assert!(!health.healthy, "{health:?}");
}

/// The only error there is.
pub async fn what_it_cannot_read_is_an_error(h: &dyn ProbeHarness) {
    let mut endpoint = h.well().await;
    endpoint.url = "no url at all".into();
    assert!(h.probe().check(&endpoint).await.is_err());
}

/// No answer is kept: each check looks anew.
pub async fn one_answer_says_nothing_of_the_next(h: &dyn ProbeHarness) {
    let (well, ill) = (h.well().await, h.ill().await);
    for _ in 0..2 {
        assert!(h.probe().check(&well).await.expect("it can look").healthy);
        assert!(!h.probe().check(&ill).await.expect("it can look").healthy);
    }
}
