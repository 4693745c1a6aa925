//! Another server, or another database, behind the same address: seen before anything is done there.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod common;
#[path = "bad_days/meddle.rs"]
#[allow(dead_code)]
mod meddle;

use bluegreen_core::{Color, Direction, Error, Kind, Outcome, Replicator, Spec, StepName};
use bluegreen_pg::PgReplicator;
use bluegreen_testkit::servers::PgCluster;
use common::course::{migration_with, until};
use common::mover::{fill, mover, roles, roles_at};
use common::secure::ask_for_password;
use common::writers::{LEDGER, Writers, check};
use common::{DB, Pair, WITHIN, connect, streaming};
use meddle::{At, Meddling};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_postgres::Client;

fn says_another(error: &Error) {
    says(error, "blue is the database", "another server");
}

fn says(error: &Error, which: &str, what: &str) {
    assert_eq!(error.kind(), Kind::Diverged, "{error}");
    let said = error.to_string();
    assert!(said.contains(which) && said.contains(what), "{said}");
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

/// Two servers of one address, of which one runs at a time.
type Place = Arc<Mutex<[PgCluster; 2]>>;

/// From now on the other one answers there.
async fn exchange(place: Place, gone: usize) {
    let mut servers = place.lock().await;
    servers[gone].stop().await.unwrap();
    servers[1 - gone].restart().await.unwrap();
}

async fn orders(url: &str) -> i64 {
    let client = connect(url).await.unwrap();
    let row = client.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap();
    row.get(0)
}

/// Between the arming and the commit record: blue writes on. After the record: nobody writes until the server is there again
/// that has everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_that_is_replaced_in_the_cut_over_does_not_become_the_writer() {
    let Some(mut pair) = Pair::start().await else { return };
    pair.client(Color::Blue).await.batch_execute(LEDGER).await.unwrap();
    // It would take the application's writes.
    pair.green.stop().await.unwrap();
    let builder = PgCluster::builder().binaries(pair.green.binaries().clone()).anew();
    let mut other = builder.port(pair.green.port()).start().await.unwrap();
    other.create_database(DB).await.unwrap();
    pair.client(Color::Green).await.batch_execute(LEDGER).await.unwrap();
    other.stop().await.unwrap();
    pair.green.restart().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let writers = Writers::start(&pair, 2);
    let [blue, green] = [Color::Blue, Color::Green].map(|color| pair.url(color));
    let place: Place = Arc::new(Mutex::new([pair.green, other]));
    for at in [At::BeforeFence, At::AfterFence, At::AfterProof, At::BeforePromote] {
        let deed = place.clone();
        let replicator = PgReplicator::builder("shop", &blue, &green)
            .copy_jobs(2)
            .build()
            .unwrap();
        let replicator = Meddling::new(replicator).at(at, 1, move || exchange(deed.clone(), 0));
        let migration = migration_with(&writers, &journal, replicator, |spec| {
            spec.cut_over_retry = Duration::from_millis(100);
        });
        let asked = migration.run().await.unwrap_err();
        assert_eq!(asked.kind(), Kind::HumanNeeded, "{at:?}: {asked}");
        assert!(asked.to_string().contains("green is the database"), "{at:?}: {asked}");
        assert!(asked.to_string().contains("another server"), "{at:?}: {asked}");
        if at != At::BeforePromote {
            let (before, since) = (orders(&blue).await, Instant::now());
            while orders(&blue).await < before + 20 {
                assert!(since.elapsed() < 12 * WITHIN, "{at:?}: writes do not flow at blue");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let there = connect(&green).await.unwrap();
        assert_eq!(marks(&there).await, Vec::<String>::new(), "{at:?}");
        assert_eq!(orders(&green).await, 0, "{at:?}");
        drop(there);
        exchange(place.clone(), 1).await;
        if at == At::BeforePromote {
            assert_eq!(migration.run().await.unwrap(), Outcome::Completed);
        }
    }
    let told = writers.end().await;
    assert!(told.acked.len() > 60, "{}", told.acked.len());
    check(&connect(&green).await.unwrap(), &told).await;
}

/// Whatever made it: a script that sets an environment up anew, or a restore.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_dropped_and_made_again_is_refused() {
    for color in [Color::Green, Color::Blue] {
        let Some((pair, replicator)) = Pair::mirrored(LEDGER).await else {
            return;
        };
        let oid = "SELECT oid::text FROM pg_database WHERE datname = $1";
        let elsewhere = pair.cluster(color).connect("postgres").await.unwrap();
        let was: String = elsewhere.query_one(oid, &[&DB]).await.unwrap().get(0);
        if color == Color::Green {
            // No server drops a database with a subscription in it.
            let there = pair.client(color).await;
            let writable = "SET default_transaction_read_only = off";
            there.batch_execute(writable).await.unwrap();
            for row in there.query("SELECT subname FROM pg_subscription", &[]).await.unwrap() {
                let name: &str = row.get(0);
                for what in [
                    "ALTER SUBSCRIPTION {} DISABLE",
                    "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
                    "DROP SUBSCRIPTION {}",
                ] {
                    there.batch_execute(&what.replace("{}", name)).await.unwrap();
                }
            }
        }
        let quoted = DB.replace('"', "\"\"");
        let since = Instant::now();
        // The walsender and sessions of ours may come back in between.
        loop {
            let ended = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_replication";
            elsewhere.batch_execute(ended).await.unwrap();
            match elsewhere
                .batch_execute(&format!("DROP DATABASE \"{quoted}\" WITH (FORCE)"))
                .await
            {
                Ok(()) => break,
                Err(error) => assert!(since.elapsed() < 4 * WITHIN, "it stays: {error:?}"),
            }
        }
        pair.cluster(color).create_database(DB).await.unwrap();
        let there = pair.client(color).await;
        there.batch_execute(LEDGER).await.unwrap();
        let is: String = elsewhere.query_one(oid, &[&DB]).await.unwrap().get(0);

        let what = format!("it is another database of that name: its oid is {is}, and was {was}");
        let which = format!("{color} is the database");
        says(
            &replicator.start(Direction::BlueToGreen).await.unwrap_err(),
            &which,
            &what,
        );
        says(
            &replicator.status(Direction::BlueToGreen).await.unwrap_err(),
            &which,
            &what,
        );
        says(&replicator.arm(Color::Green, WITHIN).await.unwrap_err(), &which, &what);
        says(&replicator.fence(Color::Blue, WITHIN).await.unwrap_err(), &which, &what);
        says(&replicator.promote(Color::Green).await.unwrap_err(), &which, &what);
        says(&replicator.unfence(color).await.unwrap_err(), &which, &what);
        assert_eq!(marks(&there).await, Vec::<String>::new(), "nothing was done there");
        let write = "INSERT INTO ledger (token) VALUES ('goes on')";
        pair.client(Color::Blue).await.batch_execute(write).await.unwrap();

        // As it says: what is left of it goes.
        replicator.stop(Color::Blue).await.unwrap();
        assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
    }
}

/// Who may not ask the server itself is told who it is by a replication connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_known_without_superuser() {
    let Some(mut pair) = Pair::of_majors(16, 17).await else {
        return;
    };
    roles(&pair).await;
    fill(&pair).await;
    let may_not_ask = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC";
    let mut truly = Vec::new();
    for color in [Color::Blue, Color::Green] {
        let superuser = pair.client(color).await;
        superuser.batch_execute(may_not_ask).await.unwrap();
        let is = "SELECT format('%s %s', system_identifier, oid) FROM pg_control_system(), pg_database \
            WHERE datname = current_database()";
        truly.push(superuser.query_one(is, &[]).await.unwrap().get::<_, String>(0));
        ask_for_password(&pair, color, "mover", false).await;
    }
    let replicator = pair
        .builder_of(mover(&pair, Color::Blue), mover(&pair, Color::Green))
        .build()
        .unwrap();
    let more = "GRANT SELECT (rolname) ON pg_authid TO app; GRANT USAGE ON LANGUAGE sql TO app; \
        GRANT USAGE ON SCHEMA pg_catalog TO app; GRANT USAGE ON TYPE pg_catalog.path TO app";
    pair.client(Color::Blue).await.batch_execute(more).await.unwrap();
    // Green cannot be given the same rights by us: that is told, and keeps nobody from the first copy.
    let findings = replicator.preflight().await.unwrap();
    let left_out = findings.iter().find(|f| f.id == "system-rights").unwrap();
    for what in [
        "column rolname of pg_authid",
        "function pg_control_system()",
        "language sql",
        "schema pg_catalog",
        "type path",
    ] {
        assert!(left_out.seen.contains(what), "no {what}: {left_out}");
    }
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    for color in [Color::Blue, Color::Green] {
        let recorded = pair.client(color).await;
        let row = recorded.query_one("SELECT blue, green FROM bluegreen.state", &[]).await;
        let row = row.unwrap();
        assert_eq!(vec![row.get::<_, String>(0), row.get(1)], truly, "at {color}");
    }
    replicator.arm(Color::Green, WITHIN).await.unwrap();

    let (port, binaries) = (pair.green.port(), pair.green.binaries().clone());
    pair.green.stop().await.unwrap();
    let other = PgCluster::builder().binaries(binaries).anew().port(port);
    pair.green = other.start().await.unwrap();
    pair.green.create_database(DB).await.unwrap();
    roles_at(&pair, Color::Green).await;
    let superuser = pair.client(Color::Green).await;
    superuser.batch_execute(may_not_ask).await.unwrap();
    drop(superuser);
    ask_for_password(&pair, Color::Green, "mover", false).await;
    for error in [
        replicator.fence(Color::Blue, WITHIN).await.unwrap_err(),
        replicator.arm(Color::Green, WITHIN).await.unwrap_err(),
        replicator.status(Direction::BlueToGreen).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Diverged, "{error}");
        assert!(error.message().contains("another server"), "{error}");
    }
}
