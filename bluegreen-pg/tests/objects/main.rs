//! Every kind of object that a database may hold: it comes through (its definition and its rows equal, later changes mirrored, and
//! after the cut-over mirrored back), or the preflight refuses it with the reason. A family a file, on real clusters.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

/// A family that is moved twice: upward without what the newer server that the tests have was built without, or refuses; and
/// between two alike with all of it.
macro_rules! upward_and_alike {
    ($family:ident: $upward:ident, $alike:ident) => {
        #[tokio::test]
        async fn $upward() {
            if let Some(pair) = super::pair().await {
                $family(&pair).await;
            }
        }
        #[tokio::test]
        async fn $alike() {
            if let Some(pair) = crate::common::Pair::start().await {
                $family(&pair).await;
            }
        }
    };
}

mod again;
mod checks;
mod code;
mod encodings;
mod identities;
mod own;
mod rights;
mod shapes;
mod tables;
mod types;

use bluegreen_core::{Color, Direction, Finding, Replicator, Severity};
use bluegreen_pg::PgReplicator;
use common::{Pair, cut_over, digests, sequences, streaming};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Two clusters, of 15 and 18; `BLUEGREEN_OBJECTS_MAJORS=16,17` says of which major versions else.
async fn pair() -> Option<Pair> {
    let majors = std::env::var("BLUEGREEN_OBJECTS_MAJORS").unwrap_or("15,18".to_owned());
    let majors: Vec<u32> = majors.split(',').map(|major| major.parse().unwrap()).collect();
    Pair::of_majors(majors[0], majors[1]).await
}

fn majors(pair: &Pair) -> [u32; 2] {
    [&pair.blue, &pair.green].map(|cluster| cluster.binaries().major_version())
}

/// The same with these pieces exchanged where green is of 16 or later: what its build does not have, or what its version refuses.
fn for_later(pair: &Pair, sql: &str, pieces: &[(&str, &str)]) -> String {
    let mut sql = sql.to_owned();
    for (piece, other) in pieces.iter().filter(|_| majors(pair)[1] > 15) {
        assert!(sql.contains(piece), "there is no {piece}");
        sql = sql.replace(piece, other);
    }
    sql
}

/// A database of a pair of clusters that is moved.
struct Moved {
    blue: Client,
    replicator: PgReplicator,
    findings: Vec<Finding>,
    urls: [String; 2],
    pg_dump: std::path::PathBuf,
    alike: bool,
}

impl Moved {
    /// Blue with what `sql` makes, and the findings of a preflight.
    async fn prepare(pair: &Pair, name: &str, sql: &str) -> Self {
        Self::in_databases(pair, name, ["", ""], sql).await
    }

    /// The same in databases that are made with these options.
    async fn in_databases(pair: &Pair, name: &str, options: [&str; 2], sql: &str) -> Self {
        for (cluster, options) in [&pair.blue, &pair.green].into_iter().zip(options) {
            let server = cluster.connect("postgres").await.unwrap();
            let create = format!("CREATE DATABASE \"{name}\" {options}");
            server.batch_execute(&create).await.unwrap();
        }
        let urls = [pair.blue.url(name), pair.green.url(name)];
        let blue = common::connect(&urls[0]).await.unwrap();
        blue.batch_execute(sql).await.unwrap();
        let replicator = PgReplicator::builder(name, &urls[0], &urls[1])
            .copy_jobs(2)
            .tools(pair.green.binaries().dir())
            .build()
            .unwrap();
        Self {
            findings: replicator.preflight().await.unwrap(),
            pg_dump: pair.green.binaries().dir().join("pg_dump"),
            alike: pair.blue.binaries().major_version() == pair.green.binaries().major_version(),
            blue,
            replicator,
            urls,
        }
    }

    /// What blocks.
    fn blocking(&self) -> Vec<&Finding> {
        self.findings
            .iter()
            .filter(|f| f.severity == Severity::Blocking)
            .collect()
    }

    /// Runs what mends the finding of this name, and looks again.
    async fn mend(&mut self, id: &str, at: &str) -> Finding {
        let found: Vec<&Finding> = self.findings.iter().filter(|f| f.id == id).collect();
        let [finding] = found[..] else {
            panic!("{id} is there {} times in {:#?}", found.len(), self.findings)
        };
        let finding = finding.clone();
        let (_, commands) = finding.mend.split_once(at).unwrap();
        self.blue.batch_execute(commands).await.unwrap();
        self.findings = self.replicator.preflight().await.unwrap();
        assert!(!self.findings.iter().any(|f| f.id == id), "{:#?}", self.findings);
        finding
    }

    /// Mirrors it and compares both sides.
    async fn mirror(&self) {
        assert!(self.blocking().is_empty(), "{:#?}", self.blocking());
        self.replicator.start(Direction::BlueToGreen).await.unwrap();
        streaming(&self.replicator, Direction::BlueToGreen).await;
        self.is_equal().await;
        self.same_schema();
    }

    /// Changes blue and waits until green is the same.
    async fn change(&self, sql: &str) {
        let before = digests(&self.blue).await;
        self.blue.batch_execute(sql).await.unwrap();
        assert_ne!(before, digests(&self.blue).await, "it changed nothing");
        self.is_equal().await;
    }

    /// Makes green the writer, lets blue follow, changes green, and compares again.
    async fn and_back(&self, sql: &str) {
        cut_over(&self.replicator, Color::Green).await;
        self.replicator.start(Direction::GreenToBlue).await.unwrap();
        streaming(&self.replicator, Direction::GreenToBlue).await;
        let green = self.green().await;
        let blue = common::connect(&self.urls[0]).await.unwrap();
        // Nobody has touched one since the cut-over.
        assert_eq!(sequences(&green).await, sequences(&blue).await);
        let before = digests(&green).await;
        green.batch_execute(sql).await.unwrap();
        assert_ne!(before, digests(&green).await, "it changed nothing");
        equal(&green, &blue).await;
        self.same_schema();
        self.replicator.stop(Color::Green).await.unwrap();
    }

    /// Both ways, with the same kind of change.
    async fn both_ways(pair: &Pair, name: &str, sql: &str, change: &str, back: &str) -> Self {
        let moved = Self::prepare(pair, name, sql).await;
        moved.mirror().await;
        moved.change(change).await;
        moved.and_back(back).await;
        moved
    }

    /// That both sides are defined alike; says where they are not.
    fn same_schema(&self) {
        let (blue, green) = (self.schema(Color::Blue), self.schema(Color::Green));
        let differ: Vec<_> = blue
            .lines()
            .zip(green.lines())
            .filter(|(b, g)| b != g)
            .take(5)
            .collect();
        assert!(blue == green, "{differ:#?}");
    }

    async fn is_equal(&self) {
        equal(&self.blue, &self.green().await).await;
    }

    /// A new session at green: who was connected when it became a mirror, or the writer, was ended.
    async fn green(&self) -> Client {
        common::connect(&self.urls[1]).await.unwrap()
    }

    /// Blue's or green's definition, without what is ours and what differs by run.
    fn schema(&self, color: Color) -> String {
        let url = &self.urls[usize::from(color == Color::Green)];
        let mut dump = Command::new(&self.pg_dump);
        dump.args([
            "--schema-only",
            "--encoding=UTF8",
            "--no-publications",
            "--no-subscriptions",
            "--exclude-schema=bluegreen",
        ]);
        let said = dump.arg(url).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let text = String::from_utf8(said.stdout).unwrap().replace("new\nline", "new line");
        let text: String = text.split_inclusive('\n').map(without_mark).collect();
        // What keeps the follower shut.
        let ours = |line: &&str| {
            let shuts = line.contains("_shut; Type: TRIGGER")
                || line.contains("EXECUTE FUNCTION bluegreen.refuse(")
                || line.starts_with("CREATE TRIGGER bluegreen_")
                || line.contains(" DISABLE TRIGGER bluegreen_");
            let empty = line.is_empty() || *line == "--";
            // psql's protection, with a word of its own each time.
            let key = line
                .strip_prefix("\\restrict ")
                .or(line.strip_prefix("\\unrestrict "))
                .is_some_and(|key| key.len() > 30);
            let run = key || line.starts_with("-- Dumped") || line.contains("SET ();");
            !shuts && !empty && !run
        };
        let kept = text.lines().filter(ours);
        if self.alike {
            return kept.collect::<Vec<_>>().join("\n");
        }
        kept.map(in_any_version).collect::<Vec<_>>().join("\n")
    }
}

/// A line without a server's own mark on columns, which an older pg_dump takes for a setting.
fn without_mark(line: &str) -> String {
    let Some((before, after)) = line.split_once("pg_attver=") else {
        return line.to_owned();
    };
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    match after.strip_prefix(", ") {
        Some(after) => format!("{before}{after}"),
        None => format!("{}{after}", before.strip_suffix(", ").unwrap_or(before)),
    }
}

/// A line of a definition as all versions write it: some say of a view's columns of which table they are though there is one only,
/// and some know names of NOT NULL.
fn in_any_version(line: &str) -> String {
    if let Some((before, _)) = line.split_once(" CONSTRAINT ").filter(|_| line.contains(" NOT NULL")) {
        let end = if line.ends_with(',') { "," } else { "" };
        return format!("{before} NOT NULL{end}");
    }
    if !line.starts_with(' ') {
        return line.to_owned();
    }
    let mut kept = String::new();
    for piece in line.split_inclusive('.') {
        let table = piece.trim_end_matches(|c: char| c.is_alphanumeric() || "._".contains(c));
        kept.push_str(if piece.ends_with('.') { table } else { piece });
    }
    kept
}

/// Waits until the rows of all tables are the same. Sequences do not travel with them: they are handed over in the cut-over.
async fn equal(writer: &Client, follower: &Client) {
    let until = Instant::now() + Duration::from_secs(20);
    let here = digests(writer).await;
    loop {
        let there = digests(follower).await;
        if here == there {
            return;
        }
        if Instant::now() > until {
            let differ: Vec<_> = here.iter().zip(&there).filter(|(a, b)| a != b).collect();
            panic!("not equal: {differ:#?}; {} tables and {}", here.len(), there.len());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
