//! Another server behind the same address: seen before anything is done there.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Error, Kind, Outcome, Replicator, Spec, StepName};
use bluegreen_testkit::servers::PgCluster;
use common::course::{migration_with, until};
use common::writers::{LEDGER, Writers};
use common::{DB, Pair, WITHIN};
use std::time::Duration;
use tokio_postgres::Client;

fn says_another(error: &Error) {
    assert_eq!(error.kind(), Kind::Diverged, "{error}");
    let said = error.to_string();
    assert!(said.contains("blue") && said.contains("another server"), "{said}");
    assert!(said.contains("abort"), "it says how to mend it: {said}");
}

fn for_long(spec: &mut Spec) {
    spec.soak = Duration::from_secs(3600);
}

/// What a migration makes or changes in a database.
async fn marks(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "SELECT 'slot ' || slot_name FROM pg_replication_slots UNION ALL SELECT 'publication ' || pubname FROM pg_publication \
             UNION ALL SELECT 'subscription ' || subname || CASE WHEN subenabled THEN ' on' ELSE ' off' END FROM pg_subscription \
             UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^bluegreen' \
             UNION ALL SELECT 'setting ' || s FROM pg_db_role_setting, unnest(setconfig) s ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_took_anothers_place_is_refused_before_any_effect() {
    let Some(mut pair) = Pair::start().await else { return };
    pair.client(Color::Blue).await.batch_execute(LEDGER).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let writers = Writers::start(&pair, 1);
    let first = migration_with(&writers, &journal, pair.replicator(), for_long);
    let handle = first.handle();
    let running = tokio::spawn(async move { first.run().await });
    until(&handle, "soaking", |s| s.step == Some(StepName::Soak)).await;
    handle.stop();
    assert_eq!(running.await.unwrap().unwrap_err().kind(), Kind::HumanNeeded);
    drop(handle);
    writers.end().await;

    let port = pair.blue.port();
    pair.blue.stop().await.unwrap();
    let mut other = PgCluster::builder()
        .binaries(pair.blue.binaries().clone())
        .anew()
        .port(port)
        .start()
        .await
        .unwrap();
    other.create_database(DB).await.unwrap();
    let (there, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let before = (marks(&there).await, marks(&green).await);
    assert_eq!(before.0, Vec::<String>::new());
    assert!(before.1.iter().any(|m| m.ends_with(" on")), "{:?}", before.1);

    let writers = Writers::start(&pair, 0);
    let again = migration_with(&writers, &journal, pair.replicator(), for_long);
    let asked = again.run().await.unwrap_err();
    assert_eq!(asked.kind(), Kind::HumanNeeded);
    assert!(asked.to_string().contains("another server"), "{asked}");
    drop(again);
    let replicator = pair.replicator();
    says_another(&replicator.start(Direction::BlueToGreen).await.unwrap_err());
    says_another(&replicator.status(Direction::BlueToGreen).await.unwrap_err());
    says_another(&replicator.arm(Color::Green, WITHIN).await.unwrap_err());
    says_another(&replicator.fence(Color::Blue, WITHIN).await.unwrap_err());
    says_another(&replicator.promote(Color::Green).await.unwrap_err());
    says_another(&replicator.unfence(Color::Blue).await.unwrap_err());
    // The side that is the same may be given the writing back: which is what an abort needs.
    let closed = "SELECT count(*) FROM pg_db_role_setting WHERE 'default_transaction_read_only=on' = ANY (setconfig)";
    assert_eq!(green.query_one(closed, &[]).await.unwrap().get::<_, i64>(0), 1);
    replicator.unfence(Color::Green).await.unwrap();
    drop(green);
    let green = pair.client(Color::Green).await;
    assert_eq!(green.query_one(closed, &[]).await.unwrap().get::<_, i64>(0), 0);
    let shut = format!(
        "ALTER DATABASE \"{}\" SET default_transaction_read_only = on",
        DB.replace('"', "\"\"")
    );
    green.batch_execute(&shut).await.unwrap();
    assert_eq!(
        (marks(&there).await, marks(&green).await),
        before,
        "nothing was changed"
    );
    drop((there, green));

    // Mended as it says: it leads there again, and goes on where it was.
    other.stop().await.unwrap();
    pair.blue.restart().await.unwrap();
    let last = migration_with(&writers, &journal, replicator, for_long);
    let handle = last.handle();
    let running = tokio::spawn(async move { last.run().await });
    until(&handle, "soaking", |s| s.step == Some(StepName::Soak) && !s.paused).await;
    handle.abort();
    let outcome = running.await.unwrap().unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome}");
    assert_eq!(pair.replicator().leftovers().await.unwrap(), Vec::<String>::new());
}
