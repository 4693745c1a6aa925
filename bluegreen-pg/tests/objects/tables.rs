//! Tables of every form: names, columns that went, none at all, partitions, inheritance, identities.

use super::{Moved, pair};
use bluegreen_core::{Color, Direction, Kind, Replicator};

#[tokio::test]
async fn names_of_every_kind() {
    let Some(pair) = pair().await else { return };
    let long = "ü".repeat(31);
    let sql = format!(
        "CREATE SCHEMA \"Łódź \"\"x\"\".y\"; CREATE SCHEMA \"select\"; CREATE SCHEMA \"it's\";
         CREATE TABLE \"Łódź \"\"x\"\".y\".\"Straße 1\" (\"Ключ\" int PRIMARY KEY, \"a b\" text, \"c\"\"d\" text, \"e'f\" text, \"%s\" text);
         INSERT INTO \"Łódź \"\"x\"\".y\".\"Straße 1\" SELECT g, 'ж', E'\\\\', '\"', E'\\t\\n' FROM generate_series(1, 50) g;
         CREATE TABLE \"select\".\"table\" (\"order\" serial PRIMARY KEY, \"from\" text);
         INSERT INTO \"select\".\"table\" (\"from\") VALUES ('x'), (NULL);
         CREATE TABLE \"it's\".\"{long}\" (id bigserial PRIMARY KEY, \"{long}\" text);
         INSERT INTO \"it's\".\"{long}\" (\"{long}\") VALUES ('{long}');
         CREATE TABLE \"UPPER\" (\"Id\" int PRIMARY KEY); CREATE TABLE upper (id int PRIMARY KEY);
         CREATE TABLE \" \" (\" \" int PRIMARY KEY); INSERT INTO \" \" VALUES (1);
         CREATE TABLE \"new\nline\" (\"x\ty\" int PRIMARY KEY); INSERT INTO \"new\nline\" VALUES (1)"
    );
    let change = |n: u32| {
        format!(
            "INSERT INTO \"Łódź \"\"x\"\".y\".\"Straße 1\" VALUES ({n}00, 'new', '', NULL, '%s');
             UPDATE \"Łódź \"\"x\"\".y\".\"Straße 1\" SET \"a b\" = '{n}' WHERE \"Ключ\" < 5; DELETE FROM \"select\".\"table\" WHERE \"order\" = {n};
             INSERT INTO \"select\".\"table\" (\"from\") VALUES ('{n}'); UPDATE \"it's\".\"{long}\" SET \"{long}\" = '{n}';
             INSERT INTO \"UPPER\" VALUES ({n}); INSERT INTO upper VALUES (1{n}); UPDATE \" \" SET \" \" = {n} + 5;
             UPDATE \"new\nline\" SET \"x\ty\" = {n} + 7"
        )
    };
    Moved::both_ways(&pair, "names", &sql, &change(1), &change(2)).await;
}

#[tokio::test]
async fn columns_that_went_and_tables_without_any() {
    let Some(pair) = pair().await else { return };
    let sql = "
        CREATE TABLE gaps (a int, b text, id int PRIMARY KEY, c text, d int DEFAULT 7);
        INSERT INTO gaps SELECT g, 'b', g, 'c' FROM generate_series(1, 100) g;
        ALTER TABLE gaps DROP COLUMN a; ALTER TABLE gaps DROP COLUMN c; ALTER TABLE gaps ADD COLUMN e text DEFAULT 'fast';
        INSERT INTO gaps (b, id) VALUES ('later', 1000);
        CREATE TABLE empty (); ALTER TABLE empty REPLICA IDENTITY FULL; INSERT INTO empty DEFAULT VALUES; INSERT INTO empty DEFAULT VALUES;
        CREATE TABLE all_gone (x int); INSERT INTO all_gone VALUES (1), (2), (3); ALTER TABLE all_gone DROP COLUMN x;
        ALTER TABLE all_gone REPLICA IDENTITY FULL;
        CREATE TABLE wide (id int PRIMARY KEY, big text, small text); ALTER TABLE wide ALTER big SET STORAGE EXTERNAL;
        INSERT INTO wide SELECT g, repeat(md5(g::text), 3000), 's' FROM generate_series(1, 20) g;
        CREATE TABLE nothing_in_it (id int PRIMARY KEY)";
    // What was stored apart and does not change is not sent: it must stay.
    let change = "
        UPDATE gaps SET b = b || 'x', e = NULL WHERE id <= 10; DELETE FROM gaps WHERE id = 11; INSERT INTO gaps (id) VALUES ((SELECT max(id) + 1 FROM gaps));
        INSERT INTO empty DEFAULT VALUES; INSERT INTO all_gone DEFAULT VALUES;
        UPDATE wide SET small = small || 't'; UPDATE wide SET id = id + 1000 WHERE id = (SELECT min(id) FROM wide)";
    Moved::both_ways(&pair, "columns", sql, change, change).await;
}

#[tokio::test]
async fn partitions_and_inheritance() {
    let Some(pair) = pair().await else { return };
    let sql = "
        CREATE TABLE days (id int, day date, what text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE days_2 (what text, gone int, day date NOT NULL, id int NOT NULL, PRIMARY KEY (id, day));
        ALTER TABLE days_2 DROP COLUMN gone; ALTER TABLE days ATTACH PARTITION days_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
        CREATE TABLE days_rest PARTITION OF days DEFAULT PARTITION BY HASH (id);
        CREATE TABLE days_rest_0 PARTITION OF days_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE days_rest_1 PARTITION OF days_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE INDEX ON days (what); CREATE INDEX own ON days_1 (day);
        INSERT INTO days SELECT g, '2026-01-01'::date + g, 'x' FROM generate_series(1, 120) g;
        CREATE TABLE kinds (kind text, id int, PRIMARY KEY (kind, id)) PARTITION BY LIST (kind);
        CREATE TABLE kinds_a PARTITION OF kinds FOR VALUES IN ('a', 'b'); INSERT INTO kinds VALUES ('a', 1), ('b', 2);
        CREATE TABLE refers (id int PRIMARY KEY, d int, day date, FOREIGN KEY (d, day) REFERENCES days (id, day));
        INSERT INTO refers VALUES (1, 5, '2026-01-06');
        CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (parent);
        CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child);
        INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (2, 'c', 'e'); INSERT INTO grandchild VALUES (3, 'g', 'e')";
    // A row that moves to another partition is deleted in one table and made in another.
    let change = "
        UPDATE days SET day = day + 31 WHERE id BETWEEN 40 AND 50 OR id = 2; UPDATE days SET what = what || 'y' WHERE id % 7 = 0;
        DELETE FROM days WHERE id = (SELECT max(id) FROM days); UPDATE kinds SET kind = CASE kind WHEN 'a' THEN 'b' ELSE 'a' END;
        UPDATE parent SET v = v || 'z'; DELETE FROM ONLY parent WHERE id = 99; INSERT INTO child SELECT max(id) + 1, 'n', 'n' FROM parent";
    Moved::both_ways(&pair, "partitions", sql, change, change).await;
}

#[tokio::test]
async fn partitions_that_come_later_stop_the_cut_over_and_lose_nothing() {
    let Some(pair) = pair().await else { return };
    let sql = "CREATE TABLE days (day date PRIMARY KEY) PARTITION BY RANGE (day);
        CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); INSERT INTO days VALUES ('2026-01-05')";
    let moved = Moved::prepare(&pair, "later", sql).await;
    assert!(
        moved.findings.iter().any(|f| f.id == "partitioned-tables"),
        "it is said before"
    );
    moved.mirror().await;
    moved
        .blue
        .batch_execute(
            "CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM ('2026-02-01') TO ('2026-03-01'); INSERT INTO days VALUES ('2026-02-05')",
        )
        .await
        .unwrap();
    let refused = async {
        moved.replicator.arm(Color::Green, crate::common::WITHIN).await?;
        moved.replicator.fence(Color::Blue, crate::common::WITHIN).await
    };
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind(), Kind::Diverged, "{error}");
    moved.replicator.unfence(Color::Blue).await.unwrap();
    // Blue goes on, and without the new partition the cut-over works.
    moved
        .blue
        .batch_execute("INSERT INTO days VALUES ('2026-01-06'); DROP TABLE days_2")
        .await
        .unwrap();
    moved.is_equal().await;
    crate::common::cut_over(&moved.replicator, Color::Green).await;
    moved.replicator.start(Direction::GreenToBlue).await.unwrap();
    crate::common::streaming(&moved.replicator, Direction::GreenToBlue).await;
    moved.replicator.stop(Color::Green).await.unwrap();
}

#[tokio::test]
async fn identities_of_every_kind() {
    let Some(pair) = pair().await else { return };
    let sql = "
        CREATE TABLE by_key (id int PRIMARY KEY, v text); CREATE TABLE by_two (a text, b uuid, v text, PRIMARY KEY (b, a));
        CREATE TABLE by_index (id int NOT NULL, \"Second\" int NOT NULL, v text); CREATE UNIQUE INDEX \"By Index\" ON by_index (\"Second\", id);
        ALTER TABLE by_index REPLICA IDENTITY USING INDEX \"By Index\";
        CREATE TABLE by_all (a int, b text, c jsonb, d numeric, e timestamptz); ALTER TABLE by_all REPLICA IDENTITY FULL;
        CREATE TABLE twofold (id int PRIMARY KEY, v text); ALTER TABLE twofold REPLICA IDENTITY FULL;
        CREATE TABLE covering (id int, v text, PRIMARY KEY (id) INCLUDE (v));
        INSERT INTO by_key SELECT g, 'x' FROM generate_series(1, 20) g; INSERT INTO by_index SELECT g, -g, 'x' FROM generate_series(1, 20) g;
        INSERT INTO by_two SELECT 'a' || g, md5(g::text)::uuid, 'x' FROM generate_series(1, 20) g;
        INSERT INTO by_all SELECT g / 2, NULL, '{\"b\": 1, \"a\": [1, 2]}', g / 3.0, '2026-01-01' FROM generate_series(1, 20) g;
        INSERT INTO twofold SELECT g, 'x' FROM generate_series(1, 20) g; INSERT INTO covering SELECT g, 'x' FROM generate_series(1, 20) g";
    let change = "
        UPDATE by_key SET id = id + 100 WHERE id % 3 = 0; DELETE FROM by_key WHERE id % 5 = 1; UPDATE by_two SET a = a || 'b', v = 'y' WHERE v = 'x';
        UPDATE by_index SET id = id * 1000, v = 'z' WHERE id % 4 = 0; DELETE FROM by_index WHERE id = (SELECT min(id) FROM by_index);
        UPDATE by_all SET b = coalesce(b, '') || 'b' WHERE a = 3; DELETE FROM by_all WHERE ctid = (SELECT min(ctid) FROM by_all);
        UPDATE twofold SET v = v || 'w', id = -id; DELETE FROM covering WHERE id = (SELECT max(id) FROM covering); UPDATE covering SET v = v || 'q';
        TRUNCATE covering; INSERT INTO covering VALUES (1, 'again')";
    Moved::both_ways(
        &pair,
        "identities",
        sql,
        change,
        &change.replace("'again'", "'and again'"),
    )
    .await;
    // With nothing to go by it would break blue: it is refused, with what mends it.
    for (name, sql) in [
        ("no_key", "CREATE TABLE t (v text)"),
        (
            "nothing",
            "CREATE TABLE t (v int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING",
        ),
        ("late", "CREATE TABLE t (v int PRIMARY KEY DEFERRABLE)"),
        (
            "gone",
            "CREATE TABLE t (v int NOT NULL); CREATE UNIQUE INDEX i ON t (v); ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
        ),
    ] {
        let moved = Moved::prepare(&pair, name, sql).await;
        assert_eq!(
            moved.blocking().iter().map(|f| f.id.as_str()).collect::<Vec<_>>(),
            ["no-replica-identity"]
        );
        moved.replicator.start(Direction::BlueToGreen).await.unwrap_err();
    }
}
