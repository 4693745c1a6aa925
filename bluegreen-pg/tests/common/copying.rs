//! A first copy that is watched, stopped in its midst, and compared.

use bluegreen_core::{Direction, MirrorStatus, Replicator};
use bluegreen_pg::PgReplicator;
use bluegreen_testkit::servers::PgBinaries;
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Waits until the copy is so far, in hundredths.
pub async fn copied(replicator: &PgReplicator, percent: u64) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Copying { bytes, .. } if bytes.done * 100 >= bytes.total * percent => return,
            MirrorStatus::Failed { why, .. } => panic!("{why}"),
            other => assert!(Instant::now() < until, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Everything the status says until the mirror streams.
pub async fn said(replicator: &PgReplicator) -> String {
    let until = Instant::now() + Duration::from_secs(120);
    let mut said = String::new();
    loop {
        let status = replicator.status(Direction::BlueToGreen).await.unwrap();
        match status {
            MirrorStatus::Streaming(_) => return said,
            MirrorStatus::Failed { why, .. } => panic!("{why}"),
            _ => assert!(Instant::now() < until, "still {status}"),
        }
        said.push_str(&status.to_string());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Ends the sessions of which this is true.
pub async fn kill(client: &Client, which: &str) -> usize {
    let sql =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {which}");
    client.query(&sql, &[]).await.unwrap().len()
}

/// Sends a signal to sessions of the copy: to stop them is what an overloaded server does to everybody.
pub async fn signal(beside: &Client, which: &str, signal: Signal) -> usize {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE application_name = 'bluegreen_shop_copy' AND {which}");
    let rows = beside.query(&sql, &[]).await.unwrap();
    for row in &rows {
        // A session may have ended meanwhile.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(row.get(0)), signal).ok();
    }
    rows.len()
}

/// Stops the sessions of the copy of which this is true as soon as there are any.
pub async fn stop(beside: &Client, which: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    while signal(beside, which, Signal::SIGSTOP).await == 0 {
        assert!(Instant::now() < until, "there is none: {which}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Every table with its rows' number and a sum over digests of them.
pub async fn digests(client: &Client) -> Vec<(String, i64, String)> {
    let names = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm') \
                 AND relnamespace = 'public'::regnamespace ORDER BY 1";
    let mut all = Vec::new();
    for row in client.query(names, &[]).await.unwrap() {
        let table: String = row.get(0);
        let sql = format!("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {table} t");
        let row = client.query_one(&sql, &[]).await.unwrap();
        all.push((table, row.get(0), row.get(1)));
    }
    all
}

/// PostgreSQL's programs, with a `pg_dump` that begins and ends only when it may: what happens between the snapshot and the rows.
pub struct Tools(tempfile::TempDir);

impl Tools {
    pub fn of(binaries: &PgBinaries) -> Self {
        let here = tempfile::tempdir().unwrap();
        let (folder, at) = (here.path().display(), binaries.dir().display());
        let wait = |what| format!("while [ ! -e '{folder}/{what}' ]; do sleep 0.01; done");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && exec '{at}/pg_dump' --version\n: > '{folder}/called'\n{}\n\
             '{at}/pg_dump' \"$@\" || exit\n: > '{folder}/dumped'\n{}\n",
            wait("begin"),
            wait("end")
        );
        let dump = here.path().join("pg_dump");
        std::fs::write(&dump, script).unwrap();
        std::fs::set_permissions(&dump, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(binaries.dir().join("pg_restore"), here.path().join("pg_restore")).unwrap();
        Self(here)
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Waits until it is `called`, or has `dumped`.
    pub async fn has(&self, what: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.0.path().join(what).exists() {
            assert!(Instant::now() < until, "never {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets it, and every one after it, `begin` or `end`.
    pub fn may(&self, what: &str) {
        std::fs::write(self.0.path().join(what), "").unwrap();
    }
}
