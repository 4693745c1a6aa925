//! What every `Replicator` owes: nothing lost, nothing doubled, one writer, and what dies with a process and what does not.

use super::LOOKS;
use async_trait::async_trait;
use bluegreen_core::{Color, Comparison, Direction, Kind, MirrorStatus, Position, Replicator, Severity};
use std::sync::Arc;
use std::time::Duration;

/// A transaction that has written and not committed.
#[async_trait]
pub trait OpenWrite: Send {
    /// Commits it; an error means that it did not happen.
    async fn commit(self: Box<Self>) -> Result<(), String>;
}

/// What the suite needs beside the replicator: an application's table on both sides (its rows have a generated identifier
/// and a unique token), empty, with no mirror.
#[async_trait]
pub trait ReplicatorHarness: Send + Sync {
    /// The replicator of the process that runs now.
    fn replicator(&self) -> Arc<dyn Replicator>;

    /// The process dies and another one begins: [`replicator`](Self::replicator) answers a new one from now on, and what
    /// the old one held is gone when this returns.
    async fn crash(&self);

    /// Writes one row as the application does; it takes an identifier from the database. An error means that it did not
    /// happen; a lock in the way is an error within some 300 ms.
    async fn write(&self, color: Color, token: u64) -> Result<(), String>;

    /// Begins a transaction, writes one row in it, and leaves it open.
    async fn open(&self, color: Color, token: u64) -> Result<Box<dyn OpenWrite>, String>;

    /// Changes the token of a row at one side, which no mirror knows of.
    async fn tamper(&self, color: Color, token: u64, instead: u64);

    /// The tokens that are there, sorted, one for each row.
    async fn tokens(&self, color: Color) -> Vec<u64>;

    /// Lets a moment pass, some 10 ms.
    async fn pause(&self);
}

/// Makes a module of tests of the [replicator suite](crate::conformance::replicator).
#[macro_export]
macro_rules! replicator_conformance {
    ($module:ident, $harness:expr) => {
        $crate::conformance_tests!(
            $module,
            replicator,
            $harness,
            [
                preflight_finds_nothing_blocking_and_changes_nothing,
                without_a_mirror_there_is_nothing,
                the_mirror_copies_and_follows,
                starting_twice_is_starting_once,
                a_copy_that_died_begins_again,
                a_mirror_takes_no_writes,
                the_fence_stops_writes_and_the_proof_is_one,
                a_fence_waits_for_open_transactions,
                a_fence_that_is_not_reached_holds_nothing,
                a_dead_process_fences_nothing,
                unfencing_what_is_not_fenced_is_success,
                a_cut_over_moves_the_writer,
                and_back_again,
                what_was_handed_over_stays_read_only_after_a_death,
                a_fresh_process_can_promote,
                no_promotion_beside_an_old_writer_that_was_opened_again,
                a_cut_over_given_up_can_be_tried_again,
                promoting_twice_is_promoting_once,
                stopping_for_blue_leaves_nothing,
                stopping_for_green_leaves_nothing,
                stopping_nothing_is_success,
                a_comparison_of_what_is_alike_says_so,
                a_comparison_names_the_row_that_was_changed,
            ]
        );
    };
}

const WITHIN: Duration = Duration::from_secs(5);

async fn write_all(h: &dyn ReplicatorHarness, color: Color, tokens: impl IntoIterator<Item = u64>) {
    for token in tokens {
        h.write(color, token)
            .await
            .unwrap_or_else(|e| panic!("{color} takes {token}: {e}"));
    }
}

async fn refuses(h: &dyn ReplicatorHarness, color: Color, token: u64) {
    assert!(
        h.write(color, token).await.is_err(),
        "{color} took a write that it must refuse"
    );
}

/// Looks until the mirror in a direction streams.
async fn streams(h: &dyn ReplicatorHarness, direction: Direction) {
    let mut status = MirrorStatus::Absent;
    for _ in 0..LOOKS {
        status = h.replicator().status(direction).await.expect("the status can be told");
        match &status {
            MirrorStatus::Streaming(_) => return,
            MirrorStatus::Failed { why, .. } => panic!("the mirror {direction} failed: {why}"),
            _ => h.pause().await,
        }
    }
    panic!("the mirror {direction} never streams: {status:?}");
}

/// Looks until a side has exactly these tokens.
async fn has(h: &dyn ReplicatorHarness, color: Color, tokens: impl IntoIterator<Item = u64>) {
    let expected: Vec<u64> = tokens.into_iter().collect();
    let mut seen = vec![];
    for _ in 0..LOOKS {
        seen = h.tokens(color).await;
        if seen == expected {
            return;
        }
        h.pause().await;
    }
    panic!("{color} has {seen:?} and not {expected:?}");
}

async fn mirror(h: &dyn ReplicatorHarness) {
    h.replicator()
        .start(Direction::BlueToGreen)
        .await
        .expect("the mirror is begun");
    streams(h, Direction::BlueToGreen).await;
}

async fn fence(h: &dyn ReplicatorHarness, color: Color) -> Position {
    h.replicator().fence(color, WITHIN).await.expect("the writers drain")
}

async fn prove(h: &dyn ReplicatorHarness, position: &Position) {
    for _ in 0..LOOKS {
        if h.replicator().caught_up(position).await.expect("it can be told") {
            return;
        }
        h.pause().await;
    }
    panic!("{position} is never reached");
}

/// The protocol of a cut-over up to the commit record.
async fn hand_over(h: &dyn ReplicatorHarness, to: Color) {
    h.replicator().arm(to, WITHIN).await.expect("the cut-over is armed");
    let position = fence(h, to.other()).await;
    prove(h, &position).await;
    h.replicator().hand_over(to).await.expect("everything is handed over");
}

async fn cut_over(h: &dyn ReplicatorHarness, to: Color) {
    hand_over(h, to).await;
    h.replicator().promote(to).await.expect("it is promoted");
    h.replicator()
        .start(Direction::from(to))
        .await
        .expect("the old writer follows");
}

/// Both sides are in order.
pub async fn preflight_finds_nothing_blocking_and_changes_nothing(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, 1..=3).await;
    let findings = h.replicator().preflight().await.expect("it can look");
    let blocking: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Blocking).collect();
    assert!(blocking.is_empty(), "{blocking:?}");
    assert_eq!(
        h.replicator().leftovers().await.expect("it can look"),
        Vec::<String>::new()
    );
    write_all(h, Color::Blue, [4]).await;
}

/// Before anything is started, both mirrors are absent and nothing is left over.
pub async fn without_a_mirror_there_is_nothing(h: &dyn ReplicatorHarness) {
    for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
        let status = h.replicator().status(direction).await.expect("the status can be told");
        assert_eq!(status, MirrorStatus::Absent);
    }
    assert_eq!(
        h.replicator().leftovers().await.expect("it can look"),
        Vec::<String>::new()
    );
}

/// What was there is copied, and what comes follows, each row once.
pub async fn the_mirror_copies_and_follows(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, 1..=5).await;
    h.replicator()
        .start(Direction::BlueToGreen)
        .await
        .expect("the mirror is begun");
    write_all(h, Color::Blue, 6..=8).await;
    streams(h, Direction::BlueToGreen).await;
    write_all(h, Color::Blue, 9..=12).await;
    has(h, Color::Green, 1..=12).await;
    assert!(
        !h.replicator().leftovers().await.expect("it can look").is_empty(),
        "a mirror is something left over"
    );
}

/// Also while it copies, and once it streams.
pub async fn starting_twice_is_starting_once(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, 1..=5).await;
    for _ in 0..2 {
        h.replicator()
            .start(Direction::BlueToGreen)
            .await
            .expect("the mirror is begun");
    }
    streams(h, Direction::BlueToGreen).await;
    write_all(h, Color::Blue, [6]).await;
    mirror(h).await;
    has(h, Color::Green, 1..=6).await;
}

/// A process that dies just after it began leaves nothing that the next one cannot begin again.
pub async fn a_copy_that_died_begins_again(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, 1..=5).await;
    h.replicator()
        .start(Direction::BlueToGreen)
        .await
        .expect("the mirror is begun");
    h.crash().await;
    write_all(h, Color::Blue, 6..=7).await;
    mirror(h).await;
    write_all(h, Color::Blue, [8]).await;
    has(h, Color::Green, 1..=8).await;
}

/// An application that writes to green by mistake gets an error.
pub async fn a_mirror_takes_no_writes(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    refuses(h, Color::Green, 99).await;
    write_all(h, Color::Blue, [1]).await;
    has(h, Color::Green, [1]).await;
}

/// Behind a fence nothing is written; when the proof says yes, green has everything.
pub async fn the_fence_stops_writes_and_the_proof_is_one(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    write_all(h, Color::Blue, 1..=50).await;
    let position = fence(h, Color::Blue).await;
    refuses(h, Color::Blue, 99).await;
    prove(h, &position).await;
    assert_eq!(
        h.tokens(Color::Green).await,
        (1..=50).collect::<Vec<_>>(),
        "the proof said yes too early"
    );
    h.replicator().unfence(Color::Blue).await.expect("writes go on");
    write_all(h, Color::Blue, [51]).await;
    has(h, Color::Green, 1..=51).await;
}

/// A transaction that was open when the fence came is in, and proven, or it is not committed at all.
pub async fn a_fence_waits_for_open_transactions(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    let open = h.open(Color::Blue, 1).await.expect("blue takes writes");
    let commit = async {
        for _ in 0..5 {
            h.pause().await;
        }
        open.commit().await
    };
    let replicator = h.replicator();
    let (position, committed) = futures::join!(replicator.fence(Color::Blue, WITHIN), commit);
    let position = position.expect("the writers drain");
    prove(h, &position).await;
    let expected: Vec<u64> = committed.is_ok().then_some(1).into_iter().collect();
    assert_eq!(h.tokens(Color::Green).await, expected);
    h.replicator().unfence(Color::Blue).await.expect("writes go on");
}

/// A writer that does not end makes the fence fail, and everybody else writes on.
pub async fn a_fence_that_is_not_reached_holds_nothing(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    let open = h.open(Color::Blue, 1).await.expect("blue takes writes");
    let fenced = h.replicator().fence(Color::Blue, Duration::from_millis(300)).await;
    assert_eq!(fenced.expect_err("the writer never ended").kind(), Kind::Timeout);
    write_all(h, Color::Blue, [2]).await;
    open.commit().await.expect("nobody ended it");
    has(
        h,
        Color::Green,
        match h.tokens(Color::Blue).await.len() {
            2 => 1..=2,
            n => panic!("blue has {n} rows"),
        },
    )
    .await;
}

/// What the fence holds dies with its process: blue writes on by itself.
pub async fn a_dead_process_fences_nothing(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    fence(h, Color::Blue).await;
    refuses(h, Color::Blue, 99).await;
    h.crash().await;
    for _ in 0..LOOKS {
        if h.write(Color::Blue, 1).await.is_ok() {
            return has(h, Color::Green, [1]).await;
        }
        h.pause().await;
    }
    panic!("the fence of a dead process still holds");
}

/// It is called when nobody knows whether anything was fenced.
pub async fn unfencing_what_is_not_fenced_is_success(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    for _ in 0..2 {
        h.replicator().unfence(Color::Blue).await.expect("nothing was fenced");
    }
    write_all(h, Color::Blue, [1]).await;
    refuses(h, Color::Green, 99).await;
    has(h, Color::Green, [1]).await;
}

/// Green writes with identifiers that are free, blue refuses and follows.
pub async fn a_cut_over_moves_the_writer(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, 1..=3).await;
    mirror(h).await;
    write_all(h, Color::Blue, 4..=6).await;
    cut_over(h, Color::Green).await;
    refuses(h, Color::Blue, 99).await;
    write_all(h, Color::Green, 7..=10).await;
    streams(h, Direction::GreenToBlue).await;
    has(h, Color::Blue, 1..=10).await;
    has(h, Color::Green, 1..=10).await;
}

/// Going back is the same with the colours exchanged, and forth again.
pub async fn and_back_again(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    write_all(h, Color::Blue, 1..=2).await;
    let mut next = 3;
    for to in [Color::Green, Color::Blue, Color::Green] {
        cut_over(h, to).await;
        refuses(h, to.other(), 99).await;
        write_all(h, to, next..next + 3).await;
        next += 3;
        streams(h, Direction::from(to)).await;
        has(h, to.other(), 1..next).await;
        has(h, to, 1..next).await;
    }
}

/// Between the hand-over and the commit record a death leaves both sides read-only, and blue can be opened again.
pub async fn what_was_handed_over_stays_read_only_after_a_death(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    write_all(h, Color::Blue, 1..=3).await;
    hand_over(h, Color::Green).await;
    h.crash().await;
    refuses(h, Color::Blue, 98).await;
    refuses(h, Color::Green, 99).await;
    h.replicator().unfence(Color::Blue).await.expect("blue writes again");
    refuses(h, Color::Green, 99).await;
    write_all(h, Color::Blue, 4..=5).await;
    has(h, Color::Green, 1..=5).await;
}

/// After the commit record a process that never fenced anything opens green.
pub async fn a_fresh_process_can_promote(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    write_all(h, Color::Blue, 1..=3).await;
    hand_over(h, Color::Green).await;
    h.crash().await;
    h.replicator().promote(Color::Green).await.expect("green is opened");
    refuses(h, Color::Blue, 99).await;
    write_all(h, Color::Green, 4..=6).await;
    h.replicator()
        .start(Direction::GreenToBlue)
        .await
        .expect("blue follows");
    streams(h, Direction::GreenToBlue).await;
    has(h, Color::Blue, 1..=6).await;
}

/// A commit record that turns up late opens no second writer.
pub async fn no_promotion_beside_an_old_writer_that_was_opened_again(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    write_all(h, Color::Blue, 1..=2).await;
    hand_over(h, Color::Green).await;
    h.replicator().may_promote(Color::Green).await.expect("it may");
    refuses(h, Color::Green, 99).await;
    h.crash().await;
    h.replicator().may_promote(Color::Green).await.expect("it still may");
    h.replicator().unfence(Color::Blue).await.expect("blue writes again");
    if let Err(e) = h.replicator().may_promote(Color::Green).await {
        assert_eq!(e.kind(), Kind::Diverged, "{e:?}");
    }
    let refused = h
        .replicator()
        .promote(Color::Green)
        .await
        .expect_err("blue writes again");
    assert_eq!(refused.kind(), Kind::Diverged, "{refused:?}");
    refuses(h, Color::Green, 99).await;
    write_all(h, Color::Blue, [3]).await;
    has(h, Color::Green, 1..=3).await;
}

/// At whatever point it was given up.
pub async fn a_cut_over_given_up_can_be_tried_again(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    write_all(h, Color::Blue, 1..=2).await;
    h.replicator()
        .arm(Color::Green, WITHIN)
        .await
        .expect("the cut-over is armed");
    h.replicator().unfence(Color::Blue).await.expect("writes go on");
    write_all(h, Color::Blue, [3]).await;
    h.replicator()
        .arm(Color::Green, WITHIN)
        .await
        .expect("the cut-over is armed");
    fence(h, Color::Blue).await;
    h.replicator().unfence(Color::Blue).await.expect("writes go on");
    write_all(h, Color::Blue, [4]).await;
    hand_over(h, Color::Green).await;
    h.replicator().unfence(Color::Blue).await.expect("writes go on");
    write_all(h, Color::Blue, 5..=6).await;
    has(h, Color::Green, 1..=6).await;
    cut_over(h, Color::Green).await;
    write_all(h, Color::Green, 7..=8).await;
    streams(h, Direction::GreenToBlue).await;
    has(h, Color::Blue, 1..=8).await;
}

/// It is called again until it is known to have worked.
pub async fn promoting_twice_is_promoting_once(h: &dyn ReplicatorHarness) {
    mirror(h).await;
    write_all(h, Color::Blue, [1]).await;
    hand_over(h, Color::Green).await;
    h.replicator().promote(Color::Green).await.expect("green is opened");
    write_all(h, Color::Green, [2]).await;
    h.replicator().promote(Color::Green).await.expect("green is open");
    for _ in 0..2 {
        h.replicator()
            .start(Direction::GreenToBlue)
            .await
            .expect("blue follows");
    }
    write_all(h, Color::Green, [3]).await;
    streams(h, Direction::GreenToBlue).await;
    has(h, Color::Blue, 1..=3).await;
}

async fn stopped(h: &dyn ReplicatorHarness, writer: Color) {
    for _ in 0..2 {
        h.replicator().stop(writer).await.expect("everything is taken away");
        assert_eq!(
            h.replicator().leftovers().await.expect("it can look"),
            Vec::<String>::new()
        );
    }
    for direction in [Direction::BlueToGreen, Direction::GreenToBlue] {
        let status = h.replicator().status(direction).await.expect("the status can be told");
        assert_eq!(status, MirrorStatus::Absent);
    }
}

/// Giving up before the cut-over: blue is as it was, and writes.
pub async fn stopping_for_blue_leaves_nothing(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, 1..=3).await;
    mirror(h).await;
    h.replicator()
        .arm(Color::Green, WITHIN)
        .await
        .expect("the cut-over is armed");
    fence(h, Color::Blue).await;
    stopped(h, Color::Blue).await;
    write_all(h, Color::Blue, [4]).await;
    assert_eq!(h.tokens(Color::Blue).await, [1, 2, 3, 4]);
}

/// After the cut-over: green writes, blue stays read-only.
pub async fn stopping_for_green_leaves_nothing(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, 1..=3).await;
    mirror(h).await;
    cut_over(h, Color::Green).await;
    stopped(h, Color::Green).await;
    refuses(h, Color::Blue, 99).await;
    write_all(h, Color::Green, [4]).await;
    assert_eq!(h.tokens(Color::Green).await, [1, 2, 3, 4]);
}

/// Unwinding what was never begun.
pub async fn stopping_nothing_is_success(h: &dyn ReplicatorHarness) {
    write_all(h, Color::Blue, [1]).await;
    stopped(h, Color::Blue).await;
    write_all(h, Color::Blue, [2]).await;
}

/// Asks until the comparison has an answer.
async fn compared(h: &dyn ReplicatorHarness) -> Comparison {
    for _ in 0..LOOKS {
        match h.replicator().compare().await.expect("it can compare") {
            Comparison::Running { .. } => h.pause().await,
            answer => return answer,
        }
    }
    panic!("the comparison never ends");
}

/// Also while it is written to, and again.
pub async fn a_comparison_of_what_is_alike_says_so(h: &dyn ReplicatorHarness) {
    if !h.replicator().compares() {
        let refused = h.replicator().compare().await.expect_err("it does not compare");
        assert_eq!(refused.kind(), Kind::Unsupported, "{refused:?}");
        return;
    }
    write_all(h, Color::Blue, 0..20).await;
    mirror(h).await;
    for more in [20..25, 25..30] {
        write_all(h, Color::Blue, more).await;
        match compared(h).await {
            Comparison::Same(compared) => assert!(compared.rows >= 20, "{compared:?}"),
            other => panic!("a false alarm: {other}"),
        }
    }
}

/// And is quiet again when it was mended.
pub async fn a_comparison_names_the_row_that_was_changed(h: &dyn ReplicatorHarness) {
    if !h.replicator().compares() {
        return;
    }
    write_all(h, Color::Blue, 0..20).await;
    mirror(h).await;
    has(h, Color::Green, 0..20).await;
    h.tamper(Color::Green, 7, 700).await;
    match compared(h).await {
        Comparison::Different { differences, more, .. } => {
            let said = differences.iter().map(ToString::to_string).collect::<String>();
            assert!(differences.len() == 1 && more == 0, "{said}");
            assert!(said.contains("\"7\"") && said.contains("\"700\""), "{said}");
        }
        other => panic!("it did not see it: {other}"),
    }
    h.tamper(Color::Green, 700, 7).await;
    assert!(matches!(compared(h).await, Comparison::Same(_)), "it was mended");
}
