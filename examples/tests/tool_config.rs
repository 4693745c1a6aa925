//! The tool's file: what it takes, and what it says to what it does not take.
#![allow(clippy::unwrap_used, missing_docs)]

use bluegreen_core::{Target, WritePath};
use examples::tool::config::{Config, Gate, JournalPlace};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn environment(name: &str) -> Option<String> {
    match name {
        "BLUE_DATABASE" | "BLUE_DATABASE_FROM_GREEN" => Some("postgres://shop:s3cret-blue@10.0.0.1/shop".into()),
        "GREEN_DATABASE" => Some("host=10.0.0.2 user=shop dbname=shop password='s3cret green'".into()),
        "PDNS_KEY" => Some("s3cret-key".into()),
        "JOURNAL" => Some("postgresql://shop:s3cret-journal@10.0.0.3/control".into()),
        "PGB_ADMIN" => Some("postgres://admin:s3cret-admin@127.0.0.1:6432/pgbouncer".into()),
        _ => None,
    }
}

/// A folder with what the example file names beside it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("pgbouncer.ini"),
        "[databases]\nshop = host=10.0.0.1\n",
    )
    .unwrap();
    folder
}

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("shop.toml")).unwrap()
}

fn parse(text: &str) -> Result<Config, String> {
    let folder = folder();
    let file = folder.path().join("shop.toml");
    Config::parse(&file, text, &environment).map_err(|e| {
        let text = e.to_string();
        assert!(!text.contains("s3cret"), "{text}");
        text.replace(&*folder.path().to_string_lossy(), "")
    })
}

#[test]
fn the_example_says_what_it_seems_to_say() {
    let config = parse(&example()).unwrap();
    let spec = &config.spec;
    assert_eq!(
        (spec.name.as_str(), spec.write_path),
        ("shop", Some(WritePath::BlueDatabase))
    );
    assert_eq!(spec.hold, Duration::from_secs(48 * 3600));
    assert_eq!(
        (spec.ttl, spec.lead),
        (Duration::from_secs(60), Duration::from_secs(86400))
    );
    assert_eq!(spec.record.as_ref().unwrap().name, "shop.example.com");
    assert_eq!(spec.blue.health, ["/api/health", "/api/ready"]);
    let green = Target::Addresses {
        v4: vec!["192.0.2.20".parse().unwrap()],
        v6: vec!["2001:db8::20".parse().unwrap()],
    };
    assert_eq!(spec.green.target, Some(green));
    assert_eq!(spec.limits.max_p99, Some(Duration::from_millis(500)));
    assert!(
        config.policy.describe().contains("10 %, 50 %, 100 %"),
        "{:?}",
        config.policy
    );
    assert_eq!(config.journal, JournalPlace::File(config.folder.join("shop.journal")));
    assert!(
        matches!(&config.gate, Gate::PgBouncer { instances, blue, .. } if instances.len() == 1 && blue.0 == "10.0.0.1")
    );
    let databases = config.databases.as_ref().unwrap();
    assert!(databases.blue.url.reveal().contains("s3cret-blue") && databases.green.from_peer.is_none());
    let shown = format!("{config:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_database_alone_needs_no_url_and_no_name() {
    let config = parse(
        "[migration]\nname = \"db\"\njournal = \"db.journal\"\n\
         [blue]\ndatabase = \"postgres://u@a/d\"\n[green]\ndatabase = \"postgres://u@b/d\"\n[gate]\nkind = \"none\"\n",
    )
    .unwrap();
    assert!(config.dns.is_none() && config.probe.is_none() && config.databases.is_some());
    assert_eq!(config.spec.write_path, Some(WritePath::NoLiveTraffic));
}

#[test]
fn a_secret_may_come_from_a_file() {
    let folder = folder();
    std::fs::write(folder.path().join("key"), "s3cret-key\n").unwrap();
    let text = example().replace("key_env = \"PDNS_KEY\"", "key_file = \"key\"");
    let config = Config::parse(&folder.path().join("shop.toml"), &text, &environment).unwrap();
    assert_eq!(config.dns.unwrap().key.reveal(), "s3cret-key");
}

/// Put under the wrong key, or without what it needs around it, a secret is still none of anybody's business.
#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let cases = [
        (
            "key_env = \"PDNS_KEY\"",
            "key_env = \"s3cret-key\"",
            "key_env holds no variable's name",
        ),
        (
            "key_env = \"PDNS_KEY\"",
            "key = [\"s3cret\"]",
            "expected a text in quotes",
        ),
        ("key_env = \"PDNS_KEY\"", "key_env = \"s3cretkey\"", "is not set"),
        ("key_env = \"PDNS_KEY\"", "key = 5312301", "expected a text in quotes"),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database_env = \"postgres://u:s3cret@h/d\"",
            "database_env holds no variable's name",
        ),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database_file = \"postgres://u:s3cret@h/d\"",
            "database_file holds no path",
        ),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database = [\"postgres://u:s3cret@h/d\"]",
            "expected a text in quotes",
        ),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database = \"postgres://u:p?s3cret=1@h/d\"\ndatabase_from_peer = \"x\"",
            "database_from_peer",
        ),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database = \"postgres://u:s3cret@h:99999/d\"",
            "port",
        ),
        (
            "admin = [\"host",
            "admin = [5, \"s3cret host",
            "expected texts in quotes",
        ),
        (
            "url = \"https://green.shop.internal\"",
            "url = \"https//u:s3cret@green\"",
            "holds a user or a password",
        ),
        (
            "api = \"https://dns.shop.internal:8081\"",
            "api = \"https://u:s3cret@dns\"",
            "api holds a user or a password",
        ),
    ];
    for (from, to, expected) in cases {
        let text = example();
        assert!(text.contains(from), "{from}");
        let said = parse(&text.replacen(from, to, 1)).map(|_| ()).unwrap_err();
        assert!(said.contains(expected) && said.contains(", line "), "{to}: {said}");
        assert!(!said.contains("5312301"), "{said}");
    }
}

#[test]
fn one_console_needs_no_list() {
    let text = example().replace(
        "admin = [\"host=127.0.0.1 port=6432 user=admin dbname=pgbouncer\"]",
        "admin = \"postgres://admin:s3cret@127.0.0.1:6432/pgbouncer\"",
    );
    let config = parse(&text).unwrap();
    assert!(matches!(config.gate, Gate::PgBouncer { instances, .. } if instances.len() == 1));
}

#[test]
fn names_may_have_any_case_and_a_dot_at_their_end() {
    for (zone, record) in [
        ("Example.COM", "shop.example.com"),
        ("example.com.", "Shop.Example.com"),
        ("example.com", "example.com."),
    ] {
        let text = example()
            .replace("zone = \"example.com\"", &format!("zone = \"{zone}\""))
            .replace("record = \"shop.example.com\"", &format!("record = \"{record}\""));
        let spec = parse(&text).unwrap().spec;
        assert_eq!(spec.record.unwrap().zone, "example.com", "{zone} {record}");
    }
}

/// A change of the example, and what must be said about it: the line's own text, and parts of the sentence.
#[test]
fn what_is_wrong_is_said_with_its_line_and_what_is_expected() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "steps = [10, 50, 100]",
            "steps = [50, 10]",
            &["the last 100", "ascending|larger"],
        ),
        (
            "steps = [10, 50, 100]",
            "steps = [50, 10, 100]",
            &["10 % comes after 50 %"],
        ),
        ("steps = [10, 50, 100]", "steps = [10, 150]", &["150"]),
        ("steps = [10, 50, 100]", "steps = \"all\"", &["sequence|array"]),
        ("bake = \"15m\"", "bake = \"15\"", &["15s"]),
        ("bake = \"15m\"", "bake = 15", &["no unit", "15m"]),
        ("bake = \"15m\"", "bake = -15", &["no unit", "\"15m\""]),
        ("journal = \"shop.journal\"", "journal = \"\"", &["journal is empty"]),
        (
            "bake = \"15m\"",
            "bakes = \"15m\"",
            &["unknown field `bakes`", "`bake`"],
        ),
        ("hold = \"48h\"", "hold = \"soon\"", &["no length of time"]),
        (
            "write_path = \"blue-database\"",
            "write_path = \"green\"",
            &["unknown variant", "`blue-database`"],
        ),
        ("name = \"shop\"", "name = \"my shop\"", &["letters"]),
        (
            "url = \"https://blue.shop.internal\"",
            "url = \"blue.shop.internal\"",
            &["http://"],
        ),
        (
            "target = [\"192.0.2.10\", \"2001:db8::10\"]",
            "target = [\"192.0.2.300\"]",
            &["192.0.2.300", "addresses"],
        ),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database_env = \"UNSET_VARIABLE\"",
            &["database_env", "is not set", "set it to the database"],
        ),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database = \"mysql://x\"",
            &["postgres://user@host"],
        ),
        (
            "database_env = \"GREEN_DATABASE\"",
            "database_file = \"nowhere\"",
            &["nowhere cannot be read"],
        ),
        (
            "key_env = \"PDNS_KEY\"",
            "key_env = \"PDNS_KEY\"\nkey = \"s3cret\"",
            &["given twice"],
        ),
        (
            "provider = \"powerdns\"",
            "provider = \"route66\"",
            &["unknown variant `route66`", "`powerdns`"],
        ),
        (
            "record = \"shop.example.com\"",
            "record = \"shop.example.org\"",
            &["not in the zone example.com"],
        ),
        (
            "record = \"shop.example.com\"",
            "record = \"shop.example.com\"\ntimeout = \"0s\"",
            &["timeout", "in no time", "\"5s\""],
        ),
        ("[verify]", "[verify]\ntimeout = \"0s\"", &["timeout", "in no time"]),
        ("kind = \"pgbouncer\"", "kind = \"haproxy\"", &["`pgbouncer`"]),
        (
            "config = \"pgbouncer.ini\"",
            "config = \"other.ini\"",
            &["there is no file", "other.ini"],
        ),
        ("admin = [", "admin = [\"not a console\", ", &["admin"]),
        (
            "commands = [\"npm test\"]",
            "commands = [\"npm test\", \"npm test\"]",
            &["twice"],
        ),
        (
            "max_error_rate = 0.01",
            "max_error_rate = 1.5",
            &["max_error_rate is 1.5", "between 0 and 1"],
        ),
        ("[policy]", "[polices]", &["unknown field `polices`", "`policy`"]),
        (
            "steps = [10, 50, 100]\nbake = \"15m\"",
            "kind = \"linear\"\nbake = \"15m\"\nstep = 10\nevery = \"5m\"",
            &["bake is no key of a linear policy", "`every`"],
        ),
        (
            "steps = [10, 50, 100]",
            "kind = \"at-once\"\nsteps = [10, 50, 100]",
            &["steps is no key of an at-once policy"],
        ),
        (
            "bake = \"15m\"",
            "every = \"15m\"",
            &["every is no key of a policy of steps"],
        ),
        (
            "health = [\"/api/health\", \"/api/ready\"]",
            "health = [\"api/health\"]",
            &["no path"],
        ),
        ("[verify]", "[verify", &["verify|bracket|unclosed"]),
        (
            "url = \"https://green.shop.internal\"",
            "url = \"https://green.shop.internal:84430\"",
            &["no port"],
        ),
        (
            "hold = \"48h\"",
            "hold = \"48h\"\nproduction_url = \"shop.example.com\"",
            &["production_url", "http://"],
        ),
        (
            "target = [\"192.0.2.20\", \"2001:db8::20\"]",
            "target = \"green..example.net\"",
            &["green..example.net", "full name"],
        ),
        (
            "journal = \"shop.journal\"",
            "journal = \"postgresql://10.0.0.3/s3cret\"",
            &["names no user"],
        ),
        (
            "journal = \"shop.journal\"",
            "journal = \"host=10.0.0.3 user=shop password=s3cret dbname=control\"",
            &["neither a file's path nor"],
        ),
        (
            "journal = \"shop.journal\"",
            "journal = \"user=shop password = s3cret hostaddr=10.0.0.3\"",
            &["neither a file's path nor"],
        ),
        (
            "journal = \"shop.journal\"",
            "journal = \"Postgresql://shop:s3cret@10.0.0.3/control\"",
            &["neither a file's path nor"],
        ),
        (
            "journal = \"shop.journal\"",
            "journal_env = \"BLUE_DATABASE\"",
            &["it is in blue's database"],
        ),
    ];
    for (from, to, expected) in cases {
        let text = example();
        let at = text.find(from).unwrap_or_else(|| panic!("the example has no {from}"));
        let line = text[..at].matches('\n').count() + 1;
        let said = parse(&text.replacen(from, to, 1)).map(|_| ()).unwrap_err();
        for parts in *expected {
            assert!(parts.split('|').any(|part| said.contains(part)), "{to}: {said}");
        }
        // What makes no sense as a whole is said of the table it is in.
        let lines = [
            line,
            line + 1,
            text[..at]
                .rfind("\n[")
                .map_or(1, |at| text[..=at].matches('\n').count() + 1),
        ];
        assert!(
            lines.iter().any(|line| said.contains(&format!(", line {line}: "))),
            "{to} (line {line}): {said}"
        );
    }
}

#[test]
fn what_is_missing_is_said() {
    let without = |start: &str, end: &str| {
        let text = example();
        let from = text.find(start).unwrap();
        let to = text[from..].find(end).map_or(text.len(), |at| from + at);
        format!("{}{}", &text[..from], &text[to..])
    };
    let cases = [
        (without("write_path", "pause_budget"), "write_path is missing"),
        (without("[gate]", "[policy]"), "there is no [gate]"),
        (without("[policy]", "[verify]"), "there is no [policy]"),
        (without("key_env", "zone"), "the API's key is missing"),
        (without("api =", "key_env"), "api is missing"),
        (without("target", "database_env"), "[blue] has no `target`"),
        (without("database_env = \"GREEN", "\n[dns]"), "[green] has none"),
        (without("admin", "config"), "admin"),
        (without("journal", "write_path"), "journal is missing"),
        (
            "[migration]\nname = \"a\"\njournal = \"j\"\n".to_owned(),
            "nothing would move",
        ),
    ];
    for (text, expected) in cases {
        let said = parse(&text).map(|_| ()).unwrap_err();
        assert!(
            said.contains(expected) && said.contains(", line "),
            "{expected}: {said}"
        );
    }
    let error = Config::load(Path::new("/nowhere/shop.toml")).unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
}

#[test]
fn a_journal_may_be_in_a_database() {
    let text = example().replace("journal = \"shop.journal\"", "journal_env = \"JOURNAL\"");
    let config = parse(&text).unwrap();
    let JournalPlace::Postgres { url, migration, lease } = &config.journal else {
        panic!("{:?}", config.journal);
    };
    assert!(url.reveal().ends_with("@10.0.0.3/control"));
    assert_eq!((migration.as_str(), *lease), ("shop", Duration::from_secs(30)));
    assert!(!format!("{config:?}").contains("s3cret"));
    let slow = parse(&text.replace("pause_budget = \"10s\"", "pause_budget = \"20s\"")).unwrap();
    assert!(matches!(slow.journal, JournalPlace::Postgres { lease, .. } if lease == Duration::from_secs(60)));
}

/// Every TOML that people are shown is one that the tool takes.
#[test]
fn every_toml_in_the_docs_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pages: Vec<PathBuf> = vec![root.join("README.md")];
    if let Ok(docs) = std::fs::read_dir(root.join("docs")) {
        pages.extend(docs.map(|entry| entry.unwrap().path()));
    }
    for page in pages
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "md") && p.exists())
    {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            // Dependency lines and fragments are no migration.
            if block.contains("[migration]") {
                parse(block)
                    .map(|_| ())
                    .unwrap_or_else(|said| panic!("{}: {said}\n{block}", page.display()));
            }
        }
    }
}

/// The page about the tool knows every key the tool knows.
#[test]
fn every_key_is_documented() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tool.md")).unwrap();
    for table in ["migration", "blue", "dns", "gate", "policy", "probe", "verify", "hooks"] {
        let said = parse(&format!("[{table}]\nno_such_key = 1\n")).map(|_| ()).unwrap_err();
        let known = said.split("expected ").nth(1).unwrap_or_else(|| panic!("{said}"));
        for key in known.split('`').skip(1).step_by(2) {
            let plain = key.trim_end_matches("_env").trim_end_matches("_file");
            assert!(
                [key, plain].iter().any(|key| page.contains(&format!("`{key}`"))),
                "[{table}] {key}"
            );
        }
    }
}
