//! The name of our schema, in use by the application: what is not ours is never taken away.

use super::{Moved, pair};
use bluegreen_core::{Color, Direction, Finding, Kind, Replicator};
use tokio_postgres::Client;

async fn taken(moved: &Moved) -> Vec<Finding> {
    let findings = moved.replicator.preflight().await.unwrap();
    findings.into_iter().filter(|f| f.id == "own-schema-taken").collect()
}

async fn mend(client: &Client, finding: &Finding, at: &str) {
    let (_, commands) = finding.mend.split_once(at).unwrap();
    client.batch_execute(commands).await.unwrap();
}

async fn kinds(client: &Client) -> i64 {
    let rows = "SELECT count(*) FROM t WHERE k::text = 'a'";
    client.query_one(rows, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_schema_of_our_name_is_left_alone() {
    let Some(pair) = pair().await else { return };
    let theirs = "CREATE SCHEMA bluegreen; CREATE TYPE bluegreen.kind AS ENUM ('a'); CREATE FUNCTION bluegreen.f() RETURNS int LANGUAGE sql RETURN 1; CREATE SEQUENCE bluegreen.s";
    // Even a table of the name of one of ours.
    let sql = format!(
        "{theirs}; CREATE TABLE bluegreen.state (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, k bluegreen.kind NOT NULL); INSERT INTO t VALUES (1, 'a')"
    );
    let mut moved = Moved::prepare(&pair, "own", &sql).await;
    moved.green().await.batch_execute(theirs).await.unwrap();
    let found = taken(&moved).await;
    let [at_blue, at_green] = &found[..] else {
        panic!("{found:#?}")
    };
    for (finding, side, things) in [(at_blue, "at blue", 4), (at_green, "at green", 3)] {
        let count = format!("{side}, the schema bluegreen holds {things} things: ");
        for seen in [
            count.as_str(),
            "type bluegreen.kind",
            "function bluegreen.f()",
            "sequence bluegreen.s",
        ] {
            assert!(finding.seen.contains(seen), "{finding}");
        }
    }
    assert!(at_blue.seen.contains("table bluegreen.state"), "{at_blue}");

    // Who does not look is stopped, and loses nothing by it.
    let refused = moved.replicator.start(Direction::BlueToGreen).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict, "{refused}");
    assert!(refused.to_string().contains("bluegreen.f()"), "{refused}");
    moved.replicator.stop(Color::Blue).await.unwrap();
    for client in [&moved.blue, &moved.green().await] {
        let all = "SELECT 'bluegreen.kind'::regtype, 'bluegreen.s'::regclass, bluegreen.f()";
        client.batch_execute(all).await.unwrap();
    }
    moved.blue.batch_execute("SELECT FROM bluegreen.state").await.unwrap();
    assert_eq!(kinds(&moved.blue).await, 1);

    mend(&moved.blue, at_blue, "at blue: ").await;
    mend(&moved.green().await, at_green, "at green: ").await;
    moved
        .green()
        .await
        .batch_execute("DROP SCHEMA its_bluegreen CASCADE")
        .await
        .unwrap();
    moved.findings = moved.replicator.preflight().await.unwrap();
    moved.mirror().await;
    moved.change("INSERT INTO t VALUES (2, 'a')").await;
    moved.and_back("INSERT INTO t VALUES (3, 'a')").await;
    assert_eq!(kinds(&moved.green().await).await, 3);
}

#[tokio::test]
async fn what_is_made_in_our_schema_stays_when_it_goes() {
    let Some(pair) = pair().await else { return };
    let sql = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)";
    let moved = Moved::prepare(&pair, "late", sql).await;
    moved.mirror().await;
    assert!(taken(&moved).await.is_empty(), "what is ours is no stranger");
    let late = "CREATE TYPE bluegreen.kind AS ENUM ('a'); ALTER TABLE t ADD k bluegreen.kind DEFAULT 'a'; CREATE AGGREGATE bluegreen.a(*) (sfunc = int8inc, stype = int8, initcond = '0'); CREATE VIEW bluegreen.v AS SELECT 1 AS n;
        CREATE TABLE bluegreen.numbered (id serial PRIMARY KEY)";
    moved.blue.batch_execute(late).await.unwrap();
    let found = taken(&moved).await;
    let [finding] = &found[..] else { panic!("{found:#?}") };
    assert!(
        finding.seen.contains(
            "holds 4 things: aggregate bluegreen.a(), table bluegreen.numbered, type bluegreen.kind, view bluegreen.v"
        ),
        "{finding}"
    );

    // What looks at a table of ours is named, and is not dropped along.
    moved
        .blue
        .batch_execute("CREATE VIEW watching AS SELECT * FROM bluegreen.state")
        .await
        .unwrap();
    let refused = moved.replicator.stop(Color::Blue).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("view public.watching depends on table bluegreen.state"),
        "{refused}"
    );
    moved.blue.batch_execute("DROP VIEW watching").await.unwrap();
    moved.replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(moved.replicator.leftovers().await.unwrap(), Vec::<String>::new());
    assert_eq!(kinds(&moved.blue).await, 1);
    let there = "SELECT to_regclass('bluegreen.state') IS NULL AND to_regclass('bluegreen.v') IS NOT NULL";
    assert!(moved.blue.query_one(there, &[]).await.unwrap().get::<_, bool>(0));
    let gone = "SELECT to_regnamespace('bluegreen') IS NULL";
    assert!(
        moved
            .green()
            .await
            .query_one(gone, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
    // In the way of the next one, as any other is.
    let found = taken(&moved).await;
    assert!(
        found[0]
            .mend
            .ends_with("at blue: ALTER SCHEMA bluegreen RENAME TO its_bluegreen;"),
        "{found:#?}"
    );
}

#[tokio::test]
async fn a_stranger_in_a_schema_of_ours_can_move_out() {
    let Some(pair) = pair().await else { return };
    let moved = Moved::prepare(
        &pair,
        "out",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
    )
    .await;
    moved.mirror().await;
    let late = "CREATE AGGREGATE bluegreen.a(*) (sfunc = int8inc, stype = int8, initcond = '0'); CREATE FUNCTION bluegreen.f(int, VARIADIC text[]) RETURNS int LANGUAGE sql RETURN 1; CREATE COLLATION bluegreen.\"C c\" FROM \"C\";
        CREATE TABLE bluegreen.numbered (id serial PRIMARY KEY); CREATE STATISTICS bluegreen.st ON (id % 2) FROM t; CREATE EXTENSION hstore SCHEMA bluegreen; CREATE DOMAIN bluegreen.d AS int; CREATE OPERATOR FAMILY bluegreen.of USING btree";
    moved.blue.batch_execute(late).await.unwrap();
    let found = taken(&moved).await;
    let [finding] = &found[..] else { panic!("{found:#?}") };
    assert!(
        finding.seen.contains("8 things") && finding.seen.contains("extension hstore"),
        "{finding}"
    );
    mend(&moved.blue, finding, "at blue: ").await;
    assert!(taken(&moved).await.is_empty());
    moved.replicator.stop(Color::Blue).await.unwrap();
    let gone = "SELECT to_regnamespace('bluegreen') IS NULL";
    assert!(moved.blue.query_one(gone, &[]).await.unwrap().get::<_, bool>(0));
}
