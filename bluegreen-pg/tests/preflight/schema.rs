//! What the preflight says of a schema's finer parts, and of what belongs to the database and to no schema: roles, settings,
//! grants. On real clusters, with the fault, without it, and after the command that mends it.

use crate::common::Pair;
use crate::common::findings::{find, ids, run, troubles};
use bluegreen_core::{Color, Finding, Replicator, Severity};
use bluegreen_pg::PgReplicator;

async fn all(replicator: &PgReplicator) -> Vec<Finding> {
    replicator.preflight().await.unwrap()
}

#[tokio::test]
async fn columns_indexes_and_functions() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    let good = "
        CREATE TABLE fine (id int PRIMARY KEY, what text, twice int GENERATED ALWAYS AS (id * 2) STORED, r regclass);
        CREATE FUNCTION own_path(text) RETURNS text IMMUTABLE LANGUAGE plpgsql SET search_path = public AS 'BEGIN RETURN fine($1); END';
        CREATE FUNCTION plain(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
        CREATE FUNCTION named(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT public.plain($1)';
        CREATE FUNCTION unused(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT what FROM fine LIMIT 1); END';
        CREATE INDEX ON fine (own_path(what)); CREATE INDEX ON fine (plain(what)); CREATE INDEX ON fine (named(what));";
    blue.batch_execute(good).await.unwrap();
    let replicator = pair.replicator();
    let clean = all(&replicator).await;
    for id in [
        "generated-identity",
        "invalid-indexes",
        "unqualified-functions",
        "copied-as-text",
        "catalog-numbers",
        "temporary-tables",
        "partitioned-tables",
        "own-schema-taken",
    ] {
        assert!(!ids(&clean).contains(&id), "{clean:#?}");
    }

    blue.batch_execute(
        "CREATE TABLE computed (a int NOT NULL, \"B\" int GENERATED ALWAYS AS (a + 1) STORED NOT NULL, PRIMARY KEY (a, \"B\"));
         CREATE TABLE doubled (id int PRIMARY KEY, v int); INSERT INTO doubled VALUES (1, 1), (2, 1);
         CREATE FUNCTION in_sql(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT plain($1)';
         CREATE FUNCTION in_plpgsql(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN plain($1); END';
         CREATE TABLE checked (id int PRIMARY KEY, what text CHECK (in_sql(what) <> 'no'));
         CREATE INDEX ON checked (in_plpgsql(what));
         CREATE FUNCTION for_view() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM checked';
         CREATE TABLE odd (id int PRIMARY KEY, acl aclitem, number oid);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
         CREATE TABLE parts_2_1 PARTITION OF parts_2 DEFAULT;
         CREATE MATERIALIZED VIEW counted AS SELECT for_view();
         CREATE TEMP TABLE passing (what text);
         CREATE SCHEMA bluegreen; CREATE TABLE bluegreen.theirs (id int PRIMARY KEY)",
    )
    .await
    .unwrap();
    let failed = blue
        .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON doubled (v)")
        .await;
    assert!(failed.is_err());
    let seen = all(&replicator).await;
    let generated = find(
        &seen,
        "generated-identity",
        Severity::Blocking,
        &["public.computed (\"B\")"],
    );
    let invalid = find(
        &seen,
        "invalid-indexes",
        Severity::Warning,
        &["public.broken on public.doubled"],
    );
    find(&seen, "copied-as-text", Severity::Note, &["public.odd.acl (aclitem)"]);
    find(&seen, "catalog-numbers", Severity::Note, &["public.odd.number (oid)"]);
    find(&seen, "temporary-tables", Severity::Note, &["passing"]);
    find(
        &seen,
        "partitioned-tables",
        Severity::Note,
        &["1 partitioned table: public.parts (2 partitions)"],
    );
    let taken = find(&seen, "own-schema-taken", Severity::Blocking, &["bluegreen.theirs"]);
    let functions: Vec<Finding> = seen
        .iter()
        .filter(|f| f.id == "unqualified-functions")
        .cloned()
        .collect();
    assert_eq!(functions.len(), 2, "{functions:#?}");
    assert_eq!(
        (functions[0].severity, functions[1].severity),
        (Severity::Blocking, Severity::Warning)
    );
    for word in [
        "2 functions: public.for_view() (",
        "public.in_sql(text)",
        "plain(text) does not exist",
    ] {
        assert!(functions[0].seen.contains(word), "{}", functions[0]);
    }
    for word in ["1 function: public.in_plpgsql(text)", "names plain"] {
        assert!(functions[1].seen.contains(word), "{}", functions[1]);
    }

    run(&blue, generated, ": ").await;
    blue.batch_execute("DELETE FROM doubled WHERE id = 2").await.unwrap();
    run(&blue, invalid, "itself: ").await;
    for finding in [taken, &functions[0], &functions[1]] {
        run(&blue, finding, "at blue: ").await;
    }
    blue.batch_execute("DROP TABLE odd").await.unwrap();
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn databases_that_are_read_only() {
    let Some(pair) = Pair::start().await else { return };
    let replicator = pair.replicator();
    assert!(troubles(&replicator).await.is_empty());
    for color in [Color::Blue, Color::Green] {
        let close = "ALTER DATABASE \"shop \"\"ü\"\"\" SET default_transaction_read_only = on";
        pair.client(color).await.batch_execute(close).await.unwrap();
    }
    let seen = all(&replicator).await;
    let blue = find(&seen, "read-only-blue", Severity::Blocking, &["blue's database"]);
    find(&seen, "read-only-green", Severity::Note, &["green's database"]);
    let client = pair.client(Color::Blue).await;
    client
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    run(&client, blue, "at blue: ").await;
    assert!(troubles(&replicator).await.is_empty());
}

#[tokio::test]
async fn roles_settings_and_grants_that_no_dump_carries() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    blue.batch_execute(
        "CREATE ROLE \"The Team\"; CREATE ROLE app LOGIN IN ROLE \"The Team\"; CREATE ROLE worker LOGIN NOINHERIT IN ROLE \"The Team\";
         CREATE ROLE stranger LOGIN; CREATE ROLE reader LOGIN BYPASSRLS CREATEDB CONNECTION LIMIT 7;
         CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO \"The Team\"; GRANT SELECT ON t TO reader;
         ALTER DATABASE \"shop \"\"ü\"\"\" SET search_path = \"$user\", public, \"Odd, one\";
         ALTER DATABASE \"shop \"\"ü\"\"\" SET timezone = 'Europe/Rome'; ALTER ROLE worker SET statement_timeout = '5s';
         ALTER ROLE app IN DATABASE \"shop \"\"ü\"\"\" SET application_name = 'it''s';
         REVOKE CONNECT, TEMPORARY ON DATABASE \"shop \"\"ü\"\"\" FROM PUBLIC; GRANT CONNECT ON DATABASE \"shop \"\"ü\"\"\" TO app",
    )
    .await
    .unwrap();
    green
        .batch_execute("CREATE ROLE reader; CREATE ROLE app LOGIN")
        .await
        .unwrap();
    let replicator = pair.replicator();
    let seen = troubles(&replicator).await;
    let expected = [
        "database-grants",
        "database-settings",
        "missing-logins",
        "missing-roles",
        "role-attributes",
    ];
    assert_eq!(ids(&seen), expected, "{seen:#?}");
    let missing = find(&seen, "missing-roles", Severity::Blocking, &["1 role: \"The Team\""]);
    run(&green, missing, "at green: ").await;
    let logins = find(&seen, "missing-logins", Severity::Warning, &["1 role: \"worker\""]);
    run(&green, logins, "at green: ").await;
    let evidence = [
        "\"app\" (member of \"The Team\"",
        "\"reader\" (BYPASSRLS CONNECTION LIMIT 7 CREATEDB LOGIN",
    ];
    let attributes = find(&seen, "role-attributes", Severity::Warning, &evidence);
    run(&green, attributes, "at green: ").await;
    let grants = find(
        &seen,
        "database-grants",
        Severity::Warning,
        &["CONNECT of \"app\" on blue only", "TEMPORARY of PUBLIC on green only"],
    );
    run(&green, grants, "at green: ").await;
    // Roles that are there now have settings of their own.
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["database-settings"], "{seen:#?}");
    let settings = find(
        &seen,
        "database-settings",
        Severity::Warning,
        &[
            "search_path = \"$user\", public, \"Odd, one\"",
            "TimeZone",
            "application_name = 'it''s'",
            "statement_timeout",
        ],
    );
    run(&green, settings, "at green: ").await;
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
    let path: String = pair
        .client(Color::Green)
        .await
        .query_one("SHOW search_path", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(path, "\"$user\", public, \"Odd, one\"");
}

#[tokio::test]
async fn a_green_that_is_older_than_blue() {
    let Some(pair) = Pair::of_majors(16, 15).await else {
        return;
    };
    let seen = troubles(&pair.replicator()).await;
    find(
        &seen,
        "older-target",
        Severity::Blocking,
        &["blue runs PostgreSQL 16, green 15"],
    );
}
