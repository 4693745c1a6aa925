//! Bad input to the tool, with everything real: each is said clearly, and nothing has changed anywhere.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_core::Color;
use bluegreen_testkit::servers::free_port;
use nix::sys::signal::Signal;
use serde_json::json;
use tool::world::{NAME, World};
use tool::{Said, Tool, code};

/// Runs `preflight` and `run` with a changed file or environment, and looks that nothing changed.
async fn refused(world: &World, tool: &Tool, expected: i32, parts: &[&str]) {
    let before = world.everything().await;
    for command in ["preflight", "run"] {
        let said = tool.run(command).await;
        assert_eq!(code(&said), expected, "{parts:?}: {said:?}");
        let all = format!("{}{}", said.text, said.errors);
        for part in parts {
            assert!(all.contains(part), "{part:?} is missing: {all}");
        }
        assert!(!all.contains("s3cret") && !all.contains(world.dns.key()), "{all}");
    }
    assert_eq!(world.everything().await, before);
    assert!(!tool.path("shop.journal").exists(), "{parts:?}");
}

fn changed(world: &World, from: &str, to: &str) -> Tool {
    let tool = world.tool();
    let text = tool.text();
    assert!(text.contains(from), "{from}");
    tool.write(&text.replacen(from, to, 1));
    tool
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_nothing_has_changed_anywhere() {
    let Some(world) = World::start(100).await else { return };
    let closed = free_port().unwrap();

    // A file that is wrong.
    refused(
        &world,
        &changed(&world, "steps = [50, 100]", "steps = [50, 10]"),
        2,
        &["policy", "the last 100", ", line "],
    )
    .await;
    refused(
        &world,
        &changed(&world, "hold = ", "hodl = "),
        2,
        &["unknown field `hodl`", "`hold`", ", line "],
    )
    .await;
    let unset = changed(&world, "\"PDNS_KEY\"", "\"NO_SUCH_KEY\"");
    refused(&world, &unset, 2, &["key_env", "is not set", ", line "]).await;
    let both = changed(&world, "\"BLUE_DATABASE\"", "\"GREEN_DATABASE\"");
    refused(&world, &both, 4, &["blocks"]).await;

    // Databases that are not there, or say no.
    let url = |text: String| world.tool().env("BLUE_DATABASE", &text);
    let nobody = url(format!("postgres://postgres:s3cret@127.0.0.1:{closed}/shop"));
    refused(&world, &nobody, 4, &["blocks", "blue", "mend"]).await;
    let missing = url(format!(
        "postgres://postgres:s3cret@127.0.0.1:{}/nowhere",
        world.blue.port()
    ));
    refused(&world, &missing, 4, &["blocks", "nowhere", "mend"]).await;
    world.require_password("stranger", "right").await;
    let wrong = url(format!(
        "postgres://stranger:s3cret@127.0.0.1:{}/shop",
        world.blue.port()
    ));
    refused(&world, &wrong, 4, &["blocks", "stranger", "password", "mend"]).await;

    // A gate out of reach.
    let gate = changed(
        &world,
        &format!("127.0.0.1:{}/pgbouncer", world.pooler.port()),
        &format!("127.0.0.1:{closed}/pgbouncer"),
    );
    refused(&world, &gate, 4, &["blocks", "PgBouncer", "mend"]).await;

    // A green that holds something already.
    world
        .green
        .execute("shop", "CREATE TABLE orders (mine int)")
        .await
        .unwrap();
    refused(&world, &world.tool(), 4, &["blocks", "orders", "mend"]).await;
    world.green.execute("shop", "DROP TABLE orders").await.unwrap();

    // A record that is somebody else's.
    let gone = json!({"name": format!("{NAME}."), "type": "A", "changetype": "DELETE"});
    world.dns.patch(gone).await.unwrap();
    world
        .dns
        .set(NAME, "LUA", 60, &["A \"ifportup(80, {'127.0.0.2'})\""])
        .await
        .unwrap();
    refused(&world, &world.tool(), 4, &["blocks", "did not write", "mend"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_held_once_and_never_guessed_at() {
    let Some(world) = World::start(100).await else { return };
    let mut tool = world.tool();
    let text = tool.text();
    // It waits at 50 % until it is approved.
    let waits = text.replace("bake = ", "approve_before = 100\nbake = ");
    tool.write(&waits);
    let clients = world.clients(2);
    let running = tool.start_without_hangups(&["run"]);
    tool.until("status", |s| s.text.contains("50 % to green")).await;
    // The terminal goes away, which is no reason to stop for what was started to outlive it.
    running.signal(Signal::SIGHUP);

    let second = tool.run("run").await;
    assert_eq!(code(&second), 4, "{second:?}");
    assert!(second.errors.contains("is held by process"), "{second:?}");
    // Who stands by and is stopped says how it ended too.
    let mut third = tool.start(&["run", "--stand-by", "--json"]);
    let told = third.errors().next_line().await.unwrap().unwrap();
    assert!(told.contains("standing by"), "{told}");
    third.signal(Signal::SIGHUP);
    let third = third.end().await;
    assert_eq!(code(&third), 4);
    assert!(third.text.contains("nothing was begun here"), "{third:?}");
    assert!(third.text.ends_with("{\"code\":4,\"event\":\"ended\"}\n"), "{third:?}");
    running.signal(Signal::SIGTERM);
    assert_eq!(code(&running.end().await), 4);

    let before = world.everything().await;
    let journal = std::fs::read(tool.path("shop.journal")).unwrap();
    let unchanged = |said: &Said, word: &str| {
        assert_eq!(code(said), 4, "{said:?}");
        assert!(said.errors.contains(word), "{word}: {said:?}");
    };
    tool.write(&waits.replace("steps = [50, 100]", "steps = [50, 60, 100]"));
    unchanged(&tool.run("run").await, "resume with the specification");
    assert_eq!(std::fs::read(tool.path("shop.journal")).unwrap(), journal);
    assert_eq!(world.everything().await, before);

    tool.write(&waits);
    // A stranger's database, which would be opened for writes.
    world.green.create_database("stranger").await.unwrap();
    for (name, right, wrong) in [
        ("GREEN_DATABASE", world.green.url("shop"), world.green.url("stranger")),
        ("BLUE_DATABASE", world.blue.url("shop"), world.green.url("shop")),
    ] {
        tool.set_env(name, &wrong);
        let said = tool.run("run").await;
        unchanged(&said, "it was begun with the database");
        assert!(
            said.errors
                .contains(&format!("green 127.0.0.1:{}/shop", world.green.port())),
            "{said:?}"
        );
        tool.set_env(name, &right);
    }
    assert_eq!(std::fs::read(tool.path("shop.journal")).unwrap(), journal);
    assert_eq!(world.everything().await, before);

    let mut damaged = journal.clone();
    damaged[journal.len() / 2] ^= 1;
    std::fs::write(tool.path("shop.journal"), &damaged).unwrap();
    for command in ["run", "status", "approve"] {
        unchanged(&tool.run(command).await, "shop.journal");
    }
    assert_eq!(
        std::fs::read(tool.path("shop.journal")).unwrap(),
        damaged,
        "a damaged journal is left as it is"
    );
    assert_eq!(world.everything().await, before);

    std::fs::write(tool.path("shop.journal"), &journal).unwrap();
    assert_eq!(code(&tool.run("approve").await), 0);
    let ran = tool.run("run").await;
    assert_eq!(code(&ran), 0, "{ran:?}");
    let outcome = clients.stop().await.unwrap();
    assert_eq!(outcome.failures, std::collections::BTreeMap::new());
    world.check_end(Color::Green, &outcome).await;
}

/// What a program reads: each finding a line, the worst first, then how many; and the exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_reads_the_findings() {
    let Some(world) = World::start(100).await else { return };
    let lines = |said: &Said| -> Vec<serde_json::Value> {
        let lines = said.text.lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let severities = |lines: &[serde_json::Value]| -> Vec<String> {
        let findings = lines.iter().filter(|line| line["event"] == "finding");
        findings
            .map(|line| {
                for part in ["id", "seen", "why", "mend"] {
                    assert!(
                        line["finding"][part].as_str().is_some_and(|text| !text.is_empty()),
                        "{line}"
                    );
                }
                line["finding"]["severity"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let well = world.tool().run_with(&["preflight", "--json"]).await;
    assert_eq!(code(&well), 0, "{well:?}");
    let well = lines(&well);
    assert!(
        severities(&well).iter().all(|severity| severity != "blocking"),
        "{well:#?}"
    );
    assert_eq!(well.last().unwrap(), &json!({"event": "ended", "code": 0}));

    world
        .blue
        .execute(
            "shop",
            "CREATE TABLE bare (what text); CREATE UNLOGGED TABLE light (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    let ill = world.tool().run_with(&["preflight", "--json"]).await;
    assert_eq!(code(&ill), 4, "{ill:?}");
    let ill = lines(&ill);
    let found = severities(&ill);
    let of = |severity: &str| found.iter().filter(|one| *one == severity).count();
    assert!(of("blocking") == 1 && of("warning") > 0 && of("note") > 0, "{found:?}");
    let worst_first = ["blocking", "warning", "note"]
        .map(|severity| vec![severity; of(severity)])
        .concat();
    assert_eq!(found, worst_first);
    let bare = ill
        .iter()
        .find(|line| line["finding"]["id"] == "no-replica-identity")
        .unwrap();
    assert!(
        bare["finding"]["seen"].as_str().unwrap().contains("public.bare"),
        "{bare}"
    );
    let counted = json!({"event": "findings", "blocks": 1, "warns": of("warning"), "notes": of("note")});
    assert!(ill.contains(&counted), "{ill:#?}");
    assert_eq!(ill.last().unwrap(), &json!({"event": "ended", "code": 4}));
}

/// Who asks wrongly is answered in the way that was asked for.
#[tokio::test]
async fn a_program_that_asks_wrongly_is_answered() {
    let tool = Tool::new("");
    let wrong = tool.run_with(&["prefligth", "--json"]).await;
    assert_eq!(code(&wrong), 2, "{wrong:?}");
    let lines: Vec<serde_json::Value> = wrong
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines[0]["message"].as_str().unwrap().contains("prefligth"), "{wrong:?}");
    assert_eq!(lines.last().unwrap(), &json!({"event": "ended", "code": 2}));
    let for_a_person = tool.run_with(&["prefligth"]).await;
    assert!(
        code(&for_a_person) == 2 && for_a_person.text.is_empty(),
        "{for_a_person:?}"
    );
    let help = tool.run_with(&["run", "--help", "--json"]).await;
    assert!(code(&help) == 0 && help.text.contains("--stand-by"), "{help:?}");
}
