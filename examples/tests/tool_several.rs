//! Several databases in the tool's file: what it takes, what it makes of them, and what it says to what it does not take.
#![allow(clippy::unwrap_used, missing_docs)]

mod tool;

use bluegreen_testkit::fake::MemoryJournal;
use bluegreen_testkit::servers::{PgBinaries, PgBouncerServer, PgCluster, available};
use examples::tool::config::{Config, Gate};
use examples::tool::wire::migration;
use tool::Tool;

const FILE: &str = r#"
[migration]
name = "shop"
journal = "shop.journal"

[[database]]
name = "orders"
blue.database_env = "BLUE_ORDERS"
green.database = "postgres://shop:s3cret@10.0.0.2/orders"
gate = { kind = "pgbouncer", admin_env = "PGB_ADMIN", config = "pgbouncer.ini", database = "orders" }

[[database]]
name = "stock"
blue.database_env = "BLUE_STOCK"
green.database = "postgres://shop:s3cret@10.0.0.2/stock"
green.free_disk_bytes = 1000
[database.gate]
kind = "pgbouncer"
admin_env = "PGB_ADMIN"
config = "pgbouncer.ini"
database = "stock"
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "BLUE_ORDERS" => Some("postgres://shop:s3cret@10.0.0.1/orders".into()),
        "BLUE_STOCK" => Some("postgres://shop:s3cret@10.0.0.1/stock".into()),
        "PGB_ADMIN" => Some("postgres://admin:s3cret@127.0.0.1:6432/pgbouncer".into()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pgbouncer.ini"), "[databases]\n").unwrap();
    Config::parse(&folder.path().join("shop.toml"), text, &environment).map_err(|e| {
        let text = e.to_string();
        assert!(!text.contains("s3cret"), "{text}");
        text
    })
}

#[test]
fn each_has_its_name_and_its_gate() {
    let config = parse(FILE).unwrap();
    assert!(config.databases.is_none() && matches!(config.gate, Gate::None));
    let names: Vec<&str> = config.several.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["orders", "stock"]);
    let stock = &config.several[1];
    assert_eq!(stock.databases.green.free_disk, Some(1000));
    assert!(
        matches!(&stock.gate, Gate::PgBouncer { database, green, .. } if database == "stock" && green.0 == "10.0.0.2")
    );
    let shown = format!("{config:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    let plan = migration(&config, MemoryJournal::new()).unwrap().plan().to_string();
    for said in [
        "orders by postgres, stock by postgres",
        "orders by pgbouncer, then stock by pgbouncer",
    ] {
        assert!(plan.contains(said), "{plan}");
    }
}

#[test]
fn one_without_a_gate_is_not_waited_for() {
    let (before, _) = FILE.split_once("[database.gate]").unwrap();
    let config = parse(&format!("{before}gate.kind = \"none\"\n")).unwrap();
    let plan = migration(&config, MemoryJournal::new()).unwrap().plan().to_string();
    assert!(plan.contains("hold writes at orders by pgbouncer, for"), "{plan}");
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let line = |text: &str, what: &str| text.lines().position(|l| l.contains(what)).unwrap() + 1;
    let (no_gate, _) = FILE.split_once("[database.gate]").unwrap();
    let cases = [
        (
            FILE.replace("name = \"stock\"", "name = \"orders\""),
            "name = \"orders\"",
            "\"orders\" is taken",
        ),
        (
            FILE.replace("name = \"stock\"", "name = \"st ock\""),
            "name = \"st ock\"",
            "not usable",
        ),
        (no_gate.to_owned(), "", "the database stock has no gate"),
        (
            FILE.replace("blue.database_env = \"BLUE_STOCK\"\n", ""),
            "",
            "blue's database of stock is missing",
        ),
        (FILE.replace("BLUE_STOCK", "NOWHERE"), "NOWHERE", "is not set"),
        (
            FILE.replace("green.free_disk_bytes", "green.url"),
            "green.url",
            "unknown field `url`",
        ),
        (
            format!("{FILE}[gate]\nkind = \"none\"\n"),
            "[gate]",
            "a gate in each of them",
        ),
        (
            format!("{FILE}[blue]\ndatabase_env = \"BLUE_STOCK\"\n[green]\ndatabase = \"postgres://u@h/d\"\n"),
            "[migration]",
            "expected all databases in tables of their own",
        ),
        (
            FILE.replace(
                "journal = \"shop.journal\"",
                "journal = \"postgresql://u@10.0.0.1/stock\"",
            ),
            "[migration]",
            "it is in blue's database",
        ),
    ];
    for (text, at, what) in cases {
        let said = parse(&text).unwrap_err();
        assert!(said.contains(what), "{said}");
        if !at.is_empty() && at != "name = \"orders\"" {
            assert!(said.contains(&format!("line {}:", line(&text, at))), "{said}");
        }
    }
}

/// Two databases of two servers, behind one PgBouncer.
#[tokio::test(flavor = "multi_thread")]
async fn it_moves_both_in_one_cut_over() {
    let Some(program) = available("PgBouncer", PgBouncerServer::find()) else {
        return;
    };
    if available("PostgreSQL", PgBinaries::find()).is_none() {
        return;
    }
    let cluster = || {
        PgCluster::builder()
            .setting("wal_retrieve_retry_interval", "500ms")
            .start()
    };
    let (blue, green) = tokio::try_join!(cluster(), cluster()).unwrap();
    let mut bouncer = PgBouncerServer::builder(program);
    for name in ["orders", "stock"] {
        blue.create_database(name).await.unwrap();
        green.create_database(name).await.unwrap();
        let sql = "CREATE TABLE rows (id serial PRIMARY KEY, of text); INSERT INTO rows (of) SELECT current_database() FROM generate_series(1, 9)";
        blue.execute(name, sql).await.unwrap();
        bouncer = bouncer.database(format!("{name} = host=127.0.0.1 port={} dbname={name}", blue.port()));
    }
    let bouncer = bouncer.start().await.unwrap();
    let table = |name: &str| {
        format!(
            "[[database]]\nname = \"{name}\"\nblue.database_env = \"BLUE_{name}\"\ngreen.database_env = \"GREEN_{name}\"\n\
             gate = {{ kind = \"pgbouncer\", admin = \"{}\", config = \"{}\", database = \"{name}\" }}\n",
            bouncer.admin_url(),
            bouncer.ini().display()
        )
    };
    let mut tool = Tool::new(&format!(
        "[migration]\nname = \"shop\"\njournal = \"shop.journal\"\nlook = \"50ms\"\nhold = \"1s\"\ncompare = true\n{}{}",
        table("orders"),
        table("stock")
    ));
    for name in ["orders", "stock"] {
        tool = tool.env(&format!("BLUE_{name}"), &blue.url(name));
        tool = tool.env(&format!("GREEN_{name}"), &green.url(name));
    }
    let ran = tool.run("run").await;
    println!("{}\n{}", ran.text, ran.errors);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for name in ["orders", "stock"] {
        // Through the pooler it is green's now, and takes the next number.
        let client = connect(&bouncer.url("postgres", name)).await;
        let sql = "INSERT INTO rows (of) VALUES ('new') RETURNING id, current_setting('port')";
        let messages = client.simple_query(sql).await.unwrap();
        let row = messages.iter().find_map(|m| match m {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((row.get(0).unwrap().to_owned(), row.get(1).unwrap().to_owned()))
            }
            _ => None,
        });
        assert_eq!(row.unwrap(), ("10".to_owned(), green.port().to_string()));
        assert!(
            blue.execute(name, "INSERT INTO rows (of) VALUES ('old')")
                .await
                .is_err(),
            "blue takes writes"
        );
    }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
