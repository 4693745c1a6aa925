//! What becomes of the others when one of several databases, or one of several gates, is not like them.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{
    AllDatabases, AllGates, AppGate, Color, Comparison, Direction, GateState, Kind, NoDatabase, NoGate, Replicator,
    WriteGate,
};
use bluegreen_testkit::fake::{Databases, FakeGate, FakeReplicator};
use bluegreen_testkit::{Fault, Faults, Faulty, VirtualClock};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(2);

/// Two pairs of databases that are mirrored, and the faults of the second.
async fn mirrored() -> (VirtualClock, [Databases; 2], AllDatabases, Faults) {
    let clock = VirtualClock::new();
    let pairs = [0, 1].map(|_| Databases::new(clock.clone()).with_copy(Duration::from_millis(100)));
    let faults = Faults::new(clock.clone());
    let second = Faulty::new(FakeReplicator::new(&pairs[1]), &faults);
    let both = AllDatabases::new()
        .with("orders", FakeReplicator::new(&pairs[0]))
        .unwrap();
    let both = both.with("stock", second).unwrap();
    both.start(Direction::BlueToGreen).await.unwrap();
    clock.advance(Duration::from_secs(1));
    (clock, pairs, both, faults)
}

#[tokio::test]
async fn where_one_cannot_be_fenced_all_are_given_back() {
    let (_, pairs, both, _) = mirrored().await;
    let open = pairs[1].begin(Color::Blue, 1).unwrap();
    let e = both.fence(Color::Blue, WITHIN).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout, "{e}");
    assert!(e.message().starts_with("stock: "), "{e}");
    both.unfence(Color::Blue).await.unwrap();
    for pair in &pairs {
        pair.write(Color::Blue, 2).unwrap();
    }
    pairs[1].commit(open).unwrap();
    assert!(both.fence(Color::Blue, WITHIN).await.is_ok(), "and then it can");
    assert!(!pairs[0].accepts(Color::Blue) && !pairs[1].accepts(Color::Blue));
}

/// One that fails at once does not wait for another that drains.
#[tokio::test]
async fn the_first_that_cannot_be_fenced_ends_it() {
    let (clock, pairs, both, faults) = mirrored().await;
    faults.script("replicator.fence", [Some(Fault::Reject(Kind::Diverged))]);
    let open = pairs[0].begin(Color::Blue, 1).unwrap();
    let before = bluegreen_core::Clock::now(&clock);
    let e = both.fence(Color::Blue, WITHIN).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Diverged, "{e}");
    assert_eq!(bluegreen_core::Clock::now(&clock), before, "it waited for orders");
    pairs[0].commit(open).unwrap();
    pairs[0].write(Color::Blue, 2).unwrap();
}

/// Whoever can be given back is, and what went wrong with the other is said beside the reason.
#[tokio::test]
async fn one_that_cannot_be_given_back_keeps_no_other() {
    let (_, pairs, both, faults) = mirrored().await;
    both.fence(Color::Blue, WITHIN).await.unwrap();
    faults.script("replicator.unfence", [Some(Fault::Reject(Kind::Unavailable))]);
    let e = both.unfence(Color::Blue).await.unwrap_err();
    assert!(e.is_transient() && e.message().starts_with("stock: "), "{e}");
    pairs[0].write(Color::Blue, 1).unwrap();
    both.unfence(Color::Blue).await.unwrap();
    pairs[1].write(Color::Blue, 1).unwrap();
}

/// A human is asked before anything is undone, and before anything is tried again.
#[tokio::test]
async fn of_several_errors_the_gravest_decides() {
    let clock = VirtualClock::new();
    let mut all = AllDatabases::new();
    for (name, kind) in [
        ("a", Kind::Unavailable),
        ("b", Kind::Unexpected),
        ("c", Kind::PermissionDenied),
    ] {
        let faults = Faults::new(clock.clone());
        faults.script("replicator.leftovers", [Some(Fault::Reject(kind))]);
        let part = Faulty::new(FakeReplicator::new(&Databases::new(clock.clone())), &faults);
        all = all.with(name, part).unwrap();
    }
    let e = all.leftovers().await.unwrap_err();
    assert_eq!(e.kind(), Kind::PermissionDenied, "{e}");
    for name in ["a: ", "b: ", "c: "] {
        assert!(e.message().contains(name), "{e}");
    }
    assert_eq!(all.leftovers().await.unwrap(), Vec::<String>::new());
}

/// An answer that one has found is kept while another is still at it, and not asked for twice.
#[tokio::test]
async fn comparisons_end_together() {
    let (clock, pairs, both, faults) = mirrored().await;
    assert!(matches!(both.compare().await.unwrap(), Comparison::Running { .. }));
    clock.advance(Duration::from_secs(1));
    faults.script("replicator.compare", [Some(Fault::Reject(Kind::Unavailable))]);
    let e = both.compare().await.unwrap_err();
    assert!(e.message().starts_with("stock: "), "{e}");
    // Had orders been asked again, it would be at its beginning now.
    let Comparison::Same(compared) = both.compare().await.unwrap() else {
        panic!("it was begun anew")
    };
    assert_eq!(compared.tables, 2);
    assert!(
        matches!(both.compare().await.unwrap(), Comparison::Running { .. }),
        "the next one begins anew"
    );
    drop(pairs);
}

#[tokio::test]
async fn what_is_in_the_way_says_of_which() {
    let (_, pairs, both, _) = mirrored().await;
    pairs[1].obstruct(["pid 7 since noon"]);
    let forecast = both.arm(Color::Green, WITHIN).await.unwrap();
    assert_eq!(forecast.in_the_way, ["stock: pid 7 since noon"]);
    assert!(forecast.against(WITHIN).is_some());
}

#[tokio::test]
async fn one_gate_that_cannot_be_held_holds_none() {
    let clock = VirtualClock::new();
    let gates = [0, 1].map(|_| FakeGate::new(clock.clone()));
    let both = AllGates::new().with("orders", gates[0].clone()).unwrap();
    let both = both.with("stock", gates[1].clone()).unwrap();
    let unit = gates[1].try_enter().unwrap();
    let e = both.hold(WITHIN).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout, "{e}");
    assert!(e.message().starts_with("stock: "), "{e}");
    assert!(!gates[0].look().held && !gates[1].look().held, "somebody waits");
    drop(unit);
    both.hold(WITHIN).await.unwrap();
    assert!(gates[0].look().held && gates[1].look().held);
}

/// A unit of work that is in the first gate enters the second while the first drains.
#[tokio::test]
async fn the_first_gate_drains_while_the_second_is_open() {
    let gates = [0, 1].map(|_| AppGate::new((), ()));
    let both = AllGates::new().with("orders", gates[0].clone()).unwrap();
    let both = both.with("stock", gates[1].clone()).unwrap();
    let first = gates[0].enter().await;
    let work = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let second = gates[1].enter().await;
        assert_eq!(first.color(), second.color());
        drop((first, second));
    };
    let (held, ()) = tokio::join!(both.hold(Duration::from_secs(10)), work);
    held.unwrap();
}

#[tokio::test]
async fn one_gate_that_was_not_told_yet_says_nothing_of_where_writes_go() {
    let clock = VirtualClock::new();
    let pooler = FakeGate::new(clock.clone());
    pooler.point_at(Color::Green).await.unwrap();
    let app = AppGate::held((), ());
    let both = AllGates::new().with("app", app.clone()).unwrap();
    let both = both.with("pooler", pooler.clone()).unwrap();
    let (held, at) = (true, Color::Green);
    assert_eq!(both.state().await.unwrap(), GateState { held, at });
    app.release().await.unwrap();
    let e = both.state().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Diverged);
    assert!(e.message().contains("app at blue, pooler at green"), "{e}");
    both.point_at(Color::Green).await.unwrap();
    assert_eq!(both.state().await.unwrap(), GateState { held: false, at });
}

#[test]
fn each_has_a_name_and_something_to_do() {
    let clock = VirtualClock::new();
    let part = |on: &str| {
        let faults = Faults::new(clock.clone());
        Faulty::new(FakeReplicator::new(&Databases::new(clock.clone())), &faults).acting_on(on)
    };
    let one = || AllDatabases::new().with("orders", part("blue a, green b")).unwrap();
    let refused = [
        (one().with("orders", part("blue c, green d")), "two are named orders"),
        (
            one().with("stock", part("blue a, green b")),
            "orders and stock both act on blue a, green b",
        ),
        (one().with("", part("x")), "1 to 32 letters"),
        (one().with("a: b", part("x")), "1 to 32 letters"),
        (one().with("none", NoDatabase), "leave it out"),
    ];
    for (refused, why) in refused {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::InvalidInput);
        assert!(e.message().contains(why), "{e}");
    }
    assert!(AllGates::new().with("none", NoGate).is_err());
    let two = one().with("a", part("blue c, green d")).unwrap();
    assert_eq!(two.acts_on(), "a: blue c, green d; orders: blue a, green b");
    let turned = AllDatabases::new().with("a", part("blue c, green d")).unwrap();
    let turned = turned.with("orders", part("blue a, green b")).unwrap();
    assert_eq!(
        (two.acts_on(), two.name()),
        (turned.acts_on(), turned.name()),
        "the order makes no other migration"
    );
    assert!(!AllDatabases::new().is_present() && !AllGates::new().is_present());
}
