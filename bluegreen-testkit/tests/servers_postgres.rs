//! Throwaway clusters: they start, crash, recover, and leave nothing behind.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_testkit::servers::{PgBinaries, PgCluster, available};

async fn one(cluster: &PgCluster, database: &str, sql: &str) -> String {
    let row = cluster
        .connect(database)
        .await
        .unwrap()
        .query_one(sql, &[])
        .await
        .unwrap();
    row.get::<_, String>(0)
}

#[tokio::test]
async fn many_start_at_once_and_leave_nothing() {
    let Some(_) = available("PostgreSQL", PgBinaries::find()) else {
        return;
    };
    let clusters = futures::future::try_join_all((0..4).map(|_| PgCluster::start()))
        .await
        .unwrap();
    let mut pids = Vec::new();
    let mut logs = Vec::new();
    for cluster in &clusters {
        assert_eq!(
            one(cluster, "postgres", "SELECT current_setting('wal_level')").await,
            "logical"
        );
        pids.push(cluster.pid().unwrap());
        logs.push(cluster.log().unwrap());
    }
    drop(clusters);
    for (pid, log) in pids.into_iter().zip(logs) {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "postgres {pid} is left"
        );
        assert!(!log.exists(), "{} is left", log.display());
    }
}

#[tokio::test]
async fn a_crash_keeps_what_was_committed() {
    let Some(_) = available("PostgreSQL", PgBinaries::find()) else {
        return;
    };
    let mut cluster = PgCluster::builder()
        .fsync(true)
        .setting("work_mem", "5MB")
        .start()
        .await
        .unwrap();
    cluster.create_database("we\"ird").await.unwrap();
    cluster
        .execute("we\"ird", "CREATE TABLE t AS SELECT 7 AS x")
        .await
        .unwrap();
    let port = cluster.port();
    cluster.crash().await.unwrap();
    assert!(cluster.connect("postgres").await.is_err());
    cluster.restart().await.unwrap();
    assert_eq!(cluster.port(), port);
    assert_eq!(one(&cluster, "we\"ird", "SELECT x::text FROM t").await, "7");
    assert_eq!(one(&cluster, "postgres", "SHOW work_mem").await, "5MB");
    let recovered = std::fs::read_to_string(cluster.log().unwrap()).unwrap();
    assert!(recovered.contains("automatic recovery in progress"), "{recovered}");
}
