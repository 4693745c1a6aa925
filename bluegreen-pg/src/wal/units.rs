//! Bytes of log in words and in time. Pure.

use std::time::Duration;

/// How long `bytes` last; none where nothing is written, or for longer than anybody plans.
pub(crate) fn time(bytes: f64, rate: f64) -> Option<Duration> {
    let seconds = bytes / rate;
    let years = 10.0 * 365.0 * 86_400.0;
    (rate > 0.0 && seconds < years).then(|| Duration::from_secs_f64(seconds.floor().max(0.0)))
}

/// Bytes as a person reads them.
pub(crate) fn size(bytes: f64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes:.0} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_bounded_and_sizes_read_well() {
        assert_eq!(time(1e9, 1e6), Some(Duration::from_secs(1000)));
        assert_eq!(time(1e9, 0.0), None);
        assert_eq!(time(1e12, 1e-3), None);
        assert_eq!(time(-1.0, 1.0), Some(Duration::ZERO));
        assert_eq!(size(1_500_000.0), "1.5 MB");
        assert_eq!(size(12.0), "12 bytes");
    }
}
