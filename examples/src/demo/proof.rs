//! After everything: what is left of the migration, asked of the servers themselves and not of the library.

use super::AnyError;
use super::world::{Names, TTL, World, record, target};
use bluegreen_core::{Color, DnsProvider, Shape, WriteGate};
use bluegreen_testkit::servers::PgCluster;
use tokio_postgres::SimpleQueryMessage;

/// Everything that should not be there, in words; empty is as it should be.
pub(super) async fn leftovers(world: &World, writer: Color) -> Result<Vec<String>, AnyError> {
    let mut left = Vec::new();
    for (color, cluster) in [(Color::Blue, &world.blue), (Color::Green, &world.green)] {
        in_database(color, cluster, &mut left).await?;
    }
    if let Some(gate) = world.in_process_gate() {
        let state = gate.state().await?;
        if state.held || state.at != writer {
            left.push(format!("the gate is {state:?}"));
        }
    }
    if let Some(pooler) = &world.pooler {
        at_the_pooler(&pooler.admin_url(), world, writer, &mut left).await?;
    }
    at_the_name(world, writer, &mut left).await?;
    Ok(left)
}

async fn in_database(color: Color, cluster: &PgCluster, left: &mut Vec<String>) -> Result<(), AnyError> {
    let client = cluster.connect("shop").await?;
    let queries = [
        ("slot", "SELECT slot_name::text FROM pg_replication_slots"),
        ("publication", "SELECT pubname::text FROM pg_publication"),
        ("subscription", "SELECT subname::text FROM pg_subscription"),
        ("origin", "SELECT roname FROM pg_replication_origin"),
        (
            "schema",
            "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE '%bluegreen%'",
        ),
    ];
    for (what, query) in queries {
        for row in client.query(query, &[]).await? {
            left.push(format!("{color} has the {what} {}", row.get::<_, String>(0)));
        }
    }
    Ok(())
}

/// The console speaks only the simple protocol.
async fn at_the_pooler(admin: &str, world: &World, writer: Color, left: &mut Vec<String>) -> Result<(), AnyError> {
    let (client, connection) = tokio_postgres::connect(admin, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let port = match writer {
        Color::Blue => world.blue.port(),
        Color::Green => world.green.port(),
    };
    let mut found = false;
    for message in client.simple_query("SHOW DATABASES").await? {
        let SimpleQueryMessage::Row(row) = message else {
            continue;
        };
        if row.get("name") != Some("shop") {
            continue;
        }
        found = true;
        if row.get("paused") != Some("0") {
            left.push("PgBouncer is paused".into());
        }
        if row.get("port") != Some(port.to_string().as_str()) {
            left.push(format!(
                "PgBouncer leads to port {:?}, {writer} is at {port}",
                row.get("port")
            ));
        }
    }
    if !found {
        left.push("PgBouncer does not know the database".into());
    }
    drop(client);
    connection.await??;
    Ok(())
}

async fn at_the_name(world: &World, writer: Color, left: &mut Vec<String>) -> Result<(), AnyError> {
    let now = match &world.names {
        Names::Local { dns, .. } => dns.read(&record()).await?,
        Names::PowerDns(server) => {
            bluegreen_dns::PowerDns::new(server.api_url(), server.key())
                .read(&record())
                .await?
        }
    };
    let expected = target(writer).record_sets(TTL);
    if now.shape != Shape::Simple || now.sets != expected || now.owner.is_some() {
        left.push(format!(
            "the record is {:?} {:?}, owned by {:?}",
            now.shape, now.sets, now.owner
        ));
    }
    Ok(())
}
