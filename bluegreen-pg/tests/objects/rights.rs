//! Who owns what and who may what, and what is written beside objects: kept where the roles exist, refused where they do not.

use super::{Moved, pair};
use bluegreen_core::{Color, Replicator, Severity};

const RIGHTS: &str = "
    CREATE SCHEMA \"Own\" AUTHORIZATION \"The Owner\"; CREATE TABLE \"Own\".t (id serial PRIMARY KEY, secret text, open text); ALTER TABLE \"Own\".t OWNER TO \"The Owner\";
    CREATE VIEW \"Own\".v AS SELECT id FROM \"Own\".t; CREATE FUNCTION \"Own\".f() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'; CREATE TYPE \"Own\".e AS ENUM ('a'); CREATE SEQUENCE \"Own\".s;
    ALTER VIEW \"Own\".v OWNER TO \"The Owner\"; ALTER FUNCTION \"Own\".f() OWNER TO \"The Owner\"; ALTER TYPE \"Own\".e OWNER TO \"The Owner\"; ALTER SEQUENCE \"Own\".s OWNER TO \"The Owner\";
    GRANT USAGE ON SCHEMA \"Own\" TO reader WITH GRANT OPTION; GRANT SELECT (open), UPDATE (open) ON \"Own\".t TO reader; GRANT INSERT ON \"Own\".t TO PUBLIC; REVOKE ALL ON FUNCTION \"Own\".f() FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION \"Own\".f() TO reader; GRANT USAGE ON SEQUENCE \"Own\".s TO reader; REVOKE USAGE ON TYPE \"Own\".e FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES FOR ROLE \"The Owner\" IN SCHEMA \"Own\" GRANT SELECT ON TABLES TO reader; ALTER DEFAULT PRIVILEGES FOR ROLE \"The Owner\" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
    COMMENT ON SCHEMA \"Own\" IS 'it''s \"ours\" \\ ж'; COMMENT ON TABLE \"Own\".t IS E'two\nlines'; COMMENT ON COLUMN \"Own\".t.secret IS '%s {} $1'; COMMENT ON INDEX \"Own\".t_pkey IS 'i'; COMMENT ON CONSTRAINT t_pkey ON \"Own\".t IS 'c';
    COMMENT ON FUNCTION \"Own\".f() IS 'f'; COMMENT ON TYPE \"Own\".e IS 'e'; COMMENT ON SEQUENCE \"Own\".s IS 's'; COMMENT ON VIEW \"Own\".v IS 'v';
    REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC; GRANT SELECT ON pg_catalog.pg_hba_file_rules TO reader;
    INSERT INTO \"Own\".t (secret, open) SELECT 's', 'o' FROM generate_series(1, 20)";

#[tokio::test]
async fn owners_grants_and_comments() {
    let Some(pair) = pair().await else { return };
    let roles = "CREATE ROLE \"The Owner\" NOLOGIN; CREATE ROLE reader LOGIN";
    pair.client(Color::Blue).await.batch_execute(roles).await.unwrap();

    // Without the roles it is refused, with the commands that make them.
    let moved = Moved::prepare(&pair, "lacking", RIGHTS).await;
    let refused = moved.blocking();
    assert!(refused.len() == 1 && refused[0].id == "missing-roles", "{refused:#?}");
    assert!(refused[0].seen.contains("\"The Owner\", \"reader\""), "{}", refused[0]);
    let (_, commands) = refused[0].mend.split_once("at green: ").unwrap();
    moved.green().await.batch_execute(commands).await.unwrap();
    assert!(
        moved
            .replicator
            .preflight()
            .await
            .unwrap()
            .iter()
            .all(|f| f.severity < Severity::Warning)
    );

    // With them everything is as it was.
    let change = "UPDATE \"Own\".t SET open = open || 'x' WHERE id < 5; DELETE FROM \"Own\".t WHERE id = (SELECT max(id) FROM \"Own\".t); INSERT INTO \"Own\".t (open) VALUES ('n')";
    Moved::both_ways(&pair, "rights", RIGHTS, change, change).await;
}
