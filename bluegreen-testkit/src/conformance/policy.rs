//! What every `TrafficPolicy` owes: a ladder of shares, a reason, and the same answer to the same question.
//! The functions are async only to be called like those of the other suites.
#![allow(clippy::unused_async)]

use bluegreen_core::{Action, Decision, Evidence, Observation, Share, Timestamp, TrafficPolicy, Verdict};
use std::time::Duration;

/// Makes a module of tests of the [policy suite](crate::conformance::policy); the harness is the policy itself.
#[macro_export]
macro_rules! policy_conformance {
    ($module:ident, $policy:expr) => {
        $crate::conformance_tests!(
            $module,
            policy,
            $policy,
            [
                it_says_what_it_will_do,
                its_shares_rise_to_everybody,
                every_decision_has_a_reason,
                it_answers_the_same_to_the_same,
                it_never_advances_before_the_share_is_effective,
                it_never_advances_on_a_fail_or_on_nothing,
                it_moves_up_its_own_ladder_only,
                a_green_that_is_well_gets_everybody_in_the_end,
            ]
        );
    };
}

const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

fn evidence(errors: u64) -> Evidence {
    Evidence {
        requests: 100_000,
        errors,
        p50: Some(Duration::from_millis(2)),
        p99: Some(Duration::from_millis(9)),
    }
}

fn fail() -> Verdict {
    Verdict::Fail {
        reason: "too many errors".into(),
        evidence: evidence(50_000),
    }
}

/// Every share, effective or not, with every verdict, at several times.
fn observations(policy: &dyn TrafficPolicy) -> Vec<Observation> {
    let mut all = vec![];
    let shares = std::iter::once(Share::ZERO).chain(policy.shares());
    for share in shares {
        for verdict in [Verdict::Pass(evidence(0)), fail(), Verdict::no_data()] {
            for effective_after in [None, Some(Duration::ZERO), Some(Duration::from_secs(60))] {
                for later in [
                    Duration::from_secs(60),
                    Duration::from_secs(3600),
                    Duration::from_secs(400_000),
                ] {
                    let mut seen = Observation::new(START, share);
                    seen.now = START + later;
                    seen.effective_since = effective_after.map(|after| START + after);
                    seen.failures = u32::from(verdict.is_fail()) * 3;
                    seen.verdict = verdict.clone();
                    seen.approved = Some(Share::FULL);
                    all.push(seen);
                }
            }
        }
    }
    all
}

/// In a line, for the plan.
pub async fn it_says_what_it_will_do(policy: &dyn TrafficPolicy) {
    let line = policy.describe();
    assert!(!line.trim().is_empty() && !line.contains('\n'), "{line:?}");
    assert_eq!(policy.validate(), Ok(()));
}

/// Ascending, none twice, and the last one is everybody.
pub async fn its_shares_rise_to_everybody(policy: &dyn TrafficPolicy) {
    let shares = policy.shares();
    assert!(shares.windows(2).all(|pair| pair[0] < pair[1]), "{shares:?}");
    assert_eq!(shares.last(), Some(&Share::FULL));
}

/// It lands in the journal.
pub async fn every_decision_has_a_reason(policy: &dyn TrafficPolicy) {
    for seen in observations(policy) {
        assert!(!policy.decide(&seen).reason.trim().is_empty(), "{seen:?}");
    }
}

/// A restart changes nothing.
pub async fn it_answers_the_same_to_the_same(policy: &dyn TrafficPolicy) {
    let first: Vec<Decision> = observations(policy).iter().map(|seen| policy.decide(seen)).collect();
    let again: Vec<Decision> = observations(policy).iter().map(|seen| policy.decide(seen)).collect();
    assert_eq!(first, again);
}

/// A share that users do not see yet says nothing.
pub async fn it_never_advances_before_the_share_is_effective(policy: &dyn TrafficPolicy) {
    for seen in observations(policy) {
        if seen.effective_since.is_none() && seen.share > Share::ZERO {
            let action = policy.decide(&seen).action;
            assert!(
                !matches!(action, Action::Advance(_) | Action::Complete),
                "{action:?} on {seen:?}"
            );
        }
    }
}

/// No data is not healthy.
pub async fn it_never_advances_on_a_fail_or_on_nothing(policy: &dyn TrafficPolicy) {
    for seen in observations(policy) {
        if !seen.verdict.is_pass() && seen.share > Share::ZERO {
            let action = policy.decide(&seen).action;
            assert!(
                !matches!(action, Action::Advance(_) | Action::Complete),
                "{action:?} on {seen:?}"
            );
        }
    }
}

/// Up to a share it announced, and down to a smaller one.
pub async fn it_moves_up_its_own_ladder_only(policy: &dyn TrafficPolicy) {
    for seen in observations(policy) {
        match policy.decide(&seen).action {
            Action::Advance(to) => assert!(to > seen.share && policy.shares().contains(&to), "{to} on {seen:?}"),
            Action::Retreat(to) => assert!(to < seen.share, "{to} on {seen:?}"),
            Action::Stay(Some(at)) => assert!(at > seen.now, "{at} on {seen:?}"),
            Action::Stay(None) | Action::Hold | Action::Abort | Action::Complete => {}
        }
    }
}

/// With passes all the way and everything approved it climbs every share and is complete.
pub async fn a_green_that_is_well_gets_everybody_in_the_end(policy: &dyn TrafficPolicy) {
    let mut seen = Observation::new(START, Share::ZERO);
    seen.approved = Some(Share::FULL);
    seen.blue_healthy = Some(true);
    for _ in 0..100_000 {
        match policy.decide(&seen).action {
            Action::Advance(to) => {
                seen.share = to;
                seen.since = seen.now;
                seen.history.push((to, seen.now));
                seen.effective_since = None;
            }
            Action::Complete => return assert_eq!(seen.share, Share::FULL),
            Action::Stay(_) => {}
            other => panic!("{other:?} on {seen:?}"),
        }
        seen.now = seen.now + Duration::from_secs(60);
        seen.verdict = Verdict::Pass(evidence(0));
        if seen.effective_since.is_none() {
            seen.effective_since = Some(seen.now);
        }
    }
    panic!("it never ends: {seen:?}");
}
