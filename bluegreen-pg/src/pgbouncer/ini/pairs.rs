//! A database's connection string, right of its `=`: finding a value in it and changing it, every other byte as it was.

use std::ops::Range;

/// A key and its value.
pub(super) struct Pair {
    pub(super) key: Vec<u8>,
    /// With its quotes.
    pub(super) value: Range<usize>,
}

/// The pairs of a connection string, as PgBouncer reads them: `key=value key='it''s'`.
pub(super) fn pairs(text: &[u8]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut at = 0;
    let blank = |byte: u8| byte.is_ascii_whitespace();
    loop {
        while at < text.len() && blank(text[at]) {
            at += 1;
        }
        let start = at;
        while at < text.len() && text[at] != b'=' && !blank(text[at]) {
            at += 1;
        }
        let key = text[start..at].to_vec();
        while at < text.len() && blank(text[at]) {
            at += 1;
        }
        if at >= text.len() || text[at] != b'=' {
            return pairs;
        }
        at += 1;
        while at < text.len() && blank(text[at]) {
            at += 1;
        }
        let start = at;
        if text.get(at) == Some(&b'\'') {
            at += 1;
            while at < text.len() {
                if text[at] != b'\'' {
                    at += 1;
                } else if text.get(at + 1) == Some(&b'\'') {
                    at += 2;
                } else {
                    at += 1;
                    break;
                }
            }
        } else {
            while at < text.len() && !blank(text[at]) {
                at += 1;
            }
        }
        pairs.push(Pair { key, value: start..at });
    }
}

pub(super) fn unquote(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.strip_prefix('\'') {
        Some(quoted) => quoted.strip_suffix('\'').unwrap_or(quoted).replace("''", "'"),
        None => text.into_owned(),
    }
}

/// Sets a key of a connection string: where it stands, else at the end. An empty value takes the key away.
pub(super) fn set(text: &mut Vec<u8>, key: &str, value: &str) {
    let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'');
    let value = if plain {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', "''"))
    };
    match pairs(text).into_iter().rfind(|pair| pair.key == key.as_bytes()) {
        Some(pair) => {
            text.splice(pair.value, value.into_bytes());
        }
        None => {
            if !text.is_empty() {
                text.push(b' ');
            }
            text.extend_from_slice(format!("{key}={value}").as_bytes());
        }
    }
}
