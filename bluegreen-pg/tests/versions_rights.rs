//! Without superuser on either side, with passwords, and over TLS: what managed services give is enough from 16 on, and
//! what is missing is said with the command that mends it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Finding, Kind, Replicator, Severity};
use bluegreen_pg::PgReplicator;
use bluegreen_testkit::servers::available;
use common::findings::{find, ids, sql};
use common::mover::{fill, mover, roles};
use common::secure::{ask_for_password, certificates, openssl, speak_tls};
use common::whole::whole_move;
use common::{DB, Pair, WITHIN, proved, streaming};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// What makes a copy faster, and may be forbidden.
const HELPFUL: [&str; 2] = ["pg_logical_emit_message", "bpcharsend"];

async fn without_superuser(blue: u32, green: u32, forbidden: &[&str]) {
    let Some(mut pair) = Pair::of_majors(blue, green).await else {
        return;
    };
    roles(&pair).await;
    fill(&pair).await;
    for color in [Color::Blue, Color::Green] {
        ask_for_password(&pair, color, "mover", false).await;
    }
    let padded = "SET ROLE mover; CREATE TABLE padded (id int PRIMARY KEY, c char(250));
         INSERT INTO padded SELECT i, 'x' FROM generate_series(1, 20000) i; ANALYZE padded; GRANT SELECT ON padded TO app";
    pair.client(Color::Blue).await.batch_execute(padded).await.unwrap();
    // As many as the preflight asks for are enough.
    for color in [Color::Blue, Color::Green] {
        let limit = "ALTER ROLE mover CONNECTION LIMIT 10";
        pair.client(color).await.batch_execute(limit).await.unwrap();
    }
    for (color, name) in [Color::Blue, Color::Green]
        .into_iter()
        .flat_map(|c| forbidden.iter().map(move |n| (c, n)))
    {
        let sql = format!(
            "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proname = '{name}' \
             LOOP EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$"
        );
        pair.client(color).await.batch_execute(&sql).await.unwrap();
    }
    let (blue, green) = (mover(&pair, Color::Blue), mover(&pair, Color::Green));
    let wrong = blue.replace("eim", "eym");
    let error = pair.builder_of(wrong, green.clone()).build().unwrap();
    let seen = troubles(&error).await;
    assert!(seen.iter().any(|f| f.id == "blue-unreachable"), "{seen:#?}");
    assert!(!format!("{seen:?}").contains("h\\\\eym"), "{seen:?}");
    let replicator = pair.builder_of(blue, green).build().unwrap();
    pair.user = "app";
    whole_move(&pair, &replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_superuser_from_16_to_18() {
    without_superuser(16, 18, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_superuser_from_17_to_18() {
    without_superuser(17, 18, &HELPFUL).await;
}

/// Before 16 nobody else may subscribe; from 16 on a right and a password are enough, and each that is missing is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said_with_its_command() {
    let Some(pair) = Pair::of_majors(15, 17).await else {
        return;
    };
    roles(&pair).await;
    fill(&pair).await;
    let replicator = pair
        .builder_of(mover(&pair, Color::Blue), mover(&pair, Color::Green))
        .build()
        .unwrap();
    let mend = |seen: &[Finding], id: &str| {
        let found = seen.iter().find(|f| f.id == id);
        found.unwrap_or_else(|| panic!("no {id} in {seen:#?}")).mend.clone()
    };
    let seen = troubles(&replicator).await;
    assert!(mend(&seen, "blue-may-not-subscribe").ends_with("ALTER ROLE \"mover\" SUPERUSER;"));
    // Blue lets everybody in without a password.
    assert!(mend(&seen, "green-needs-a-password").contains("host all \"mover\" all scram-sha-256"));
    assert_eq!(seen.len(), 2, "{seen:#?}");

    ask_for_password(&pair, Color::Blue, "mover", false).await;
    let (at_blue, at_green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    at_blue.batch_execute("ALTER ROLE mover SUPERUSER").await.unwrap();
    at_green
        .batch_execute("REVOKE pg_create_subscription FROM mover")
        .await
        .unwrap();
    let seen = troubles(&replicator).await;
    let command = mend(&seen, "green-may-not-subscribe");
    let command = command.strip_prefix("at green: ").unwrap();
    assert_eq!(seen.len(), 1, "{seen:#?}");
    at_green.batch_execute(command).await.unwrap();
    assert_eq!(troubles(&replicator).await, []);

    // At blue it is a superuser by now, and has no limit.
    for client in [&at_blue, &at_green] {
        let limits = format!(
            "ALTER ROLE mover CONNECTION LIMIT 8; ALTER DATABASE \"{}\" CONNECTION LIMIT 5",
            DB.replace('"', "\"\"")
        );
        client.batch_execute(&limits).await.unwrap();
    }
    let seen = troubles(&replicator).await;
    assert_eq!(
        ids(&seen),
        ["database-connection-limit", "role-connection-limit"],
        "{seen:#?}"
    );
    let of_role = ["role mover of green is 8", "10 more are needed"];
    find(&seen, "role-connection-limit", Severity::Blocking, &of_role);
    for finding in &seen {
        at_green.batch_execute(sql(finding)).await.unwrap();
    }
    assert_eq!(troubles(&replicator).await, []);
}

/// A superuser's session cannot be ended by who is none, and could write at blue after the cut-over: so there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_be_ended_keeps_the_cut_over_from_beginning() {
    let Some(pair) = Pair::of_majors(17, 18).await else {
        return;
    };
    roles(&pair).await;
    fill(&pair).await;
    for color in [Color::Blue, Color::Green] {
        ask_for_password(&pair, color, "mover", false).await;
    }
    let replicator = pair
        .builder_of(mover(&pair, Color::Blue), mover(&pair, Color::Green))
        .build()
        .unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let superuser = pair.client(Color::Blue).await;
    let pid: i32 = superuser
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let error = replicator.arm(Color::Green, common::WITHIN).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(error.message().contains(&format!("pid {pid}")), "{error}");

    // One that comes after the cut-over was armed makes it be given up, and writes go on.
    drop(superuser);
    gone(&pair, pid).await;
    replicator.arm(Color::Green, common::WITHIN).await.unwrap();
    let superuser = pair.client(Color::Blue).await;
    let position = replicator.fence(Color::Blue, WITHIN).await.unwrap();
    proved(&replicator, &position).await;
    let error = replicator.hand_over(Color::Green).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    replicator.unfence(Color::Blue).await.unwrap();
    superuser
        .batch_execute("INSERT INTO ledger (token) VALUES ('goes on')")
        .await
        .unwrap();
}

async fn gone(pair: &Pair, pid: i32) {
    let until = Instant::now() + WITHIN;
    let elsewhere = pair.blue.connect("postgres").await.unwrap();
    let there = "SELECT FROM pg_stat_activity WHERE pid = $1";
    while elsewhere.query_opt(there, &[&pid]).await.unwrap().is_some() {
        assert!(Instant::now() < until, "{pid} does not go");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A whole move over TLS that verifies everything, with passwords: we to the servers, the programs, and each server to
/// the other.
async fn verified_tls_and_passwords(blue: u32, green: u32, superuser: bool) {
    let Some(openssl) = available("openssl", openssl()) else {
        return;
    };
    let Some(mut pair) = Pair::of_majors(blue, green).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    certificates(&openssl, folder.path());
    // The servers read the authority too, for their subscriptions.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    roles(&pair).await;
    fill(&pair).await;
    let url = |color| {
        let authority = folder.path().join("ca.crt");
        mover(&pair, color).replace("host=127.0.0.1", "host=localhost")
            + &format!(" sslmode=verify-full sslrootcert={}", authority.display())
    };
    let (blue, green) = (url(Color::Blue), url(Color::Green));
    for color in [Color::Blue, Color::Green] {
        if superuser {
            let client = pair.client(color).await;
            client.batch_execute("ALTER ROLE mover SUPERUSER").await.unwrap();
        }
        speak_tls(&pair, color, folder.path()).await;
        ask_for_password(&pair, color, "mover", true).await;
    }
    // libpq in a server looks for a client certificate in the home of whoever started it, unless it is told where.
    let from_peer = |url: &str| format!("{url} sslcert=/nonexistent sslkey=/nonexistent");
    let replicator = pair
        .builder_of(blue.clone(), green.clone())
        .database_from_peer(Color::Blue, from_peer(&blue))
        .database_from_peer(Color::Green, from_peer(&green))
        .build()
        .unwrap();
    pair.user = "app";
    whole_move(&pair, &replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verified_tls_and_passwords_from_15_to_17() {
    verified_tls_and_passwords(15, 17, true).await;
}

/// Of those from 16 on that the tests have, only 17 speaks TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verified_tls_and_passwords_without_superuser_from_17_to_17() {
    verified_tls_and_passwords(17, 17, false).await;
}

async fn troubles(replicator: &PgReplicator) -> Vec<Finding> {
    let mut all = replicator.preflight().await.unwrap();
    all.retain(|f| f.severity == Severity::Blocking);
    all
}
