//! Bad days: what happens to servers, networks and sessions while a migration runs. Each time it goes on, or ends all-blue
//! with writes flowing; nothing acknowledged is lost, nothing is left behind, and a sentence says what happened.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod day;
mod meddle;
mod wire;

use bluegreen_core::{Color, Outcome};
use day::{Course, Day, meddle};
use meddle::At;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Mutex;
use wire::Wire;

const PAUSES: [At; 5] = [
    At::BeforeFence,
    At::AfterFence,
    At::AfterProof,
    At::AfterHandOver,
    At::BeforePromote,
];
const ROWS: u64 = 150_000;
const FEW: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_writes_at_green() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let course = Course::start(day.migration_with(day.replicator(), |spec| spec.soak = Duration::from_secs(6)));
    course.says("Started { step: Soak").await;
    let row = "INSERT INTO accounts VALUES (5000, 0, 0)";
    let green = day.client(Color::Green).await;
    green
        .batch_execute(&format!(
            "BEGIN READ WRITE; SET LOCAL bluegreen.mend = on; {row}; COMMIT"
        ))
        .await
        .unwrap();
    day.client(Color::Blue).await.batch_execute(row).await.unwrap();
    let (outcome, said) = course
        .end(async |why: String| {
            assert!(why.contains("id = 5000") && why.contains("accounts"), "{why}");
            green
                .batch_execute(
                    "BEGIN READ WRITE; SET LOCAL bluegreen.mend = on; DELETE FROM accounts WHERE id = 5000; COMMIT",
                )
                .await
                .unwrap();
        })
        .await;
    assert!(said.contains("asked: "), "{said}");
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
}

/// Long enough for something to happen while it follows.
fn while_it_follows(spec: &mut bluegreen_core::Spec) {
    spec.soak = Duration::from_secs(3);
}

async fn crash(server: Arc<Mutex<bluegreen_testkit::servers::PgCluster>>, down: Duration) {
    let mut server = server.lock().await;
    server.crash().await.unwrap();
    tokio::time::sleep(down).await;
    server.restart().await.unwrap();
}

async fn restart(server: Arc<Mutex<bluegreen_testkit::servers::PgCluster>>) {
    server.lock().await.restart().await.unwrap();
}

async fn end_our_sessions(url: String) {
    let client = day::connect(&url).await;
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'bluegreen%'",
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_dies_in_the_copy() {
    let Some(day) = Day::begin(ROWS).await else { return };
    let writers = day.writers(4);
    let course = Course::start(day.migration(day.replicator()));
    course.says("Copying").await;
    crash(day.server(Color::Green), Duration::from_millis(500)).await;
    let (outcome, said) = course.ends().await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    // The pieces that it lost, or all, where it has forgotten more.
    assert!(
        said.contains("tried again: ") && said.contains("green's database")
            || said.contains("begun again: green has forgotten"),
        "{said}"
    );
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blue_is_restarted_in_the_copy() {
    let Some(day) = Day::begin(ROWS).await else { return };
    let writers = day.writers(4);
    let course = Course::start(day.migration(day.replicator()));
    course.says("Copying").await;
    restart(day.server(Color::Blue)).await;
    let (outcome, said) = course.ends().await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    assert!(
        said.contains("begun again: the snapshot was lost with blue's connection"),
        "{said}"
    );
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_go_while_it_follows() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let course = Course::start(day.migration_with(day.replicator(), while_it_follows));
    course.says("Started { step: Soak").await;
    crash(day.server(Color::Green), Duration::from_millis(500)).await;
    restart(day.server(Color::Blue)).await;
    let (outcome, said) = course.ends().await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    assert!(
        said.contains("Retrying { step: Soak") && said.contains("connect to green's database"),
        "{said}"
    );
    day.check(&outcome, writers).await;
}

/// What ended the lock, or the proof, ended the pause: it is given up with its reason, and tried again.
fn gave_up(at: At, said: &str) {
    if matches!(at, At::AfterFence | At::AfterProof) {
        assert!(
            said.contains("PauseGivenUp") && said.contains("why: \"postgres: "),
            "{at:?}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_dies_in_the_pause() {
    for at in PAUSES {
        let Some(day) = Day::begin(FEW).await else { return };
        let writers = day.writers(4);
        let green = day.server(Color::Green);
        let replicator = meddle(day.replicator()).at(at, 1, move || {
            let green = green.clone();
            async move {
                // It is gone before the next call, and back a little later.
                green.lock().await.crash().await.unwrap();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    restart(green).await;
                });
            }
        });
        let comings = replicator.comings();
        let (outcome, said) = Course::start(day.migration(replicator)).ends().await;
        println!("{at:?}: {outcome}");
        assert_ne!(comings.load(Ordering::SeqCst), 0, "{at:?}: nothing was done");
        assert_eq!(outcome, Outcome::Completed, "{at:?}: {said}");
        gave_up(at, &said);
        day.check(&outcome, writers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blue_is_restarted_in_the_pause() {
    for at in PAUSES {
        let Some(day) = Day::begin(FEW).await else { return };
        let writers = day.writers(4);
        let blue = day.server(Color::Blue);
        let replicator = meddle(day.replicator()).at(at, 1, move || restart(blue.clone()));
        let comings = replicator.comings();
        let (outcome, said) = Course::start(day.migration(replicator)).ends().await;
        println!("{at:?}: {outcome}");
        assert_ne!(comings.load(Ordering::SeqCst), 0, "{at:?}: nothing was done");
        assert_eq!(outcome, Outcome::Completed, "{at:?}: {said}");
        gave_up(at, &said);
        day.check(&outcome, writers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_of_ours_is_ended() {
    let Some(day) = Day::begin(ROWS).await else { return };
    let writers = day.writers(4);
    let course = Course::start(day.migration_with(day.replicator(), while_it_follows));
    course.says("Copying").await;
    for color in [Color::Green, Color::Blue] {
        end_our_sessions(day.url(color).to_owned()).await;
    }
    course.says("Started { step: Soak").await;
    for color in [Color::Green, Color::Blue] {
        end_our_sessions(day.url(color).to_owned()).await;
    }
    let (outcome, said) = course.ends().await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_of_ours_is_ended_in_the_pause() {
    for at in PAUSES {
        let Some(day) = Day::begin(FEW).await else { return };
        let writers = day.writers(4);
        let urls = [Color::Green, Color::Blue].map(|c| day.url(c).to_owned());
        let replicator = meddle(day.replicator()).at(at, 1, move || {
            let urls = urls.clone();
            async move {
                for url in urls {
                    end_our_sessions(url).await;
                }
            }
        });
        let comings = replicator.comings();
        let (outcome, said) = Course::start(day.migration(replicator)).ends().await;
        println!("{at:?}: {outcome}");
        assert_ne!(comings.load(Ordering::SeqCst), 0, "{at:?}: nothing was done");
        assert_eq!(outcome, Outcome::Completed, "{at:?}: {said}");
        gave_up(at, &said);
        day.check(&outcome, writers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_between_the_servers_is_cut_for_a_minute() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let wire = Wire::to(day.server(Color::Blue).lock().await.port()).await;
    let replicator = day
        .builder()
        .database_from_peer(Color::Blue, wire.instead_of(day.url(Color::Blue)))
        .build()
        .unwrap();
    let course = Course::start(day.migration_with(replicator, while_it_follows));
    course.says("Started { step: Soak").await;
    // Longer than the servers' own timeouts, and than the soak: it must not go on over a mirror that stands still.
    wire.cut();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!course.said().contains("Commit"), "{}", course.said());
    wire.mend();
    let (outcome, said) = course.ends().await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_between_the_servers_is_cut_in_the_pause() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let wire = Arc::new(Wire::to(day.server(Color::Blue).lock().await.port()).await);
    let replicator = day
        .builder()
        .database_from_peer(Color::Blue, wire.instead_of(day.url(Color::Blue)))
        .build()
        .unwrap();
    let cut = wire.clone();
    let replicator = meddle(replicator).at(At::BeforeFence, 1, move || {
        cut.cut();
        async {}
    });
    let course = Course::start(day.migration(replicator));
    course.says("PauseGivenUp").await;
    // Writes go on at blue meanwhile.
    let before = writers.acked();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(writers.acked() > before);
    wire.mend();
    let (outcome, said) = course.ends().await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greens_disk_is_full_in_the_copy() {
    let Some(day) = Day::begin(ROWS).await else { return };
    let writers = day.writers(4);
    let green = day.server(Color::Green);
    // Not less: the log's own files have this size.
    wire::limit_files(&*green.lock().await, Some(17 << 20));
    let course = Course::start(day.migration(day.replicator()));
    let (outcome, said) = course.ends().await;
    let Outcome::RolledBack { why } = &outcome else {
        panic!("{outcome}: {said}")
    };
    assert!(
        why.contains("could not extend file") || why.contains("No space"),
        "{why}"
    );
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greens_disk_is_full_while_it_follows() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let green = day.server(Color::Green);
    let course = Course::start(day.migration_with(day.replicator(), |spec| spec.soak = Duration::from_secs(6)));
    course.says("Started { step: Soak").await;
    wire::limit_files(&*green.lock().await, Some(17 << 20));
    let blue = day.client(Color::Blue).await;
    blue.batch_execute(
        "INSERT INTO orders (token, acct, amount, note) SELECT 'old-big-' || g, 1, 0, repeat('x', 1000) FROM generate_series(1, 30000) g",
    )
    .await
    .unwrap();
    let (outcome, said) = course
        .end(async |why: String| {
            assert!(why.contains("apply worker") && why.contains("30000 INSERT"), "{why}");
            wire::limit_files(&*green.lock().await, None);
        })
        .await;
    assert!(
        said.contains("asked: "),
        "it went on over a mirror that stands still: {said}"
    );
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_is_in_the_way_of_the_pause() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let long = day.client(Color::Blue).await;
    let course = Course::start(day.migration_with(day.replicator(), while_it_follows));
    course.says("Started { step: Soak").await;
    long.batch_execute("BEGIN; UPDATE accounts SET opening = opening + 1, balance = balance + 1 WHERE id = 1000")
        .await
        .unwrap();
    let pid: i32 = long.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    course.says(&format!("pid {pid}")).await;
    long.batch_execute("COMMIT").await.unwrap();
    let (outcome, said) = course.ends().await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
    let kept: i64 = day
        .client(Color::Green)
        .await
        .query_one("SELECT opening FROM accounts WHERE id = 1000", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(kept, 1001, "what the long transaction wrote is at green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_is_added_at_blue_on_the_way() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let course = Course::start(day.migration_with(day.replicator(), while_it_follows));
    course.says("Started { step: Soak").await;
    let ddl = "ALTER TABLE orders ADD COLUMN gift text";
    day.client(Color::Blue).await.batch_execute(ddl).await.unwrap();
    let url = day.url(Color::Green).to_owned();
    let (outcome, said) = course
        .end(async |why: String| {
            assert!(why.contains("orders") && why.contains("gift"), "{why}");
            let green = day::connect(&url).await;
            green
                .batch_execute(&format!("BEGIN READ WRITE; {ddl}; COMMIT"))
                .await
                .unwrap();
        })
        .await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_made_at_blue_on_the_way() {
    let Some(day) = Day::begin(FEW).await else { return };
    let writers = day.writers(4);
    let course = Course::start(day.migration_with(day.replicator(), while_it_follows));
    course.says("Started { step: Soak").await;
    let blue = day.client(Color::Blue).await;
    blue.batch_execute("CREATE TABLE gifts (id int PRIMARY KEY); INSERT INTO gifts VALUES (1)")
        .await
        .unwrap();
    let url = day.url(Color::Blue).to_owned();
    let (outcome, said) = course
        .end(async |why: String| {
            assert!(why.contains("gifts"), "{why}");
            day::connect(&url)
                .await
                .batch_execute("DROP TABLE gifts")
                .await
                .unwrap();
        })
        .await;
    assert_eq!(outcome, Outcome::Completed, "{said}");
    day.check(&outcome, writers).await;
}
