//! What every `Clock` owes. The suite sleeps some tenths of a second by the clock.

use bluegreen_core::Clock;
use futures::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

/// Makes a module of tests of the [clock suite](crate::conformance::clock); the harness is the clock itself.
#[macro_export]
macro_rules! clock_conformance {
    ($module:ident, $clock:expr) => {
        $crate::conformance_tests!(
            $module,
            clock,
            $clock,
            [
                it_never_goes_back,
                a_sleep_reaches_its_deadline,
                a_deadline_that_is_past_is_reached,
                many_may_sleep_at_once,
                a_sleep_may_be_dropped,
            ]
        );
    };
}

const TICK: Duration = Duration::from_millis(20);

/// One look after another.
pub async fn it_never_goes_back(clock: &dyn Clock) {
    let mut last = clock.now();
    for _ in 0..20 {
        clock.sleep_until(last + TICK / 20).await;
        let now = clock.now();
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
}

/// Not a moment before.
pub async fn a_sleep_reaches_its_deadline(clock: &dyn Clock) {
    for ticks in 1..5 {
        let deadline = clock.now() + TICK * ticks;
        clock.sleep_until(deadline).await;
        assert!(clock.now() >= deadline);
    }
}

/// A wait that was over before the process began.
pub async fn a_deadline_that_is_past_is_reached(clock: &dyn Clock) {
    let past = clock.now();
    clock.sleep_until(past + TICK).await;
    clock.sleep_until(past).await;
    clock.sleep_until(bluegreen_core::Timestamp::EPOCH).await;
}

/// Each until its own deadline.
pub async fn many_may_sleep_at_once(clock: &dyn Clock) {
    let start = clock.now();
    let sleepers = (0..20).rev().map(|n| async move {
        clock.sleep_until(start + TICK * n).await;
        assert!(clock.now() >= start + TICK * n);
    });
    futures::future::join_all(sleepers).await;
}

/// Whoever sleeps still is not disturbed.
pub async fn a_sleep_may_be_dropped(clock: &dyn Clock) {
    let start = clock.now();
    let (short, long) = (
        pin!(clock.sleep_until(start + TICK)),
        pin!(clock.sleep_until(start + TICK * 1000)),
    );
    match select(short, long).await {
        Either::Left(_) => {}
        Either::Right(_) => panic!("the longer sleep ended first"),
    }
    clock.sleep_until(start + TICK * 2).await;
    assert!(clock.now() >= start + TICK * 2);
}
