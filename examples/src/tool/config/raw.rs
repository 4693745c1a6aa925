//! The file's keys as they stand there, each with its place. What they mean together is `check.rs`'s business.

use super::check::Key;
use bluegreen_core::WritePath;
use bluegreen_core::duration::parse_duration;
use bluegreen_core::policy::OnFail;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::time::Duration;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) migration: Spanned<Migration>,
    #[serde(default)]
    pub(super) blue: Option<Spanned<Side>>,
    #[serde(default)]
    pub(super) green: Option<Spanned<Side>>,
    #[serde(default)]
    pub(super) database: Vec<Spanned<Named>>,
    #[serde(default)]
    pub(super) dns: Option<Spanned<Dns>>,
    #[serde(default)]
    pub(super) gate: Option<Spanned<Gate>>,
    #[serde(default)]
    pub(super) policy: Option<Spanned<Policy>>,
    #[serde(default)]
    pub(super) probe: Option<Spanned<Probe>>,
    #[serde(default)]
    pub(super) verify: Option<Spanned<Verify>>,
    #[serde(default)]
    pub(super) hooks: Option<Spanned<Hooks>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Migration {
    pub(super) name: Spanned<String>,
    pub(super) journal: Key<String>,
    pub(super) journal_env: Key<String>,
    pub(super) journal_file: Key<String>,
    pub(super) write_path: Key<WritePath>,
    pub(super) pause_budget: Key<Length>,
    pub(super) hold: Key<Length>,
    pub(super) soak: Key<Length>,
    pub(super) patience: Key<Length>,
    pub(super) look: Key<Length>,
    pub(super) watch: Key<Length>,
    pub(super) retries: Key<u32>,
    pub(super) cut_over_attempts: Key<u32>,
    pub(super) cut_over_retry: Key<Length>,
    pub(super) max_lag_bytes: Key<u64>,
    pub(super) production_url: Key<String>,
    pub(super) copy_jobs: Key<usize>,
    #[serde(default)]
    pub(super) compare: bool,
    pub(super) compare_jobs: Key<usize>,
    pub(super) compare_share: Key<f64>,
    pub(super) pg_tools: Key<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Side {
    pub(super) url: Key<String>,
    #[serde(default)]
    pub(super) health: Vec<Spanned<String>>,
    pub(super) target: Key<Targets>,
    #[serde(default, deserialize_with = "secret")]
    pub(super) database: Key<String>,
    pub(super) database_env: Key<String>,
    pub(super) database_file: Key<String>,
    #[serde(default, deserialize_with = "secret")]
    pub(super) database_from_peer: Key<String>,
    pub(super) database_from_peer_env: Key<String>,
    pub(super) database_from_peer_file: Key<String>,
    pub(super) free_disk_bytes: Key<u64>,
    pub(super) wal_limit_bytes: Key<u64>,
}

/// One of several databases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    pub(super) name: Spanned<String>,
    pub(super) blue: Key<Database>,
    pub(super) green: Key<Database>,
    pub(super) gate: Key<Gate>,
}

/// The keys of a database, in a side's table or in one of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Database {
    #[serde(default, deserialize_with = "secret")]
    pub(super) database: Key<String>,
    pub(super) database_env: Key<String>,
    pub(super) database_file: Key<String>,
    #[serde(default, deserialize_with = "secret")]
    pub(super) database_from_peer: Key<String>,
    pub(super) database_from_peer_env: Key<String>,
    pub(super) database_from_peer_file: Key<String>,
    pub(super) free_disk_bytes: Key<u64>,
    pub(super) wal_limit_bytes: Key<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DnsKind {
    Powerdns,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stickiness {
    PerQuery,
    ByClient,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    pub(super) provider: Spanned<DnsKind>,
    pub(super) api: Key<String>,
    #[serde(default, deserialize_with = "secret")]
    pub(super) key: Key<String>,
    pub(super) key_env: Key<String>,
    pub(super) key_file: Key<String>,
    pub(super) server: Key<String>,
    pub(super) zone: Key<String>,
    pub(super) record: Key<String>,
    pub(super) ttl: Key<Length>,
    pub(super) lead: Key<Length>,
    pub(super) slack: Key<Length>,
    pub(super) samples: Key<u32>,
    pub(super) authorities: Option<Vec<Spanned<String>>>,
    pub(super) stickiness: Key<Stickiness>,
    pub(super) timeout: Key<Length>,
    #[serde(default)]
    pub(super) lua_is_enabled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum GateKind {
    Pgbouncer,
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gate {
    pub(super) kind: Spanned<GateKind>,
    #[serde(default, deserialize_with = "secrets")]
    pub(super) admin: Key<Vec<String>>,
    pub(super) admin_env: Key<String>,
    pub(super) admin_file: Key<String>,
    pub(super) config: Key<Targets>,
    pub(super) database: Key<String>,
    pub(super) blue: Key<String>,
    pub(super) green: Key<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PolicyKind {
    #[default]
    Steps,
    Linear,
    AtOnce,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) kind: Option<PolicyKind>,
    pub(super) steps: Key<Vec<f64>>,
    pub(super) step: Key<f64>,
    pub(super) every: Key<Length>,
    pub(super) bake: Key<Length>,
    pub(super) deadline: Key<Length>,
    pub(super) approve_before: Key<f64>,
    pub(super) on_fail: Key<OnFail>,
    pub(super) fail_after: Key<u32>,
    pub(super) min_requests: Key<u64>,
    #[serde(default)]
    pub(super) freeze_while_blue_is_ill: bool,
    pub(super) max_error_rate: Key<f64>,
    pub(super) max_p99: Key<Length>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    pub(super) status: Key<[u16; 2]>,
    pub(super) body: Key<String>,
    pub(super) roots: Key<String>,
    pub(super) deadline: Key<Length>,
    pub(super) healthy_in_a_row: Key<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    pub(super) commands: Vec<Spanned<String>>,
    pub(super) timeout: Key<Length>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hooks {
    pub(super) deploy: Key<String>,
    pub(super) decommission: Key<String>,
}

/// A text that may be a secret: what stands there instead is not repeated, as a complaint of the parser's would.
fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Key<String>, D::Error> {
    let value = Spanned::<toml::Value>::deserialize(d)?;
    match (value.span(), value.into_inner()) {
        (at, toml::Value::String(text)) => Ok(Some(Spanned::new(at, text))),
        _ => Err(D::Error::custom("expected a text in quotes")),
    }
}

/// One such text or several.
fn secrets<'de, D: Deserializer<'de>>(d: D) -> Result<Key<Vec<String>>, D::Error> {
    let value = Spanned::<toml::Value>::deserialize(d)?;
    let (at, value) = (value.span(), value.into_inner());
    let all = match value {
        toml::Value::Array(all) => all,
        one => vec![one],
    };
    let texts: Option<Vec<String>> = all
        .into_iter()
        .map(|text| {
            if let toml::Value::String(text) = text {
                Some(text)
            } else {
                None
            }
        })
        .collect();
    let texts = texts.ok_or_else(|| D::Error::custom("expected texts in quotes: [\"..\", \"..\"]"))?;
    Ok(Some(Spanned::new(at, texts)))
}

/// A length of time: `"15m"`.
#[derive(Clone, Copy)]
pub(super) struct Length(pub(super) Duration);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Length;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time such as \"15m\", \"10s\" or \"250ms\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Length, E> {
                parse_duration(text).map(Length).map_err(E::custom)
            }
            fn visit_i64<E: Error>(self, n: i64) -> Result<Length, E> {
                let number = n.unsigned_abs();
                Err(E::custom(format!(
                    "{n} has no unit: expected a length of time such as \"{number}s\" or \"{number}m\""
                )))
            }
        }
        d.deserialize_any(Text)
    }
}

/// Where an environment answers: one text or several.
pub(super) struct Targets(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Targets;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, a name, or a list of addresses")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Targets, E> {
                Ok(Targets(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Targets, A::Error> {
                let mut all = vec![];
                while let Some(text) = seq.next_element()? {
                    all.push(text);
                }
                Ok(Targets(all))
            }
        }
        d.deserialize_any(OneOrMore)
    }
}
