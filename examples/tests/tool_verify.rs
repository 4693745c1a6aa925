//! `bluegreen verify`: the databases of a file, compared at rest.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_testkit::servers::{PgBinaries, PgCluster, available};
use tool::Tool;

const ROWS: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'note ' || i FROM generate_series(1, 5000) i; ANALYZE";

#[tokio::test(flavor = "multi_thread")]
async fn it_says_whether_both_are_alike_and_names_what_is_not() {
    if available("PostgreSQL", PgBinaries::find()).is_none() {
        return;
    }
    let cluster = PgCluster::start().await.unwrap();
    for side in ["blue", "green"] {
        cluster.create_database(side).await.unwrap();
        cluster.execute(side, ROWS).await.unwrap();
    }
    let tool = Tool::new(
        "[migration]\nname = \"shop\"\njournal = \"shop.journal\"\nlook = \"10ms\"\n\
         [blue]\ndatabase_env = \"BLUE\"\n[green]\ndatabase_env = \"GREEN\"\n[gate]\nkind = \"none\"\n",
    )
    .env("BLUE", &cluster.url("blue"))
    .env("GREEN", &cluster.url("green"));
    let same = tool.run("verify").await;
    assert!(
        same.code == Some(0) && same.text.contains("alike: 5000 rows of 1 tables"),
        "{same:?}"
    );
    let change = "UPDATE orders SET note = 'other' WHERE id = 77; DELETE FROM orders WHERE id = 78";
    cluster.execute("green", change).await.unwrap();
    let different = tool.run("verify").await;
    assert_eq!(different.code, Some(4), "{different:?}");
    for part in [
        "2 rows differ",
        "id=77: note is \"note 77\" at blue, \"other\" at green",
        "id=78: only at blue",
    ] {
        assert!(different.text.contains(part), "{part}: {different:?}");
    }
    let json = tool.run_with(&["verify", "--json"]).await;
    assert!(
        json.code == Some(4) && json.text.contains("\"event\":\"compared\""),
        "{json:?}"
    );
    // No migration began by it.
    assert!(!tool.path("shop.journal").exists());
    // What is not alike as tables is said as such.
    cluster
        .execute("green", "ALTER TABLE orders ADD late int")
        .await
        .unwrap();
    let unlike = tool.run("verify").await;
    assert!(
        unlike.code == Some(4) && unlike.errors.contains("columns"),
        "{unlike:?}"
    );
}
