//! Every pair of major versions upward, and each with itself: a whole move with writers going on, over to green, back to blue, over again, and
//! nothing left.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Replicator, Severity};
use common::Pair;
use common::whole::{MORE, whole_move};
use common::writers::LEDGER;

async fn move_there_and_back(blue: u32, green: u32) {
    let Some(pair) = Pair::of_majors(blue, green).await else {
        return;
    };
    let client = pair.client(Color::Blue).await;
    client.batch_execute(LEDGER).await.unwrap();
    client.batch_execute(MORE).await.unwrap();
    whole_move(&pair, &pair.replicator()).await;
}

// Not 14 with itself: the tests have no pg_dump of that version, and a newer one's dump is not for it.
macro_rules! pairs {
    ($($name:ident: $blue:literal => $green:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            move_there_and_back($blue, $green).await;
        }
    )*};
}

pairs! {
    from_14_to_15: 14 => 15,
    from_14_to_16: 14 => 16,
    from_14_to_17: 14 => 17,
    from_14_to_18: 14 => 18,
    from_15_to_15: 15 => 15,
    from_15_to_16: 15 => 16,
    from_15_to_17: 15 => 17,
    from_15_to_18: 15 => 18,
    from_16_to_16: 16 => 16,
    from_16_to_17: 16 => 17,
    from_16_to_18: 16 => 18,
    from_17_to_17: 17 => 17,
    from_17_to_18: 17 => 18,
    from_18_to_18: 18 => 18,
}

/// The wrong tools are said to be wrong, by name, before anything is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_of_another_version_are_refused() {
    let Some(pair) = Pair::of_majors(15, 16).await else {
        return;
    };
    pair.client(Color::Blue)
        .await
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    let newer = bluegreen_testkit::servers::PgBinaries::major(18).unwrap();
    let replicator = pair.builder().tools(newer.dir()).build().unwrap();
    let findings = replicator.preflight().await.unwrap();
    let finding = findings.iter().find(|f| f.id == "no-tools").unwrap();
    assert_eq!(finding.severity, Severity::Blocking);
    assert!(finding.seen.contains("version 16, or at least 15"), "{finding}");
    assert!(
        finding.seen.contains(&format!("18 in {}", newer.dir().display())),
        "{finding}"
    );
    let error = replicator.start(Direction::BlueToGreen).await.unwrap_err();
    assert!(error.message().contains("postgresql-client-16"), "{error}");
}
