//! What the preflight says of extensions, and of what a schema names outside of its database, on real clusters.

use crate::common::Pair;
use crate::common::findings::{find, ids, run, troubles};
use bluegreen_core::{Color, Replicator, Severity};

/// As far as the catalogue goes: none of them is installed here.
#[tokio::test]
async fn extensions_that_do_more_than_tables() {
    let Some(pair) = Pair::start().await else { return };
    let blue = pair.client(Color::Blue).await;
    let made = |name: &str| {
        format!(
            "INSERT INTO pg_extension SELECT 99000 + (SELECT count(*)::int FROM pg_extension), '{name}', extowner, extnamespace, false, '1.0' \
             FROM pg_extension WHERE extname = 'plpgsql';"
        )
    };
    blue.batch_execute(&format!(
        "SET allow_system_table_mods = on; {} {} {}
         CREATE SCHEMA cron; CREATE SCHEMA \"Part man\";
         CREATE TABLE cron.job (jobid bigint PRIMARY KEY, command text, database text, active boolean, jobname text);
         INSERT INTO cron.job VALUES (7, 'SELECT 1', current_database(), true, 'nightly'), (8, 'VACUUM', current_database(), true, NULL),
             (9, 'off', current_database(), false, NULL), (10, 'elsewhere', 'postgres', true, NULL);
         CREATE TABLE \"Part man\".part_config (parent_table text PRIMARY KEY, automatic_maintenance text);
         INSERT INTO \"Part man\".part_config VALUES ('public.it''s', 'on'), ('public.quiet', 'off');
         ALTER EXTENSION pg_cron ADD TABLE cron.job; ALTER EXTENSION pg_partman ADD TABLE \"Part man\".part_config;
         UPDATE pg_extension SET extconfig = ARRAY['cron.job'::regclass::oid], extcondition = ARRAY[''] WHERE extname = 'pg_cron'",
        made("pg_cron"),
        made("pg_partman"),
        made("timescaledb"),
    ))
    .await
    .unwrap();
    let replicator = pair.replicator();
    let seen = troubles(&replicator).await;
    let evidence = ["1 extension: \"timescaledb\" (its chunks"];
    let unmovable = find(&seen, "unmovable-extensions", Severity::Blocking, &evidence);
    assert!(
        unmovable.mend.contains("DROP EXTENSION \"timescaledb\";"),
        "{unmovable}"
    );
    let evidence = ["3 jobs: nightly (pg_cron), VACUUM (pg_cron), partitions of public.it's (pg_partman)"];
    let jobs = find(&seen, "extension-jobs", Severity::Warning, &evidence);
    run(&blue, jobs, "at blue: ").await;
    blue.batch_execute("DELETE FROM pg_extension WHERE extname = 'timescaledb'")
        .await
        .unwrap();
    let left = troubles(&replicator).await;
    assert_eq!(ids(&left), ["missing-extensions"], "{left:#?}");
}

#[tokio::test]
async fn extensions_foreign_tables_and_tablespaces() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    blue.batch_execute(
        "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE TABLE t (id citext PRIMARY KEY, h hstore)",
    )
    .await
    .unwrap();
    let replicator = pair.replicator();
    let clean = replicator.preflight().await.unwrap();
    for id in [
        "extension-jobs",
        "extension-versions",
        "foreign-tables",
        "missing-tablespaces",
    ] {
        assert!(!ids(&clean).contains(&id), "{clean:#?}");
    }
    // Tables that an extension keeps for its user, as PostGIS or pg_partman do: they are copied and mirrored as the others are.
    blue.batch_execute(
        "CREATE TABLE kept (id int PRIMARY KEY); CREATE TABLE \"Keyless\" (id int); INSERT INTO kept VALUES (1), (5000);
         ALTER EXTENSION hstore ADD TABLE kept; ALTER EXTENSION hstore ADD TABLE \"Keyless\";
         UPDATE pg_extension SET extconfig = ARRAY['kept'::regclass::oid, '\"Keyless\"'::regclass::oid], extcondition = ARRAY['WHERE id > 1000', ''] WHERE extname = 'hstore';
         UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'citext';
         CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE FOREIGN TABLE \"Far away\" (line text) SERVER files OPTIONS (filename '/dev/null');
         SET allow_in_place_tablespaces = on",
    )
    .await
    .unwrap();
    blue.batch_execute("CREATE TABLESPACE \"Fast\" LOCATION ''")
        .await
        .unwrap();
    blue.batch_execute("CREATE TABLE quick (id int PRIMARY KEY) TABLESPACE \"Fast\"")
        .await
        .unwrap();
    let seen = replicator.preflight().await.unwrap();
    let keyless = find(
        &seen,
        "no-replica-identity",
        Severity::Blocking,
        &["1 table: public.\"Keyless\""],
    );
    find(&seen, "extension-versions", Severity::Note, &["citext (1.0 on blue"]);
    find(&seen, "foreign-tables", Severity::Warning, &["public.\"Far away\""]);
    find(&seen, "missing-tablespaces", Severity::Blocking, &["\"Fast\""]);
    green
        .batch_execute("SET allow_in_place_tablespaces = on")
        .await
        .unwrap();
    green
        .batch_execute("CREATE TABLESPACE \"Fast\" LOCATION ''")
        .await
        .unwrap();
    run(&blue, keyless, ": ").await;
    blue.batch_execute("DROP EXTENSION file_fdw CASCADE").await.unwrap();
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
}
