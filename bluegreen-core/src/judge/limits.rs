//! `Limits`: what green may at most do wrong.

use super::{Evidence, Verdict};
use crate::duration::format_duration;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Fixed limits on errors and latency, and how many requests a verdict rests on.
///
/// With few requests a single error is a large share of them: to bear one, let `min_requests` be at least
/// `1 / max_error_rate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest part of requests that may fail, between 0 and 1 (0.01).
    pub max_error_rate: f64,
    /// The longest 99th percentile of those that do not fail (none).
    pub max_p99: Option<Duration>,
    /// How many requests must be seen before anything passes (20).
    pub min_requests: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_error_rate: 0.01,
            max_p99: None,
            min_requests: 20,
        }
    }
}

impl Limits {
    /// What can be said of what was seen. It fails as soon as that is certain: when even a run without any further error
    /// could not come within the limit.
    ///
    /// ```
    /// use bluegreen_core::{Evidence, Limits};
    /// let seen = |requests, errors| Evidence { requests, errors, ..Evidence::default() };
    /// let limits = Limits { max_error_rate: 0.1, ..Limits::default() };
    /// assert!(limits.judge(&seen(20, 2)).is_pass());
    /// assert!(limits.judge(&seen(3, 3)).is_fail());
    /// assert_eq!(limits.judge(&seen(15, 1)).to_string(), "inconclusive: 5 more requests are needed (15 requests, 1 errors)");
    /// ```
    #[must_use]
    pub fn judge(&self, seen: &Evidence) -> Verdict {
        let evidence = *seen;
        if seen.requests == 0 {
            return Verdict::no_data();
        }
        let at_best = seen.requests.max(self.min_requests);
        // The small term keeps 29 of 100 within 0.29.
        if seen.errors as f64 > (self.max_error_rate + 1e-9) * at_best as f64 {
            let reason = format!(
                "{} of {} requests failed, at most {} may",
                seen.errors,
                seen.requests,
                percent(self.max_error_rate)
            );
            return Verdict::Fail { reason, evidence };
        }
        if seen.requests < self.min_requests {
            let reason = format!("{} more requests are needed", self.min_requests - seen.requests);
            return Verdict::Inconclusive { reason, evidence };
        }
        match (self.max_p99, seen.p99) {
            (Some(limit), Some(p99)) if p99 > limit => {
                let reason = format!("p99 is {p99:.1?}, at most {} is allowed", format_duration(limit));
                Verdict::Fail { reason, evidence }
            }
            (Some(_), None) => Verdict::Inconclusive {
                reason: "no latency is known".into(),
                evidence,
            },
            _ => Verdict::Pass(evidence),
        }
    }

    /// Looks for what makes no sense.
    ///
    /// # Errors
    /// The sentence says what is wrong and what is expected.
    pub fn validate(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.max_error_rate) {
            let rate = self.max_error_rate;
            return Err(format!(
                "max_error_rate is {rate}: a part between 0 and 1 is expected, 0.01 for 1 %"
            ));
        }
        if self.max_p99 == Some(Duration::ZERO) {
            return Err("max_p99 is zero, which nothing can meet: a time such as 300ms is expected, or none".into());
        }
        if self.min_requests == 0 {
            return Err("min_requests is 0, and no data is never a pass: at least 1 is expected".into());
        }
        Ok(())
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} of requests fail", percent(self.max_error_rate))?;
        if let Some(p99) = self.max_p99 {
            write!(f, ", p99 is at most {}", format_duration(p99))?;
        }
        write!(f, ", on {} requests or more", self.min_requests)
    }
}

fn percent(part: f64) -> String {
    // Rounded, so that 0.07 is 7 and not 7.000000000000001.
    format!("{} %", (part * 1e8).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(requests: u64, errors: u64, p99_ms: Option<u64>) -> Evidence {
        let p99 = p99_ms.map(Duration::from_millis);
        Evidence {
            requests,
            errors,
            p50: p99,
            p99,
        }
    }

    fn limits(rate: f64, p99_ms: Option<u64>, min: u64) -> Limits {
        Limits {
            max_error_rate: rate,
            max_p99: p99_ms.map(Duration::from_millis),
            min_requests: min,
        }
    }

    #[test]
    fn what_they_say() {
        for (limits, seen, said) in [
            (limits(0.01, None, 20), seen(0, 0, None), "inconclusive: no data"),
            (limits(0.01, None, 20), seen(19, 0, None), "inconclusive: 1 more"),
            (limits(0.01, None, 20), seen(20, 0, None), "pass"),
            (
                limits(0.01, None, 20),
                seen(1, 1, None),
                "fail: 1 of 1 requests failed, at most 1 % may",
            ),
            (limits(0.05, None, 20), seen(1, 1, None), "inconclusive: 19 more"),
            (limits(0.05, None, 20), seen(2, 2, None), "fail"),
            (limits(0.01, None, 20), seen(100, 1, None), "pass"),
            (limits(0.01, None, 20), seen(99, 1, None), "fail"),
            (limits(0.29, None, 20), seen(100, 29, None), "pass"),
            (limits(0.0, None, 20), seen(5, 1, None), "fail"),
            (limits(0.01, Some(300), 20), seen(50, 0, Some(300)), "pass"),
            (
                limits(0.01, Some(300), 20),
                seen(50, 0, Some(301)),
                "fail: p99 is 301.0ms, at most 300ms",
            ),
            (
                limits(0.01, Some(300), 20),
                seen(5, 0, Some(900)),
                "inconclusive: 15 more",
            ),
            (
                limits(1.0, Some(300), 20),
                seen(50, 50, None),
                "inconclusive: no latency",
            ),
        ] {
            let verdict = limits.judge(&seen).to_string();
            assert!(verdict.starts_with(said), "{limits}: {verdict}");
        }
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        assert_eq!(Limits::default().validate(), Ok(()));
        for wrong in [
            limits(f64::NAN, None, 20),
            limits(1.5, None, 20),
            limits(-0.1, None, 20),
            limits(0.1, Some(0), 20),
            limits(0.1, None, 0),
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn says_itself_in_a_line() {
        let said = limits(0.07, Some(1500), 20).to_string();
        assert_eq!(
            said,
            "at most 7 % of requests fail, p99 is at most 1s500ms, on 20 requests or more"
        );
    }

    proptest! {
        #[test]
        fn a_failure_found_early_stays_one(rate in 0.0..1.0f64, errors in 0u64..50, good in 0u64..50, min in 1u64..200) {
            let limits = limits(rate, None, min);
            let early = limits.judge(&seen(errors + good, errors, None));
            let full = (errors + good).max(min);
            let later = limits.judge(&seen(full, errors, None));
            if early.is_fail() {
                prop_assert!(later.is_fail());
            }
            prop_assert!(!early.is_pass() || errors + good >= min && later.is_pass());
        }
    }
}
