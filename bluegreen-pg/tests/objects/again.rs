//! A copy that does not come to its end: what it made is taken away, all of it and nothing else, and the next try is like a first one.

use super::{Moved, pair};
use crate::common::{Pair, WITHIN};
use bluegreen_core::{Color, Direction, MirrorStatus, Replicator};
use std::time::{Duration, Instant};

/// One of every kind that a dump makes. The default privileges come last: what was made before has none of them.
const RICH: &str = "
    CREATE SCHEMA \"Own One\"; CREATE EXTENSION hstore; CREATE TYPE place AS (x int, y int); CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 9); CREATE TYPE span AS RANGE (subtype = int);
    CREATE AGGREGATE counted(*) (sfunc = int8inc, stype = int8, initcond = '0'); CREATE AGGREGATE \"Own One\".joined(text) (sfunc = textcat, stype = text, initcond = '');
    CREATE AGGREGATE rank_of(VARIADIC \"any\" ORDER BY VARIADIC \"any\") (sfunc = ordered_set_transition_multi, stype = internal, finalfunc = rank_final, hypothetical);
    CREATE FUNCTION many(VARIADIC int[]) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE PROCEDURE proc(INOUT a int) LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION as_text(place) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.x::text';
    CREATE CAST (place AS text) WITH FUNCTION as_text(place) AS ASSIGNMENT; CREATE FUNCTION near(place, place) RETURNS bool LANGUAGE sql AS 'SELECT true'; CREATE OPERATOR ~== (leftarg = place, rightarg = place, function = near);
    CREATE FUNCTION minus(place) RETURNS place LANGUAGE sql AS 'SELECT $1'; CREATE OPERATOR ~~~ (rightarg = place, function = minus); CREATE COLLATION plain FROM \"C\"; CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
    CREATE TEXT SEARCH PARSER words (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype); CREATE TEXT SEARCH TEMPLATE simpler (lexize = dsimple_lexize);
    CREATE TEXT SEARCH DICTIONARY dict (template = simple); CREATE TEXT SEARCH CONFIGURATION \"My Search\" (parser = words);
    CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal));
    CREATE FOREIGN DATA WRAPPER \"Far\"; CREATE SERVER far FOREIGN DATA WRAPPER \"Far\"; CREATE USER MAPPING FOR PUBLIC SERVER far; CREATE FOREIGN TABLE away (a int) SERVER far;
    CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE on_heap2 (id int PRIMARY KEY, b box) USING heap2; CREATE ACCESS METHOD gist2 TYPE INDEX HANDLER gisthandler;
    CREATE OPERATOR CLASS boxes DEFAULT FOR TYPE box USING gist2 AS OPERATOR 1 <<, OPERATOR 2 &<, OPERATOR 3 &&, FUNCTION 1 gist_box_consistent(internal, box, smallint, oid, internal), FUNCTION 2 gist_box_union(internal, internal),
        FUNCTION 5 gist_box_penalty(internal, internal, internal), FUNCTION 6 gist_box_picksplit(internal, internal), FUNCTION 7 gist_box_same(box, box, internal);
    CREATE INDEX ON on_heap2 USING gist2 (b); CREATE TABLE parents (id serial PRIMARY KEY, m mood, p place, s short, h hstore); CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents);
    CREATE VIEW seen AS SELECT id FROM parents; CREATE MATERIALIZED VIEW summed AS SELECT count(*) FROM parents; CREATE SEQUENCE \"Own One\".free; CREATE STATISTICS both_of ON id, parent FROM children; CREATE FUNCTION nothing_is_dropped() RETURNS event_trigger LANGUAGE plpgsql AS
    $$BEGIN IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE schema_name IN ('public', 'Own One') AND object_type IN ('table', 'type', 'function', 'aggregate')) THEN RAISE 'nothing is dropped here'; END IF; END$$;
    CREATE EVENT TRIGGER \"No Drop\" ON sql_drop EXECUTE FUNCTION nothing_is_dropped(); INSERT INTO parents VALUES (1, 'sad', (1, 2), 'x', ''); INSERT INTO on_heap2 VALUES (1, '(1,1),(0,0)'); REFRESH MATERIALIZED VIEW summed;
    ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC, CURRENT_USER;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO reader WITH GRANT OPTION; ALTER DEFAULT PRIVILEGES FOR ROLE \"A Maker\" IN SCHEMA \"Own One\" GRANT SELECT ON TABLES TO PUBLIC;
    SET session_replication_role = replica; INSERT INTO children VALUES (1, 99); RESET session_replication_role";

upward_and_alike!(rich: a_copy_that_failed_is_taken_away_and_begun_again, a_copy_that_failed_is_taken_away_and_begun_again_alike);

async fn rich(pair: &Pair) {
    for color in [Color::Blue, Color::Green] {
        let roles = "CREATE ROLE reader; CREATE ROLE \"A Maker\"";
        pair.client(color).await.batch_execute(roles).await.unwrap();
    }
    let moved = Moved::prepare(pair, "again", RICH).await;
    assert!(moved.blocking().is_empty(), "{:#?}", moved.blocking());
    let before = moved.schema(Color::Green);
    // A row whose parent is not there cannot have its foreign key: the copy fails at its very end.
    for _ in 0..2 {
        moved.replicator.start(Direction::BlueToGreen).await.unwrap();
        let why = failure(&moved).await;
        assert!(why.contains("children"), "{why}");
        moved.replicator.stop(Color::Blue).await.unwrap();
        assert_eq!(moved.schema(Color::Green), before);
    }
    moved.blue.batch_execute("DELETE FROM children").await.unwrap();
    moved.mirror().await;
    moved
        .change("UPDATE parents SET m = NULL; INSERT INTO children VALUES (1, 1)")
        .await;
    moved.replicator.stop(Color::Blue).await.unwrap();
}

/// Why the copy failed.
async fn failure(moved: &Moved) -> String {
    let until = Instant::now() + 12 * WITHIN;
    loop {
        match moved.replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Failed { why, .. } => return why.to_string(),
            other => assert!(Instant::now() < until, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_is_at_green_already_is_seen_whatever_it_is() {
    let Some(pair) = pair().await else { return };
    let moved = Moved::prepare(&pair, "there", "CREATE TABLE t (id int PRIMARY KEY)").await;
    assert!(moved.blocking().is_empty(), "{:#?}", moved.blocking());
    let green = moved.green().await;
    // An extension may be there, and what is its own.
    green.batch_execute("CREATE EXTENSION hstore").await.unwrap();
    let things = [
        ("CREATE TYPE place AS (x int)", "type public.place", "DROP TYPE place"),
        (
            "CREATE COLLATION cc FROM \"C\"",
            "collation public.cc",
            "DROP COLLATION cc",
        ),
        (
            "CREATE TEXT SEARCH CONFIGURATION tc (COPY = english)",
            "text search configuration public.tc",
            "DROP TEXT SEARCH CONFIGURATION tc",
        ),
        (
            "CREATE CAST (int AS inet) WITH INOUT",
            "cast (integer AS pg_catalog.inet)",
            "DROP CAST (int AS inet)",
        ),
        (
            "CREATE FOREIGN DATA WRAPPER w",
            "foreign-data wrapper w",
            "DROP FOREIGN DATA WRAPPER w",
        ),
        (
            "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler",
            "access method heap2",
            "DROP ACCESS METHOD heap2",
        ),
        (
            "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
            "default privileges for role postgres on functions",
            "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        ),
    ];
    for (make, seen, drop) in things {
        green.batch_execute(make).await.unwrap();
        let findings = moved.replicator.preflight().await.unwrap();
        let there = findings.iter().find(|f| f.id == "target-not-empty");
        assert!(
            there.is_some_and(|f| f.seen.contains(&format!("1 thing: {seen}"))),
            "{seen}: {there:#?}"
        );
        green.batch_execute(drop).await.unwrap();
    }
    let findings = moved.replicator.preflight().await.unwrap();
    assert!(!findings.iter().any(|f| f.id == "target-not-empty"), "{findings:#?}");
}
