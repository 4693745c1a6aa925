//! The tool moves a live application between two real PostgreSQL clusters, through PgBouncer and PowerDNS.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_core::Color;
use tool::code;
use tool::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn it_moves_a_live_application_and_nothing_is_lost() {
    let Some(world) = World::start(5_000).await else { return };
    let tool = world.tool();
    let clients = world.clients(4);
    let found = tool.run("preflight").await;
    assert_eq!(code(&found), 0, "{found:?}");
    let ran = tool.run("run").await;
    println!("{}\n{}", ran.text, ran.errors);
    assert_eq!(code(&ran), 0, "{ran:?}");
    let outcome = clients.stop().await.unwrap();
    assert_eq!(outcome.failures, std::collections::BTreeMap::new());
    world.check_end(Color::Green, &outcome).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_back_after_the_cut_over() {
    let Some(world) = World::start(5_000).await else { return };
    let tool = world.tool();
    tool.write(&tool.text().replace("hold = \"1s\"", "hold = \"1h\""));
    let clients = world.clients(4);
    let running = tool.start(&["run"]);
    tool.until("status", |s| s.text.contains(": hold")).await;
    let refused = tool.run("abort").await;
    assert!(
        refused.code == Some(2) && refused.errors.contains("go-back"),
        "{refused:?}"
    );
    assert_eq!(tool.run("go-back").await.code, Some(0));
    let ran = running.end().await;
    println!("{}\n{}", ran.text, ran.errors);
    assert_eq!(code(&ran), 3, "{ran:?}");
    let outcome = clients.stop().await.unwrap();
    assert_eq!(outcome.failures, std::collections::BTreeMap::new());
    world.check_end(Color::Blue, &outcome).await;
}
