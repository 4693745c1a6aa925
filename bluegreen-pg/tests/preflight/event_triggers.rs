//! Event triggers, which run on what the migration itself makes where it may not silence them.

use crate::common::Pair;
use crate::common::findings::{find, ids, run, troubles};
use crate::common::mover::{mover, roles};
use crate::common::secure::ask_for_password;
use bluegreen_core::{Color, Finding, Severity};

const MADE: &str = "
    CREATE TABLE \"Log\" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tag text);
    CREATE FUNCTION nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE FUNCTION logs() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO public.\"Log\" (tag) VALUES (tg_tag); END';
    CREATE FUNCTION refuses() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no %'', tg_tag; END';
    CREATE EVENT TRIGGER quiet ON ddl_command_end EXECUTE FUNCTION nothing();";

fn of(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|f| f.id.contains("-triggers")).collect()
}

#[tokio::test]
async fn that_we_may_not_silence_are_tried() {
    let Some(pair) = Pair::of_majors(15, 17).await else {
        return;
    };
    roles(&pair).await;
    for color in [Color::Blue, Color::Green] {
        ask_for_password(&pair, color, "mover", false).await;
    }
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(MADE).await.unwrap();
    let movers = pair
        .builder_of(mover(&pair, Color::Blue), mover(&pair, Color::Green))
        .build()
        .unwrap();
    let supers = pair.builder().build().unwrap();
    let seen = of(troubles(&movers).await);
    assert_eq!(ids(&seen), ["event-triggers"], "{seen:#?}");
    find(
        &seen,
        "event-triggers",
        Severity::Warning,
        &["at blue and at green", "1 event trigger: quiet"],
    );
    assert!(of(troubles(&supers).await).is_empty());

    blue.batch_execute(
        "CREATE EVENT TRIGGER \"Logs\" ON ddl_command_end WHEN TAG IN ('CREATE PUBLICATION') EXECUTE FUNCTION logs()",
    )
    .await
    .unwrap();
    let seen = of(troubles(&movers).await);
    assert_eq!(ids(&seen), ["event-triggers-write"], "{seen:#?}");
    let evidence = [
        "2 event triggers: \"Logs\", quiet",
        "they wrote 1 table: public.\"Log\"",
    ];
    let writes = find(&seen, "event-triggers-write", Severity::Blocking, &evidence).clone();
    let rows: i64 = blue
        .query_one("SELECT count(*) FROM \"Log\"", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(rows, 0, "what was tried was rolled back");
    // Where only green's session is loud, it is tried all the same.
    let half = pair
        .builder_of(pair.url(Color::Blue), mover(&pair, Color::Green))
        .build()
        .unwrap();
    let seen = of(troubles(&half).await);
    find(&seen, "event-triggers-write", Severity::Blocking, &["makes at green: "]);
    // Before 17 one that runs always runs for superusers too.
    blue.batch_execute("ALTER EVENT TRIGGER \"Logs\" ENABLE ALWAYS")
        .await
        .unwrap();
    let seen = of(troubles(&supers).await);
    find(
        &seen,
        "event-triggers-write",
        Severity::Blocking,
        &["makes at blue: 1 event trigger: \"Logs\""],
    );
    run(&blue, &writes, "then): ").await;
    assert!(of(troubles(&movers).await).is_empty());

    blue.batch_execute(
        "CREATE EVENT TRIGGER stops ON ddl_command_start WHEN TAG IN ('DROP TRIGGER') EXECUTE FUNCTION refuses()",
    )
    .await
    .unwrap();
    let seen = of(troubles(&movers).await);
    let refuses = find(
        &seen,
        "event-triggers-refuse",
        Severity::Blocking,
        &["stops", "no DROP TRIGGER"],
    );
    run(&blue, refuses, "then): ").await;
    assert!(of(troubles(&movers).await).is_empty());
}

#[tokio::test]
async fn that_write_at_login() {
    let Some(pair) = Pair::of_majors(17, 18).await else {
        return;
    };
    let blue = pair.client(Color::Blue).await;
    blue.batch_execute(MADE).await.unwrap();
    blue.batch_execute("CREATE EVENT TRIGGER lets ON login EXECUTE FUNCTION nothing()")
        .await
        .unwrap();
    let replicator = pair.builder().build().unwrap();
    assert!(of(troubles(&replicator).await).is_empty());
    blue.batch_execute("CREATE EVENT TRIGGER \"Who\" ON login EXECUTE FUNCTION logs()")
        .await
        .unwrap();
    let seen = of(troubles(&replicator).await);
    let writes = find(
        &seen,
        "login-triggers-write",
        Severity::Blocking,
        &["1 event trigger: \"Who\""],
    );
    run(&blue, writes, "then): ").await;
    assert!(of(troubles(&replicator).await).is_empty());
}
