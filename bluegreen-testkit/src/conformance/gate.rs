//! What every `WriteGate` owes: work waits and does not fail, running work ends first, and every way out releases.

use async_trait::async_trait;
use bluegreen_core::{Color, GateState, Kind, WriteGate};
use std::time::Duration;

/// A unit of work that has come through the gate.
#[async_trait]
pub trait GateUnit: Send {
    /// The side it works at.
    fn color(&self) -> Color;

    /// Ends it, well.
    async fn end(self: Box<Self>);
}

/// What the suite needs beside the gate. It starts open and points at blue.
#[async_trait]
pub trait GateHarness: Send + Sync {
    /// The gate.
    fn gate(&self) -> &dyn WriteGate;

    /// Begins a unit of work, and waits for it as long as it takes.
    async fn enter(&self) -> Box<dyn GateUnit>;

    /// Begins a unit of work, and gives up when it has to wait longer than some 300 ms.
    async fn try_enter(&self) -> Option<Box<dyn GateUnit>>;

    /// Lets a moment pass, some 20 ms.
    async fn pause(&self);
}

/// Makes a module of tests of the [gate suite](crate::conformance::gate).
#[macro_export]
macro_rules! gate_conformance {
    ($module:ident, $harness:expr) => {
        $crate::conformance_tests!(
            $module,
            gate,
            $harness,
            [
                it_starts_open_and_at_blue,
                preflight_finds_nothing_blocking,
                work_waits_while_it_is_held,
                held_work_goes_to_the_other_side,
                running_work_ends_before_it_is_held,
                work_that_does_not_end_is_a_timeout_and_nothing_waits,
                everything_may_be_said_twice,
                it_goes_back_and_forth,
                a_worker_that_gives_up_leaves_nothing_behind,
            ]
        );
    };
}

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

async fn state(h: &dyn GateHarness) -> (bool, Color) {
    let GateState { held, at } = h.gate().state().await.expect("the gate tells its state");
    (held, at)
}

async fn works_at(h: &dyn GateHarness, color: Color) {
    let unit = h.try_enter().await.expect("an open gate lets work through");
    assert_eq!(unit.color(), color);
    unit.end().await;
}

/// What the harness promises, so that the rest means something.
pub async fn it_starts_open_and_at_blue(h: &dyn GateHarness) {
    assert_eq!(state(h).await, (false, Color::Blue));
    works_at(h, Color::Blue).await;
}

/// A gate in order has nothing that blocks.
pub async fn preflight_finds_nothing_blocking(h: &dyn GateHarness) {
    let findings = h.gate().preflight().await.expect("it can look");
    let blocking: Vec<_> = findings
        .iter()
        .filter(|f| f.severity == bluegreen_core::Severity::Blocking)
        .collect();
    assert!(blocking.is_empty(), "{blocking:?}");
}

/// New work waits, and comes through after the release.
pub async fn work_waits_while_it_is_held(h: &dyn GateHarness) {
    h.gate().hold(LONG).await.expect("nothing runs");
    assert_eq!(state(h).await, (true, Color::Blue));
    assert!(h.try_enter().await.is_none(), "work came through a held gate");
    h.gate().release().await.expect("it is released");
    assert_eq!(state(h).await, (false, Color::Blue));
    works_at(h, Color::Blue).await;
}

/// Work that waited works at the side the gate points at when it is released.
pub async fn held_work_goes_to_the_other_side(h: &dyn GateHarness) {
    h.gate().hold(LONG).await.expect("nothing runs");
    let switch = async {
        h.pause().await;
        h.gate().point_at(Color::Green).await.expect("it is pointed at green");
        assert_eq!(state(h).await, (true, Color::Green));
        h.gate().release().await.expect("it is released");
    };
    let (unit, ()) = futures::join!(h.enter(), switch);
    assert_eq!(unit.color(), Color::Green);
    unit.end().await;
    works_at(h, Color::Green).await;
}

/// `hold` returns when running work has ended, which it does without an error.
pub async fn running_work_ends_before_it_is_held(h: &dyn GateHarness) {
    let unit = h.enter().await;
    let end = async {
        h.pause().await;
        unit.end().await;
    };
    let (held, ()) = futures::join!(h.gate().hold(LONG), end);
    held.expect("it is held once the work has ended");
    assert!(state(h).await.0);
    h.gate().release().await.expect("it is released");
}

/// When running work does not end, `hold` fails and everything goes on.
pub async fn work_that_does_not_end_is_a_timeout_and_nothing_waits(h: &dyn GateHarness) {
    let unit = h.enter().await;
    let error = h.gate().hold(SHORT).await.expect_err("the work never ended");
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
    assert_eq!(state(h).await, (false, Color::Blue));
    works_at(h, Color::Blue).await;
    unit.end().await;
    h.gate().hold(LONG).await.expect("now it can be held");
    h.gate().release().await.expect("it is released");
}

/// Releasing what is not held, holding what is held, pointing where it points: success.
pub async fn everything_may_be_said_twice(h: &dyn GateHarness) {
    h.gate().release().await.expect("releasing an open gate is success");
    for _ in 0..2 {
        h.gate().hold(LONG).await.expect("it is held");
    }
    assert!(state(h).await.0);
    for _ in 0..2 {
        h.gate().point_at(Color::Green).await.expect("it is pointed at green");
    }
    for _ in 0..2 {
        h.gate().release().await.expect("it is released");
    }
    assert_eq!(state(h).await, (false, Color::Green));
    works_at(h, Color::Green).await;
}

/// Going back is the same with the colours exchanged.
pub async fn it_goes_back_and_forth(h: &dyn GateHarness) {
    for color in [Color::Green, Color::Blue, Color::Green, Color::Blue] {
        h.gate().hold(LONG).await.expect("it is held");
        h.gate().point_at(color).await.expect("it is pointed");
        h.gate().release().await.expect("it is released");
        assert_eq!(state(h).await, (false, color));
        works_at(h, color).await;
    }
}

/// Work that stopped waiting is not waited for.
pub async fn a_worker_that_gives_up_leaves_nothing_behind(h: &dyn GateHarness) {
    h.gate().hold(LONG).await.expect("it is held");
    assert!(h.try_enter().await.is_none());
    h.gate().release().await.expect("it is released");
    h.gate().hold(LONG).await.expect("nobody is in it");
    h.gate().release().await.expect("it is released");
    works_at(h, Color::Blue).await;
}
