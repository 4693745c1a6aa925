//! TLS with a real server: every sslmode does what libpq's does, and a mirror runs over it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Replicator};
use bluegreen_pg::{PgReplicator, Server};
use bluegreen_testkit::servers::available;
use common::secure::{certificates, openssl, speak_tls};
use common::{Pair, streaming};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_does_what_it_says() {
    let Some(openssl) = available("openssl", openssl()) else {
        return;
    };
    let Some(pair) = Pair::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    certificates(&openssl, folder.path());
    certificates(&openssl, other.path());
    // The servers read the authority too, for their subscriptions.
    for dir in [folder.path(), other.path()] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let url = |color, host: &str, mode: &str, authority: Option<&Path>| {
        let mut url = pair.url(color).replace("host=127.0.0.1", &format!("host={host}"));
        url.push_str(&format!(" sslmode={mode}"));
        if let Some(folder) = authority {
            url.push_str(&format!(" sslrootcert={}", folder.join("ca.crt").display()));
        }
        url
    };
    let tls = async |host: &str, mode: &str, authority: Option<&Path>| -> Result<bool, bluegreen_core::Error> {
        let server = Server::new(Color::Blue, &url(Color::Blue, host, mode, authority), None, None)?;
        let session = server.connect("test").await?;
        let row = session
            .query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[])
            .await
            .unwrap();
        Ok(row.get(0))
    };
    assert!(!tls("127.0.0.1", "prefer", None).await.unwrap());
    let refused = tls("127.0.0.1", "require", None).await.unwrap_err();
    assert!(!refused.is_transient(), "{refused}");

    speak_tls(&pair, Color::Blue, folder.path()).await;
    speak_tls(&pair, Color::Green, folder.path()).await;
    let (ours, theirs) = (Some(folder.path()), Some(other.path()));
    assert!(!tls("127.0.0.1", "disable", None).await.unwrap());
    assert!(tls("127.0.0.1", "prefer", None).await.unwrap());
    assert!(tls("127.0.0.1", "require", None).await.unwrap());
    assert!(tls("127.0.0.1", "verify-ca", ours).await.unwrap());
    assert!(tls("localhost", "verify-full", ours).await.unwrap());
    for (host, mode, authority) in [
        ("127.0.0.1", "verify-ca", theirs),
        ("127.0.0.1", "require", theirs),
        ("127.0.0.1", "verify-full", ours),
        ("localhost", "verify-full", theirs),
    ] {
        let e = tls(host, mode, authority).await.unwrap_err();
        assert!(!e.is_transient(), "{host} {mode}: {e}");
    }

    pair.client(Color::Blue)
        .await
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let (blue, green) = (
        url(Color::Blue, "localhost", "verify-full", ours),
        url(Color::Green, "localhost", "verify-ca", ours),
    );
    // libpq in a server looks for a client certificate in the home of whoever started it, unless it is told where.
    let from_peer = |url: &str| format!("{url} sslcert=/nonexistent sslkey=/nonexistent");
    let replicator = PgReplicator::builder("shop", &blue, &green)
        .database_from_peer(Color::Blue, from_peer(&blue))
        .database_from_peer(Color::Green, from_peer(&green))
        .build()
        .unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let row = pair
        .client(Color::Blue)
        .await
        .query_one(
            "SELECT bool_and(s.ssl) FROM pg_stat_replication r JOIN pg_stat_ssl s USING (pid)",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "the subscription speaks TLS as well");
    common::cut_over(&replicator, Color::Green).await;
    replicator.stop(Color::Green).await.unwrap();
}
