//! The durable form of an entry: one line, `<crc32c in hex> <json>`. Pure; what lives in the file system is in `file.rs`.

use super::entry::{Entry, FORMAT};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What a journal's bytes say.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The entries, in order.
    pub(super) entries: Vec<Entry>,
    /// How many bytes of the file they take.
    pub(super) whole: u64,
    /// The last entry is whole but its newline is missing (an editor does that).
    pub(super) unended: bool,
    /// The number of a last line that was never written to its end.
    pub(super) torn: Option<usize>,
}

/// Reads a journal's bytes.
///
/// A last line without its newline, or with zero bytes in it (blocks that never reached the disk), is torn: nobody was
/// ever told that it was durable. Any other line that does not match its checksum was whole once and is damaged.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan> {
    let mut found = Scan::default();
    let mut start = 0;
    for number in 1.. {
        let rest = &bytes[start..];
        if rest.is_empty() {
            break;
        }
        let newline = rest.iter().position(|b| *b == b'\n');
        let line = &rest[..newline.unwrap_or(rest.len())];
        let end = start + newline.map_or(line.len(), |at| at + 1);
        match entry(line, number)? {
            Some(entry) if entry.seq == found.entries.len() as u64 => found.entries.push(entry),
            Some(entry) => {
                let wanted = found.entries.len();
                let message = format!("line {number} holds entry {} where entry {wanted} belongs", entry.seq);
                return Err(damaged(message));
            }
            None if end == bytes.len()
                && (newline.is_none() || line.contains(&0))
                && begins_like_an_entry(line)
                && !swallows_an_entry(line) =>
            {
                found.torn = Some(number);
                break;
            }
            None => return Err(damaged(format!("line {number} does not match its checksum"))),
        }
        found.unended = newline.is_none();
        found.whole = end as u64;
        start = end;
    }
    Ok(found)
}

/// Whether a line is the beginning of one of ours, as far as it reached the disk: what somebody else wrote is not ours to cut away.
fn begins_like_an_entry(line: &[u8]) -> bool {
    let written = line.iter().take_while(|b| **b != 0).enumerate();
    written.take(14).all(|(at, b)| match at {
        0..8 => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        _ => Some(b) == b" {\"v\":".get(at - 8),
    })
}

/// Whether a line is a whole entry whose newline became a zero byte, and then something else: damage, not a torn write.
fn swallows_an_entry(line: &[u8]) -> bool {
    let Some(zero) = line.iter().position(|b| *b == 0) else {
        return false;
    };
    checked(&line[..zero]).is_some() && line[zero..].iter().any(|b| *b != 0)
}

/// A value as its line, with the newline.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_string(value).map_err(|e| {
        Error::new(
            Kind::Unexpected,
            "write the journal",
            "an entry cannot be written as JSON",
        )
        .because(e)
    })?;
    Ok(format!("{:08x} {json}\n", crc32c(json.as_bytes())).into_bytes())
}

/// The JSON of a line that matches its checksum.
pub(super) fn checked(line: &[u8]) -> Option<&[u8]> {
    let (sum, json) = (line.get(..9)?, line.get(9..)?);
    (sum == format!("{:08x} ", crc32c(json)).as_bytes()).then_some(json)
}

/// The value of a line without its newline; none when it is damaged or of another shape.
pub(super) fn decode<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(checked(line)?).ok()
}

impl Entry {
    /// Its durable form, for a journal that is kept elsewhere than in a file: its checksum and its JSON, without a newline.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_line(&self) -> Result<String> {
        let mut line = encode(self)?;
        line.pop();
        String::from_utf8(line)
            .map_err(|e| Error::new(Kind::Unexpected, "write the journal", "an entry's JSON is not UTF-8").because(e))
    }

    /// Reads what [`to_line`](Self::to_line) wrote: all entries of a journal, in order.
    ///
    /// # Errors
    /// `Corrupt` when one is missing, out of place or damaged; `Unsupported` when a newer version wrote it.
    pub fn from_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Self>> {
        let mut bytes = Vec::new();
        for line in lines {
            bytes.extend_from_slice(line.as_bytes());
            // With its newline every line was whole once: a damaged last one is damage too, and not a torn write.
            bytes.push(b'\n');
        }
        let found = scan(&bytes)?;
        if let Some(number) = found.torn {
            return Err(damaged(format!("line {number} does not match its checksum")));
        }
        Ok(found.entries)
    }
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

fn entry(line: &[u8], number: usize) -> Result<Option<Entry>> {
    let Some(json) = checked(line) else {
        return Ok(None);
    };
    match serde_json::from_slice::<Version>(json) {
        Ok(Version { v }) if v > FORMAT => {
            let message = format!(
                "line {number} is in format {v}, and this version reads formats up to {FORMAT}: \
                 go on with the version of bluegreen that wrote it, or a newer one"
            );
            Err(Error::new(Kind::Unsupported, "read the journal", message))
        }
        _ => serde_json::from_slice(json).map(Some).map_err(|e| {
            let message = format!("line {number} matches its checksum but is no entry this version knows: {e}");
            Error::new(Kind::Unsupported, "read the journal", message).because(e)
        }),
    }
}

fn damaged(what: String) -> Error {
    let message = format!("{what}: restore the journal from a copy; nothing was touched");
    Error::new(Kind::Corrupt, "read the journal", message)
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            // Castagnoli's polynomial, reflected.
            value = (value >> 1) ^ (0x82f6_3b78 * (value & 1));
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_kept_elsewhere_come_back_or_are_damage() {
        let entry = |seq| Entry {
            v: FORMAT,
            seq,
            at: crate::time::Timestamp::from_micros(7),
            body: crate::journal::Body::Resumed { answers: false },
        };
        let lines: Vec<String> = (0..3)
            .map(|seq| entry(seq).to_line().expect("it can be written"))
            .collect();
        let read = |lines: &[String]| Entry::from_lines(lines.iter().map(String::as_str));
        assert_eq!(read(&lines).expect("it is whole"), [entry(0), entry(1), entry(2)]);
        let mut missing = lines.clone();
        missing.remove(1);
        let mut torn = lines.clone();
        torn[2].pop();
        let mut zero = lines;
        zero[2].push('\0');
        for damaged in [missing, torn, zero] {
            assert_eq!(read(&damaged).expect_err("it is damaged").kind(), Kind::Corrupt);
        }
    }

    /// A key, a note, anything that a path given by mistake leads to.
    #[test]
    fn what_somebody_else_wrote_is_no_torn_line() {
        for theirs in ["only copy of a key", "abcdef", "0123abcd only copy", "{\"v\":1"] {
            let read = scan(theirs.as_bytes());
            let torn = theirs == "abcdef";
            assert_eq!(read.is_ok_and(|s| s.torn == Some(1)), torn, "{theirs}");
        }
    }

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }
}
