//! From a [`Snapshot`] and an [`Intent`] to the one PATCH that makes it so. Pure.

use super::Stickiness;
use super::api::{Rr, RrSet};
use super::lua::{Weighted, is_name, weighted};
use super::shape::{OURS, Raw, absolute, classify, owner_content, owner_name};
use bluegreen_core::{
    ChangePlan, Error, Intent, Kind, Record, RecordKind, RecordSet, Result, Shape, Share, Snapshot, Target,
};
use serde_json::{Value, json};

const OPERATION: &str = "compile the change";
const OWNER_TTL: u32 = 60;

pub(super) fn compile(snapshot: &Snapshot, intent: &Intent, stickiness: Stickiness) -> Result<ChangePlan> {
    let record = &snapshot.record;
    let before: Raw = serde_json::from_value(snapshot.raw.clone())
        .map_err(|e| invalid(format!("the snapshot is not one of PowerDNS's: {e}")))?;
    if let Shape::Foreign(what) = &snapshot.shape {
        let message = format!("{record} holds {what}: take it away by hand first, nothing was changed");
        return Err(Error::new(Kind::Conflict, OPERATION, message).provider(super::NAME));
    }
    let (after, share) = match intent {
        Intent::Weighted {
            blue,
            green,
            share,
            ttl,
            owner,
        } => {
            check_owner(snapshot, owner)?;
            (
                weighted_sets(record, blue, green, *share, *ttl, owner, stickiness)?,
                Some(*share),
            )
        }
        Intent::Plain { sets, raw } => (plain_sets(record, sets, raw)?, None),
    };
    let (body, lines) = difference(record, &before, &after);
    Ok(ChangePlan {
        record: record.clone(),
        intent: intent.clone(),
        share,
        before: snapshot.clone(),
        changes: !lines.is_empty(),
        body,
        lines,
    })
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid(OPERATION, message).provider(super::NAME)
}

fn check_owner(snapshot: &Snapshot, owner: &str) -> Result<()> {
    match &snapshot.owner {
        Some(other) if other != owner => {
            let message = format!(
                "{} belongs to the migration {other:?} (TXT {}): finish or abort that one first",
                snapshot.record,
                owner_name(&snapshot.record)
            );
            Err(Error::new(Kind::Conflict, OPERATION, message).provider(super::NAME))
        }
        _ => Ok(()),
    }
}

fn weighted_sets(
    record: &Record,
    blue: &Target,
    green: &Target,
    share: Share,
    ttl: u32,
    owner: &str,
    stickiness: Stickiness,
) -> Result<Raw> {
    for target in [blue, green] {
        if target.kinds().is_empty() {
            return Err(invalid("a target has no address and no name"));
        }
        if let Target::Name(name) = target {
            if !is_name(name) {
                return Err(invalid(format!("{name:?} is no host name")));
            }
            if absolute(&record.name) == absolute(&record.zone) {
                return Err(invalid(format!(
                    "{record} is the top of its zone, where no CNAME may stand: give the targets as addresses"
                )));
            }
        }
    }
    if matches!(blue, Target::Name(_)) != matches!(green, Target::Name(_)) {
        return Err(invalid(
            "one target is a name and the other addresses: DNS cannot mix them, give both as one of these",
        ));
    }
    let owner = owner_content(owner);
    if owner.len() > 255 {
        return Err(invalid(
            "the migration's name is too long for a TXT record: at most about 200 letters",
        ));
    }
    let contents = weighted(blue, green, share, stickiness);
    let contents = contents.iter().map(Weighted::content).collect();
    Ok(Raw {
        sets: vec![set(absolute(&record.name), "LUA", ttl, contents)],
        owner: Some(set(owner_name(record), "TXT", OWNER_TTL, vec![owner])),
    })
}

fn plain_sets(record: &Record, sets: &[RecordSet], raw: &Value) -> Result<Raw> {
    if !raw.is_null() {
        let old: Raw = serde_json::from_value(raw.clone())
            .map_err(|e| invalid(format!("what to put back is not one of PowerDNS's snapshots: {e}")))?;
        let (shape, found) = classify(&old.sets);
        if !matches!(shape, Shape::Simple | Shape::Absent) || found != sets {
            return Err(invalid("what to put back is not what the intent says"));
        }
        return Ok(Raw {
            sets: old.sets,
            owner: None,
        });
    }
    let cname = sets.iter().any(|s| s.kind == RecordKind::Cname);
    if cname && (sets.len() > 1 || sets[0].values.len() != 1) {
        return Err(invalid("a CNAME stands alone and has one value"));
    }
    let plain = |s: &RecordSet| {
        let dot = if s.kind == RecordKind::Cname { "." } else { "" };
        let values = s.values.iter().map(|v| format!("{v}{dot}")).collect();
        set(absolute(&record.name), &s.kind.to_string(), s.ttl, values)
    };
    Ok(Raw {
        sets: sets.iter().map(plain).collect(),
        owner: None,
    })
}

fn set(name: String, kind: &str, ttl: u32, contents: Vec<String>) -> RrSet {
    let records = contents
        .into_iter()
        .map(|content| Rr {
            content,
            disabled: false,
        })
        .collect();
    RrSet {
        name,
        kind: kind.into(),
        ttl,
        records,
        comments: vec![],
    }
}

/// The PATCH from one state to the other, and a line a change. What goes comes first: the API refuses a CNAME beside
/// anything else, even for the length of a transaction.
fn difference(record: &Record, before: &Raw, after: &Raw) -> (Value, Vec<String>) {
    let find = |raw: &Raw, kind: &str| raw.sets.iter().find(|s| s.kind == kind).cloned();
    let mut pairs: Vec<(String, &str, Option<RrSet>, Option<RrSet>)> = OURS
        .iter()
        .map(|kind| (absolute(&record.name), *kind, find(before, kind), find(after, kind)))
        .collect();
    pairs.push((owner_name(record), "TXT", before.owner.clone(), after.owner.clone()));
    pairs.retain(|(_, _, old, new)| old != new);
    pairs.sort_by_key(|(_, _, _, new)| new.is_some());
    let mut changes = vec![];
    let mut lines = vec![];
    for (name, kind, old, new) in pairs {
        lines.extend(old.iter().map(|s| format!("- {}", line(s))));
        match new {
            None => changes.push(json!({"name": name, "type": kind, "changetype": "DELETE"})),
            Some(new) => {
                lines.push(format!("+ {}", line(&new)));
                changes.push(json!({
                    "name": name, "type": kind, "changetype": "REPLACE",
                    "ttl": new.ttl, "records": new.records, "comments": new.comments,
                }));
            }
        }
    }
    (json!({ "rrsets": changes }), lines)
}

fn line(set: &RrSet) -> String {
    let values: Vec<String> = set
        .records
        .iter()
        .map(|r| {
            if r.disabled {
                format!("({})", r.content)
            } else {
                r.content.clone()
            }
        })
        .collect();
    format!("{} {} {} {}", set.name, set.ttl, set.kind, values.join(" | "))
}
