//! What the preflight says of roles: who could not log in, whom a read-only database does not stop, and what we may not do without
//! superuser. On real clusters, with the fault, and without it after the command that mends it.

use crate::common::findings::{find, ids, run, troubles};
use crate::common::mover::{mover, roles};
use crate::common::secure::ask_for_password;
use crate::common::{DB, Pair, connect, streaming};
use bluegreen_core::{Color, Direction, Finding, Replicator, Severity};

async fn by_id(replicator: &bluegreen_pg::PgReplicator, id: &str) -> Vec<Finding> {
    let mut all = replicator.preflight().await.unwrap();
    all.retain(|finding| finding.id == id);
    all
}

fn db() -> String {
    format!("\"{}\"", DB.replace('"', "\"\""))
}

#[tokio::test]
async fn settings_of_everybody_and_lists() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for client in [&blue, &green] {
        client.batch_execute("CREATE ROLE \"Quo\"\"ted NÄME\"").await.unwrap();
    }
    let (db, role) = (db(), "\"Quo\"\"ted NÄME\"");
    blue.batch_execute(&format!(
        "CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO {role};
         ALTER DATABASE {db} SET search_path = ''; ALTER ROLE ALL SET work_mem = '5MB'; ALTER ROLE ALL SET datestyle = 'SQL, DMY';
         ALTER ROLE {role} IN DATABASE {db} SET search_path = 'Odd, \"one', \"$user\""
    ))
    .await
    .unwrap();
    let replicator = pair.replicator();
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["database-settings"], "{seen:#?}");
    let evidence = [
        &format!("search_path = \"\" (database {db})"),
        "work_mem = '5MB' (all roles)",
        &format!("search_path = \"Odd, \"\"one\", \"$user\" (role {role} in database {db})"),
    ];
    let settings = find(&seen, "database-settings", Severity::Warning, &evidence);
    run(&green, settings, "at green: ").await;
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
    let kept = "SELECT format('%s %s %s', setdatabase = 0, setrole = 0, c) FROM pg_db_role_setting, unnest(setconfig) AS c ORDER BY 1";
    let of = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|r| r.get(0)).collect::<Vec<String>>();
    assert_eq!(
        of(blue.query(kept, &[]).await.unwrap()),
        of(green.query(kept, &[]).await.unwrap())
    );
}

#[tokio::test]
async fn who_could_not_log_in() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let (db, replicator) = (db(), pair.replicator());
    blue.batch_execute(&format!(
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE only_db LOGIN PASSWORD 's3cret'; CREATE ROLE may_connect;
         GRANT CONNECT ON DATABASE {db} TO only_db, may_connect; CREATE ROLE by_group LOGIN IN ROLE may_connect;
         CREATE ROLE by_public LOGIN; CREATE ROLE almighty SUPERUSER LOGIN;
         CREATE ROLE here LOGIN PASSWORD 's3cret'; CREATE ROLE shut LOGIN; CREATE ROLE over LOGIN"
    ))
    .await
    .unwrap();
    green
        .batch_execute("CREATE ROLE shut NOLOGIN; CREATE ROLE over LOGIN VALID UNTIL '2001-01-01'")
        .await
        .unwrap();
    let of_blue = ["here", "shut", "over"].map(|role| {
        let url = pair.url(Color::Blue).replace("user=postgres", &format!("user={role}"));
        async move { connect(&url).await.unwrap() }
    });
    let here = futures::future::join_all(of_blue).await;

    let missing = by_id(&replicator, "missing-logins").await;
    let [connected, named, others] = &missing[..] else {
        panic!("{missing:#?}")
    };
    let evidence = ["connected", "1 role: \"here\"; at green NOLOGIN is 1 role: \"shut\""];
    find(
        std::slice::from_ref(connected),
        "missing-logins",
        Severity::Blocking,
        &evidence,
    );
    let evidence = ["3 roles: \"by_group\", \"may_connect\", \"only_db\""];
    find(
        std::slice::from_ref(named),
        "missing-logins",
        Severity::Warning,
        &evidence,
    );
    let evidence = ["2 roles: \"almighty\", \"by_public\""];
    find(
        std::slice::from_ref(others),
        "missing-logins",
        Severity::Note,
        &evidence,
    );
    let seen = troubles(&replicator).await;
    let grants = find(&seen, "database-grants", Severity::Warning, &["\"only_db\""]);
    assert!(
        grants.mend.starts_with("when the missing roles are made, at green: "),
        "{grants}"
    );
    let evidence = ["over at green only, 1 role: \"over\" (somebody is connected"];
    let over = find(&seen, "logins-without-password", Severity::Blocking, &evidence);
    assert!(!ids(&seen).contains(&"role-attributes"), "{seen:#?}");
    for finding in missing.iter().chain([over, grants]) {
        run(&green, finding, "at green: ").await;
    }

    // Made so, they have no password: that is another finding, until they have it.
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["logins-without-password"], "{seen:#?}");
    let evidence = ["none on green, 2 roles: \"here\", \"only_db\" (somebody is connected"];
    let without = find(&seen, "logins-without-password", Severity::Blocking, &evidence);
    let (_, query) = without.mend.split_once(": ").unwrap();
    for row in blue.query(query, &[]).await.unwrap() {
        green.batch_execute(row.get(0)).await.unwrap();
    }
    drop(here);
    let all = replicator.preflight().await.unwrap();
    let troubles = all
        .iter()
        .filter(|f| f.severity > Severity::Note || f.id == "login-passwords");
    assert_eq!(troubles.count(), 0, "{all:#?}");

    green
        .batch_execute("ALTER ROLE only_db PASSWORD 's3cret'")
        .await
        .unwrap();
    let seen = by_id(&replicator, "login-passwords").await;
    find(
        &seen,
        "login-passwords",
        Severity::Note,
        &["not written alike: 1 role: \"only_db\""],
    );
    green.batch_execute("ALTER ROLE only_db PASSWORD NULL").await.unwrap();
    let seen = crate::common::findings::troubles(&replicator).await;
    find(
        &seen,
        "logins-without-password",
        Severity::Warning,
        &["1 role: \"only_db\""],
    );
}

#[tokio::test]
async fn roles_that_read_only_does_not_bind() {
    let Some(pair) = Pair::start().await else { return };
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    let (db, replicator) = (db(), pair.replicator());
    for client in [&blue, &green] {
        client
            .batch_execute(
                "CREATE ROLE \"Free\"; CREATE ROLE bound; ALTER ROLE bound SET default_transaction_read_only = on",
            )
            .await
            .unwrap();
    }
    blue.batch_execute("ALTER ROLE \"Free\" SET default_transaction_read_only = off")
        .await
        .unwrap();
    green
        .batch_execute(&format!(
            "ALTER ROLE \"Free\" IN DATABASE {db} SET default_transaction_read_only = off"
        ))
        .await
        .unwrap();
    let seen = troubles(&replicator).await;
    assert_eq!(ids(&seen), ["not-bound-by-read-only"; 2], "{seen:#?}");
    for (finding, (at, client)) in seen.iter().zip([("blue", &blue), ("green", &green)]) {
        let evidence = [&format!("at {at} "), "1 role: \"Free\""];
        find(
            std::slice::from_ref(finding),
            "not-bound-by-read-only",
            Severity::Blocking,
            &evidence,
        );
        run(client, finding, &format!("at {at}: ")).await;
    }
    let left = troubles(&replicator).await;
    assert!(left.is_empty(), "{left:#?}");
}

/// What blue has that a role without superuser could not make at green, or read at blue.
const BEYOND: &str = "
    GRANT x TO mover WITH INHERIT TRUE, SET FALSE; GRANT z TO mover; GRANT CREATE ON SCHEMA public TO x;
    CREATE TABLE theirs (id int PRIMARY KEY); ALTER TABLE theirs OWNER TO x; INSERT INTO theirs VALUES (1);
    CREATE SCHEMA s AUTHORIZATION z; GRANT CREATE, USAGE ON SCHEMA s TO x; CREATE TABLE s.t (id int PRIMARY KEY) PARTITION BY LIST (id); ALTER TABLE s.t OWNER TO x;
    CREATE SEQUENCE number; ALTER SEQUENCE number OWNER TO y;
    CREATE SCHEMA closed AUTHORIZATION y; CREATE TABLE closed.t (id int PRIMARY KEY); ALTER TABLE closed.t OWNER TO mover;
    CREATE EXTENSION pageinspect; CREATE EXTENSION hstore;
    CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; ALTER FUNCTION e() OWNER TO mover;
    CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION e();
    CREATE FUNCTION inner_one(text) RETURNS int LANGUAGE internal AS 'textlen'; ALTER FUNCTION inner_one(text) OWNER TO mover;
    CREATE FUNCTION tight(int) RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT 1'; ALTER FUNCTION tight(int) OWNER TO mover;
    CREATE FUNCTION fine(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION fine(int) OWNER TO mover;
    CREATE AGGREGATE joined(text) (sfunc = textcat, stype = text); ALTER AGGREGATE joined(text) OWNER TO mover;
    CREATE TYPE span AS RANGE (subtype = int); ALTER TYPE span OWNER TO mover;
    CREATE INDEX ON theirs (id) TABLESPACE \"Fast\"; CREATE STATISTICS seen ON id, (id + 1) FROM theirs; ALTER STATISTICS seen OWNER TO st;
    ALTER DEFAULT PRIVILEGES FOR ROLE d GRANT SELECT ON TABLES TO app;
    CREATE TABLE hidden (id int PRIMARY KEY); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; INSERT INTO hidden VALUES (1);
    ALTER TABLE hidden OWNER TO w; CREATE ROLE dba SUPERUSER; SET ROLE dba; CREATE EXTENSION citext; RESET ROLE;
    GRANT SELECT ON theirs TO g WITH GRANT OPTION; SET ROLE g; GRANT SELECT ON theirs TO app; RESET ROLE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_may_not_do_without_superuser() {
    let Some(pair) = Pair::of_majors(17, 18).await else {
        return;
    };
    roles(&pair).await;
    let (blue, green) = (pair.client(Color::Blue).await, pair.client(Color::Green).await);
    for (color, client) in [(Color::Blue, &blue), (Color::Green, &green)] {
        ask_for_password(&pair, color, "mover", false).await;
        let create =
            "CREATE ROLE x; CREATE ROLE y; CREATE ROLE z; CREATE ROLE g; CREATE ROLE st; CREATE ROLE d; CREATE ROLE w;
            GRANT w TO mover WITH INHERIT TRUE, SET TRUE; GRANT CREATE ON SCHEMA public TO w;
            CREATE ROLE rdsadmin SUPERUSER; ALTER ROLE rdsadmin SET default_transaction_read_only = off";
        client.batch_execute(create).await.unwrap();
        // A folder of its own is not asked for.
        client
            .batch_execute("SET allow_in_place_tablespaces = on")
            .await
            .unwrap();
        client
            .batch_execute("CREATE TABLESPACE \"Fast\" LOCATION ''")
            .await
            .unwrap();
    }
    let replicator = pair
        .builder_of(mover(&pair, Color::Blue), mover(&pair, Color::Green))
        .build()
        .unwrap();
    let clean = troubles(&replicator).await;
    assert_eq!(ids(&clean), ["superuser-sessions"], "{clean:#?}");
    blue.batch_execute(BEYOND).await.unwrap();

    let seen = troubles(&replicator).await;
    let pid: i32 = blue.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let evidence = format!("pid {pid} of postgres");
    find(&seen, "superuser-sessions", Severity::Warning, &[&evidence]);
    let block = |id: &str, evidence: &[&str]| find(&seen, id, Severity::Blocking, evidence).clone();
    let schemas = block("right-schemas", &["1 schema: closed"]);
    let sequences = block("right-sequences", &["1 sequence: public.number"]);
    let extension = block("right-extension", &["1 extension: \"pageinspect\""]);
    let objects = block(
        "right-superuser-objects",
        &[
            "3 things: event trigger watch",
            "function public.inner_one(text) in internal",
            "leakproof function public.tight(integer)",
        ],
    );
    let grantors = block("right-grantors", &["1 right: SELECT on TABLE public.theirs by g"]);
    let create = block(
        "right-create-in-schema",
        &["4 roles: st in public, x in public, x in s, y in public"],
    );
    let owners: Vec<Finding> = seen.iter().filter(|f| f.id == "right-become-owner").cloned().collect();
    let [at_green, at_blue] = &owners[..] else {
        panic!("{owners:#?}")
    };
    assert!(at_green.seen.contains("5 roles: d, st, x, y, z at green"), "{at_green}");
    assert!(at_blue.seen.contains("1 role: x at blue"), "{at_blue}");
    let blocking = seen.iter().filter(|f| f.severity == Severity::Blocking).count();
    let tablespace = block("right-tablespaces", &["1 tablespace: \"Fast\""]);
    assert_eq!(blocking, 9, "{seen:#?}");

    for (finding, client, after) in [
        (&schemas, &blue, "at blue: "),
        (&sequences, &blue, "at blue: "),
        (&extension, &green, "as a superuser: "),
        (&tablespace, &green, "at green: "),
        (&objects, &blue, "what nobody needs: "),
        (&grantors, &blue, "as a superuser: "),
        (at_green, &green, "at green: "),
        (at_blue, &blue, "at blue: "),
    ] {
        run(client, finding, after).await;
    }
    let (give, back) = create.mend.split_once(" and, when the copy is made, ").unwrap();
    green
        .batch_execute(give.strip_prefix("at green: ").unwrap())
        .await
        .unwrap();
    drop((blue, green));
    let mut left = troubles(&replicator).await;
    left.retain(|finding| finding.severity == Severity::Blocking || finding.id == "superuser-sessions");
    assert!(left.is_empty(), "{left:#?}");

    // That was all: the copy is made, and the cut-over can be armed.
    replicator.start(Direction::BlueToGreen).await.unwrap();
    streaming(&replicator, Direction::BlueToGreen).await;
    let (_, back) = back.split_once(": ").unwrap();
    pair.green.execute("postgres", back).await.unwrap();
    let green = pair.client(Color::Green).await;
    let owner = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = 's.t'::regclass";
    let owner: String = green.query_one(owner, &[]).await.unwrap().get(0);
    assert_eq!(owner, "x");
    replicator.arm(Color::Green, crate::common::WITHIN).await.unwrap();
}
