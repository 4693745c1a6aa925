//! The built-in policies: a table of what they say, and the laws they keep.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{
    Action, AtOnce, Color, Evidence, Linear, Observation, OnFail, Share, Steps, Timestamp, TrafficPolicy, Verdict,
};
use proptest::prelude::*;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn percent(p: u16) -> Share {
    Share::percent(p).unwrap()
}

fn minute(n: u32) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000) + MINUTE * n
}

fn evidence(requests: u64) -> Evidence {
    Evidence {
        requests,
        ..Evidence::default()
    }
}

fn fail() -> Verdict {
    Verdict::Fail {
        reason: "error rate".into(),
        evidence: evidence(100),
    }
}

/// A share of `p` asked for at minute 0, effective from minute 1, passing, at minute `now`.
fn passing(p: u16, now: u32) -> Observation {
    let mut seen = Observation::new(minute(0), percent(p));
    seen.now = minute(now);
    seen.effective_since = Some(minute(1));
    seen.verdict = Verdict::Pass(evidence(100));
    seen
}

fn with(mut seen: Observation, change: impl FnOnce(&mut Observation)) -> Observation {
    change(&mut seen);
    seen
}

fn failing(p: u16, failures: u32) -> Observation {
    with(passing(p, 5), |s| {
        s.verdict = fail();
        s.failures = failures;
    })
}

fn steps() -> Steps {
    Steps::new([10, 50, 100]).bake("10m").deadline("1h")
}

fn history(shares: &[u16]) -> Vec<(Share, Timestamp)> {
    shares.iter().map(|p| (percent(*p), minute(0))).collect()
}

#[test]
fn what_they_say() {
    use Action::{Abort, Advance, Complete, Hold, Retreat, Stay};
    let unseen = |p, now| with(passing(p, now), |s| s.effective_since = None);
    let unsure = |p, now| with(passing(p, now), |s| s.verdict = Verdict::no_data());
    let after = |shares: &[u16], s: Observation| with(s, |s| s.history = history(shares));
    let approved = |p, s: Observation| with(s, |s| s.approved = Some(percent(p)));
    let table: Vec<(&str, Steps, Observation, Action)> = vec![
        ("begins", steps(), passing(0, 2), Advance(percent(10))),
        (
            "begins with nobody to judge",
            steps(),
            unsure(0, 2),
            Advance(percent(10)),
        ),
        ("does not begin unseen", steps(), unseen(0, 2), Stay(Some(minute(60)))),
        ("does not begin on a failure", steps(), failing(0, 1), Hold),
        ("bakes", steps(), passing(10, 10), Stay(Some(minute(11)))),
        ("moves on when baked", steps(), passing(10, 11), Advance(percent(50))),
        ("moves on, late or not", steps(), passing(10, 90), Advance(percent(50))),
        ("waits to be seen", steps(), unseen(10, 30), Stay(Some(minute(60)))),
        (
            "does not take no data for health",
            steps(),
            unsure(10, 30),
            Stay(Some(minute(60))),
        ),
        ("is over when all are there", steps(), passing(100, 11), Complete),
        (
            "bakes the last one too",
            steps(),
            passing(100, 10),
            Stay(Some(minute(11))),
        ),
        (
            "between two shares goes to the next",
            steps(),
            passing(30, 20),
            Advance(percent(50)),
        ),
        (
            "waits for requests",
            steps().min_requests(101),
            passing(10, 20),
            Stay(Some(minute(60))),
        ),
        (
            "has its requests",
            steps().min_requests(100),
            passing(10, 20),
            Advance(percent(50)),
        ),
        ("asks", steps().approve_before(50), passing(10, 20), Stay(None)),
        (
            "does not ask below",
            steps().approve_before(60),
            passing(10, 20),
            Advance(percent(50)),
        ),
        (
            "was allowed",
            steps().approve_before(50),
            approved(50, passing(10, 20)),
            Advance(percent(50)),
        ),
        (
            "was allowed less",
            steps().approve_before(50),
            approved(10, passing(10, 20)),
            Stay(None),
        ),
        ("retreats to zero", steps(), failing(50, 1), Retreat(Share::ZERO)),
        (
            "retreats before all see it",
            steps(),
            with(failing(50, 1), |s| s.effective_since = None),
            Retreat(Share::ZERO),
        ),
        ("holds", steps().on_fail(OnFail::Hold), failing(50, 1), Hold),
        (
            "retreats one",
            steps().on_fail(OnFail::RetreatOne),
            failing(50, 1),
            Retreat(percent(10)),
        ),
        (
            "retreats one from the first",
            steps().on_fail(OnFail::RetreatOne),
            failing(10, 1),
            Retreat(Share::ZERO),
        ),
        ("aborts", steps().on_fail(OnFail::Abort), failing(10, 1), Abort),
        ("bears one failure", steps().fail_after(2), failing(10, 1), Stay(None)),
        (
            "bears no second",
            steps().fail_after(2),
            failing(10, 2),
            Retreat(Share::ZERO),
        ),
        (
            "stays at zero after a retreat",
            steps(),
            after(&[0, 10, 0], passing(0, 2)),
            Hold,
        ),
        (
            "begins again when told to",
            steps(),
            approved(10, after(&[0, 10, 0], passing(0, 2))),
            Advance(percent(10)),
        ),
        (
            "tries a share once more",
            steps(),
            after(&[0, 10, 50, 10], passing(10, 20)),
            Advance(percent(50)),
        ),
        (
            "and no third time",
            steps(),
            after(&[0, 10, 50, 10, 50, 10], passing(10, 20)),
            Hold,
        ),
        (
            "gives up what never gets data",
            steps(),
            unsure(10, 60),
            Retreat(Share::ZERO),
        ),
        (
            "gives up what never is seen",
            steps().on_fail(OnFail::Abort),
            unseen(10, 60),
            Abort,
        ),
        (
            "waits on when told to",
            steps(),
            approved(50, unsure(10, 60)),
            Stay(None),
        ),
        (
            "green writes: no way back by share",
            steps(),
            with(failing(100, 1), |s| s.authority = Color::Green),
            Hold,
        ),
        (
            "blue is ill, not frozen",
            steps(),
            with(failing(10, 1), |s| s.blue_healthy = Some(false)),
            Retreat(Share::ZERO),
        ),
        (
            "blue is ill",
            steps().freeze_while_blue_is_ill(),
            with(failing(10, 1), |s| s.blue_healthy = Some(false)),
            Stay(Some(minute(60))),
        ),
        (
            "blue is ill for too long",
            steps().freeze_while_blue_is_ill(),
            with(passing(10, 60), |s| s.blue_healthy = Some(false)),
            Hold,
        ),
        (
            "blue is not known",
            steps().freeze_while_blue_is_ill(),
            passing(10, 20),
            Advance(percent(50)),
        ),
    ];
    for (what, policy, seen, action) in table {
        let decision = policy.decide(&seen);
        assert_eq!(decision.action, action, "{what}: {}", decision.reason);
        assert!(!decision.reason.is_empty(), "{what}");
    }
}

#[test]
fn linear_and_at_once_climb_their_own_way() {
    let linear = Linear::new(40, "5m");
    assert_eq!(linear.shares(), [40, 80, 100].map(percent));
    assert_eq!(linear.decide(&passing(40, 6)).action, Action::Advance(percent(80)));
    assert_eq!(Linear::new(100, "5m").shares(), [Share::FULL]);
    assert_eq!(Linear::new(0.1, "5m").shares().len(), 1000);
    assert_eq!(
        AtOnce::new().decide(&passing(0, 1)).action,
        Action::Advance(Share::FULL)
    );
    assert_eq!(AtOnce::new().decide(&passing(100, 1)).action, Action::Complete);
}

#[test]
fn says_what_is_wrong_and_what_is_expected() {
    let none: [f64; 0] = [];
    let wrong: Vec<(Box<dyn TrafficPolicy>, &str)> = vec![
        (Box::new(Steps::new([50, 10])), "the last share is 10 %"),
        (Box::new(Steps::new([50, 10, 100])), "10 % comes after 50 %"),
        (Box::new(Steps::new([10, 10, 100])), "10 % comes after 10 %"),
        (Box::new(Steps::new(none)), "there are no shares"),
        (Box::new(Steps::new([10, 110])), "110 is no share"),
        (Box::new(Steps::new([-1, 100])), "-1 is no share"),
        (Box::new(Steps::new([f64::NAN, 100.0])), "NaN is no share"),
        (Box::new(Steps::new([0.55, 100.0])), "tenths of a per cent"),
        (Box::new(Steps::new([10, 50])), "the last share is 50 %"),
        (Box::new(Steps::new([0, 100])), "the first share is 0"),
        (Box::new(steps().bake("soon")), "bake: \"soon\" is no length of time"),
        (Box::new(steps().deadline("5")), "deadline: \"5\""),
        (Box::new(steps().deadline("10m")), "not longer than its bake of 10m"),
        (Box::new(steps().approve_before(101)), "approve_before: 101"),
        (Box::new(steps().approve_before(0)), "approve_before is 0"),
        (Box::new(steps().fail_after(0)), "fail_after is 0"),
        (Box::new(Linear::new(0, "5m")), "the step is 0"),
        (Box::new(Linear::new(200, "5m")), "the step: 200"),
        (Box::new(Linear::new(10, "5 minutes")), "every: \"5 minutes\""),
    ];
    for (policy, part) in wrong {
        let why = policy.validate().unwrap_err();
        assert!(why.contains(part), "{why}");
    }
    for right in [
        Steps::new([100]),
        Steps::new([0.1, 100.0]),
        steps().bake(Duration::ZERO),
    ] {
        assert_eq!(right.validate(), Ok(()));
    }
}

#[test]
fn describes_all_that_was_set_in_one_line() {
    let policy = steps()
        .min_requests(500)
        .approve_before(100)
        .on_fail(OnFail::RetreatOne);
    assert_eq!(
        policy.fail_after(3).freeze_while_blue_is_ill().describe(),
        "10 %, 50 %, 100 %, each watched for 10m and 500 requests; asks before 100 %; on failure: back one share \
         after 3 in a row; at most 1h a share; nothing moves while blue is ill"
    );
}

fn policies() -> impl Strategy<Value = Steps> {
    let on_fail = prop_oneof![
        Just(OnFail::Hold),
        Just(OnFail::RetreatOne),
        Just(OnFail::RetreatToZero),
        Just(OnFail::Abort)
    ];
    let shares = prop::collection::btree_set(1u16..100, 0..5);
    (
        shares,
        0u64..30,
        0u64..200,
        prop::option::of(1u16..=100),
        on_fail,
        1u32..4,
        any::<bool>(),
    )
        .prop_map(|(shares, bake, requests, approve, on_fail, fail_after, freeze)| {
            let mut policy = Steps::new(shares.into_iter().chain([100]))
                .bake(MINUTE * bake as u32)
                .deadline("1h")
                .min_requests(requests)
                .on_fail(on_fail)
                .fail_after(fail_after);
            if let Some(percent) = approve {
                policy = policy.approve_before(percent);
            }
            if freeze {
                policy.freeze_while_blue_is_ill()
            } else {
                policy
            }
        })
}

fn observations() -> impl Strategy<Value = Observation> {
    let verdict = prop_oneof![
        (0u64..300).prop_map(|n| Verdict::Pass(evidence(n))),
        Just(fail()),
        Just(Verdict::no_data())
    ];
    let history = prop::collection::vec(0u16..=100, 0..6);
    (
        0u16..=1000,
        0u32..120,
        prop::option::of(0u32..120),
        verdict,
        prop::option::of(any::<bool>()),
        0u32..4,
        any::<bool>(),
        prop::option::of(0u16..=100),
        history,
    )
        .prop_map(
            |(share, now, effective, verdict, blue, failures, green_writes, approved, past)| {
                let share = Share::per_mille(share).unwrap();
                let mut seen = Observation::new(minute(0), share);
                seen.now = minute(now);
                seen.effective_since = effective.filter(|e| *e <= now).map(minute);
                seen.verdict = verdict;
                seen.blue_healthy = blue;
                seen.failures = failures;
                seen.authority = if green_writes { Color::Green } else { Color::Blue };
                seen.approved = approved.map(percent);
                seen.history = history_then(&past, share);
                seen
            },
        )
}

fn history_then(past: &[u16], share: Share) -> Vec<(Share, Timestamp)> {
    history(past).into_iter().chain([(share, minute(0))]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_laws(policy in policies(), seen in observations()) {
        prop_assert_eq!(policy.validate(), Ok(()));
        let decision = policy.decide(&seen);
        prop_assert_eq!(&decision, &policy.clone().decide(&seen.clone()), "it remembers nothing");
        match decision.action {
            Action::Advance(to) => {
                prop_assert!(seen.effective_since.is_some(), "never before users see it");
                prop_assert!(seen.verdict.is_pass() || seen.share == Share::ZERO && !seen.verdict.is_fail());
                prop_assert!(to > seen.share && policy.shares().contains(&to));
            }
            Action::Complete => {
                prop_assert!(seen.effective_since.is_some() && seen.verdict.is_pass());
                prop_assert_eq!(seen.share, Share::FULL);
            }
            Action::Retreat(to) => {
                prop_assert!(to < seen.share);
                prop_assert!(seen.authority == Color::Blue, "never past authority");
                prop_assert!(!seen.verdict.is_pass() || seen.effective_since.is_none() || seen.now >= minute(60));
            }
            Action::Abort => prop_assert_eq!(seen.authority, Color::Blue),
            Action::Stay(until) => prop_assert!(until.is_none_or(|t| t > seen.now), "a look that lies ahead"),
            Action::Hold => {}
        }
    }

    #[test]
    fn a_share_that_passes_climbs_to_the_end(policy in policies()) {
        let mut seen = passing(0, 2);
        let mut asked = 0;
        loop {
            let decision = policy.decide(&seen);
            match decision.action {
                Action::Advance(to) => {
                    prop_assert!(to > seen.share);
                    asked += 1;
                    seen = with(passing(0, 40), |s| {
                        s.share = to;
                        s.verdict = Verdict::Pass(evidence(1000));
                    });
                }
                Action::Stay(None) if decision.reason.contains("approval") => {
                    seen.approved = policy.shares().into_iter().find(|s| *s > seen.share);
                }
                Action::Complete => break,
                other => prop_assert!(false, "{other:?}: {}", decision.reason),
            }
        }
        prop_assert_eq!(asked, policy.shares().len());
    }
}
