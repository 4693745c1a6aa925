//! What green finds rows by where blue sends the whole of them.

use super::{Moved, pair};
use crate::common::{Pair, WITHIN};
use bluegreen_core::{Color, Kind, Replicator};

#[tokio::test]
async fn the_whole_row_beside_a_key() {
    let Some(pair) = pair().await else { return };
    let sql = "
        CREATE TABLE keyed (id int PRIMARY KEY, v text, j json, p point); ALTER TABLE keyed REPLICA IDENTITY FULL;
        INSERT INTO keyed SELECT g, 'x', '{}', '(1,2)' FROM generate_series(1, 20000) g; ANALYZE keyed";
    let change = "UPDATE keyed SET v = v || 'y', j = '[1]' WHERE id % 1000 = 0; DELETE FROM keyed WHERE id = (SELECT max(id) FROM keyed);
        UPDATE keyed SET id = -id WHERE id = (SELECT max(id) FROM keyed)";
    let moved = Moved::both_ways(&pair, "keyed", sql, change, change).await;
    let said = moved.findings.iter().any(|f| f.id.starts_with("full-"));
    assert!(!said, "green finds its rows by the key: {:#?}", moved.findings);
}

#[tokio::test]
async fn whole_rows_that_cannot_be_compared() {
    let Some(pair) = pair().await else { return };
    let sql = "
        CREATE TYPE pair_of AS (a int, j json); CREATE DOMAIN doc AS json; CREATE DOMAIN docs AS json[]; CREATE DOMAIN num AS numeric;
        CREATE TABLE lists (id int, \"J\" json[]); CREATE TABLE of_domain (id int, d doc, e docs, f docs[]); CREATE TABLE composed (id int, c pair_of);
        CREATE TABLE several (id int NOT NULL, j json); CREATE UNIQUE INDEX \"By id\" ON several (id);
        CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, j json); CREATE TABLE fine (id num, n int[], r int4range, c \"char\", x xid, u uuid[]);
        ALTER TABLE lists REPLICA IDENTITY FULL; ALTER TABLE of_domain REPLICA IDENTITY FULL; ALTER TABLE composed REPLICA IDENTITY FULL;
        ALTER TABLE several REPLICA IDENTITY FULL; ALTER TABLE late REPLICA IDENTITY FULL; ALTER TABLE fine REPLICA IDENTITY FULL;
        INSERT INTO lists VALUES (1, '{}'), (2, '{}'); INSERT INTO of_domain VALUES (1, '1'); INSERT INTO composed VALUES (1, '(1,2)'), (2, NULL);
        INSERT INTO several VALUES (1); INSERT INTO late VALUES (1, '{}'), (2, '{}'); INSERT INTO fine VALUES (1), (2)";
    let mut moved = Moved::prepare(&pair, "uncomparable", sql).await;
    let finding = moved.mend("full-without-equality", ": ").await;
    for word in [
        "5 tables: ",
        "public.lists (\"J\" json[])",
        "public.of_domain (d public.doc, e public.docs, f public.docs[])",
        "public.composed (c public.pair_of)",
        "public.several (j json)",
        "public.late (j json)",
    ] {
        assert!(finding.seen.contains(word), "{word} is not in {finding}");
    }
    let by_index = "ALTER TABLE public.several REPLICA IDENTITY USING INDEX \"By id\";";
    assert!(finding.mend.contains(by_index), "{finding}");
    moved.mirror().await;
    let change = "UPDATE lists SET \"J\" = \"J\" || '{1}'; UPDATE of_domain SET id = id + 1; UPDATE composed SET id = id + 1 WHERE c IS NULL;
        UPDATE several SET j = '2'; UPDATE late SET id = id + 10; DELETE FROM late WHERE id = (SELECT max(id) FROM late); UPDATE fine SET n = n || '{1}', id = id + 1 WHERE id > 1";
    moved.change(change).await;
    moved.and_back(change).await;
}

#[tokio::test]
async fn tables_without_a_key_get_what_works_for_them() {
    let Some(pair) = pair().await else { return };
    let sql = "CREATE TABLE shapeless (v int, j json); INSERT INTO shapeless VALUES (1, '{}'), (1, '{}'); CREATE TABLE plain (v int); INSERT INTO plain VALUES (1), (1);
        CREATE TABLE nothing (v int, p point); ALTER TABLE nothing REPLICA IDENTITY NOTHING; INSERT INTO nothing VALUES (1, '(0,0)')";
    let mut moved = Moved::prepare(&pair, "keyless", sql).await;
    let finding = moved.mend("no-replica-identity", ": ").await;
    assert!(
        finding.mend.contains("ALTER TABLE public.plain REPLICA IDENTITY FULL;"),
        "{finding}"
    );
    assert!(moved.blocking().is_empty(), "{:#?}", moved.blocking());
    moved.mirror().await;
    let change = "UPDATE shapeless SET v = v + 1 WHERE ctid = (SELECT min(ctid) FROM shapeless); UPDATE plain SET v = v + 1 WHERE ctid = (SELECT min(ctid) FROM plain);
        UPDATE nothing SET p = '(1,1)', v = v + 1";
    moved.change(change).await;
    moved.and_back(change).await;
}

/// Green goes by the key though blue sends the whole row: but what it computes itself is not sent.
#[tokio::test]
async fn a_generated_column_in_the_key_of_whole_rows() {
    let Some(pair) = Pair::start().await else { return };
    let sql = "
        CREATE TABLE computed (a int NOT NULL, \"B\" int GENERATED ALWAYS AS (a + 1) STORED NOT NULL, v text, PRIMARY KEY (a, \"B\"));
        ALTER TABLE computed REPLICA IDENTITY FULL; INSERT INTO computed (a, v) SELECT g, 'x' FROM generate_series(1, 10) g;
        CREATE TABLE beside (a int, b int GENERATED ALWAYS AS (a + 1) STORED); ALTER TABLE beside REPLICA IDENTITY FULL; INSERT INTO beside VALUES (1), (2)";
    let mut moved = Moved::prepare(&pair, "computed", sql).await;
    let finding = moved.mend("generated-identity", ": ").await;
    assert!(finding.seen.contains("1 table: public.computed (\"B\")"), "{finding}");
    moved.mirror().await;
    let change = "UPDATE computed SET v = v || 'y' WHERE a < 4; DELETE FROM computed WHERE a = (SELECT max(a) FROM computed); UPDATE beside SET a = a + 1 WHERE a > 1";
    moved.change(change).await;
    moved.and_back(change).await;
}

/// An extension's table is made by the extension, and not as blue's was altered: the way back would break green's UPDATE.
#[tokio::test]
async fn a_way_back_over_a_table_without_identity_is_not_armed() {
    let Some(pair) = Pair::start().await else { return };
    let extension = "CREATE EXTENSION pg_trgm; CREATE TABLE config (v text); ALTER EXTENSION pg_trgm ADD TABLE config;
        UPDATE pg_extension SET extconfig = ARRAY['config'::regclass::oid], extcondition = ARRAY[''] WHERE extname = 'pg_trgm';";
    let full = "ALTER TABLE config REPLICA IDENTITY FULL; INSERT INTO config VALUES ('a'), ('b')";
    let moved = Moved::prepare(&pair, "keyless", &format!("{extension} {full}")).await;
    moved.green().await.batch_execute(extension).await.unwrap();
    moved.mirror().await;
    moved.change("UPDATE config SET v = v || 'x'").await;
    let error = moved.replicator.arm(Color::Green, WITHIN).await.unwrap_err();
    assert_eq!(error.kind(), Kind::HumanNeeded, "{error}");
    let mend = "ALTER TABLE \"public\".\"config\" REPLICA IDENTITY FULL;";
    assert!(
        error.to_string().contains(mend) && error.to_string().contains("of green"),
        "{error}"
    );
    let mend = format!("BEGIN READ WRITE; {mend} COMMIT");
    moved.green().await.batch_execute(&mend).await.unwrap();
    moved
        .and_back("UPDATE config SET v = v || 'y'; DELETE FROM config WHERE v LIKE 'a%'")
        .await;
}
