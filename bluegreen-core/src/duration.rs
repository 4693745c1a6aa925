//! Lengths of time as people write them: `15m`, `250ms`, `48h`, `1h30m`.

use std::time::Duration;

const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Reads a length of time: whole numbers, each with its unit (`d`, `h`, `m`, `s`, `ms`, `us`), the larger unit first.
///
/// ```
/// use bluegreen_core::duration::parse_duration;
/// use std::time::Duration;
/// assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
/// assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
/// assert!(parse_duration("15").unwrap_err().contains("15s"));
/// ```
///
/// # Errors
/// The sentence says what is wrong and what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = |why: String| format!("{text:?} is no length of time: {why}");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong(
            "a number with its unit is expected, such as 15m, 250ms or 48h".into(),
        ));
    }
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        if number.is_empty() {
            return Err(wrong(format!("a whole number is expected before {rest:?}")));
        }
        let after = after.trim_start();
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        if unit.is_empty() && after.is_empty() {
            return Err(wrong(format!("write {number}s, {number}m or {number}h")));
        }
        let Some((_, micros)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            let found = if unit.is_empty() { after } else { unit };
            return Err(wrong(format!("{found:?} is no unit; d, h, m, s, ms and us are")));
        };
        if *micros >= last {
            return Err(wrong("each unit comes once, the larger before the smaller".into()));
        }
        last = *micros;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*micros));
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| wrong("it is too long".into()))?;
        rest = after.trim_start();
    }
    Ok(Duration::from_micros(total))
}

/// Writes a length of time the way [`parse_duration`] reads it, to the microsecond.
///
/// ```
/// use bluegreen_core::duration::format_duration;
/// assert_eq!(format_duration(std::time::Duration::from_secs(5400)), "1h30m");
/// ```
#[must_use]
pub fn format_duration(length: Duration) -> String {
    let mut left = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, micros) in UNITS {
        if left >= micros {
            text += &format!("{}{unit}", left / micros);
            left %= micros;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// What may be given where a length of time is expected: a [`Duration`], or text such as `"15m"`.
pub trait IntoDuration: sealed::Sealed {
    /// The length of time.
    ///
    /// # Errors
    /// When the text cannot be read; see [`parse_duration`].
    fn into_duration(self) -> Result<Duration, String>;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Result<Duration, String> {
        Ok(self)
    }
}

impl IntoDuration for &str {
    fn into_duration(self) -> Result<Duration, String> {
        parse_duration(self)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::time::Duration {}
    impl Sealed for &str {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, micros) in [
            ("0s", 0),
            ("250ms", 250_000),
            ("15m", 900_000_000),
            ("48h", 172_800_000_000),
            (" 1h 30 m ", 5_400_000_000),
            ("2d1us", 172_800_000_001),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_what_is_expected() {
        for (text, part) in [
            ("", "such as 15m"),
            ("15", "15s, 15m or 15h"),
            ("m", "whole number"),
            ("-5s", "whole number"),
            ("1.5h", "\".5h\" is no unit"),
            ("5min", "\"min\" is no unit"),
            ("5m1h", "larger before the smaller"),
            ("5m5m", "larger before the smaller"),
            ("99999999999999999999d", "too long"),
            ("5ü", "\"ü\" is no unit"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(micros in any::<u64>()) {
            let length = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(length)), Ok(length));
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,12}") {
            let _ = parse_duration(&text);
        }
    }
}
