CREATE SCHEMA "Straße";
CREATE SCHEMA empty_one;
CREATE SCHEMA types;
CREATE TYPE types.mood AS ENUM ('sad', 'ok', 'HAPPY "!"');
CREATE DOMAIN types.positive AS int CHECK (VALUE > 0);
CREATE TYPE types.pair AS (a int, b types.mood);
CREATE FUNCTION types.shout(t text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT upper(t) || '\n' $$;

CREATE TABLE "Straße"."Käse ""Quote""" (
    "Id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "select" text NOT NULL,
    m types.mood, ms types.mood[], p types.positive, c types.pair,
    doubled text GENERATED ALWAYS AS ("select" || "select") STORED,
    "drop me" int, j jsonb, n numeric, ts timestamptz, b bytea, r int4range, u uuid, i inet, f float8, oids regclass);
ALTER TABLE "Straße"."Käse ""Quote""" DROP COLUMN "drop me";
INSERT INTO "Straße"."Käse ""Quote""" ("select", m, ms, p, c, j, n, ts, b, r, u, i, f, oids)
SELECT 'x' || i || chr(8364), (ARRAY['sad','ok','HAPPY "!"']::types.mood[])[1 + i % 3], ARRAY['sad','ok']::types.mood[], i,
    (i, 'ok')::types.pair, jsonb_build_object('k', i, 'a', 'ü'), i / 7.0, now() - i * interval '1 hour', decode(md5(i::text), 'hex'),
    int4range(i, i + 5), md5(i::text)::uuid, '10.0.0.1', i / 3.0, 'pg_class'::regclass
FROM generate_series(1, 500) i;

CREATE TABLE big (id serial PRIMARY KEY, filler text, at timestamptz DEFAULT now());
INSERT INTO big (filler) SELECT repeat(md5(i::text), 20) FROM generate_series(1, 130000) i;
CREATE INDEX big_shout ON big (types.shout(substr(filler, 1, 3)));

CREATE TABLE parted (id bigint, day date, what text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE "parted 2025" PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id);
CREATE TABLE parted_2025_0 PARTITION OF "parted 2025" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_2025_1 PARTITION OF "parted 2025" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT i, '2024-06-01'::date + i, 'w' || i FROM generate_series(1, 900) i;

CREATE TABLE parent_one (id int PRIMARY KEY, other int);
CREATE TABLE other_one (id int PRIMARY KEY, parent int REFERENCES parent_one DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE parent_one ADD FOREIGN KEY (other) REFERENCES other_one DEFERRABLE INITIALLY DEFERRED;
BEGIN;
INSERT INTO parent_one SELECT i, i FROM generate_series(1, 50) i;
INSERT INTO other_one SELECT i, 51 - i FROM generate_series(1, 50) i;
COMMIT;

CREATE TABLE no_key (a int, b text);
ALTER TABLE no_key REPLICA IDENTITY FULL;
INSERT INTO no_key SELECT i % 5, 'same' FROM generate_series(1, 20) i;
CREATE TABLE by_index (a int NOT NULL, b text);
CREATE UNIQUE INDEX by_index_a ON by_index (a);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a;
INSERT INTO by_index SELECT i, 'b' FROM generate_series(1, 20) i;
CREATE TABLE nothing_in_it (id int PRIMARY KEY);
CREATE TABLE no_columns ();
ALTER TABLE no_columns REPLICA IDENTITY FULL;
CREATE TABLE inherited_from (id int PRIMARY KEY, v text);
CREATE TABLE inherits_it (PRIMARY KEY (id), more int) INHERITS (inherited_from);
INSERT INTO inherited_from VALUES (1, 'parent');
INSERT INTO inherits_it VALUES (2, 'child', 3);
CREATE UNLOGGED TABLE not_durable (id int PRIMARY KEY);

CREATE SEQUENCE "Straße"."free Sequence" START 7 INCREMENT 5;
CREATE SEQUENCE never_used START 42;
SELECT nextval('"Straße"."free Sequence"'), nextval('"Straße"."free Sequence"');
CREATE VIEW "Straße".seen AS SELECT "Id", doubled FROM "Straße"."Käse ""Quote""";
CREATE MATERIALIZED VIEW sums AS SELECT a, count(*) FROM no_key GROUP BY a;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v || '!'; RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON inherited_from FOR EACH ROW EXECUTE FUNCTION touch();
