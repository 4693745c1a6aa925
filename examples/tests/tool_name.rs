//! The tool, its binary and a real PowerDNS: a stateless application moves by its name alone.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_testkit::servers::{PowerDnsBinaries, PowerDnsServer, available};
use serde_json::Value;
use std::time::Duration;
use tool::{Place, Tool, code, well};

struct World {
    dns: PowerDnsServer,
    _blue: Place,
    _green: Place,
    tool: Tool,
}

/// PowerDNS, two well places, and a file that moves `app.example.com` from one to the other.
async fn world(policy: &str) -> Option<World> {
    available("PowerDNS", PowerDnsBinaries::find())?;
    let dns = PowerDnsServer::start("example.com").await.unwrap();
    dns.set("app.example.com", "A", 1, &["127.0.0.2"]).await.unwrap();
    let (blue, green) = (well().await, well().await);
    let tool = Tool::new(&format!(
        "[migration]\nname = \"app\"\njournal = \"app.journal\"\nhold = \"1s\"\nlook = \"50ms\"\nwatch = \"50ms\"\n\
         [blue]\nurl = \"http://{}\"\nhealth = [\"/health\"]\ntarget = \"127.0.0.2\"\n\
         [green]\nurl = \"http://{}\"\nhealth = [\"/health\"]\ntarget = \"127.0.0.3\"\n\
         [dns]\nprovider = \"powerdns\"\napi = \"{}\"\nkey_env = \"THE_KEY\"\nzone = \"example.com\"\n\
         record = \"app.example.com\"\nttl = \"1s\"\nslack = \"100ms\"\nauthorities = [\"{}\"]\n\
         [policy]\n{policy}\nbake = \"200ms\"\nmin_requests = 3\n",
        blue.at,
        green.at,
        dns.api_url(),
        dns.dns(),
    ))
    .env("THE_KEY", dns.key());
    Some(World {
        dns,
        _blue: blue,
        _green: green,
        tool,
    })
}

async fn records(dns: &PowerDnsServer) -> Vec<String> {
    let sets = dns.sets().await.unwrap();
    let mut lines: Vec<String> = sets
        .iter()
        .filter(|s| s["name"].as_str().unwrap().contains("app."))
        .map(|s| format!("{} {} {}", s["type"].as_str().unwrap(), s["ttl"], s["records"]))
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn it_runs_to_its_end_and_leaves_a_plain_record() {
    let Some(w) = world("steps = [50, 100]").await else {
        return;
    };
    let plan = w.tool.run("plan").await;
    assert_eq!(code(&plan), 0, "{plan:?}");
    assert!(
        plan.text.contains("50 %, 100 %") && plan.text.contains("point of no return"),
        "{}",
        plan.text
    );
    assert_eq!(w.tool.run("preflight").await.code, Some(0));
    assert!(!w.tool.path("app.journal").exists(), "looking leaves nothing behind");
    let ran = w.tool.run("run").await;
    assert_eq!(code(&ran), 0, "{ran:?}");
    assert_eq!(
        records(&w.dns).await,
        ["A 1 [{\"content\":\"127.0.0.3\",\"disabled\":false}]"]
    );
    let status = w.tool.run("status").await;
    let looked_on = w.tool.without_env().run("status").await;
    assert_eq!(looked_on.text, status.text, "to look on needs no secret");
    assert_eq!(code(&w.tool.without_env().run("run").await), 2);
    assert!(
        status.code == Some(0) && status.text.contains("completed"),
        "{status:?}"
    );
    let again = w.tool.run("run").await;
    assert_eq!(code(&again), 0, "what is over stays over: {again:?}");
    let looked = w.tool.run("preflight").await;
    assert!(
        looked.code == Some(2) && looked.errors.contains("has begun"),
        "{looked:?}"
    );
    let late = w.tool.run("abort").await;
    assert!(
        late.code == Some(2) && late.errors.contains("the migration is over"),
        "{late:?}"
    );
    for said in [&plan, &ran, &status] {
        assert!(!said.text.contains(w.dns.key()) && !said.errors.contains(w.dns.key()));
    }
    let journal = std::fs::read_to_string(w.tool.path("app.journal")).unwrap();
    assert!(!journal.contains(w.dns.key()));
}

#[tokio::test]
async fn json_is_an_object_a_line_and_ends_with_the_code() {
    let Some(w) = world("kind = \"at-once\"").await else {
        return;
    };
    let ran = w.tool.run_with(&["run", "--json"]).await;
    assert_eq!(code(&ran), 0, "{ran:?}");
    let lines: Vec<Value> = ran.text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().all(|l| l["event"].is_string()), "{ran:?}");
    let closed = lines.iter().any(|l| l["entry"]["body"]["type"] == "closed");
    assert!(closed, "the last entry is shown too: {ran:?}");
    assert!(lines.iter().any(|l| l["event"] == "entry") && lines.iter().any(|l| l["event"] == "report"));
    assert_eq!(lines.last().unwrap(), &serde_json::json!({"event": "ended", "code": 0}));
}

#[tokio::test]
async fn operators_are_heard_from_another_process() {
    let Some(w) = world("steps = [10, 100]\napprove_before = 100").await else {
        return;
    };
    let before = w.tool.run("approve").await;
    assert!(
        before.code == Some(2) && before.errors.contains("not begun"),
        "{before:?}"
    );
    let running = w.tool.start(&["run"]);
    w.tool.until("status", |s| s.text.contains("10 % to green")).await;
    // A copy of the file for another migration that still names this one's journal.
    let text = w.tool.text();
    w.tool.write(&text.replacen("name = \"app\"", "name = \"other\"", 1));
    for command in ["abort", "status"] {
        let said = w.tool.run(command).await;
        assert!(said.code == Some(2) && said.errors.contains("\"app\""), "{said:?}");
    }
    w.tool.write(&text);
    assert_eq!(w.tool.run("retreat").await.code, Some(0));
    w.tool
        .until("status", |s| {
            s.text.contains("0 % to green") && !s.text.contains("10 %")
        })
        .await;
    assert_eq!(w.tool.run("abort").await.code, Some(0));
    let ended = running.end().await;
    assert_eq!(code(&ended), 3, "{ended:?}");
    assert_eq!(w.tool.run("status").await.code, Some(3));
    assert_eq!(
        records(&w.dns).await,
        ["A 1 [{\"content\":\"127.0.0.2\",\"disabled\":false}]"]
    );
}

#[tokio::test]
async fn a_share_that_needs_an_approval_waits_for_it() {
    let Some(w) = world("steps = [10, 100]\napprove_before = 100").await else {
        return;
    };
    let running = w.tool.start(&["run"]);
    w.tool.until("status", |s| s.text.contains("10 % to green")).await;
    // Long enough that the share would have moved on by itself.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(w.tool.run("status").await.text.contains("10 % to green"));
    assert_eq!(w.tool.run("approve").await.code, Some(0));
    let ran = running.end().await;
    assert_eq!(code(&ran), 0, "{ran:?}");
}

#[tokio::test]
async fn an_interrupt_stops_it_and_run_goes_on() {
    let Some(w) = world("steps = [10, 100]").await else {
        return;
    };
    let running = w.tool.start(&["run"]);
    w.tool.until("status", |s| s.text.contains("10 % to green")).await;
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let stopped = running.end().await;
    assert_eq!(code(&stopped), 4, "{stopped:?}");
    let ran = w.tool.run("run").await;
    assert_eq!(code(&ran), 0, "{ran:?}");
    assert_eq!(
        records(&w.dns).await,
        ["A 1 [{\"content\":\"127.0.0.3\",\"disabled\":false}]"]
    );
}

/// At a terminal an interrupt goes to everybody in the foreground, and a command that it ended would have failed.
#[tokio::test]
async fn an_interrupt_at_the_terminal_ends_a_command_and_counts_as_no_failure_of_it() {
    let Some(mut w) = world("kind = \"at-once\"").await else {
        return;
    };
    w.tool
        .append("[verify]\ncommands = [\"touch began; while [ ! -e go ]; do sleep 0.05; done; touch whole\"]\n");
    let running = w.tool.start_in_group(&["run"]);
    while !w.tool.path("began").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.signal_group(nix::sys::signal::Signal::SIGINT);
    let stopped = running.end().await;
    assert_eq!(code(&stopped), 4, "{stopped:?}");
    std::fs::write(w.tool.path("go"), "").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        !w.tool.path("whole").exists(),
        "it still runs, with nobody who waits for it"
    );
    let ran = w.tool.run("run").await;
    assert_eq!(code(&ran), 0, "{ran:?}");
    assert!(w.tool.path("whole").exists());
}

#[tokio::test]
async fn a_command_that_fails_unwinds_it() {
    let Some(mut w) = world("kind = \"at-once\"").await else {
        return;
    };
    w.tool
        .append("[verify]\ncommands = [\"echo $BASE_URL > seen\", \"exit 7\"]\n");
    let ran = w.tool.run("run").await;
    assert_eq!(code(&ran), 3, "{ran:?}");
    assert!(ran.text.contains("\"exit 7\" ended with exit status: 7"), "{ran:?}");
    assert!(
        std::fs::read_to_string(w.tool.path("seen"))
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    assert_eq!(
        records(&w.dns).await,
        ["A 1 [{\"content\":\"127.0.0.2\",\"disabled\":false}]"]
    );
}

#[tokio::test]
async fn what_is_in_the_way_is_said_and_nothing_is_touched() {
    let Some(w) = world("steps = [10, 100]").await else {
        return;
    };
    let untouched = w.dns.sets().await.unwrap();
    let whole = w.tool.text();
    let cases = [
        ("key_env = \"THE_KEY\"", "key = \"wrong\"", "correct the API key"),
        (
            "zone = \"example.com\"",
            "zone = \"app.example.com\"",
            "correct the zone",
        ),
        (
            "target = \"127.0.0.2\"",
            "target = \"127.0.0.9\"",
            "correct blue's target",
        ),
        (
            "[blue]\nurl = \"http://",
            "[blue]\nurl = \"http://127.0.0.1:1/",
            "correct its url and health paths",
        ),
        (
            "[green]\nurl = \"http://",
            "[green]\nurl = \"http://127.0.0.1:1/",
            "or give a deploy hook",
        ),
        (
            "hold = \"1s\"",
            "hold = \"1s\"\nproduction_url = \"http://127.0.0.1:1\"",
            "correct production_url",
        ),
        (
            "api = \"http://127.0.0.1:",
            "api = \"http://127.0.0.4:",
            "is the API's address right",
        ),
    ];
    for (from, to, mend) in cases {
        assert!(whole.contains(from), "{from}");
        w.tool.write(&whole.replacen(from, to, 1));
        for command in ["preflight", "run"] {
            let ran = w.tool.run(command).await;
            assert_eq!(code(&ran), 4, "{to}: {ran:?}");
            assert!(ran.text.contains(mend), "{to}: {ran:?}");
        }
        assert!(!w.tool.path("app.journal").exists());
    }
    // A journal that could not be kept.
    std::fs::write(w.tool.path("file"), "").unwrap();
    for (journal, mend) in [
        (".", "name a file, not a folder"),
        ("nowhere/app.journal", "the folder it is in must be there"),
        ("file/app.journal", "is a file and no folder"),
    ] {
        w.tool.write(&whole.replacen("app.journal", journal, 1));
        let ran = w.tool.run("run").await;
        assert!(ran.code == Some(2) && ran.errors.contains(mend), "{journal}: {ran:?}");
    }
    w.tool.write(&whole);
    let gone = serde_json::json!({"name": "app.example.com.", "type": "A", "changetype": "DELETE"});
    w.dns.patch(gone).await.unwrap();
    w.dns
        .set("app.example.com", "LUA", 60, &["A \"ifportup(443, {'127.0.0.2'})\""])
        .await
        .unwrap();
    let foreign = w.tool.run("run").await;
    assert!(
        foreign.code == Some(4) && foreign.text.contains("bluegreen did not write"),
        "{foreign:?}"
    );
    assert!(!w.tool.path("app.journal").exists());
    let now = w.dns.sets().await.unwrap();
    let others = |sets: &[Value]| {
        sets.iter()
            .filter(|s| !["A", "LUA", "SOA"].contains(&s["type"].as_str().unwrap()))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(others(&now), others(&untouched));
}
