//! From a zone's sets to a [`Snapshot`]: what stands at the name, who owns it, and its exact form for putting it back.

use super::api::{Rr, RrSet};
use super::lua::{Weighted, canonical};
use bluegreen_core::{Record, RecordKind, RecordSet, Shape, Snapshot};
use serde::{Deserialize, Serialize};

/// The types that we replace: those that steer, and PowerDNS's own type that answers in their place.
pub(super) const OURS: [&str; 4] = ["A", "AAAA", "CNAME", "LUA"];

const OWNER_MARK: &str = "bluegreen owner=";

/// What [`Snapshot::raw`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Raw {
    /// The sets at the name of the types in [`OURS`], to the letter.
    pub(super) sets: Vec<RrSet>,
    /// The TXT set that names the owner, to the letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<RrSet>,
}

/// A name as the API writes it.
pub(super) fn absolute(name: &str) -> String {
    format!("{}.", relative(name))
}

/// A name without its trailing dot.
pub(super) fn relative(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Where the owner of a name is written.
pub(super) fn owner_name(record: &Record) -> String {
    format!("_bluegreen.{}", absolute(&record.name))
}

/// The content of the owner's TXT record.
pub(super) fn owner_content(owner: &str) -> String {
    let mut text = String::new();
    for byte in owner.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("\"{OWNER_MARK}{text}\"")
}

fn parse_owner(content: &str) -> Option<String> {
    let text = content.strip_prefix('"')?.strip_suffix('"')?.strip_prefix(OWNER_MARK)?;
    let mut bytes = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What stands at the name in this zone.
pub(super) fn snapshot(record: &Record, zone: Vec<RrSet>) -> Snapshot {
    let (name, owner_at) = (absolute(&record.name), owner_name(record));
    let mut sets = vec![];
    let mut owner_set = None;
    let mut obstacles = vec![];
    let apex = name == absolute(&record.zone);
    for set in zone {
        let at = absolute(&set.name);
        if at == name && OURS.contains(&set.kind.as_str()) {
            sets.push(set);
        } else if at == name {
            obstacles.extend(obstacle(&set, apex));
        } else if at == owner_at && set.kind == "TXT" {
            owner_set = Some(set);
        }
    }
    // The API's order is the database's; ours must not depend on it.
    sets.sort_by(|a, b| a.kind.cmp(&b.kind));
    let raw = Raw { sets, owner: owner_set };
    let owner = raw.owner.as_ref().and_then(|set| match set.records.as_slice() {
        [one] => parse_owner(&one.content),
        _ => None,
    });
    let (mut shape, found) = classify(&raw.sets);
    if raw.owner.is_some() && owner.is_none() {
        obstacles.push(format!("the TXT record at {owner_at} is not one of bluegreen's"));
    }
    if let Some(first) = obstacles.into_iter().next() {
        shape = Shape::Foreign(first);
    }
    let value = serde_json::to_value(&raw).unwrap_or_default();
    Snapshot {
        record: record.clone(),
        ttl: found.iter().map(|s| s.ttl).max(),
        shape,
        sets: found,
        owner,
        version: digest(&value.to_string()),
        raw: value,
    }
}

/// What else at the name answers for addresses, and would go on doing so beside ours.
fn obstacle(set: &RrSet, apex: bool) -> Option<String> {
    let live = || set.records.iter().filter(|r| !r.disabled);
    match set.kind.as_str() {
        "ALIAS" | "DNAME" => Some(format!("a {} record", set.kind)),
        "NS" if !apex => Some("a delegation (NS records)".into()),
        "HTTPS" | "SVCB" if live().any(|r| r.content.contains("ipv4hint") || r.content.contains("ipv6hint")) => {
            Some(format!(
                "a {} record with address hints, which browsers follow instead",
                set.kind
            ))
        }
        _ => None,
    }
}

/// The shape of these sets, and their live values in canonical form.
pub(super) fn classify(sets: &[RrSet]) -> (Shape, Vec<RecordSet>) {
    let lua = sets.iter().find(|s| s.kind == "LUA" && !s.records.is_empty());
    let plain: Vec<&RrSet> = sets
        .iter()
        .filter(|s| s.kind != "LUA" && s.records.iter().any(|r| !r.disabled))
        .collect();
    match (lua, plain.is_empty()) {
        (Some(lua), true) => weighted(lua),
        (Some(_), false) => (Shape::Foreign("plain records beside Lua records".into()), vec![]),
        (None, true) => (Shape::Absent, vec![]),
        (None, false) => simple(&plain),
    }
}

fn simple(sets: &[&RrSet]) -> (Shape, Vec<RecordSet>) {
    let mut found = vec![];
    for set in sets {
        let kind = match set.kind.as_str() {
            "A" => RecordKind::A,
            "AAAA" => RecordKind::Aaaa,
            _ => RecordKind::Cname,
        };
        let live: Option<Vec<String>> = set
            .records
            .iter()
            .filter(|r| !r.disabled)
            .map(|r| canonical(kind, &r.content))
            .collect();
        match live {
            Some(values) => found.push(RecordSet {
                kind,
                ttl: set.ttl,
                values: sorted(values),
            }),
            None => return (Shape::Foreign(format!("an {kind} record that cannot be read")), vec![]),
        }
    }
    found.sort_by_key(|s| s.kind);
    (Shape::Simple, found)
}

fn weighted(set: &RrSet) -> (Shape, Vec<RecordSet>) {
    let foreign = |what: &str| (Shape::Foreign(what.to_owned()), vec![]);
    let ours: Option<Vec<Weighted>> = set
        .records
        .iter()
        .map(
            |Rr { content, disabled }| {
                if *disabled { None } else { Weighted::parse(content) }
            },
        )
        .collect();
    let Some(ours) = ours else {
        return foreign("a Lua record that bluegreen did not write");
    };
    let first = &ours[0];
    if ours
        .iter()
        .any(|w| w.share != first.share || w.stickiness != first.stickiness)
    {
        return foreign("Lua records whose weights differ by type");
    }
    let mut found: Vec<RecordSet> = ours
        .iter()
        .map(|w| RecordSet {
            kind: w.kind,
            ttl: set.ttl,
            values: sorted(w.blue.iter().chain(&w.green).cloned().collect()),
        })
        .collect();
    found.sort_by_key(|s| s.kind);
    if found.windows(2).any(|pair| pair[0].kind == pair[1].kind) {
        return foreign("two Lua records of one type");
    }
    (Shape::Weighted { share: first.share }, found)
}

fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort();
    values.dedup();
    values
}

/// FNV-1a: the same on every machine and in every version, which the standard hasher does not promise.
pub(super) fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(name: &str, kind: &str, contents: &[&str]) -> RrSet {
        let records = contents
            .iter()
            .map(|c| Rr {
                content: (*c).into(),
                disabled: false,
            })
            .collect();
        RrSet {
            name: name.into(),
            kind: kind.into(),
            ttl: 300,
            records,
            comments: vec![],
        }
    }

    fn record() -> Record {
        Record {
            zone: "example.com".into(),
            name: "app.example.com".into(),
        }
    }

    fn shape_of(sets: Vec<RrSet>) -> Shape {
        snapshot(&record(), sets).shape
    }

    #[test]
    fn owners_read_back() {
        for owner in ["shop", "my shop", "läden \"1\"", "a%20b", ""] {
            assert_eq!(parse_owner(&owner_content(owner)).as_deref(), Some(owner));
        }
    }

    #[test]
    fn only_the_name_itself_counts() {
        let zone = vec![
            set("example.com.", "NS", &["ns1.example.com."]),
            set("other.example.com.", "A", &["192.0.2.9"]),
            set("APP.example.com.", "MX", &["10 mail.example.com."]),
            set("APP.example.com.", "A", &["192.0.2.2", "192.0.2.1"]),
        ];
        let seen = snapshot(&record(), zone);
        assert_eq!(seen.shape, Shape::Simple);
        assert_eq!(seen.sets[0].values, ["192.0.2.1", "192.0.2.2"]);
        assert_eq!((seen.ttl, seen.owner), (Some(300), None));
    }

    #[test]
    fn what_is_not_ours_is_foreign() {
        let name = "app.example.com.";
        let cases = [
            vec![set(name, "LUA", &["A \"ifportup(443, {'192.0.2.1'})\""])],
            vec![set(name, "ALIAS", &["lb.example.net."])],
            vec![set(name, "NS", &["ns.example.net."])],
            vec![
                set(name, "A", &["192.0.2.1"]),
                set(name, "HTTPS", &["1 . ipv4hint=192.0.2.1"]),
            ],
            vec![
                set(name, "A", &["192.0.2.1"]),
                set("_bluegreen.app.example.com.", "TXT", &["\"hello\""]),
            ],
        ];
        for sets in cases {
            let seen = shape_of(sets.clone());
            assert!(matches!(seen, Shape::Foreign(_)), "{seen:?} of {sets:?}");
        }
        assert_eq!(shape_of(vec![set(name, "HTTPS", &["1 . alpn=h2"])]), Shape::Absent);
        assert_eq!(
            shape_of(vec![
                set(name, "A", &["192.0.2.1"]),
                set(name, "HTTPS", &["1 . alpn=h2"])
            ]),
            Shape::Simple
        );
    }

    #[test]
    fn the_version_follows_every_value() {
        let version = |content: &str| snapshot(&record(), vec![set("app.example.com.", "A", &[content])]).version;
        assert_eq!(version("192.0.2.1"), version("192.0.2.1"));
        assert_ne!(version("192.0.2.1"), version("192.0.2.2"));
    }
}
