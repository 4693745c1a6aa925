//! What the preflight says of the room for sessions. On real clusters, with the fault and without.

use crate::common::findings::find;
use crate::common::{DB, Pair};
use bluegreen_core::{Color, Finding, Replicator, Severity};
use bluegreen_pg::PgReplicatorBuilder;
use std::time::{Duration, Instant};

/// What is said of `max_connections` where one of these words is in it.
async fn room(builder: PgReplicatorBuilder, word: &str) -> Vec<Finding> {
    let mut findings = builder.build().unwrap().preflight().await.unwrap();
    findings.retain(|f| f.id == "max-connections" && f.seen.contains(word));
    findings
}

/// A server's own processes are no clients, also for who may not see what they are; and a superuser may use what is kept for one.
#[tokio::test]
async fn only_clients_take_room_and_a_superuser_has_what_is_reserved() {
    let Some(mut pair) = Pair::start().await else { return };
    let client = pair.blue.connect("postgres").await.unwrap();
    for color in [Color::Blue, Color::Green] {
        let role = pair.cluster(color).connect("postgres").await.unwrap();
        role.batch_execute("CREATE ROLE plain LOGIN").await.unwrap();
    }
    let until = Instant::now() + Duration::from_secs(30);
    let clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    while client.query_one(clients, &[]).await.unwrap().get::<_, i64>(0) > 1 {
        assert!(Instant::now() < until, "the clients of before do not go");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = room(pair.builder().copy_jobs(120), "of blue").await;
    find(&seen, "max-connections", Severity::Blocking, &["is 200, 1 are in use"]);
    pair.user = "plain";
    let seen = room(pair.builder().copy_jobs(120), "of blue").await;
    find(&seen, "max-connections", Severity::Blocking, &["is 200, 4 are in use"]);
}

#[tokio::test]
async fn a_comparison_needs_room_too_and_one_server_has_it_once() {
    let Some(pair) = Pair::start().await else { return };
    let seen = room(pair.builder().compare_jobs(120), "of green").await;
    find(&seen, "max-connections", Severity::Blocking, &["246 more are needed"]);
    assert_eq!(room(pair.builder().copy_jobs(48), "").await, [], "102 for each");

    pair.blue.create_database("other").await.unwrap();
    let blue = pair.url(Color::Blue);
    let other = blue.replace(DB, "other");
    let seen = room(pair.builder_of(blue, other).copy_jobs(48), "").await;
    let evidence = ["of blue and green", "204 more are needed"];
    find(&seen, "max-connections", Severity::Blocking, &evidence);
}
