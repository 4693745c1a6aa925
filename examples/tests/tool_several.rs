//! Several databases in the tool's file: what it takes, what it makes of them, and what it says to what it does not take.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_testkit::fake::MemoryJournal;
use examples::tool::config::{Config, Gate};
use examples::tool::wire::migration;

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
