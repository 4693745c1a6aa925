//! CHECK constraints and generated columns that read tables.

use super::{Moved, pair};
use bluegreen_core::{Direction, MirrorStatus, Replicator};
use std::time::Duration;

/// The rows that are asked for are in the table that is larger, and so comes later, or in the same.
const SQL: &str = "
    CREATE TABLE known (id int PRIMARY KEY, filler text); INSERT INTO known SELECT g, repeat('x', 500) FROM generate_series(1, 3000) g;
    CREATE FUNCTION is_known(int) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.known WHERE id = $1)';
    CREATE FUNCTION through(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN public.is_known($1); END';
    CREATE FUNCTION parsed(int) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT EXISTS (SELECT FROM known WHERE id = $1); END;
    CREATE TABLE counts (id int PRIMARY KEY); CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.counts';
    CREATE FUNCTION plain(date) RETURNS boolean LANGUAGE sql AS 'SELECT extract(year FROM $1) > 2000 AND $1 IS DISTINCT FROM now()::date';
    CREATE DOMAIN known_id AS int CONSTRAINT \"Known\" CHECK (parsed(VALUE));
    CREATE TABLE direct (id int PRIMARY KEY, k int, CONSTRAINT \"Direct\" CHECK (is_known(k))); INSERT INTO direct VALUES (1, 2999);
    CREATE TABLE indirect (id int PRIMARY KEY, k int CHECK (through(k))); INSERT INTO indirect VALUES (1, 3000);
    CREATE TABLE of_domain (id int PRIMARY KEY, k known_id); INSERT INTO of_domain VALUES (1, 5);
    ALTER TABLE counts ADD CHECK (id = 1 OR counted() > 0); INSERT INTO counts VALUES (1); INSERT INTO counts VALUES (0);
    CREATE FUNCTION odd(date, int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT extract(year FROM counts.d) > 2000 AND $2 IS DISTINCT FROM known.id FROM (SELECT $1) AS counts(d), (SELECT 1) AS known(id)';
    CREATE TABLE harmless (id int PRIMARY KEY, known date CHECK (plain(known)), CHECK (id > 0), CHECK (odd(known, NULL))); INSERT INTO harmless VALUES (1, '2020-01-01')";

#[tokio::test]
async fn checks_that_read_tables_wait_for_the_rows() {
    let Some(pair) = pair().await else { return };
    let mut moved = Moved::prepare(&pair, "checks", SQL).await;
    let finding = moved.mend("checks-read-tables", ": ").await;
    for word in [
        "4 constraints: ",
        "\"Direct\" on public.direct (reads public.known)",
        "indirect_k_check on public.indirect (reads public.known)",
        "\"Known\" on public.known_id (reads public.known)",
        "counts_id_check on public.counts (reads public.counts)",
    ] {
        assert!(finding.seen.contains(word), "{word} is not in {finding}");
    }
    moved.mirror().await;
    let change = |n: u32| {
        format!(
            "INSERT INTO known VALUES (4{n}); INSERT INTO direct VALUES ({n}, 4{n}); INSERT INTO indirect VALUES ({n}, 4{n});
             INSERT INTO of_domain VALUES ({n}, 4{n}); INSERT INTO counts VALUES ({n})"
        )
    };
    moved.change(&change(1002)).await;
    let refused = moved.blue.batch_execute("INSERT INTO direct VALUES (9, -1)").await;
    assert!(refused.is_err(), "new rows are checked as before");
    moved.and_back(&change(1003)).await;
}

/// What it is said for.
#[tokio::test]
async fn a_check_that_reads_a_table_stops_the_copy() {
    let Some(pair) = pair().await else { return };
    let moved = Moved::prepare(&pair, "stopped", SQL).await;
    moved.replicator.start(Direction::BlueToGreen).await.unwrap();
    let why = loop {
        match moved.replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Failed { why, .. } => break why,
            MirrorStatus::Streaming(_) => panic!("the copy went through"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    assert!(why.to_string().contains("violates check constraint"), "{why}");
}

#[tokio::test]
async fn generated_columns_that_read_tables_are_refused() {
    let Some(pair) = pair().await else { return };
    let sql = "
        CREATE TABLE rates (code text PRIMARY KEY, rate int); INSERT INTO rates VALUES ('a', 7);
        CREATE FUNCTION rate(text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT r.rate FROM public.rates r WHERE r.code = $1); END';
        CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
        CREATE TABLE sales (id int, code text, \"Rate\" int GENERATED ALWAYS AS (public.rate(code)) STORED, t int GENERATED ALWAYS AS (public.twice(id)) STORED)
            PARTITION BY LIST (id);
        CREATE TABLE sales_1 PARTITION OF sales FOR VALUES IN (1, 2, 3); ALTER TABLE sales ADD PRIMARY KEY (id); INSERT INTO sales VALUES (1, 'a')";
    let mut moved = Moved::prepare(&pair, "generated", sql).await;
    let finding = moved.mend("generated-read-tables", ": ").await;
    let seen = "1 generated column: \"Rate\" of public.sales (reads public.rates)";
    assert_eq!(finding.seen, seen);
    moved.mirror().await;
    moved
        .change("UPDATE rates SET rate = 8; INSERT INTO sales VALUES (2, 'a')")
        .await;
    let computed = "SELECT string_agg(\"Rate\"::text, ',' ORDER BY id) FROM sales";
    let computed: String = moved.blue.query_one(computed, &[]).await.unwrap().get(0);
    assert_eq!(computed, "7,8");
    moved.and_back("INSERT INTO sales VALUES (3, 'a')").await;
}
