//! Comparing both databases on real servers: what differs is found and named, and what only moves is no difference.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bluegreen_core::{Color, Comparison, Differs, Direction, Kind, Progress, Replicator};
use bluegreen_pg::PgReplicator;
use common::comparing::{compare, differences, unlike};
use common::{Pair, behind_the_mirror, streaming};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Tables of each kind: walked by a number, by several columns, by text; sorted in each side's own way; with only a replica
/// identity; with no key at all. And types that hash in ways of their own.
const ZOO: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE big (id bigint PRIMARY KEY, word text, price numeric, at timestamptz, raw bytea);
INSERT INTO big SELECT i, md5(i::text), i / 7.0, to_timestamp(i), decode(md5(i::text), 'hex') FROM generate_series(1, 300000) i;
CREATE TABLE pairs (region text, "N o" int, mood mood DEFAULT 'ok', f float8, j jsonb, a int[], PRIMARY KEY (region, "N o"));
INSERT INTO pairs SELECT 'r''' || i % 7, i, 'happy', i / 3.0, jsonb_build_object('i', i), ARRAY[i, NULL] FROM generate_series(1, 20000) i;
CREATE TABLE moods (mood mood, n int, PRIMARY KEY (mood, n), note text);
INSERT INTO moods SELECT (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood, i, 'n' || i FROM generate_series(1, 5000) i;
CREATE TABLE named (name text NOT NULL UNIQUE, v int);
ALTER TABLE named REPLICA IDENTITY USING INDEX named_name_key;
INSERT INTO named SELECT 'n' || i, i FROM generate_series(1, 3000) i;
CREATE TABLE keyless (a int, b text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
INSERT INTO keyless SELECT i % 50, 'twice' FROM generate_series(1, 2000) i;
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TABLE parted (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE part1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE part2 PARTITION OF parted FOR VALUES IN (2);
INSERT INTO parted SELECT i, 1 + i % 2 FROM generate_series(1, 1000) i;
ANALYZE;
"#;

const ROWS: u64 = 300_000 + 20_000 + 5_000 + 3_000 + 2_000 + 1_000;

async fn alike(replicator: &PgReplicator, rows: u64) {
    match compare(replicator).await.unwrap() {
        Comparison::Same(compared) => assert_eq!((compared.rows, compared.tables), (rows, 8)),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_a_missing_row_and_an_extra_row_are_named() {
    let Some((pair, replicator)) = Pair::mirrored(ZOO).await else {
        return;
    };
    alike(&replicator, ROWS).await;
    let green = behind_the_mirror(&pair).await;
    green
        .batch_execute(
            "UPDATE big SET raw = set_byte(raw, 3, get_byte(raw, 3) # 1) WHERE id = 123456;
             DELETE FROM pairs WHERE region = 'r''3' AND \"N o\" = 10006;
             INSERT INTO big VALUES (300001, 'extra');
             UPDATE big SET word = CASE id WHEN 7 THEN (SELECT word FROM big WHERE id = 8) ELSE (SELECT word FROM big WHERE id = 7) END
                 WHERE id IN (7, 8);
             UPDATE moods SET note = 'other' WHERE n = 4711;
             UPDATE named SET v = NULL WHERE name = 'n77';
             UPDATE pairs SET f = f + 1e-12 WHERE \"N o\" = 1;
             DELETE FROM keyless WHERE ctid = (SELECT ctid FROM keyless WHERE a = 13 LIMIT 1);
             UPDATE big SET price = 2.00 WHERE id = 14;
             DELETE FROM part2 WHERE id = 501;",
        )
        .await
        .unwrap();
    let found = differences(&replicator).await;
    let mut said: Vec<String> = found.iter().map(ToString::to_string).collect();
    said.sort();
    println!("{}", said.join("\n"));
    let expected = [
        "\"public\".\"big\" id=123456: raw is ",
        "\"public\".\"big\" id=14: price is \"2.0000000000000000\" at blue, \"2.00\" at green",
        "\"public\".\"big\" id=300001: only at green",
        "\"public\".\"big\" id=7: word is ",
        "\"public\".\"big\" id=8: word is ",
        "\"public\".\"keyless\" a row without a key: 40 times at blue, 39 times at green (a=\"13\", b=\"twice\")",
        "\"public\".\"moods\" mood=ok, n=4711: note is \"n4711\" at blue, \"other\" at green",
        "\"public\".\"named\" name=n77: v is \"77\" at blue, NULL at green",
        "\"public\".\"pairs\" region=r'1, N o=1: f is ",
        "\"public\".\"pairs\" region=r'3, N o=10006: only at blue",
        "\"public\".\"part2\" id=501, part=2: only at blue",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}\n{expected}");
    }
    let flipped = found.iter().find(|d| d.row == "id=123456").unwrap();
    assert!(matches!(&flipped.differs, Differs::Columns(columns) if columns.len() == 1));
    // What is not alike as tables is said before any row is read.
    green.batch_execute("ALTER TABLE named ADD late int").await.unwrap();
    let unlike = compare(&replicator).await.unwrap_err();
    assert!(
        unlike.kind() == Kind::Diverged && unlike.to_string().contains("named"),
        "{unlike}"
    );
    replicator.stop(Color::Blue).await.unwrap();
    assert_eq!(replicator.leftovers().await.unwrap(), Vec::<String>::new());
}

/// Writers that change, add and take away rows everywhere, a hot one among them, about so many times a second.
async fn write(url: String, stop: Arc<AtomicBool>, written: Arc<AtomicU64>, rate: f64) {
    let client = common::connect(&url).await.unwrap();
    let (mut n, started) = (0_u64, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let id = (n * 7919) % 300_000;
        let sql = match n % 5 {
            0 => format!("DELETE FROM big WHERE id = {id}"),
            1 => format!(
                "INSERT INTO big VALUES ({id}, 'new {n}', {n}) ON CONFLICT (id) DO UPDATE SET word = 'newer {n}'"
            ),
            2 => format!("UPDATE big SET price = {n} WHERE id = {id}; UPDATE named SET v = {n} WHERE name = 'n1'"),
            3 => format!("UPDATE moods SET note = 'w{n}' WHERE n = {}", n % 5_000),
            _ => format!(
                "INSERT INTO keyless VALUES ({n}, 'moving'); DELETE FROM keyless WHERE a = {} AND b = 'moving'",
                n.saturating_sub(5)
            ),
        };
        client.batch_execute(&sql).await.unwrap();
        written.fetch_add(1, Ordering::Relaxed);
        let due = Duration::from_secs_f64(n as f64 / rate);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_meanwhile_is_no_difference() {
    let Some((pair, replicator)) = Pair::mirrored(ZOO).await else {
        return;
    };
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = tokio::spawn(write(pair.url(Color::Blue), stop.clone(), written.clone(), 1_000.0));
    // Writes that came between two comparisons say nothing: as many as a few seconds have must come while one runs.
    let (mut rounds, mut meanwhile) = (0, 0);
    while rounds < 3 || meanwhile < 3_000 {
        let before = written.load(Ordering::Relaxed);
        match compare(&replicator).await.unwrap() {
            Comparison::Same(compared) => assert!(compared.rows > 200_000, "{compared:?}"),
            other => panic!("a false alarm after {meanwhile} writes: {other}"),
        }
        let during = written.load(Ordering::Relaxed) - before;
        assert!(during > 0, "nothing was written while it compared");
        (rounds, meanwhile) = (rounds + 1, meanwhile + during);
        assert!(
            !writer.is_finished() && rounds < 100,
            "{meanwhile} writes in {rounds} comparisons"
        );
    }
    // And what does differ is found among them. A row that is written to is mended by that: this one is not.
    behind_the_mirror(&pair)
        .await
        .batch_execute("UPDATE pairs SET j = '{}' WHERE \"N o\" = 19999")
        .await
        .unwrap();
    let found = differences(&replicator).await;
    assert!(found.len() == 1 && found[0].row.ends_with("N o=19999"), "{found:#?}");
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}

/// How far it says it is, in rows and bytes; none when it is over.
async fn progress(replicator: &PgReplicator) -> Option<(Progress, Progress)> {
    match replicator.compare().await.unwrap() {
        Comparison::Running { rows, bytes, .. } => Some((rows, bytes)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_comparison_goes_on_where_it_was() {
    let Some((pair, replicator)) = Pair::mirrored(ZOO).await else {
        return;
    };
    let slow = pair.builder().compare_jobs(1).compare_share(0.1).build().unwrap();
    let client = behind_the_mirror(&pair).await;
    let until = Instant::now() + Duration::from_secs(60);
    let mut told = vec![];
    let upto = loop {
        told.push(progress(&slow).await.expect("too fast for this test"));
        let upto = "SELECT upto[1] FROM bluegreen.compared WHERE relation LIKE '%big%' AND NOT whole";
        let upto = client.query_opt(upto, &[]).await.ok().flatten();
        let upto = upto.and_then(|row| row.get::<_, Option<String>>(0)?.parse().ok());
        // More than one piece has: what is done again is told from what had been done.
        if let Some(upto) = upto.filter(|upto: &i64| *upto > 90_000) {
            break upto;
        }
        assert!(Instant::now() < until, "it remembers nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    told.push(progress(&slow).await.expect("too fast for this test"));
    // It only goes forward, never past its end, and by what was compared.
    assert!(told.is_sorted_by_key(|(rows, _)| rows.done) && told.is_sorted_by_key(|(_, bytes)| bytes.done));
    assert!(
        told.iter().all(|(r, b)| r.done <= r.total && b.done <= b.total),
        "{told:?}"
    );
    let (rows, bytes) = told.last().unwrap();
    assert!(
        rows.done >= u64::try_from(upto).unwrap() && rows.done < ROWS,
        "{rows:?}, {upto}"
    );
    assert!(bytes.done > 0 && bytes.done < bytes.total, "{bytes:?}");
    assert!(rows.total.abs_diff(ROWS) < ROWS / 10, "{rows:?}");
    drop(slow);
    // What was alike is not looked at again by the one that goes on; what comes after it is.
    let both = "UPDATE big SET word = 'early' WHERE id = 1; UPDATE big SET word = 'late' WHERE id = 299999";
    client.batch_execute(both).await.unwrap();
    assert!(upto > 1 && upto < 299_999);
    let mut rows = 0;
    while rows == 0 {
        // What the first had done counts from the beginning.
        rows = progress(&replicator).await.expect("it began at once").0.done;
    }
    assert!(rows >= u64::try_from(upto).unwrap(), "{rows} of {upto}");
    assert_eq!(unlike(&replicator).await, ["id=299999"]);
    // That one came to its end: the next begins anew.
    assert_eq!(differences(&replicator).await.len(), 2);
}

/// The way back is a mirror too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_cut_over_it_goes_by_the_mirror_back() {
    let Some((pair, replicator)) = Pair::mirrored(ZOO).await else {
        return;
    };
    // What was alike while blue wrote says nothing of what green did later.
    let slow = pair.builder().compare_jobs(1).compare_share(0.05).build().unwrap();
    let client = behind_the_mirror(&pair).await;
    let known = "SELECT FROM bluegreen.compared WHERE relation LIKE '%big%' AND upto IS NOT NULL";
    while !matches!(client.query(known, &[]).await, Ok(rows) if !rows.is_empty()) {
        progress(&slow).await.expect("too fast for this test");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(slow);
    let early = "UPDATE big SET word = 'early' WHERE id = 1";
    client.batch_execute(early).await.unwrap();
    common::cut_over(&replicator, Color::Green).await;
    replicator.start(Direction::GreenToBlue).await.unwrap();
    streaming(&replicator, Direction::GreenToBlue).await;
    let client = pair.client(Color::Green).await;
    assert_eq!(unlike(&replicator).await, ["id=1"]);
    client
        .batch_execute("INSERT INTO empty VALUES (1); UPDATE big SET word = 'early' WHERE id = 1")
        .await
        .unwrap();
    alike(&replicator, ROWS + 1).await;
}

/// A table of an extension's that holds users' rows is copied and mirrored, and so it is compared; what the extension itself
/// brings is each side's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_rows_in_an_extensions_table_are_compared() {
    let Some(pair) = Pair::start().await else { return };
    let extension = "CREATE EXTENSION pg_trgm; CREATE TABLE config (id int PRIMARY KEY, standard bool, v text);
        CREATE TABLE counted (standard bool, v text); ALTER TABLE counted REPLICA IDENTITY FULL;
        INSERT INTO config VALUES (1, true, 'theirs');
        ALTER EXTENSION pg_trgm ADD TABLE config; ALTER EXTENSION pg_trgm ADD TABLE counted;
        UPDATE pg_extension SET extconfig = ARRAY['config'::regclass::oid, 'counted'::regclass::oid],
            extcondition = ARRAY['WHERE NOT standard', ''] WHERE extname = 'pg_trgm'";
    for color in [Color::Blue, Color::Green] {
        pair.client(color).await.batch_execute(extension).await.unwrap();
    }
    let blue = pair.client(Color::Blue).await;
    let rows =
        "INSERT INTO config VALUES (2, false, 'ours'), (3, false, 'ours'); INSERT INTO counted VALUES (true, 'one')";
    blue.batch_execute(rows).await.unwrap();
    let replicator = pair.replicator();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let green = behind_the_mirror(&pair).await;
    let of_its_own = "UPDATE config SET v = 'newer' WHERE id = 1";
    green.batch_execute(of_its_own).await.unwrap();
    match compare(&replicator).await.unwrap() {
        Comparison::Same(compared) => assert_eq!((compared.rows, compared.tables), (3, 2)),
        other => panic!("{other}"),
    }
    let wrong = "UPDATE config SET v = 'other' WHERE id = 2; INSERT INTO counted VALUES (true, 'one')";
    green.batch_execute(wrong).await.unwrap();
    let mut found = unlike(&replicator).await;
    found.sort();
    assert_eq!(found, ["a row without a key", "id=2"]);
}

/// What a server prints of a value is what travels: of an `xml` a declaration does not. And a cast may show something else again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_otherwise_and_printed_alike_is_no_difference() {
    let documents = r#"
        CREATE DOMAIN page AS xml; CREATE DOMAIN front AS page; CREATE TYPE pair AS (x xml, n int);
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE FUNCTION felt(mood) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'as ' || current_setting('port') $$;
        CREATE CAST (mood AS text) WITH FUNCTION felt(mood);
        CREATE TABLE documents (id int PRIMARY KEY, x xml, p page, f front, a xml[], c pair, m mood);
        CREATE TABLE moods (m mood PRIMARY KEY, v int);
        CREATE TABLE keyless (x xml); ALTER TABLE keyless REPLICA IDENTITY FULL;
        INSERT INTO moods VALUES ('sad', 1), ('ok', 2);
        INSERT INTO documents SELECT n, d, d, d, ARRAY[d, NULL], ROW(d, n)::pair, 'ok' FROM (VALUES
            (1, '<?xml version="1.0"?><a/>'::xml), (2, '<?xml version="1.0" encoding="UTF-8"?><a>(1, "2")</a>'),
            (3, '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?><a/>'), (4, '<?xml version="1.1"?><a/>'),
            (5, 'no <b>document</b>'), (6, NULL), (7, '')) AS v (n, d);
        INSERT INTO documents (id, x) VALUES (8, E'<?xml version="1.0"?>\n\n<a/>'), (9, E'\n\n<a/>');
        INSERT INTO keyless SELECT x FROM documents"#;
    let Some((pair, replicator)) = Pair::mirrored(documents).await else {
        return;
    };
    pair.client(Color::Blue)
        .await
        .batch_execute(
            r#"INSERT INTO documents (id, x, p) VALUES (10, '<?xml version="1.0"?><b/>', '<?xml version="1.0"?><b/>');
               UPDATE documents SET x = '<?xml version="1.0" encoding="UTF-8"?><c/>' WHERE id = 5"#,
        )
        .await
        .unwrap();
    match compare(&replicator).await.unwrap() {
        Comparison::Same(compared) => assert_eq!((compared.rows, compared.tables), (21, 3)),
        other => panic!("{other}"),
    }
    let wrong = r#"UPDATE documents SET x = '<?xml version="1.0"?><other/>' WHERE id = 1; UPDATE documents SET x = '' WHERE id = 6;
        UPDATE documents SET c = ROW(NULL, NULL) WHERE id = 10; UPDATE documents SET m = 'sad', a = NULL WHERE id = 2;
        UPDATE documents SET f = '<f/>' WHERE id = 3; UPDATE moods SET v = 3 WHERE m = 'ok'; DELETE FROM keyless WHERE x IS NULL"#;
    behind_the_mirror(&pair).await.batch_execute(wrong).await.unwrap();
    let mut said: Vec<String> = differences(&replicator).await.iter().map(ToString::to_string).collect();
    said.sort();
    let expected = [
        "\"public\".\"documents\" id=10: c is NULL at blue, \"(,)\" at green",
        "\"public\".\"documents\" id=1: x is \"<a/>\" at blue, \"<other/>\" at green",
        "\"public\".\"documents\" id=2: a is ",
        "\"public\".\"documents\" id=3: f is \"<?xml version=",
        "\"public\".\"documents\" id=6: x is NULL at blue, \"\" at green",
        "\"public\".\"keyless\" a row without a key: 1 times at blue, 0 times at green (x=NULL)",
        "\"public\".\"moods\" m=ok: v is \"2\" at blue, \"3\" at green",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}\n{expected}");
    }
    assert!(said[2].contains("m is \"ok\" at blue, \"sad\" at green"), "{}", said[2]);
}
