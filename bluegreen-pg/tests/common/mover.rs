//! A role that has what managed services give, and no superuser's rights.

use super::secure::ask_for_password;
use super::whole::MORE;
use super::writers::LEDGER;
use super::{DB, Pair};
use bluegreen_core::Color;
use bluegreen_pg::PgReplicator;

pub const PASSWORD: &str = "ge'h\\eim \"ü\"";

/// The role, and an application's.
pub async fn roles(pair: &Pair) {
    for color in [Color::Blue, Color::Green] {
        roles_at(pair, color).await;
    }
}

pub async fn roles_at(pair: &Pair, color: Color) {
    let password = PASSWORD.replace('\'', "''");
    let db = DB.replace('"', "\"\"");
    let client = pair.client(color).await;
    if pair.cluster(color).binaries().major_version() >= 16 {
        // Thousands of rounds for each session take long in a build for tests.
        client.batch_execute("SET scram_iterations = 64").await.unwrap();
    }
    client
        .batch_execute(&format!(
            "CREATE ROLE mover LOGIN REPLICATION PASSWORD '{password}'; CREATE ROLE app LOGIN;
             GRANT pg_signal_backend, pg_read_all_stats TO mover; ALTER DATABASE \"{db}\" OWNER TO mover"
        ))
        .await
        .unwrap();
    if pair.cluster(color).binaries().major_version() >= 16 {
        client
            .batch_execute("GRANT pg_create_subscription TO mover")
            .await
            .unwrap();
    }
}

pub fn mover(pair: &Pair, color: Color) -> String {
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    pair.url(color)
        .replace("user=postgres", &format!("user=mover password='{password}'"))
}

/// A filled pair's replicator, which is no superuser anywhere; from now on the pair's own sessions are the application's.
pub async fn of_mover(pair: &mut Pair) -> PgReplicator {
    roles(pair).await;
    fill(pair).await;
    for color in [Color::Blue, Color::Green] {
        ask_for_password(pair, color, "mover", false).await;
    }
    let (blue, green) = (mover(pair, Color::Blue), mover(pair, Color::Green));
    let replicator = pair.builder_of(blue, green).build().unwrap();
    pair.user = "app";
    replicator
}

/// The application's tables, made by the role that owns the database.
pub async fn fill(pair: &Pair) {
    let owner = pair.client(Color::Blue).await;
    owner
        .batch_execute(&format!(
            "SET ROLE mover; {LEDGER}; {MORE}; GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
             GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app"
        ))
        .await
        .unwrap();
}
