//! What of the file is about traffic: targets, `[dns]`, `[policy]`.

use super::Dns;
use super::check::{Fault, Key, Reader, check_url, set, timeout, value};
use super::raw::{self, DnsKind, PolicyKind};
use super::secret::Sources;
use bluegreen_core::policy::{AtOnce, Linear, Steps};
use bluegreen_core::{Spec, Target, TrafficPolicy, WritePath};
use bluegreen_dns::Stickiness;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;

pub(super) fn target(targets: Spanned<raw::Targets>) -> Result<Target, Fault> {
    let at = targets.span();
    let all = targets.into_inner().0;
    let (mut v4, mut v6): (Vec<Ipv4Addr>, Vec<Ipv6Addr>) = (vec![], vec![]);
    for text in &all {
        match text.parse() {
            Ok(IpAddr::V4(ip)) => v4.push(ip),
            Ok(IpAddr::V6(ip)) => v6.push(ip),
            Err(_) => {
                if all.len() == 1 && is_name(text) {
                    return Ok(Target::Name(text.trim_end_matches('.').to_ascii_lowercase()));
                }
                let what = format!(
                    "target: {text:?} is no address: expected addresses, or one full name such as \"blue.example.net\""
                );
                return Err(Fault::at(at, what));
            }
        }
    }
    if all.is_empty() {
        return Err(Fault::at(at, "target is empty: expected addresses, or one full name"));
    }
    Ok(Target::Addresses { v4, v6 })
}

/// A full host name, and not a mistyped address: its last label is no number.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut labels = text.strip_suffix('.').unwrap_or(text).rsplit('.');
    let last = labels.clone().next().unwrap_or_default();
    let sized = labels.all(|label| (1..=63).contains(&label.len()));
    text.contains('.') && text.len() < 254 && text.chars().all(plain) && sized && last.parse::<u32>().is_err()
}

pub(super) fn dns(table: Spanned<raw::Dns>, reader: &Reader<'_>, spec: &mut Spec) -> Result<Option<Dns>, Fault> {
    let at = table.span();
    let table = table.into_inner();
    if *table.provider.get_ref() == DnsKind::None {
        return Ok(None);
    }
    let needed = |key: Key<String>, name: &str, example: &str| match key {
        Some(key) if !key.get_ref().is_empty() => Ok(key.into_inner()),
        Some(key) => Err(Fault::at(
            key.span(),
            format!("{name} is empty: expected one such as {example}"),
        )),
        None => Err(Fault::at(
            at.clone(),
            format!("{name} is missing in [dns]: expected one such as {example}"),
        )),
    };
    let api = match &table.api {
        Some(api) => check_url("api", api).map(|()| api.get_ref().clone())?,
        None => needed(None, "api", "\"http://127.0.0.1:8081\"")?,
    };
    let key = Sources {
        name: "key",
        plain: table.key,
        env: table.key_env,
        file: table.key_file,
    };
    let Some(key) = key.find(reader.folder, reader.environment)? else {
        return Err(Fault::at(
            at,
            "the API's key is missing in [dns]: expected key_env, key_file or key",
        ));
    };
    let zone = needed(table.zone, "zone", "\"example.com\"")?;
    let record_at = table.record.as_ref().map(Spanned::span);
    let record = needed(table.record, "record", "\"app.example.com\"")?;
    let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    if plain(&record) != plain(&zone) && !plain(&record).ends_with(&format!(".{}", plain(&zone))) {
        let what = format!("record: {record} is not in the zone {zone}: expected a full name that ends with .{zone}");
        return Err(Fault { at: record_at, what });
    }
    for (name, side) in [("blue", &spec.blue), ("green", &spec.green)] {
        if side.target.is_none() {
            let what =
                format!("[{name}] has no `target`: expected where the name leads for {name}, addresses or a name");
            return Err(Fault::at(at, what));
        }
    }
    *spec = spec.clone().record(zone, record);
    set(&mut spec.ttl, table.ttl);
    set(&mut spec.lead, table.lead);
    set(&mut spec.slack, table.slack);
    spec.dns_samples = value(table.samples).unwrap_or(spec.dns_samples);
    let address = |text: Spanned<String>| {
        text.get_ref().parse::<SocketAddr>().map_err(|_| {
            let what = format!(
                "authorities: {:?} is no address: expected one such as \"192.0.2.53:53\"",
                text.get_ref()
            );
            Fault::at(text.span(), what)
        })
    };
    let timeout = timeout(table.timeout)?;
    let authorities = table
        .authorities
        .map(|all| all.into_iter().map(address).collect())
        .transpose()?;
    Ok(Some(Dns {
        api,
        key: key.into_inner(),
        server: value(table.server),
        authorities,
        stickiness: match value(table.stickiness) {
            Some(raw::Stickiness::ByClient) => Stickiness::ByClient,
            Some(raw::Stickiness::PerQuery) | None => Stickiness::PerQuery,
        },
        timeout,
        lua_is_enabled: table.lua_is_enabled,
    }))
}

pub(super) fn policy(
    table: Key<raw::Policy>,
    named: bool,
    whole: &Range<usize>,
    spec: &mut Spec,
) -> Result<Arc<dyn TrafficPolicy>, Fault> {
    let at = table.as_ref().map_or(whole.clone(), Spanned::span);
    let given = table.is_some();
    let table = table.map(Spanned::into_inner).unwrap_or_default();
    if named && !given && spec.write_path != Some(WritePath::NoLiveTraffic) {
        return Err(Fault::at(
            at,
            "a name moves and there is no [policy]: expected steps = [10, 50, 100], or kind = \"at-once\"",
        ));
    }
    let kind = table.kind.unwrap_or_default();
    no_other_kinds_keys(kind, &table)?;
    spec.limits.max_error_rate = value(table.max_error_rate).unwrap_or(spec.limits.max_error_rate);
    spec.limits.max_p99 = table.max_p99.map(|p99| p99.into_inner().0).or(spec.limits.max_p99);
    spec.limits.min_requests = table
        .min_requests
        .as_ref()
        .map_or(spec.limits.min_requests, |n| *n.get_ref());
    spec.limits.validate().map_err(|what| Fault::at(at.clone(), what))?;

    // The three kinds share their guards but not a type.
    macro_rules! guarded {
        ($policy:expr) => {{
            let mut policy = $policy;
            if let Some(bake) = &table.bake {
                policy = policy.bake(bake.get_ref().0);
            }
            if let Some(deadline) = &table.deadline {
                policy = policy.deadline(deadline.get_ref().0);
            }
            if let Some(percent) = &table.approve_before {
                policy = policy.approve_before(*percent.get_ref());
            }
            if let Some(what) = &table.on_fail {
                policy = policy.on_fail(*what.get_ref());
            }
            if let Some(times) = &table.fail_after {
                policy = policy.fail_after(*times.get_ref());
            }
            if let Some(requests) = &table.min_requests {
                policy = policy.min_requests(*requests.get_ref());
            }
            if table.freeze_while_blue_is_ill {
                policy = policy.freeze_while_blue_is_ill();
            }
            Arc::new(policy) as Arc<dyn TrafficPolicy>
        }};
    }
    let (policy, place) = match kind {
        _ if !given => (Arc::new(AtOnce::new()) as Arc<dyn TrafficPolicy>, at),
        PolicyKind::Steps => {
            let Some(steps) = table.steps else {
                return Err(Fault::at(
                    at,
                    "steps is missing in [policy]: expected shares in per cent, the last 100: [10, 50, 100]",
                ));
            };
            let place = steps.span();
            (guarded!(Steps::new(steps.into_inner())), place)
        }
        PolicyKind::Linear => {
            let (Some(step), Some(every)) = (&table.step, &table.every) else {
                return Err(Fault::at(
                    at,
                    "a linear policy needs step, in per cent, and every: step = 10, every = \"15m\"",
                ));
            };
            (guarded!(Linear::new(*step.get_ref(), every.get_ref().0)), step.span())
        }
        PolicyKind::AtOnce => (guarded!(AtOnce::new()), at),
    };
    policy
        .validate()
        .map_err(|what| Fault::at(place, format!("policy: {what}")))?;
    Ok(policy)
}

/// Refuses what would be passed over.
fn no_other_kinds_keys(kind: PolicyKind, table: &raw::Policy) -> Result<(), Fault> {
    let steps = ("steps", table.steps.as_ref().map(Spanned::span));
    let step = ("step", table.step.as_ref().map(Spanned::span));
    let every = ("every", table.every.as_ref().map(Spanned::span));
    let bake = ("bake", table.bake.as_ref().map(Spanned::span));
    let (of, others) = match kind {
        PolicyKind::Steps => ("a policy of steps", vec![step, every]),
        PolicyKind::Linear => (
            "a linear policy, which watches each share for `every`",
            vec![steps, bake],
        ),
        PolicyKind::AtOnce => ("an at-once policy", vec![steps, step, every]),
    };
    match others.into_iter().find_map(|(name, at)| Some((name, at?))) {
        Some((name, at)) => Err(Fault::at(at, format!("{name} is no key of {of}"))),
        None => Ok(()),
    }
}
