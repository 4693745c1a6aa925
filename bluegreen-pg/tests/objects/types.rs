//! Columns of every type: the server's own, the application's, and those of extensions.

use super::{Moved, for_later, pair};
use crate::common::Pair;

#[tokio::test]
async fn types_that_the_application_makes() {
    let Some(pair) = pair().await else { return };
    let sql = "
        CREATE SCHEMA \"Shop\"; CREATE TYPE \"Shop\".\"Mood\" AS ENUM ('sad', 'so so', 'it''s \"fine\"');
        CREATE DOMAIN \"Shop\".positive AS int CHECK (VALUE > 0); CREATE DOMAIN words AS text[] CHECK (array_length(VALUE, 1) < 9);
        CREATE DOMAIN tiny AS \"Shop\".positive NOT NULL CHECK (VALUE < 100);
        CREATE TYPE \"Place\" AS (\"Street\" text, number int, mood \"Shop\".\"Mood\"); CREATE TYPE nested AS (p \"Place\", at timestamptz[]);
        CREATE DOMAIN home AS \"Place\" CHECK (VALUE IS NULL OR (VALUE).number IS NOT NULL);
        CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = spans);
        CREATE TABLE \"Made\" (id int PRIMARY KEY, m \"Shop\".\"Mood\", ms \"Shop\".\"Mood\"[], p \"Shop\".positive, w words, t tiny DEFAULT 1,
            place \"Place\", places \"Place\"[], n nested, h home, s span, ss span[], x spans, ps \"Shop\".positive[]);
        INSERT INTO \"Made\" SELECT g, 'so so', '{sad,\"it''s \\\"fine\\\"\"}', g, ARRAY['a,b', NULL, '{}', '\"'], g, ROW('Unter \"den\" Linden, 1', g, 'sad')::\"Place\",
            ARRAY[ROW('a(b)', 1, NULL)::\"Place\", NULL], ROW(ROW('x', 2, 'sad')::\"Place\", ARRAY['2026-01-01'::timestamptz, NULL])::nested, ROW('h', 1, NULL)::\"Place\",
            span(g, g + 0.5, '[]'), ARRAY[span(NULL, 3), 'empty'], spans(span(1, 2), span(3, 4)), ARRAY[1, 2]::\"Shop\".positive[]
        FROM generate_series(1, 40) g;
        INSERT INTO \"Made\" (id) VALUES (1000);
        CREATE TYPE pair AS (a int, b text); CREATE TABLE typed OF pair (PRIMARY KEY (a)); INSERT INTO typed VALUES (1, 'x');
        CREATE TABLE keyed (m \"Shop\".\"Mood\", s span, PRIMARY KEY (m, s)); INSERT INTO keyed VALUES ('sad', '[1,2)'), ('so so', 'empty')";
    let change = "
        INSERT INTO \"Made\" SELECT id + 2000, m, ms, p, w, t, place, places, n, h, s, ss, x, ps FROM \"Made\" WHERE id < 5;
        UPDATE \"Made\" SET m = 'it''s \"fine\"', place.number = 7, ms[2] = 'sad', x = x + spans(span(10, 11)) WHERE id % 2 = 0; DELETE FROM \"Made\" WHERE id = (SELECT max(id) FROM \"Made\");
        UPDATE typed SET b = b || 'y'; UPDATE keyed SET s = span(5, upper(s) + 9) WHERE m = 'sad'; DELETE FROM keyed WHERE m = 'so so'";
    Moved::both_ways(&pair, "made_types", sql, change, &change.replace("2000", "9000")).await;
}

upward_and_alike!(server: types_of_the_server, types_of_the_server_alike);

async fn server(pair: &Pair) {
    let sql = "
        CREATE TABLE numbers (id int PRIMARY KEY, i2 smallint, i8 bigint, n numeric, n2 numeric(10, 3), f4 real, f8 double precision, m money, b boolean);
        INSERT INTO numbers VALUES (1, -32768, 9223372036854775807, 'NaN', 1.005, 'Infinity', 1e-308, '-12.34', true),
            (2, NULL, 0, 1e-100, NULL, 0.1, 0.1, '9.99', false), (3, 1, 1, 123456789012345678901234567890.123456789, -0, 'NaN', '-0', NULL, NULL);
        CREATE TABLE texts (id int PRIMARY KEY, t text, v varchar(9), c char(5), n name, b bytea, q \"char\", bits bit(3), vb bit varying, x xml, u uuid);
        INSERT INTO texts VALUES (1, E'\\\\N', '', 'a', 'n', '\\x00ff5c', 'c', '101', '1', '<a b=\"1\">&lt;</a>', '00000000-0000-0000-0000-000000000001'),
            (2, E'tab\\tnew\\nline\\rback\\\\', 'ж', NULL, NULL, '', NULL, NULL, '', NULL, NULL), (3, repeat('long ', 5000), NULL, '', '', decode(repeat('ab', 9000), 'hex'), '', '000', NULL, 'text', NULL);
        CREATE TABLE times (id int PRIMARY KEY, d date, t time(3), tz timetz, ts timestamp, tsz timestamptz, i interval, days interval day to second);
        INSERT INTO times VALUES (1, '0044-03-15 BC', '24:00', '23:59:59+14', 'infinity', '-infinity', '1 year -2 days 03:04:05.678', '5 days'),
            (2, 'infinity', NULL, '00:00-12', '2026-11-22 12:00', '1900-01-01 00:00:00+00', '-178000000 years', NULL);
        CREATE TABLE documents (id int PRIMARY KEY, j json, jb jsonb, p jsonpath, v tsvector, q tsquery);
        INSERT INTO documents VALUES (1, '{\"b\": 1,  \"a\": 1, \"a\": 2}', '{\"b\": [null, \"\\u00fc\"], \"n\": 1e20}', '$.a[*] ? (@ > 1)', to_tsvector('english', 'the quick foxes'), to_tsquery('simple', 'a & !b <-> c'));
        CREATE TABLE places (id int PRIMARY KEY, p point, l line, s lseg, b box, w path, y polygon, c circle, i inet, n cidr, m macaddr, m8 macaddr8);
        INSERT INTO places VALUES (1, '(1.1,-2)', '{1,2,3}', '[(0,0),(1,1)]', '(2,2),(0,0)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(0,0),5>', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05');
        CREATE TABLE lists (id int PRIMARY KEY, a int[], two text[][], shifted int[], r int4range, rs numrange[], m tstzmultirange, d daterange, e int8range[], bs bytea[]);
        INSERT INTO lists VALUES (1, '{}', '{{a,NULL},{\"\",\"NULL\"}}', '[-1:1]={1,2,3}', '(1,5]', '{\"[1.5,)\",empty}', '{[2026-01-01,2026-02-01),(2027-01-01,)}', '[2026-01-01,infinity)', NULL, '{\"\\\\x00\"}');
        CREATE TABLE systems (id int PRIMARY KEY, o oid, c regclass, t regtype, p regprocedure, r regnamespace, l pg_lsn, x xid8, s pg_snapshot, k regconfig);
        INSERT INTO systems VALUES (1, 42, 'systems', 'integer', 'lower(text)', 'public', '0/16B3748', '99', '10:20:10,14', 'english')";
    let change = "
        INSERT INTO numbers SELECT id + 10, i2, i8, n, n2, f4, f8, m, b FROM numbers WHERE id < 4 ON CONFLICT DO NOTHING; UPDATE numbers SET n = n + 1, m = m + '0.01'; DELETE FROM numbers WHERE id = 2;
        UPDATE texts SET v = '9'; UPDATE texts SET b = b || '\\x5c5c', t = t || E'\\x01' WHERE id < 3; INSERT INTO texts SELECT max(id) + 1, NULL FROM texts;
        UPDATE times SET tsz = '2026-03-29 02:30:00+01', i = i * 1.5 WHERE id = 1; UPDATE documents SET jb = jb || '{\"k\": \"\\\\\"}', j = '[1,  2]', v = v || 'x:1A'::tsvector;
        UPDATE places SET p = p + '(1,1)', i = i + 1, c = '<(1,1),2>'; UPDATE lists SET a = a || 7, two = NULL, m = m + '{[2030-01-01,2030-01-02)}', e = '{\"[1,9)\"}';
        UPDATE systems SET o = (o::bigint + 1)::oid, c = 'places', x = '100'";
    let sql = for_later(pair, sql, &[("x xml", "x text")]);
    let moved = Moved::both_ways(pair, "own_types", &sql, change, change).await;
    assert!(
        moved
            .findings
            .iter()
            .any(|f| f.id == "catalog-numbers" && f.seen.contains("public.systems.o (oid)"))
    );
}

upward_and_alike!(extensions: types_of_extensions, types_of_extensions_alike);

async fn extensions(pair: &Pair) {
    let sql = "
        CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION cube; CREATE EXTENSION isn;
        CREATE EXTENSION seg; CREATE EXTENSION intarray; CREATE EXTENSION pg_trgm; CREATE EXTENSION btree_gist; CREATE EXTENSION btree_gin;
        CREATE EXTENSION \"uuid-ossp\"; CREATE EXTENSION pgcrypto; CREATE EXTENSION unaccent; CREATE EXTENSION fuzzystrmatch; CREATE EXTENSION tablefunc;
        CREATE TABLE things (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), h ext.hstore, hs ext.hstore[], c citext UNIQUE, l ltree, ls ltree[], q lquery, b cube, i isbn, s seg, a int[]);
        CREATE INDEX ON things USING gin (h); CREATE INDEX ON things USING gist (l); CREATE INDEX ON things USING gin (c gin_trgm_ops); CREATE INDEX ON things USING gin (a gin__int_ops);
        CREATE DOMAIN email AS citext CHECK (VALUE ~ '@'); ALTER TABLE things ADD e email; CREATE TABLE by_citext (k citext PRIMARY KEY, v int);
        INSERT INTO things SELECT md5(g::text)::uuid, ext.hstore(ARRAY['k', 'a\"b'], ARRAY[g::text, NULL]), ARRAY[ext.hstore('x', 'y')], 'Word' || g, ('Top.Sub.' || g)::ltree, ARRAY['a.b'::ltree], '*.Sub.*', cube(ARRAY[g, 2.5]), '978-0-393-04002-9', '1.5 .. 2.5', ARRAY[g, 1], 'A@b.c'
            FROM generate_series(1, 60) g;
        INSERT INTO by_citext VALUES ('Key', 1), ('other', 2)";
    let change = "
        UPDATE things SET h = h OPERATOR(ext.||) ext.hstore('new', 'v'), c = upper(c::text), l = l || 'leaf'::ltree WHERE (a)[1] % 3 = 0; DELETE FROM things WHERE (a)[1] = (SELECT max((a)[1]) FROM things);
        INSERT INTO things (h, c, a) SELECT ext.hstore('a', 'b'), gen_random_uuid()::text, ARRAY[1]; UPDATE by_citext SET v = v + 1 WHERE k = 'KEY'; UPDATE by_citext SET k = upper(k::text) || 'x' WHERE k = 'other' OR k LIKE 'OTHER%'";
    let others = [
        ("CREATE EXTENSION \"uuid-ossp\";", ""),
        ("CREATE EXTENSION pgcrypto;", ""),
    ];
    let sql = for_later(pair, sql, &others);
    Moved::both_ways(pair, "extension_types", &sql, change, change).await;
}
