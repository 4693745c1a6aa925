//! What the preflight says of how text is written and sorted, and of what a server was built without. On real clusters, with the
//! fault, without it, and after the command that mends it.

use crate::common::findings::{find, ids, run, troubles};
use crate::common::{Pair, connect, streaming};
use bluegreen_core::{Color, Direction, Finding, Replicator, Severity};
use bluegreen_pg::PgReplicator;

async fn all(replicator: &PgReplicator) -> Vec<Finding> {
    replicator.preflight().await.unwrap()
}

#[tokio::test]
async fn how_text_is_written_and_sorted() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for client in [&blue, &green] {
        client
            .batch_execute("CREATE DATABASE c TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'; ")
            .await
            .unwrap();
        client
            .batch_execute("CREATE DATABASE other TEMPLATE template0 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'")
            .await
            .unwrap();
    }
    let seen = of(&pair, "other", "c").await;
    assert_eq!(ids(&seen), ["collation"], "{seen:#?}");
    let collation = find(&seen, "collation", Severity::Warning, &["C.UTF-8", "green by C (C)"]);
    assert!(collation.mend.contains("LC_COLLATE 'C.UTF-8'"), "{collation}");
    assert!(of(&pair, "c", "c").await.is_empty());
    let (before, commands) = collation
        .mend
        .split_once("in another database of green's server: ")
        .unwrap();
    assert!(!before.contains("DROP"), "{collation}");
    for command in commands.split_inclusive(';') {
        green.batch_execute(command).await.unwrap();
    }
    assert!(of(&pair, "other", "c").await.is_empty());
    // The same locale, spelled otherwise.
    green
        .batch_execute("CREATE DATABASE spelled TEMPLATE template0 LC_COLLATE 'C.utf8' LC_CTYPE 'C.utf8'")
        .await
        .unwrap();
    assert!(of(&pair, "other", "spelled").await.is_empty());
    // While a copy is there, nobody is told to drop it.
    green
        .batch_execute("CREATE DATABASE kept TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        .await
        .unwrap();
    let copied = PgReplicator::builder("shop", pair.blue.url("other"), pair.green.url("kept"))
        .build()
        .unwrap();
    copied.start(Direction::BlueToGreen).await.unwrap();
    streaming(&copied, Direction::BlueToGreen).await;
    let seen = troubles(&copied).await;
    let collation = find(&seen, "collation", Severity::Warning, &[]);
    assert!(!collation.mend.contains("DROP"), "{collation}");
    copied.stop(Color::Blue).await.unwrap();

    // The same rules by libraries of two versions; there is one here, so another is told of.
    let client = connect(&pair.blue.url("c")).await.unwrap();
    client
        .batch_execute(
            "SET allow_system_table_mods = on; ALTER FUNCTION pg_database_collation_actual_version(oid) RENAME TO moved;
             CREATE FUNCTION pg_catalog.pg_database_collation_actual_version(oid) RETURNS text LANGUAGE sql AS 'SELECT ''1.2'''",
        )
        .await
        .unwrap();
    green
        .batch_execute("CREATE DATABASE c2 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        .await
        .unwrap();
    let apart = PgReplicator::builder("shop", pair.blue.url("c"), pair.green.url("c2"))
        .build()
        .unwrap();
    let evidence = ["version 1.2 on blue", "none on green"];
    find(&all(&apart).await, "collation-version", Severity::Note, &evidence);

    blue.batch_execute(
        "CREATE COLLATION \"my german\" (provider = icu, locale = 'de'); CREATE TABLE t (id int PRIMARY KEY, name text COLLATE \"my german\", price money)",
    )
    .await
    .unwrap();
    let replicator = pair.replicator();
    assert!(troubles(&replicator).await.is_empty());
    // As after an upgrade of the library, and on a machine of another country.
    blue.batch_execute("UPDATE pg_collation SET collversion = '1.2' WHERE collname = 'my german'")
        .await
        .unwrap();
    green
        .batch_execute("ALTER DATABASE \"shop \"\"ü\"\"\" SET lc_monetary = 'C.UTF-8'")
        .await
        .unwrap();
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["collation-stale", "money"], "{seen:#?}");
    let stale = find(
        &seen,
        "collation-stale",
        Severity::Warning,
        &["\"my german\" (built by 1.2, now"],
    );
    // With a doubled key the first command fails, and what follows must not say that all is well.
    blue.batch_execute(
        "SET allow_system_table_mods = on; CREATE UNIQUE INDEX one ON t (name);
         UPDATE pg_index SET indisunique = false WHERE indexrelid = 'one'::regclass",
    )
    .await
    .unwrap();
    blue.batch_execute("INSERT INTO t VALUES (1, 'x'), (2, 'x')")
        .await
        .unwrap();
    blue.batch_execute("UPDATE pg_index SET indisunique = true WHERE indexrelid = 'one'::regclass")
        .await
        .unwrap();
    let (pasted, after) = stale.mend.split_once(" -- ").unwrap();
    let (_, pasted) = pasted.split_once("at blue: ").unwrap();
    blue.batch_execute(pasted).await.unwrap_err();
    find(&troubles(&replicator).await, "collation-stale", Severity::Warning, &[]);
    blue.batch_execute("DELETE FROM t WHERE id = 2").await.unwrap();
    blue.batch_execute(pasted).await.unwrap();
    let (_, refresh) = after.rsplit_once("): ").unwrap();
    blue.batch_execute(refresh).await.unwrap();
    let money = find(
        &seen,
        "money",
        Severity::Blocking,
        &["C.UTF-8 at green", "public.t.price"],
    );
    run(&green, money, "at green: ").await;
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
}

async fn of(pair: &Pair, blue: &str, green: &str) -> Vec<Finding> {
    let (blue, green) = (pair.blue.url(blue), pair.green.url(green));
    troubles(&PgReplicator::builder("shop", blue, green).build().unwrap()).await
}

/// The 18 that is fetched for tests was built without ICU and without libxml.
#[tokio::test]
async fn what_greens_server_was_built_without() {
    let Some(pair) = Pair::of_majors(15, 18).await else {
        return;
    };
    let ids_of = |sql: &'static str| {
        let pair = &pair;
        async move {
            pair.client(Color::Blue).await.batch_execute(sql).await.unwrap();
            let builder = pair.builder().tools(pair.green.binaries().dir());
            troubles(&builder.build().unwrap()).await
        }
    };
    let clean = ids_of("CREATE TABLE t (id int PRIMARY KEY, v text COLLATE \"POSIX\")").await;
    assert!(clean.is_empty(), "{clean:#?}");
    let seen = ids_of(
        "CREATE COLLATION german (provider = icu, locale = 'de'); ALTER TABLE t ADD w text COLLATE german, ADD s text COLLATE \"sv-x-icu\", ADD x xml, ADD z text COMPRESSION lz4",
    )
    .await;
    let built_in: bool = pair
        .client(Color::Green)
        .await
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i' AND collname <> 'unicode')",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    if built_in {
        eprintln!("SKIPPED: this PostgreSQL 18 was built with everything");
        return;
    }
    find(
        &seen,
        "missing-collations",
        Severity::Blocking,
        &["\"german\" of ICU", "\"sv-x-icu\" of ICU"],
    );
    find(&seen, "missing-xml", Severity::Blocking, &["public.t.x"]);
    find(&seen, "missing-compression", Severity::Blocking, &["public.t.z"]);
    assert_eq!(
        ids(&seen),
        ["missing-collations", "missing-compression", "missing-xml"],
        "{seen:#?}"
    );
    let mended = ids_of("ALTER TABLE t DROP w, DROP s, DROP x, DROP z; DROP COLLATION german").await;
    assert!(mended.is_empty(), "{mended:#?}");
}

/// From 17 on some of the C library's collations are the server's own, under the same names.
#[tokio::test]
async fn a_collation_that_is_built_in_later_is_there() {
    let Some(pair) = Pair::of_majors(15, 17).await else {
        return;
    };
    let blue = pair.client(Color::Blue).await;
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v text COLLATE ucs_basic); INSERT INTO t VALUES (1, 'x')";
    blue.batch_execute(sql).await.unwrap();
    let replicator = pair.replicator();
    let seen = troubles(&replicator).await;
    assert!(!ids(&seen).contains(&"missing-collations"), "{seen:#?}");
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
}
