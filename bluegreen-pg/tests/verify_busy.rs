//! Comparing while some rows never stand still: they are no difference, and they hide none. And while the writer suffers.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "bad_days/wire.rs"]
#[allow(dead_code, unreachable_pub)]
mod wire;

mod common;

use bluegreen_core::{Color, Comparison, Kind, Replicator};
use common::comparing::{compare, unlike};
use common::{Pair, behind_the_mirror};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use wire::Wire;

/// Sessions that say the same again and again, until they are told to end.
struct Busy {
    stop: Arc<AtomicBool>,
    said: Arc<AtomicU64>,
    sessions: Vec<JoinHandle<()>>,
}

impl Busy {
    fn new(url: &str, sqls: &[&'static str], rest: Duration) -> Self {
        let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let session = |sql: &'static str| {
            let (stop, said, url) = (stop.clone(), said.clone(), url.to_owned());
            tokio::spawn(async move {
                let client = common::connect(&url).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    client.batch_execute(sql).await.unwrap();
                    said.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(rest).await;
                }
            })
        };
        let sessions = sqls.iter().map(|sql| session(sql)).collect();
        Self { stop, said, sessions }
    }

    /// Runs it, and asserts that so much was said meanwhile.
    async fn meanwhile<T>(&self, at_least: u64, what: impl Future<Output = T>) -> T {
        let before = self.said.load(Ordering::Relaxed);
        let answer = what.await;
        let during = self.said.load(Ordering::Relaxed) - before;
        assert!(during >= at_least, "{during} times in a whole comparison");
        answer
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for session in self.sessions {
            session.await.unwrap();
        }
    }
}

fn same(answer: &Comparison) {
    assert!(matches!(answer, Comparison::Same(_)), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_among_thousands_of_rows_on_their_way_is_found() {
    let setup = "CREATE TABLE big (id bigint PRIMARY KEY, v int, pad text);
        INSERT INTO big SELECT i, 0, 'x' FROM generate_series(7500, 9999) i; ANALYZE";
    let Some((pair, replicator)) = Pair::mirrored(setup).await else {
        return;
    };
    let flip = "UPDATE big SET pad = 'y' WHERE id = 9999";
    let green = behind_the_mirror(&pair).await;
    green.batch_execute(flip).await.unwrap();
    let (blue, stop) = (pair.client(Color::Blue).await, Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let busy = tokio::spawn(async move {
        let mut times = 0_i32;
        while !stopped.load(Ordering::Relaxed) {
            times += 1;
            let others = format!("UPDATE big SET v = {times} WHERE id <> 9999");
            blue.batch_execute(&others).await.unwrap();
            // One is on its way at almost any moment, and never more than two: all may be compared.
            let here = "SELECT FROM big WHERE id = 7500 AND v >= $1 - 1";
            while green.query(here, &[&times]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        times
    });
    for _ in 0..4 {
        assert_eq!(unlike(&replicator).await, ["id=9999"]);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(busy.await.unwrap() > 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_rows_without_a_key_that_come_all_the_time_are_no_difference() {
    let setup = "CREATE TABLE hits (page text); ALTER TABLE hits REPLICA IDENTITY FULL;
        INSERT INTO hits SELECT 'home' FROM generate_series(1, 2000); INSERT INTO hits VALUES ('rare'), ('rare'); ANALYZE";
    let Some((pair, replicator)) = Pair::mirrored(setup).await else {
        return;
    };
    let home = "INSERT INTO hits VALUES ('home')";
    let busy = Busy::new(&pair.url(Color::Blue), &[home; 3], Duration::ZERO);
    for _ in 0..8 {
        same(&busy.meanwhile(3, compare(&replicator)).await.unwrap());
    }
    // Other rows of the table are told apart all the while, missing ones and extra ones.
    let green = behind_the_mirror(&pair).await;
    let one = "DELETE FROM hits WHERE ctid = (SELECT ctid FROM hits WHERE page = 'rare' LIMIT 1)";
    for change in [one, "INSERT INTO hits VALUES ('rare'), ('rare')"] {
        green.batch_execute(change).await.unwrap();
        let Comparison::Different { differences, .. } = busy.meanwhile(3, compare(&replicator)).await.unwrap() else {
            panic!("{change} is not seen");
        };
        assert!(
            differences.len() == 1 && differences[0].to_string().contains("rare"),
            "{differences:?}"
        );
    }
    green.batch_execute(one).await.unwrap();
    busy.end().await;
    same(&compare(&replicator).await.unwrap());
    green.batch_execute(home).await.unwrap();
    assert_eq!(unlike(&replicator).await.len(), 1);
}

/// The count goes up and down: outside both of the writer's it says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_rows_without_a_key_that_come_and_go_are_no_difference() {
    let setup = "CREATE TABLE queue (job text); ALTER TABLE queue REPLICA IDENTITY FULL;
        INSERT INTO queue SELECT 'mail' FROM generate_series(1, 50); ANALYZE";
    let Some((pair, replicator)) = Pair::mirrored(setup).await else {
        return;
    };
    let come = "INSERT INTO queue VALUES ('mail'), ('mail')";
    let go = "DELETE FROM queue WHERE ctid = ANY (ARRAY(SELECT ctid FROM queue LIMIT 3 FOR UPDATE SKIP LOCKED))";
    let busy = Busy::new(&pair.url(Color::Blue), &[come, go, come], Duration::from_millis(1));
    for _ in 0..6 {
        match busy.meanwhile(3, compare(&replicator)).await {
            Ok(answer) => same(&answer),
            Err(e) => assert_eq!(e.kind(), Kind::Unavailable, "{e}"),
        }
    }
    busy.end().await;
    same(&compare(&replicator).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_never_stand_still_are_settled() {
    let setup = "CREATE TABLE counter (id int PRIMARY KEY, n bigint); INSERT INTO counter VALUES (1, 0);
        CREATE TABLE switch (id int PRIMARY KEY, up bool); INSERT INTO switch VALUES (1, true);
        CREATE TABLE flag (id int PRIMARY KEY); INSERT INTO flag VALUES (0); ANALYZE";
    let Some((pair, replicator)) = Pair::mirrored(setup).await else {
        return;
    };
    let count = "UPDATE counter SET n = n + 1";
    let switch = "UPDATE switch SET up = NOT up";
    // Two transactions: a string of statements would be one.
    let flag = "BEGIN; INSERT INTO flag VALUES (1); COMMIT; BEGIN; DELETE FROM flag WHERE id = 1; COMMIT";
    let busy = Busy::new(&pair.url(Color::Blue), &[count, count, switch, flag], Duration::ZERO);
    for _ in 0..10 {
        same(&busy.meanwhile(4, compare(&replicator)).await.unwrap());
    }
    // One that stands still beside them is seen, on whichever side it is too many.
    let green = behind_the_mirror(&pair).await;
    green
        .batch_execute("INSERT INTO flag VALUES (7); DELETE FROM flag WHERE id = 0")
        .await
        .unwrap();
    let mut found = busy.meanwhile(4, unlike(&replicator)).await;
    found.sort();
    assert_eq!(found, ["id=0", "id=7"]);
    busy.end().await;
}

/// It is said, what was begun is ended, and nothing new is begun until the server is well again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_suffers_is_left_alone() {
    let setup = "CREATE TABLE big (id bigint PRIMARY KEY); INSERT INTO big SELECT generate_series(1, 600000); ANALYZE";
    let Some((pair, _mirror)) = Pair::mirrored(setup).await else {
        return;
    };
    let wire = Wire::to(pair.blue.port()).await;
    let (blue, green) = (pair.url(Color::Blue), pair.url(Color::Green));
    let replicator = pair
        .builder_of(wire.instead_of(&blue), green)
        .compare_jobs(1)
        .build()
        .unwrap();
    let done = async || match replicator.compare().await.unwrap() {
        Comparison::Running { rows, .. } => rows.done,
        other => panic!("too fast for this test: {other}"),
    };
    while done().await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(replicator.warnings(), Vec::<String>::new());
    wire.delay(Duration::from_millis(1_200));
    let said = loop {
        done().await;
        if let Some(said) = replicator.warnings().pop() {
            break said;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(said.contains("waits where blue suffers, up to 60 s"), "{said}");
    let (before, mut after) = (done().await, 0);
    // Long enough for several pieces, as slow as they are now.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = done().await;
    }
    assert!(after - before <= 50_000, "it went on from {before} to {after}");
    assert_eq!(replicator.warnings(), Vec::<String>::new(), "it is said once");
    wire.delay(Duration::ZERO);
    match compare(&replicator).await.unwrap() {
        Comparison::Same(compared) => assert_eq!(compared.rows, 600_000),
        other => panic!("{other}"),
    }
}
