//! Moving the share until it is effective, and putting the record back: what prepare, shift, cut-over and clean-up share.
//!
//! Effective is climbed rung by rung: accepted, in sync, served by every authority asked directly, and then the old TTL.

use super::step::{Context, Progress};
use crate::error::{Error, Kind, Remedy, Result};
use crate::journal::Note;
use crate::model::{Color, Share};
use crate::provider::{
    Answer, Applied, AuthorityAnswer, ChangeStatus, Intent, Record, RecordSet, Shape, Snapshot, Target, ttl_seconds,
    weighted_sets,
};
use crate::time::Timestamp;

/// How far a share has come.
#[derive(Debug)]
pub(super) enum Driven {
    /// The step must pass this on to the engine.
    Not(Progress),
    /// Every authority serves it; users see it from then on.
    Served(Timestamp),
}

/// The record and both targets of a migration that moves a name. The builder has made sure that they are there.
pub(super) fn named<'a>(cx: &'a Context<'_>) -> Result<(&'a Record, &'a Target, &'a Target)> {
    match (&cx.spec.record, &cx.spec.blue.target, &cx.spec.green.target) {
        (Some(record), Some(blue), Some(green)) => Ok((record, blue, green)),
        _ => Err(Error::invalid(
            "move the name",
            "the record and both targets are needed to move a name",
        )),
    }
}

pub(super) fn weighted(cx: &Context<'_>, share: Share) -> Result<Intent> {
    let (_, blue, green) = named(cx)?;
    Ok(Intent::Weighted {
        blue: blue.clone(),
        green: green.clone(),
        share,
        ttl: ttl_seconds(cx.spec.ttl).max(cx.with.dns.capabilities().min_ttl),
        owner: cx.spec.name.clone(),
    })
}

/// Asks for a share and climbs until every authority serves it.
pub(super) async fn drive(cx: &Context<'_>, share: Share, reason: &str) -> Result<Driven> {
    let traffic = &cx.state.traffic;
    let intent = weighted(cx, share)?;
    let Intent::Weighted { ttl, .. } = intent else {
        return Err(Error::new(Kind::Unexpected, "move the share", "not a share"));
    };
    let asked = traffic.asked.filter(|a| a.share == share && a.ttl == ttl);
    if let (Some(_), Some(effective)) = (asked, traffic.effective) {
        return Ok(Driven::Served(effective));
    }
    let (record, _, _) = named(cx)?;
    let snapshot = cx.with.dns.read(record).await?;
    refuse_foreign(cx, &snapshot)?;
    let Some(asked) = asked else {
        cx.live.lock().receipt = None;
        let ttl_before = snapshot.ttl.unwrap_or(ttl);
        return Ok(Driven::Not(Progress::Note(Note::Asking {
            share,
            ttl,
            ttl_before,
            reason: reason.into(),
        })));
    };
    if let Some(wait) = change(cx, &snapshot, &intent).await? {
        return Ok(Driven::Not(wait));
    }
    let sticky = cx.with.dns.capabilities().sticky;
    let before = share_before(cx, share);
    let samples = match share {
        Share::ZERO | Share::FULL => 1,
        _ if sticky => 1,
        _ => samples_to_tell(share, before, cx.spec.dns_samples),
    };
    let answers = cx.with.dns.ask_authorities(record, samples).await?;
    if let Err(what) = all_serve(&answers, &intent, sticky, before) {
        return Ok(Driven::Not(cx.look_patiently(
            "authorities",
            format!("{share} to green is not served yet: {what}"),
        )));
    }
    cx.came("authorities");
    let old = std::time::Duration::from_secs(u64::from(asked.ttl_before));
    let effective = (cx.now() + old + cx.spec.slack).max(traffic.stale_until);
    Ok(Driven::Not(Progress::Note(Note::Served { share, effective })))
}

/// The same, until users see it.
pub(super) async fn drive_until_effective(cx: &Context<'_>, share: Share, reason: &str) -> Result<Option<Progress>> {
    Ok(match drive(cx, share, reason).await? {
        Driven::Not(progress) => Some(progress),
        Driven::Served(effective) if cx.now() < effective => Some(Progress::Wait {
            until: effective,
            why: format!("answers from before {share} may still be cached"),
        }),
        Driven::Served(_) => None,
    })
}

/// Leaves a plain record that points at `to`; for blue, exactly what was there before.
pub(super) async fn release(cx: &Context<'_>, to: Color) -> Result<Option<Progress>> {
    let Some(before) = &cx.state.traffic.before else {
        return Ok(None);
    };
    let (record, _, green) = named(cx)?;
    let intent = match to {
        Color::Blue => Intent::Plain {
            sets: before.sets.clone(),
            raw: before.raw.clone(),
        },
        Color::Green => {
            let ttl = before.ttl.unwrap_or_else(|| ttl_seconds(cx.spec.ttl));
            Intent::Plain {
                sets: green.record_sets(ttl),
                raw: serde_json::Value::Null,
            }
        }
    };
    let snapshot = cx.with.dns.read(record).await?;
    if !snapshot.is(&intent, None) {
        refuse_foreign(cx, &snapshot)?;
    }
    if let Some(wait) = change(cx, &snapshot, &intent).await? {
        return Ok(Some(wait));
    }
    let answers = cx.with.dns.ask_authorities(record, 1).await?;
    if let Err(what) = all_serve(&answers, &intent, false, Share::ZERO) {
        return Ok(Some(cx.look_patiently(
            "release",
            format!("the plain record is not served yet: {what}"),
        )));
    }
    cx.came("release");
    Ok(None)
}

/// Sends what turns the snapshot into the intent, if anything; something to wait for, or none when it is accepted.
async fn change(cx: &Context<'_>, snapshot: &Snapshot, intent: &Intent) -> Result<Option<Progress>> {
    let dns = &cx.with.dns;
    let plan = dns.compile(snapshot, intent)?;
    if plan.changes {
        cx.live.lock().receipt = None;
        match dns.apply(&plan).await? {
            Applied::Accepted(receipt) => cx.live.lock().receipt = Some(receipt),
            Applied::Rejected(why) => {
                return Err(Error::new(Kind::InvalidInput, "change the record", why).provider(dns.name()));
            }
            Applied::Unknown(_) | Applied::Conflict(_) => {
                let now = dns.read(&snapshot.record).await?;
                if now.version == snapshot.version {
                    let message = "the change did not arrive; it is sent again";
                    return Err(Error::new(Kind::Unavailable, "change the record", message).provider(dns.name()));
                }
                if !now.is(intent, plan.share) {
                    let message = format!(
                        "{} was changed by somebody else while we changed it: it is {} now. Find out who, then go on",
                        snapshot.record, now.shape
                    );
                    return Err(Error::new(Kind::Conflict, "change the record", message).provider(dns.name()));
                }
            }
        }
    }
    let receipt = cx.live.lock().receipt.clone();
    if let Some(receipt) = receipt
        && dns.poll(&receipt).await? == ChangeStatus::Pending
    {
        return Ok(Some(cx.look_patiently(
            "in sync",
            "the change is not on all of the provider's servers yet",
        )));
    }
    cx.came("in sync");
    Ok(None)
}

/// What we did not leave there is not ours to overwrite.
fn refuse_foreign(cx: &Context<'_>, snapshot: &Snapshot) -> Result<()> {
    let foreign = |what: String| {
        let message = format!(
            "{} {what}: somebody else changed it. Put back what was there, then run again",
            snapshot.record
        );
        Err(Error::new(Kind::Conflict, "read the record", message).provider(cx.with.dns.name()))
    };
    let served = cx.state.traffic.effective.is_some() || cx.state.traffic.history.len() > 1;
    let (_, blue, green) = named(cx)?;
    match (&snapshot.shape, &cx.state.traffic.before) {
        (Shape::Foreign(what), _) => foreign(format!("is {what}")),
        (Shape::Weighted { .. }, _) if snapshot.owner.as_deref() != Some(cx.spec.name.as_str()) => foreign(format!(
            "is weighted by {}",
            snapshot.owner.as_deref().unwrap_or("nobody")
        )),
        (Shape::Weighted { share }, _) if !is_one_of_ours(cx, *share) => {
            foreign(format!("gives {share} to green, which was not asked for"))
        }
        (Shape::Weighted { .. }, _)
            if snapshot
                .ttl
                .is_none_or(|ttl| snapshot.sets != weighted_sets(blue, green, ttl)) =>
        {
            foreign("has other targets than blue's and green's".into())
        }
        (Shape::Simple | Shape::Absent, _) if served => foreign("is no longer weighted".into()),
        (Shape::Simple | Shape::Absent, Some(before)) if before.sets != snapshot.sets => {
            foreign("is not what it was when the migration began".into())
        }
        _ => Ok(()),
    }
}

/// The share that an authority which has not heard of this one still serves.
fn share_before(cx: &Context<'_>, share: Share) -> Share {
    let history = &cx.state.traffic.history;
    history
        .iter()
        .rev()
        .map(|(s, _)| *s)
        .find(|s| *s != share)
        .unwrap_or(Share::ZERO)
}

/// How many answers tell two shares apart: four standard deviations in half their distance; 4,000 at most.
fn samples_to_tell(share: Share, before: Share, at_least: u32) -> u32 {
    let spread = |s: Share| s.as_fraction() * (1.0 - s.as_fraction());
    let distance = (share.as_fraction() - before.as_fraction()).abs().max(0.001);
    let needed = 64.0 * spread(share).max(spread(before)) / (distance * distance);
    // Bounded before it is converted.
    (needed.min(4000.0) as u32).max(at_least)
}

/// Whether the record may say this share: the last one served, or one asked for since.
fn is_one_of_ours(cx: &Context<'_>, share: Share) -> bool {
    let weights = cx.with.dns.capabilities().weights;
    cx.state
        .traffic
        .possible
        .iter()
        .any(|s| weights.quantise(*s).unwrap_or(*s) == share)
}

/// Reads the record now and then while its share is watched: a stranger's change is noticed, not only overwritten later.
/// That it cannot be read is borne for a while: nothing is to be moved, and unwinding would need the same API. Says when
/// that has gone on for too long.
pub(super) async fn watch_record(cx: &Context<'_>, share: Share) -> Result<Option<Progress>> {
    let now = cx.now();
    let read = cx.live.lock().record_read;
    if read.is_some_and(|at| now.since(at) < cx.spec.watch) {
        return Ok(None);
    }
    let (record, ..) = named(cx)?;
    let snapshot = match cx.with.dns.read(record).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let Remedy::Retry(after) = error.remedy() else {
                return Err(error);
            };
            let what = format!("whether {record} is still as it was left cannot be told: {error}");
            // Whoever asks us to stay away is obeyed, but not beyond our patience.
            cx.live.lock().record_read = Some(now + after.unwrap_or_default().min(cx.spec.patience));
            if let given_up @ Progress::GiveUp(_) = cx.look_patiently("record", what.as_str()) {
                return Ok(Some(given_up));
            }
            cx.warn(what);
            return Ok(None);
        }
    };
    cx.came("record");
    refuse_foreign(cx, &snapshot)?;
    let plan = cx.with.dns.compile(&snapshot, &weighted(cx, share)?)?;
    if plan.changes {
        let message = format!(
            "{record} is not what was left there: {}. Put it back, then run again",
            plan.lines.join("; ")
        );
        return Err(Error::new(Kind::Conflict, "read the record", message).provider(cx.with.dns.name()));
    }
    cx.live.lock().record_read = Some(now);
    Ok(None)
}

/// Whether every authority, asked directly, serves what was meant. Says which does not, and what it serves.
fn all_serve(answers: &[AuthorityAnswer], intent: &Intent, sticky: bool, before: Share) -> Result<(), String> {
    if answers.is_empty() {
        return Err("no authority was found".into());
    }
    // Where asking again tells nothing of weights, the zone's serial must at least be the same everywhere.
    let serials = || {
        answers.iter().filter_map(|a| {
            if let Answer::Serving { serial, .. } = &a.answer {
                *serial
            } else {
                None
            }
        })
    };
    if sticky && serials().min() != serials().max() {
        return Err("the authorities have different serials of the zone".into());
    }
    answers
        .iter()
        .try_for_each(|a| serves(&a.answer, intent, sticky, before).map_err(|what| format!("{} {what}", a.server)))
}

fn serves(answer: &Answer, intent: &Intent, sticky: bool, before: Share) -> Result<(), String> {
    let (seen, samples, ttl) = match (answer, intent) {
        (Answer::Serving { seen, samples, ttl, .. }, _) => (seen, *samples, *ttl),
        (Answer::Wrong(what), _) => return Err(format!("answers {what}")),
        (Answer::Silent(what), _) => return Err(format!("is silent: {what}")),
    };
    let expect_ttl = |wanted: u32| {
        if ttl > wanted {
            Err(format!("serves TTL {ttl}, not {wanted}"))
        } else {
            Ok(())
        }
    };
    let only = |allowed: &[String]| match seen.keys().find(|v| !allowed.contains(v)) {
        Some(value) => Err(format!("still serves {value}")),
        None if seen.is_empty() => Err("serves nothing".into()),
        None => Ok(()),
    };
    match intent {
        Intent::Plain { sets, .. } => {
            let allowed: Vec<String> = sets.iter().flat_map(|s: &RecordSet| s.values.clone()).collect();
            only(&allowed)?;
            expect_ttl(sets.iter().map(|s| s.ttl).max().unwrap_or(0))
        }
        Intent::Weighted {
            blue,
            green,
            share,
            ttl,
            ..
        } => {
            let values = |t: &Target| -> Vec<String> { t.kinds().into_iter().flat_map(|k| t.values(k)).collect() };
            let (blue, green) = (values(blue), values(green));
            match *share {
                Share::ZERO => only(&blue)?,
                Share::FULL => only(&green)?,
                share => {
                    only(&blue.iter().chain(&green).cloned().collect::<Vec<_>>())?;
                    if !sticky {
                        let greens: u32 = green.first().and_then(|v| seen.get(v)).copied().unwrap_or(0);
                        within(greens, samples, share, before)?;
                    }
                }
            }
            expect_ttl(*ttl)
        }
    }
}

/// Whether so many of so many are what a share would show, but once in 15,000 times (4 standard deviations).
/// And nearer to it than to the share before, which a slow authority may still serve.
fn within(greens: u32, samples: u32, share: Share, before: Share) -> Result<(), String> {
    let (n, p) = (f64::from(samples.max(1)), share.as_fraction());
    let seen = f64::from(greens) / n;
    let width = 4.0 * (p * (1.0 - p) / n).sqrt() + 0.5 / n;
    let nearer = share == before || (seen - p).abs() < (seen - before.as_fraction()).abs();
    if (seen - p).abs() <= width && nearer {
        return Ok(());
    }
    Err(format!("gave green in {greens} of {samples} answers, not {share}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn intent(share: Share) -> Intent {
        Intent::Weighted {
            blue: Target::address([192, 0, 2, 1].into()),
            green: Target::address([192, 0, 2, 2].into()),
            share,
            ttl: 5,
            owner: "t".into(),
        }
    }

    fn seen(blue: u32, green: u32, ttl: u32) -> Answer {
        let seen: BTreeMap<String, u32> = [("192.0.2.1".to_owned(), blue), ("192.0.2.2".to_owned(), green)]
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .collect();
        Answer::Serving {
            seen,
            samples: blue + green,
            ttl,
            serial: None,
        }
    }

    #[test]
    fn an_authority_serves_a_share_only_with_its_values_weights_and_ttl() {
        let half = Share::percent(50).unwrap();
        for (answer, share, ok) in [
            (seen(1, 0, 5), Share::ZERO, true),
            (seen(0, 1, 5), Share::ZERO, false),
            (seen(1, 0, 3600), Share::ZERO, false),
            (seen(0, 1, 5), Share::FULL, true),
            (seen(1, 1, 5), Share::FULL, false),
            (seen(205, 195, 5), half, true),
            (seen(400, 0, 5), half, false),
            (seen(350, 50, 5), Share::percent(10).unwrap(), true),
            (seen(0, 0, 5), half, false),
            (Answer::Silent("timeout".into()), Share::ZERO, false),
            (Answer::Wrong("SERVFAIL".into()), Share::FULL, false),
        ] {
            assert_eq!(
                serves(&answer, &intent(share), false, Share::ZERO).is_ok(),
                ok,
                "{answer:?} {share}"
            );
        }
    }

    #[test]
    fn no_authority_is_not_all_authorities() {
        assert!(all_serve(&[], &intent(Share::ZERO), false, Share::ZERO).is_err());
    }
}
