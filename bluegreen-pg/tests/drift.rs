//! What somebody changes by hand while a mirror runs, at the tables, their definitions or the publication: it is seen before
//! anything rests on it, and said with what mends it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Direction, Kind, Replicator};
use common::{COLUMNS, Pair, TWO, WITHIN, failed, refused, streaming};
use std::time::Duration;

/// What only the follower had when an earlier cut-over was armed is no excuse for what it lacks now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_follower_alone_had_and_lost_again_is_drift() {
    let Some((pair, replicator)) = Pair::mirrored(COLUMNS).await else {
        return;
    };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for client in [&blue, &green] {
        let role = "BEGIN READ WRITE; CREATE ROLE app; COMMIT";
        client.batch_execute(role).await.unwrap();
    }
    for (make, lose, named) in [
        ("CREATE INDEX more ON t (b)", "DROP INDEX more", "index public.more"),
        (
            "GRANT SELECT ON t TO app",
            "REVOKE SELECT ON t FROM app",
            "right of app on table public.t (SELECT, where the follower has nothing)",
        ),
    ] {
        let at_green = async |sql: &str| {
            let sql = format!("BEGIN READ WRITE; {sql}; COMMIT");
            green.batch_execute(&sql).await.unwrap();
        };
        at_green(make).await;
        replicator.arm(Color::Green, WITHIN).await.unwrap();
        blue.batch_execute(make).await.unwrap();
        at_green(lose).await;
        let why = refused(&pair).await;
        assert!(why.contains(named), "{why}");
        blue.batch_execute(lose).await.unwrap();
    }
}

/// Quotes of a value, or in a function's body, are no quotes of a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_by_quotes_within_a_value_is_drift() {
    let say = |what: &str| format!("CREATE OR REPLACE FUNCTION say() RETURNS text LANGUAGE sql AS $$SELECT '{what}'$$");
    let sql = format!(
        "CREATE TABLE t (id int PRIMARY KEY, j jsonb DEFAULT 'true'); {}",
        say("a")
    );
    let Some((pair, _)) = Pair::mirrored(&sql).await else {
        return;
    };
    let blue = pair.client(Color::Blue).await;
    for (ddl, back, named) in [
        (
            "ALTER TABLE t ALTER j SET DEFAULT '\"true\"'",
            "ALTER TABLE t ALTER j SET DEFAULT 'true'",
            "column public.t.j",
        ),
        (&say("\"a\""), &say("a"), "function public.say()"),
    ] {
        blue.batch_execute(ddl).await.unwrap();
        let why = refused(&pair).await;
        assert!(why.contains(named), "{why}");
        blue.batch_execute(back).await.unwrap();
        streaming(&pair.replicator(), Direction::BlueToGreen).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_changed_by_hand_is_never_cut_over() {
    for (change, back, named) in [
        (
            "ALTER PUBLICATION bluegreen_shop_to_green SET (publish = 'update, delete')",
            "ALTER PUBLICATION bluegreen_shop_to_green SET (publish = 'insert, update, delete, truncate')",
            "it was altered",
        ),
        (
            "ALTER PUBLICATION bluegreen_shop_to_green DROP TABLE live",
            "ALTER PUBLICATION bluegreen_shop_to_green ADD TABLE ONLY live",
            "public.live was taken out and put back",
        ),
        (
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live WHERE (id > 2)",
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live",
            "public.live was taken out and put back",
        ),
        (
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live (id)",
            "ALTER PUBLICATION bluegreen_shop_to_green SET TABLE bluegreen.marker, staging, live",
            "public.live was taken out and put back",
        ),
    ] {
        let Some((pair, replicator)) = Pair::mirrored(TWO).await else {
            return;
        };
        let blue = pair.client(Color::Blue).await;
        replicator.arm(Color::Green, WITHIN).await.unwrap();
        blue.batch_execute(change).await.unwrap();
        let e = replicator.fence(Color::Blue, WITHIN).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Diverged, "{change}: {e}");
        replicator.unfence(Color::Blue).await.unwrap();
        // What was written meanwhile is nowhere but here, so to change it back mends nothing.
        blue.batch_execute("INSERT INTO live VALUES (0, 'unseen')")
            .await
            .unwrap();
        blue.batch_execute(back).await.unwrap();
        let why = refused(&pair).await;
        assert!(why.contains(named), "{change}: {why}");
        assert!(why.contains("begin again"), "{change}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_made_anew_or_at_both_sides_is_not_taken_for_mirrored() {
    let Some((pair, replicator)) = Pair::mirrored(TWO).await else {
        return;
    };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for client in [&blue, &green] {
        client
            .batch_execute("BEGIN READ WRITE; CREATE TABLE late (id int PRIMARY KEY); COMMIT")
            .await
            .unwrap();
    }
    blue.batch_execute("INSERT INTO late VALUES (1)").await.unwrap();
    let why = failed(&replicator).await;
    assert!(why.contains("public.late is not in it"), "{why}");
    for client in [&blue, &green] {
        client
            .batch_execute("BEGIN READ WRITE; DROP TABLE late; COMMIT")
            .await
            .unwrap();
    }
    streaming(&replicator, Direction::BlueToGreen).await;

    // At the follower, under the same name: the subscription has forgotten it.
    green
        .batch_execute(
            "BEGIN READ WRITE; DROP TABLE staging; CREATE TABLE staging (id int PRIMARY KEY, v text); COMMIT",
        )
        .await
        .unwrap();
    let why = failed(&replicator).await;
    assert!(why.contains("subscription bluegreen_shop_to_green"), "{why}");

    // At the writer, and put into the publication again.
    let Some((pair, _)) = Pair::mirrored(TWO).await else {
        return;
    };
    pair.client(Color::Blue)
        .await
        .batch_execute(
            "DROP TABLE live; CREATE TABLE live (id int PRIMARY KEY, v text); INSERT INTO live VALUES (7, 'lost');
             ALTER PUBLICATION bluegreen_shop_to_green ADD TABLE live",
        )
        .await
        .unwrap();
    let why = refused(&pair).await;
    assert!(why.contains("public.live is another table, made since"), "{why}");
}

/// Of what a server prints otherwise once it went through a dump, or in another version, and of all that is looked at.
const DEFINED: &str = "
    CREATE DOMAIN word AS varchar(5) DEFAULT 'a' CHECK (VALUE IN ('a', 'b')); CREATE SEQUENCE numbers; CREATE TYPE pair AS (a int);
    CREATE TABLE t (id int PRIMARY KEY, v varchar(9) DEFAULT 'a' CHECK (v IN ('a', 'b')), w text, n numeric DEFAULT -1,
        twice int GENERATED ALWAYS AS (id * 2) STORED, CONSTRAINT few CHECK (n < 5 AND (n > 1 AND n <> 3)));
    CREATE INDEX part ON t (lower(w)) WHERE v IN ('a', 'b'); CREATE UNIQUE INDEX once ON t (w); CREATE TABLE child (id int PRIMARY KEY);
    CREATE TABLE kin (id int PRIMARY KEY); CREATE TABLE kin_of (PRIMARY KEY (id)) INHERITS (kin);
    CREATE TABLE pa (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); CREATE TABLE pa_1 PARTITION OF pa FOR VALUES IN (1);
    CREATE TABLE pa_2 (id int NOT NULL, k int NOT NULL, PRIMARY KEY (id, k)); INSERT INTO pa_2 VALUES (1, 2);
    CREATE TABLE \"json\" (id int PRIMARY KEY, \"json\" text, \"system_user\" int); CREATE FUNCTION public.json_object(\"json\" text) RETURNS text LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW WHEN (NEW.v IN ('a', 'b')) EXECUTE FUNCTION stay();
    CREATE POLICY p ON t USING (v IN ('a', 'b') AND EXISTS (SELECT FROM child WHERE child.id = t.id));
    CREATE VIEW seen AS SELECT id, v FROM t WHERE v IN ('a', 'b'); CREATE MATERIALIZED VIEW totals AS SELECT v, count(*) FROM t GROUP BY v;
    CREATE FUNCTION half(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT t.id FROM t WHERE t.id = half.a; END";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_at_the_writer_alone_is_drift_and_at_both_it_is_none() {
    let Some((pair, replicator)) = Pair::mirrored(DEFINED).await else {
        return;
    };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for client in [&blue, &green] {
        client
            .batch_execute("BEGIN READ WRITE; CREATE ROLE app; COMMIT")
            .await
            .unwrap();
    }
    let mut wrong = Vec::new();
    for (ddl, named) in [
        (
            "ALTER TABLE pa ATTACH PARTITION pa_2 FOR VALUES IN (2)",
            "table public.pa_2 (PARTITION OF public.pa FOR VALUES IN (2), where the follower has nothing)",
        ),
        (
            "ALTER TABLE kin_of NO INHERIT kin",
            "where the follower has INHERITS public.kin",
        ),
        (
            "ALTER TABLE child INHERIT kin",
            "table public.child (INHERITS public.kin",
        ),
        (
            "ALTER TABLE t ALTER n SET DEFAULT 7",
            "column public.t.n (numeric DEFAULT 7, where",
        ),
        (
            "ALTER TABLE t ALTER n DROP DEFAULT",
            "column public.t.n (numeric, where",
        ),
        (
            "ALTER TABLE t ALTER w TYPE text COLLATE \"C\"",
            "COLLATE \"C\", where the follower has text",
        ),
        (
            "ALTER TABLE t ALTER twice DROP EXPRESSION",
            "column public.t.twice (integer, where",
        ),
        (
            "ALTER TABLE kin ALTER id ADD GENERATED ALWAYS AS IDENTITY",
            "GENERATED ALWAYS AS IDENTITY",
        ),
        (
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "table public.t (ROW LEVEL SECURITY, where",
        ),
        (
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY",
            "table public.t",
        ),
        ("ALTER TABLE t DISABLE TRIGGER tr", "trigger tr on public.t"),
        ("ALTER TABLE t ENABLE TRIGGER tr", "trigger tr on public.t"),
        (
            "DROP TRIGGER tr ON t; CREATE TRIGGER tr AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION stay()",
            "trigger tr on public.t",
        ),
        ("DROP INDEX once; CREATE INDEX once ON t (w)", "index public.once"),
        (
            "DROP INDEX part; CREATE INDEX part ON t (lower(w)) WHERE v IN ('a')",
            "index public.part",
        ),
        ("ALTER SEQUENCE numbers INCREMENT 10", "sequence public.numbers"),
        (
            "ALTER SEQUENCE numbers AS int MAXVALUE 1000 CYCLE",
            "sequence public.numbers",
        ),
        (
            "ALTER TABLE t DROP CONSTRAINT few; ALTER TABLE t ADD CONSTRAINT few CHECK (n > 100) NOT VALID",
            "constraint few on public.t",
        ),
        (
            "DROP POLICY p ON t; CREATE POLICY p ON t USING (false)",
            "policy p on public.t",
        ),
        (
            "CREATE RULE r AS ON INSERT TO kin_of DO INSTEAD NOTHING",
            "rule r on public.kin_of",
        ),
        ("ALTER TABLE kin_of DISABLE RULE r", "rule r on public.kin_of"),
        ("ALTER DOMAIN word SET DEFAULT 'b'", "domain public.word"),
        (
            "ALTER DOMAIN word ADD CONSTRAINT short CHECK (length(VALUE) < 3)",
            "constraint short on public.word",
        ),
        (
            "CREATE OR REPLACE VIEW seen AS SELECT id, v FROM t WHERE id > 0",
            "view public.seen",
        ),
        (
            "CREATE OR REPLACE FUNCTION half(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT half.a / 2; END",
            "function public.half(a integer)",
        ),
        (
            "ALTER FUNCTION half(int) SECURITY DEFINER",
            "function public.half(a integer)",
        ),
        (
            "CREATE TYPE span AS RANGE (subtype = int)",
            "function public.span(integer, integer)",
        ),
        ("CREATE STATISTICS st ON v, n FROM t", "statistics public.st"),
        ("CREATE CAST (pair AS text) WITH INOUT", "cast (public.pair AS text)"),
        ("ALTER TABLE t REPLICA IDENTITY FULL", "REPLICA IDENTITY FULL"),
        (
            "ALTER TABLE kin OWNER TO app; ALTER FUNCTION stay() OWNER TO app",
            "function public.stay() (owner app RETURNS trigger",
        ),
        (
            "GRANT SELECT, INSERT ON t TO app",
            "right of app on table public.t (INSERT, SELECT, where the follower has nothing)",
        ),
        (
            "REVOKE INSERT ON t FROM app",
            "right of app on table public.t (SELECT, where the follower has INSERT, SELECT)",
        ),
        (
            "GRANT UPDATE (w) ON t TO PUBLIC",
            "right of PUBLIC on column public.t.w (UPDATE",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION half(int) FROM PUBLIC",
            "right of PUBLIC on function public.half(a integer) (dropped at the writer only)",
        ),
        (
            "REVOKE USAGE ON SCHEMA public FROM PUBLIC",
            "right of PUBLIC on schema public (dropped at the writer only)",
        ),
        (
            "CREATE EVENT TRIGGER ev ON sql_drop EXECUTE FUNCTION nothing()",
            "event trigger ev",
        ),
        // Of the beginning, and dropped at one side only.
        (
            "DROP POLICY p ON t",
            "policy p on public.t (dropped at the writer only)",
        ),
        (
            "DROP TRIGGER tr ON t",
            "trigger tr on public.t (dropped at the writer only)",
        ),
        (
            "ALTER TABLE t DROP CONSTRAINT few",
            "constraint few on public.t (dropped at the writer only)",
        ),
    ] {
        blue.batch_execute(ddl).await.unwrap();
        let alone = replicator.arm(Color::Green, WITHIN).await;
        let there = format!("BEGIN READ WRITE; {ddl}; COMMIT");
        green.batch_execute(&there).await.unwrap();
        let both = replicator.arm(Color::Green, WITHIN).await;
        let said = alone
            .as_ref()
            .is_err_and(|e| e.kind() == Kind::Diverged && e.message().contains(named));
        if !said || both.is_err() {
            wrong.push(format!("{ddl}: at the writer alone {alone:?}, at both {both:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What was attached on the way is whole at the new writer.
    common::cut_over(&replicator, Color::Green).await;
    let client = pair.client(Color::Green).await;
    client.batch_execute("INSERT INTO pa VALUES (3, 2)").await.unwrap();
    let rows: i64 = client.query_one("SELECT count(*) FROM pa", &[]).await.unwrap().get(0);
    assert_eq!(rows, 2);
}

/// Made at green by somebody who prepares it: it breaks nothing, and is no drift when green is the writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_follower_has_does_not_break_the_way_back() {
    let Some((pair, replicator)) = Pair::mirrored(TWO).await else {
        return;
    };
    let green = pair.client(Color::Green).await;
    let more = "BEGIN READ WRITE; CREATE INDEX more ON live (v); CREATE EXTENSION hstore; CREATE VIEW seen AS SELECT id FROM live;
        CREATE TYPE pair AS (a int, b int); CREATE UNLOGGED TABLE scratch (id int); COMMIT";
    green.batch_execute(more).await.unwrap();
    common::cut_over(&replicator, Color::Green).await;
    assert_eq!(replicator.warnings(), Vec::<String>::new());
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let anew = pair.replicator();
    streaming(&anew, Direction::GreenToBlue).await;
    anew.arm(Color::Blue, WITHIN).await.unwrap();
    // What was made since is drift.
    let late = "CREATE INDEX late ON live (v)";
    pair.client(Color::Green).await.batch_execute(late).await.unwrap();
    let e = anew.arm(Color::Blue, WITHIN).await.unwrap_err();
    assert!(
        e.message().contains("index public.late") && !e.message().contains("more"),
        "{e}"
    );

    // A mirror back would stop at a column that blue lacks: that is said while blue is the writer.
    let Some((pair, replicator)) = Pair::mirrored(TWO).await else {
        return;
    };
    let green = pair.client(Color::Green).await;
    let column = "BEGIN READ WRITE; ALTER TABLE live ADD COLUMN gift text; COMMIT";
    green.batch_execute(column).await.unwrap();
    replicator.arm(Color::Green, WITHIN).await.unwrap();
    let said = replicator.warnings();
    assert!(
        said.len() == 1 && said[0].contains("column public.live.gift is at green only"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ours_or_only_printed_otherwise_is_no_drift() {
    for (blue, green) in [(14, 15), (14, 18), (15, 15), (15, 16), (15, 17), (16, 18), (17, 18)] {
        let Some(pair) = Pair::of_majors(blue, green).await else {
            return;
        };
        let zoo = include_str!("zoo.sql").replace("130000", "130");
        let client = pair.client(Color::Blue).await;
        client.batch_execute(&zoo).await.unwrap();
        client.batch_execute(DEFINED).await.unwrap();
        let replicator = pair.replicator();
        replicator.start(Direction::BlueToGreen).await.unwrap();
        streaming(&replicator, Direction::BlueToGreen).await;
        // At the writer, where the check looks for what the follower lacks.
        let ours = "CREATE FUNCTION bluegreen.of_ours() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER bluegreen_other_shut AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION bluegreen.of_ours()";
        client.batch_execute(ours).await.unwrap();
        // A view that is changed alike, in whatever words a version prints it.
        let view = "CREATE OR REPLACE VIEW seen AS SELECT id, v FROM t WHERE id > 7";
        for color in [Color::Blue, Color::Green] {
            let sql = format!("BEGIN READ WRITE; {view}; COMMIT");
            pair.client(color).await.batch_execute(&sql).await.unwrap();
        }
        let other = pair.replicator();
        streaming(&other, Direction::BlueToGreen).await;
        common::cut_over(&other, Color::Green).await;
        other.start(Direction::GreenToBlue).await.unwrap();
        streaming(&other, Direction::GreenToBlue).await;
        // In the words of the beginning it may differ, and in others it is drift.
        let ddl =
            "ALTER TABLE t DROP CONSTRAINT few; ALTER TABLE t ADD CONSTRAINT few CHECK (n < 5 AND (n > 1 AND n <> 4))";
        pair.client(Color::Green).await.batch_execute(ddl).await.unwrap();
        let e = pair.replicator().arm(Color::Blue, WITHIN).await.unwrap_err();
        assert!(
            e.message().contains("constraint few on public.t"),
            "{blue} to {green}: {e}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_does_not_stop_the_status() {
    let Some((pair, replicator)) = Pair::mirrored(DEFINED).await else {
        return;
    };
    let client = pair.client(Color::Blue).await;
    let view = "CREATE OR REPLACE VIEW seen AS SELECT id, v FROM t";
    client.batch_execute(view).await.unwrap();
    client
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let other = pair.replicator();
    let answers = tokio::time::timeout(Duration::from_secs(60), streaming(&other, Direction::BlueToGreen));
    answers.await.expect("the status waits for the lock");
    client.batch_execute("COMMIT").await.unwrap();
    assert!(failed(&replicator).await.contains("view public.seen"));
}
