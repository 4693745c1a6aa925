//! What every `DnsProvider` owes. Behaviours beyond its capabilities are passed over.

use super::LOOKS;
use async_trait::async_trait;
use bluegreen_core::{
    Answer, Applied, ChangePlan, ChangeStatus, DnsProvider, Intent, Receipt, Record, RecordSet, Shape, Share, Snapshot,
    Target, Weights,
};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What the suite needs beside the provider.
#[async_trait]
pub trait DnsHarness: Send + Sync {
    /// The provider.
    fn provider(&self) -> &dyn DnsProvider;

    /// A name of its zone at which there is nothing yet; the same one for the life of the harness.
    fn record(&self) -> Record;

    /// Puts something at the name that is not ours to touch; false when that cannot be made here.
    async fn put_foreign(&self) -> bool {
        false
    }

    /// Lets a moment pass, some 20 ms.
    async fn pause(&self);
}

/// Makes a module of tests of the [DNS suite](crate::conformance::dns).
#[macro_export]
macro_rules! dns_conformance {
    ($module:ident, $harness:expr) => {
        $crate::conformance_tests!(
            $module,
            dns,
            $harness,
            [
                an_absent_name_is_a_shape,
                plain_records_come_back_as_they_were_written,
                both_families_are_one_unit,
                a_name_may_point_to_a_name,
                a_plain_record_is_adopted_without_moving_a_user,
                saying_it_twice_changes_nothing,
                a_share_comes_back_as_the_plan_said,
                a_share_it_cannot_have_is_refused,
                a_ttl_is_lowered_and_nothing_else,
                release_puts_back_exactly_what_was_there,
                release_to_either_side,
                a_name_that_was_absent_can_be_absent_again,
                another_owner_is_refused,
                a_foreign_shape_is_refused,
                a_stale_plan_changes_nothing,
                compiling_is_pure,
                every_authority_serves_it_in_the_end,
                the_authorities_serve_the_share,
                a_change_gets_in_sync,
            ]
        );
    };
}

const TTL: u32 = 300;
const OWNER: &str = "shop";

fn blue() -> Target {
    Target::Addresses {
        v4: vec![Ipv4Addr::new(192, 0, 2, 10)],
        v6: vec![],
    }
}

fn green() -> Target {
    Target::Addresses {
        v4: vec![Ipv4Addr::new(192, 0, 2, 20)],
        v6: vec![],
    }
}

fn both_families(last: u8) -> Target {
    Target::Addresses {
        v4: vec![Ipv4Addr::new(192, 0, 2, last)],
        v6: vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last))],
    }
}

fn plain(target: &Target, ttl: u32) -> Intent {
    Intent::Plain {
        sets: target.record_sets(ttl),
        raw: serde_json::Value::Null,
    }
}

fn split(share: Share, ttl: u32) -> Intent {
    weighted(&blue(), &green(), share, ttl, OWNER)
}

fn weighted(blue: &Target, green: &Target, share: Share, ttl: u32, owner: &str) -> Intent {
    Intent::Weighted {
        blue: blue.clone(),
        green: green.clone(),
        share,
        ttl,
        owner: owner.to_owned(),
    }
}

async fn read(h: &dyn DnsHarness) -> Snapshot {
    h.provider().read(&h.record()).await.expect("the record can be read")
}

async fn plan(h: &dyn DnsHarness, intent: &Intent) -> ChangePlan {
    let snapshot = read(h).await;
    h.provider().compile(&snapshot, intent).expect("the change compiles")
}

async fn become_what(h: &dyn DnsHarness, intent: &Intent) -> (ChangePlan, Receipt) {
    let plan = plan(h, intent).await;
    match h.provider().apply(&plan).await.expect("the change is sent") {
        Applied::Accepted(receipt) => (plan, receipt),
        other => panic!("{plan}\nwas not accepted: {other:?}"),
    }
}

fn has_weights(h: &dyn DnsHarness) -> bool {
    matches!(h.provider().capabilities().weights, Weights::UpTo(_))
}

/// Nothing at a name is `Shape::Absent`, not an error.
pub async fn an_absent_name_is_a_shape(h: &dyn DnsHarness) {
    let seen = read(h).await;
    assert_eq!(seen.shape, Shape::Absent);
    assert_eq!((seen.sets, seen.ttl, seen.owner), (Vec::<RecordSet>::new(), None, None));
}

/// Plain records are read as the same values and TTL, without an owner.
pub async fn plain_records_come_back_as_they_were_written(h: &dyn DnsHarness) {
    become_what(h, &plain(&blue(), TTL)).await;
    let seen = read(h).await;
    assert_eq!(seen.shape, Shape::Simple);
    assert_eq!(seen.sets, blue().record_sets(TTL));
    assert_eq!((seen.ttl, seen.owner), (Some(TTL), None));
}

/// A and AAAA are written, weighed and read together.
pub async fn both_families_are_one_unit(h: &dyn DnsHarness) {
    become_what(h, &plain(&both_families(10), TTL)).await;
    assert_eq!(read(h).await.sets, both_families(10).record_sets(TTL));
    let intent = weighted(&both_families(10), &both_families(20), Share::FULL, TTL, OWNER);
    let (plan, _) = become_what(h, &intent).await;
    let seen = read(h).await;
    assert!(seen.is(&intent, plan.share), "{seen:?}");
    assert_eq!(seen.sets.len(), 2);
}

/// The targets may be names.
pub async fn a_name_may_point_to_a_name(h: &dyn DnsHarness) {
    let (blue, green) = (
        Target::Name("blue.example.net".into()),
        Target::Name("green.example.net".into()),
    );
    become_what(h, &plain(&blue, TTL)).await;
    assert_eq!(read(h).await.sets, blue.record_sets(TTL));
    let intent = weighted(&blue, &green, Share::ZERO, TTL, OWNER);
    let (plan, _) = become_what(h, &intent).await;
    assert!(read(h).await.is(&intent, plan.share));
    become_what(h, &plain(&green, TTL)).await;
    assert_eq!(read(h).await.sets, green.record_sets(TTL));
}

/// A plain record becomes ours at no share, and says whose it is.
pub async fn a_plain_record_is_adopted_without_moving_a_user(h: &dyn DnsHarness) {
    become_what(h, &plain(&blue(), TTL)).await;
    let intent = split(Share::ZERO, TTL);
    let (plan, _) = become_what(h, &intent).await;
    assert!(plan.changes);
    assert_eq!(plan.share, Some(Share::ZERO));
    let seen = read(h).await;
    assert_eq!(seen.shape, Shape::Weighted { share: Share::ZERO });
    assert_eq!(seen.owner.as_deref(), Some(OWNER));
    assert!(seen.is(&intent, plan.share), "{seen:?}");
}

/// The second time there is nothing to send, and sending it is success without a change.
pub async fn saying_it_twice_changes_nothing(h: &dyn DnsHarness) {
    for intent in [
        plain(&blue(), TTL),
        split(Share::ZERO, 60),
        split(Share::FULL, 60),
        plain(&green(), TTL),
    ] {
        become_what(h, &intent).await;
        let before = read(h).await;
        let (again, _) = become_what(h, &intent).await;
        assert!(!again.changes, "{again}");
        assert!(again.lines.is_empty(), "{again}");
        assert_eq!(read(h).await.version, before.version);
    }
}

/// The share that is read is the one that the plan announced, and never rounds to nobody or everybody.
pub async fn a_share_comes_back_as_the_plan_said(h: &dyn DnsHarness) {
    let wanted: &[u16] = if has_weights(h) {
        &[0, 1, 100, 500, 999, 1000, 0]
    } else {
        &[0, 1000, 0]
    };
    for per_mille in wanted {
        let share = Share::per_mille(*per_mille).expect("a share");
        let (plan, _) = become_what(h, &split(share, TTL)).await;
        let real = plan.share.expect("a weighted plan says its share");
        assert_eq!(read(h).await.shape, Shape::Weighted { share: real });
        let ends = [Share::ZERO, Share::FULL];
        assert_eq!(ends.contains(&share), ends.contains(&real), "{share} became {real}");
    }
}

/// Without weights, a share in between is an error and not a surprise.
pub async fn a_share_it_cannot_have_is_refused(h: &dyn DnsHarness) {
    if has_weights(h) {
        return;
    }
    let snapshot = read(h).await;
    let tenth = Share::percent(10).expect("a share");
    assert!(h.provider().compile(&snapshot, &split(tenth, TTL)).is_err());
}

/// Lowering a TTL leaves the share and the values.
pub async fn a_ttl_is_lowered_and_nothing_else(h: &dyn DnsHarness) {
    become_what(h, &split(Share::ZERO, TTL)).await;
    let low = h.provider().capabilities().min_ttl.max(30);
    let (plan, _) = become_what(h, &split(Share::ZERO, low)).await;
    let seen = read(h).await;
    assert_eq!(
        (seen.ttl, &seen.shape),
        (Some(low), &Shape::Weighted { share: Share::ZERO })
    );
    assert!(seen.is(&split(Share::ZERO, low), plan.share));
}

/// What was there before is there again: values, TTL, no owner.
pub async fn release_puts_back_exactly_what_was_there(h: &dyn DnsHarness) {
    let several = Target::Addresses {
        v4: vec![Ipv4Addr::new(192, 0, 2, 12), Ipv4Addr::new(192, 0, 2, 11)],
        v6: vec![],
    };
    become_what(h, &plain(&several, 4321)).await;
    let before = read(h).await;
    become_what(h, &weighted(&several, &green(), Share::ZERO, 60, OWNER)).await;
    become_what(h, &weighted(&several, &green(), Share::FULL, 60, OWNER)).await;
    let release = Intent::Plain {
        sets: before.sets.clone(),
        raw: before.raw.clone(),
    };
    become_what(h, &release).await;
    let after = read(h).await;
    assert_eq!(
        (after.shape, after.sets, after.ttl),
        (Shape::Simple, before.sets, Some(4321))
    );
    assert_eq!((after.owner, after.raw), (None, before.raw));
}

/// A weighted record becomes the plain record of either side.
pub async fn release_to_either_side(h: &dyn DnsHarness) {
    for target in [green(), blue()] {
        become_what(h, &split(Share::ZERO, 60)).await;
        become_what(h, &plain(&target, TTL)).await;
        let seen = read(h).await;
        assert_eq!(
            (seen.shape, seen.sets, seen.owner),
            (Shape::Simple, target.record_sets(TTL), None)
        );
    }
}

/// A record that we made can be taken away without a trace.
pub async fn a_name_that_was_absent_can_be_absent_again(h: &dyn DnsHarness) {
    become_what(h, &split(Share::ZERO, 60)).await;
    let nothing = Intent::Plain {
        sets: vec![],
        raw: serde_json::Value::Null,
    };
    become_what(h, &nothing).await;
    let seen = read(h).await;
    assert_eq!((seen.shape, seen.sets, seen.owner), (Shape::Absent, vec![], None));
}

/// What another migration owns is not touched.
pub async fn another_owner_is_refused(h: &dyn DnsHarness) {
    become_what(h, &split(Share::ZERO, 60)).await;
    let before = read(h).await;
    let theirs = weighted(&blue(), &green(), Share::FULL, 60, "another");
    assert!(h.provider().compile(&before, &theirs).is_err());
    assert_eq!(read(h).await, before);
}

/// What is not ours is recognised, and refused whatever is wanted.
pub async fn a_foreign_shape_is_refused(h: &dyn DnsHarness) {
    if !h.put_foreign().await {
        return;
    }
    let seen = read(h).await;
    assert!(matches!(seen.shape, Shape::Foreign(_)), "{seen:?}");
    for intent in [split(Share::ZERO, 60), plain(&blue(), TTL)] {
        assert!(h.provider().compile(&seen, &intent).is_err(), "{intent:?}");
    }
    assert_eq!(read(h).await, seen);
}

/// A plan made from an older snapshot answers what is there now, and changes nothing.
pub async fn a_stale_plan_changes_nothing(h: &dyn DnsHarness) {
    if !h.provider().capabilities().compare_and_swap {
        return;
    }
    become_what(h, &plain(&blue(), TTL)).await;
    let stale = plan(h, &split(Share::FULL, 60)).await;
    become_what(h, &plain(&both_families(99), TTL)).await;
    let now = read(h).await;
    match h.provider().apply(&stale).await.expect("the change is sent") {
        Applied::Conflict(seen) => assert_eq!(*seen, now),
        other => panic!("a stale plan was {other:?}"),
    }
    assert_eq!(read(h).await, now);
}

/// The same arguments give the same plan, and nothing is sent by it.
pub async fn compiling_is_pure(h: &dyn DnsHarness) {
    become_what(h, &plain(&blue(), TTL)).await;
    let before = read(h).await;
    let first = plan(h, &split(Share::FULL, 60)).await;
    let second = plan(h, &split(Share::FULL, 60)).await;
    assert_eq!(first, second);
    assert!(!first.to_string().is_empty());
    assert_eq!(read(h).await, before);
}

/// Every authority, asked directly, serves the new values and TTL.
pub async fn every_authority_serves_it_in_the_end(h: &dyn DnsHarness) {
    become_what(h, &plain(&blue(), TTL)).await;
    become_what(h, &split(Share::FULL, 60)).await;
    let expected: BTreeSet<String> = green().record_sets(60).into_iter().flat_map(|set| set.values).collect();
    let mut seen = vec![];
    for _ in 0..LOOKS {
        seen = h
            .provider()
            .ask_authorities(&h.record(), 3)
            .await
            .expect("the authorities are known");
        let all = seen.iter().all(|authority| match &authority.answer {
            Answer::Serving { seen, samples, ttl, .. } => {
                *samples == 3 && *ttl == 60 && seen.keys().cloned().collect::<BTreeSet<_>>() == expected
            }
            Answer::Wrong(_) | Answer::Silent(_) => false,
        });
        if all && !seen.is_empty() {
            return;
        }
        h.pause().await;
    }
    panic!("not every authority serves {expected:?}: {seen:?}");
}

/// Half is about half, where asking from one place can tell.
pub async fn the_authorities_serve_the_share(h: &dyn DnsHarness) {
    if !has_weights(h) || h.provider().capabilities().sticky {
        return;
    }
    let half = Share::percent(50).expect("a share");
    become_what(h, &split(half, 60)).await;
    let to_green = green().values(bluegreen_core::RecordKind::A).remove(0);
    let mut seen = vec![];
    for _ in 0..LOOKS {
        seen = h
            .provider()
            .ask_authorities(&h.record(), 1000)
            .await
            .expect("the authorities are known");
        let all = seen.iter().all(|authority| match &authority.answer {
            // Six standard deviations to either side.
            Answer::Serving { seen, .. } => (400..=600).contains(&seen.get(&to_green).copied().unwrap_or(0)),
            Answer::Wrong(_) | Answer::Silent(_) => false,
        });
        if all && !seen.is_empty() {
            return;
        }
        h.pause().await;
    }
    panic!("not every authority serves half of its answers with {to_green}: {seen:?}");
}

/// Where the provider tells how far a change has come, it tells in the end that it is everywhere.
pub async fn a_change_gets_in_sync(h: &dyn DnsHarness) {
    let (_, receipt) = become_what(h, &plain(&blue(), TTL)).await;
    let tells = h.provider().capabilities().change_status;
    for _ in 0..LOOKS {
        match h.provider().poll(&receipt).await.expect("the change can be asked for") {
            ChangeStatus::InSync => return assert!(tells, "in sync, by a provider that claims not to know"),
            ChangeStatus::Submitted if !tells => return,
            ChangeStatus::Pending | ChangeStatus::Submitted => h.pause().await,
        }
    }
    panic!("the change never got in sync");
}
