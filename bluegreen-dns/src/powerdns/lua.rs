//! The Lua of our weighted records: written in one form only, and read back only when it is that form to the letter.
//! Anything else is somebody else's.
//!
//! Blue always comes first and the weights always add up to 1000. So with [`Stickiness::ByClient`] a client's place on
//! the scale never moves, and a growing share sends nobody who is on green back to blue.

use super::Stickiness;
use bluegreen_core::{RecordKind, Share, Target};
use std::net::{Ipv4Addr, Ipv6Addr};

const MARK: &str = "--[[bluegreen 1]]";
const TOTAL: u16 = 1000;

/// One weighted record: what of one type each side answers with, and how much goes to green.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Weighted {
    pub(super) kind: RecordKind,
    pub(super) blue: Vec<String>,
    pub(super) green: Vec<String>,
    pub(super) share: Share,
    pub(super) stickiness: Stickiness,
}

/// The weighted records that send `share` to green, one for each type that either side has.
pub(super) fn weighted(blue: &Target, green: &Target, share: Share, stickiness: Stickiness) -> Vec<Weighted> {
    let mut kinds: Vec<RecordKind> = blue.kinds().into_iter().chain(green.kinds()).collect();
    kinds.sort();
    kinds.dedup();
    let one = |kind| Weighted {
        kind,
        blue: blue.values(kind),
        green: green.values(kind),
        share,
        stickiness,
    };
    kinds.into_iter().map(one).collect()
}

impl Weighted {
    /// The content of the `LUA` record. A side without this type answers with an empty list: no data, not an error.
    pub(super) fn content(&self) -> String {
        let pick = self.stickiness.function();
        let green = self.share.as_per_mille();
        let blue = TOTAL - green;
        let (b, g) = (self.list(&self.blue), self.list(&self.green));
        format!(
            "{} \";{MARK}local t={{blue={{{b}}},green={{{g}}}}} return t[{pick}({{{{{blue},'blue'}},{{{green},'green'}}}})]\"",
            self.kind
        )
    }

    fn list(&self, values: &[String]) -> String {
        let dot = if self.kind == RecordKind::Cname { "." } else { "" };
        let quoted: Vec<String> = values.iter().map(|v| format!("'{v}{dot}'")).collect();
        quoted.join(",")
    }

    /// Reads a `LUA` record's content; none when it is not exactly what we would have written.
    pub(super) fn parse(content: &str) -> Option<Self> {
        let (kind, rest) = content.split_once(" \";")?;
        let kind = match kind {
            "A" => RecordKind::A,
            "AAAA" => RecordKind::Aaaa,
            "CNAME" => RecordKind::Cname,
            _ => return None,
        };
        let rest = rest.strip_prefix(MARK)?.strip_prefix("local t={blue={")?;
        let (blue, rest) = rest.split_once("},green={")?;
        let (green, rest) = rest.split_once("}} return t[")?;
        let (pick, rest) = rest.split_once("({{")?;
        let stickiness = [Stickiness::PerQuery, Stickiness::ByClient]
            .into_iter()
            .find(|s| s.function() == pick)?;
        let (_, rest) = rest.split_once(",'blue'},{")?;
        let (share, _) = rest.split_once(",'green'}")?;
        let parsed = Self {
            kind,
            blue: values(kind, blue)?,
            green: values(kind, green)?,
            share: Share::per_mille(share.parse().ok()?)?,
            stickiness,
        };
        (parsed.content() == content).then_some(parsed)
    }
}

fn values(kind: RecordKind, list: &str) -> Option<Vec<String>> {
    if list.is_empty() {
        return Some(vec![]);
    }
    list.split(',')
        .map(|item| canonical(kind, item.strip_prefix('\'')?.strip_suffix('\'')?))
        .collect()
}

/// A record's value in canonical form; none when it is no value of that type.
pub(super) fn canonical(kind: RecordKind, value: &str) -> Option<String> {
    match kind {
        RecordKind::A => value.parse::<Ipv4Addr>().ok().map(|ip| ip.to_string()),
        RecordKind::Aaaa => value.parse::<Ipv6Addr>().ok().map(|ip| ip.to_string()),
        RecordKind::Cname => is_name(value).then(|| value.trim_end_matches('.').to_ascii_lowercase()),
    }
}

/// Whether it can stand in a quoted Lua string and in a zone: letters, digits, and what host names have.
pub(super) fn is_name(value: &str) -> bool {
    !value.is_empty()
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn v4(text: &[&str]) -> Target {
        Target::Addresses {
            v4: text.iter().map(|t| t.parse().unwrap()).collect(),
            v6: vec![],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let dual = Target::Addresses {
            v4: vec!["192.0.2.3".parse().unwrap()],
            v6: vec!["2001:db8::3".parse().unwrap()],
        };
        let cases = [
            (v4(&["192.0.2.1"]), v4(&["192.0.2.2", "192.0.2.9"])),
            (v4(&["192.0.2.1"]), dual),
            (
                Target::Name("blue.example.net".into()),
                Target::Name("Green.example.net.".into()),
            ),
        ];
        for (blue, green) in &cases {
            for stickiness in [Stickiness::PerQuery, Stickiness::ByClient] {
                for share in [0, 1, 100, 999, 1000] {
                    for record in weighted(blue, green, Share::per_mille(share).unwrap(), stickiness) {
                        assert_eq!(
                            Weighted::parse(&record.content()),
                            Some(record.clone()),
                            "{}",
                            record.content()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn weights_are_in_fixed_order_and_add_up_to_1000() {
        let ours = &weighted(
            &v4(&["192.0.2.1"]),
            &v4(&["192.0.2.2"]),
            Share::percent(10).unwrap(),
            Stickiness::ByClient,
        )[0];
        assert_eq!(
            ours.content(),
            "A \";--[[bluegreen 1]]local t={blue={'192.0.2.1'},green={'192.0.2.2'}} return t[pickwhashed({{900,'blue'},{100,'green'}})]\""
        );
    }

    #[test]
    fn anything_else_is_foreign() {
        let ours = weighted(
            &v4(&["192.0.2.1"]),
            &v4(&["192.0.2.2"]),
            Share::percent(10).unwrap(),
            Stickiness::PerQuery,
        )[0]
        .content();
        let foreign = [
            "A \"ifportup(443, {'192.0.2.1', '192.0.2.2'})\"".to_owned(),
            ours.replace("bluegreen 1", "bluegreen 2"),
            ours.replace("900", "901"),
            ours.replace("100", "1001"),
            ours.replace("'192.0.2.1'", "'192.0.2.1','x'"),
            ours.replace("pickwrandom", "pickrandom"),
            ours.replace("A \"", "TXT \""),
            format!("{ours} "),
            String::new(),
        ];
        for content in foreign {
            assert_eq!(Weighted::parse(&content), None, "{content}");
        }
    }
}
