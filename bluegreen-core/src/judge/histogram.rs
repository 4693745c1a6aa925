//! Latencies in buckets that grow by a constant factor: any percentile to within 2 %, whatever the range.

use std::time::Duration;

/// A value and the one that stands for its bucket differ by this much at most.
const ERROR: f64 = 0.02;

/// Counts a bucket; only buckets that were hit take room.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Histogram {
    /// Bucket and count, by bucket.
    counts: Vec<(u16, u32)>,
}

impl Histogram {
    pub(super) fn record(&mut self, latency: Duration) {
        self.add(bucket(latency), 1);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            self.add(*bucket, *count);
        }
    }

    fn add(&mut self, bucket: u16, count: u32) {
        match self.counts.binary_search_by_key(&bucket, |(b, _)| *b) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(count),
            Err(at) => self.counts.insert(at, (bucket, count)),
        }
    }

    /// The smallest latency that a share `quantile` of all is not above; none without any.
    pub(super) fn quantile(&self, quantile: f64) -> Option<Duration> {
        let total: u64 = self.counts.iter().map(|(_, count)| u64::from(*count)).sum();
        let rank = (quantile * total as f64).ceil().max(1.0);
        let mut seen = 0;
        let found = self.counts.iter().find(|(_, count)| {
            seen += u64::from(*count);
            seen as f64 >= rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }
}

fn growth() -> f64 {
    (1.0 + ERROR) / (1.0 - ERROR)
}

/// Bucket 0 is up to a microsecond, bucket n up to `growth` to the n.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 1,110 for the largest Duration"
)]
fn bucket(latency: Duration) -> u16 {
    let micros = latency.as_secs_f64() * 1e6;
    (micros.max(1.0).ln() / growth().ln()).ceil() as u16
}

fn middle(bucket: u16) -> Duration {
    let upper = growth().powi(i32::from(bucket));
    Duration::try_from_secs_f64(upper * 2.0 / (growth() + 1.0) / 1e6).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_has_no_percentile() {
        assert_eq!(Histogram::default().quantile(0.99), None);
    }

    #[test]
    fn the_longest_duration_has_a_bucket() {
        let mut all = Histogram::default();
        all.record(Duration::MAX);
        all.record(Duration::ZERO);
        assert!(all.quantile(1.0) > Some(Duration::from_secs(u64::MAX / 2)));
    }

    proptest! {
        #[test]
        fn percentiles_are_within_two_per_cent(
            mut micros in prop::collection::vec(1u64..100_000_000, 1..300),
            split in any::<prop::sample::Index>(),
        ) {
            // Recorded in two and merged, or in one: the same.
            let (mut one, mut two) = (Histogram::default(), Histogram::default());
            let at = split.index(micros.len());
            micros[..at].iter().for_each(|m| one.record(Duration::from_micros(*m)));
            micros[at..].iter().for_each(|m| two.record(Duration::from_micros(*m)));
            one.merge(&two);
            micros.sort_unstable();
            for q in [0.5, 0.9, 0.99, 1.0] {
                let rank = (q * micros.len() as f64).ceil() as usize;
                let exact = micros[rank - 1] as f64;
                let found = one.quantile(q).expect("there are samples").as_secs_f64() * 1e6;
                prop_assert!((found - exact).abs() <= exact * 0.0201, "p{q}: {found} for {exact}");
            }
        }
    }
}
