//! Comparing both databases beside `pgcopydb compare data`, on the same data in the same run: with as many jobs, the server's own
//! programs, its files in memory, and its answer read, for it ends well where rows differ too. Where pgcopydb is too old to
//! have that command, its documented statement stands for it, at its best: both sides and all tables at once.
//!
//! `cargo bench -p benches --bench compare`. `BLUEGREEN_BENCH_ROWS` says how many rows (2,000,000), `BLUEGREEN_BENCH_RUNS` how
//! often each (3), `BLUEGREEN_BENCH_MAJORS` between which versions (`15-18`; else twice the one that is found). At the end rows
//! are changed at blue 1,000 times a second: first nothing may be said to differ, then three rows must be, and no other.
//! Needs PostgreSQL; says so where it is missing.
#![allow(clippy::unwrap_used, missing_docs)]

use benches::copying::{pgcopydb_version, said, work_folder};
use bluegreen_core::{Color, Comparison, Direction, MirrorStatus, Replicator};
use bluegreen_pg::PgReplicator;
use bluegreen_testkit::servers::{PgBinaries, PgCluster, available};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

async fn ours(replicator: &PgReplicator) -> (Duration, Comparison) {
    let started = Instant::now();
    loop {
        match replicator.compare().await.unwrap() {
            Comparison::Running { .. } => tokio::time::sleep(Duration::from_millis(5)).await,
            answer => return (started.elapsed(), answer),
        }
    }
}

/// Blue's and green's.
fn binaries() -> Option<(PgBinaries, PgBinaries)> {
    let Ok(majors) = std::env::var("BLUEGREEN_BENCH_MAJORS") else {
        let found = available("PostgreSQL", PgBinaries::find())?;
        return Some((found.clone(), found));
    };
    let of = |major: &str| {
        available(
            &format!("PostgreSQL {major}"),
            PgBinaries::major(major.parse().unwrap()),
        )
    };
    let (blue, green) = majors.split_once('-').unwrap();
    Some((of(blue)?, of(green)?))
}

/// Changes rows at blue, 1,000 commits a second over four sessions, until it is told to end. Returns how many.
async fn writes(url: String, rows: u64, mut ended: watch::Receiver<bool>) -> u64 {
    let mut set = JoinSet::new();
    for session in 0..4_u64 {
        let (url, mut ended) = (url.clone(), ended.clone());
        set.spawn(async move {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            let driving = tokio::spawn(connection);
            let change = "UPDATE orders SET total = total + 1, placed = now() WHERE id = $1";
            let change = client.prepare(change).await.unwrap();
            let mut due = tokio::time::interval(Duration::from_millis(4));
            let mut count = 0_u64;
            loop {
                tokio::select! {
                    _ = ended.wait_for(|ended| *ended) => break,
                    _ = due.tick() => {}
                }
                // Never one that is to differ.
                let id = i64::try_from(1 + (session * 7_919 + count * 104_729) % rows / 10 * 10).unwrap();
                assert_eq!(client.execute(&change, &[&id]).await.unwrap(), 1);
                count += 1;
            }
            drop(client);
            driving.await.unwrap().unwrap();
            count
        });
    }
    ended.wait_for(|ended| *ended).await.unwrap();
    set.join_all().await.iter().sum()
}

/// What pgcopydb sends for a table, by its documentation.
async fn statement(url: &str, table: &str) -> (i64, String) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let driving = tokio::spawn(connection);
    let sql = format!("SELECT count(1), sum(hashtext(t::text)::bigint)::text FROM ONLY {table} t");
    let row = client.query_one(&sql, &[]).await.unwrap();
    drop(client);
    driving.await.unwrap().unwrap();
    (row.get(0), row.get(1))
}

async fn its_statement(blue: &str, green: &str) -> Duration {
    let started = Instant::now();
    let (orders, their_orders, customers, their_customers) = tokio::join!(
        statement(blue, "orders"),
        statement(green, "orders"),
        statement(blue, "customers"),
        statement(green, "customers"),
    );
    assert!(orders == their_orders && customers == their_customers);
    started.elapsed()
}

/// How long it took, and what it says of the application's tables that is an error. Ours are in the same database, and each
/// side's has its own rows.
async fn pgcopydb(blue: &str, green: &str, programs: &Path) -> (Duration, Vec<String>) {
    let folder = work_folder(1 << 20).await.unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(path).unwrap();
    let started = Instant::now();
    let output = Command::new("pgcopydb")
        .args([
            "compare",
            "data",
            "--table-jobs",
            "2",
            "--source",
            blue,
            "--target",
            green,
            "--dir",
        ])
        .arg(folder.path().join("work"))
        .env("TMPDIR", folder.path())
        .env("PATH", path)
        .output()
        .await
        .unwrap();
    let took = started.elapsed();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("public.orders") && said.contains("public.customers"),
        "{said}"
    );
    let errors = said.lines().filter(|l| l.contains("ERROR") && !l.contains("bluegreen"));
    let errors: Vec<String> = errors.map(str::to_owned).collect();
    assert!(output.status.success() || !errors.is_empty(), "{said}");
    (took, errors)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let has_it = said("pgcopydb", &["help"]).await.contains("compare");
    let peer = if has_it {
        "pgcopydb compare data"
    } else {
        "the statement of pgcopydb compare data"
    };
    let (rows, runs) = (
        number("BLUEGREEN_BENCH_ROWS", 2_000_000),
        number("BLUEGREEN_BENCH_RUNS", 3),
    );
    let Some((of_blue, of_green)) = binaries() else { return };
    let start = |binaries| {
        PgCluster::builder()
            .binaries(binaries)
            .setting("shared_buffers", "512MB")
            .setting("max_wal_size", "1GB")
            .start()
    };
    let programs = of_green.dir().to_owned();
    if has_it {
        println!("{}", pgcopydb_version().await);
    }
    let (blue, green) = (start(of_blue).await.unwrap(), start(of_green).await.unwrap());
    for cluster in [&blue, &green] {
        cluster.create_database("shop").await.unwrap();
    }
    blue.execute(
        "shop",
        &format!(
            "CREATE TABLE orders (id bigserial PRIMARY KEY, customer int NOT NULL, total numeric(10,2), placed timestamptz, note text);
             INSERT INTO orders (customer, total, placed, note)
                 SELECT i % 1000, i / 100.0, to_timestamp(i), md5(i::text) FROM generate_series(1, {rows}) i;
             CREATE TABLE customers (id int PRIMARY KEY, name text);
             INSERT INTO customers SELECT i, md5(i::text) FROM generate_series(1, {rows} / 20) i"
        ),
    )
    .await
    .unwrap();
    let replicator = PgReplicator::new("shop", blue.url("shop"), green.url("shop")).unwrap();
    replicator.start(Direction::BlueToGreen).await.unwrap();
    loop {
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Streaming(_) => break,
            MirrorStatus::Failed { why, .. } => panic!("{why}"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    for cluster in [&blue, &green] {
        for settled in ["VACUUM ANALYZE", "CHECKPOINT"] {
            cluster.execute("shop", settled).await.unwrap();
        }
    }
    let (blue_url, green_url) = (blue.url("shop"), green.url("shop"));
    let (mut our, mut their) = (vec![], vec![]);
    for n in 0..runs {
        // In turn, and which comes first changes: what one leaves in the caches is there for the other.
        for turn in 0..2 {
            if (n + turn) % 2 == 0 {
                let (took, answer) = ours(&replicator).await;
                assert!(matches!(answer, Comparison::Same(_)), "{answer}");
                our.push(took);
            } else {
                their.push(if has_it {
                    let (took, errors) = pgcopydb(&blue_url, &green_url, &programs).await;
                    assert_eq!(errors, Vec::<String>::new());
                    took
                } else {
                    its_statement(&blue_url, &green_url).await
                });
            }
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    println!("ours {our:.2?}\n{peer} {their:.2?}");
    let (our, their) = (median(&mut our), median(&mut their));
    println!(
        "{rows} rows: ours {our:.2} s, {peer} {their:.2} s, ratio {:.2}",
        our / their
    );
    let (end, ended) = watch::channel(false);
    let (began, writing) = (Instant::now(), tokio::spawn(writes(blue.url("shop"), rows, ended)));
    let (took, answer) = ours(&replicator).await;
    assert!(matches!(answer, Comparison::Same(_)), "{answer}");
    println!("while rows change {took:.2?}: {answer}");
    // What the one is for and the other only says of a whole table: which row.
    let client = green.connect("shop").await.unwrap();
    let flip = format!(
        "UPDATE orders SET note = overlay(note placing 'X' from 5 for 1) WHERE id = {};
         DELETE FROM orders WHERE id = {}; INSERT INTO orders (id, customer) VALUES ({}, 1)",
        rows / 20 * 10,
        rows / 30 * 10,
        rows * 2
    );
    for sql in [
        "SET default_transaction_read_only = off",
        "SET bluegreen.mend = on",
        flip.as_str(),
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let (took, answer) = ours(&replicator).await;
    let Comparison::Different {
        differences, more: 0, ..
    } = &answer
    else {
        panic!("{answer}");
    };
    assert_eq!(differences.len(), 3, "{answer}");
    end.send(true).unwrap();
    let rate = writing.await.unwrap() as f64 / began.elapsed().as_secs_f64();
    println!(
        "with three rows that differ, while others change {took:.2?}: {answer}\n{rate:.0} commits a second meanwhile"
    );
    if has_it {
        let (_, errors) = pgcopydb(&blue_url, &green_url, &programs).await;
        println!("{}", errors.join("\n"));
        assert!(
            errors.iter().any(|e| e.contains("orders")),
            "its answer is not read as it is meant"
        );
    }
    replicator.stop(Color::Blue).await.unwrap();
}
