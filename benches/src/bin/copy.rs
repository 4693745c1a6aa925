//! The first copy beside its peers, on the same data, in one run, to the same end: rows, indexes, constraints, statistics.
//!
//!     cargo run --release -p benches --bin copy -- [--scale 40 | --tables 2000 | --one-huge] [--rounds 1] [--ours | --peer pgcopydb] [--as-they-come]
//!
//! Each way gets a fresh green. The peers have the server's own settings and the best we know for them: no sync of each
//! commit, as much memory for indexes as ours takes, as many jobs as there are processors, their own files in memory where there is room.
//! pgcopydb sets `maintenance_work_mem` to 1 GB and `synchronous_commit` off by itself, whatever it is told; it leaves the statistics
//! to the same `vacuumdb` as the others, copies binary where it can (from 0.18), and then also one table in parts, as a way of its
//! own. As they come, they have none of that.

use benches::copying::{
    Content, DATABASE, Data, Outcome, cluster, content, is_installed, pgcopydb_version, said, shell, tool, work_folder,
};
use bluegreen_core::{Direction, MirrorStatus, Replicator};
use bluegreen_pg::PgReplicator;
use bluegreen_testkit::servers::PgCluster;
use clap::Parser;
use std::time::{Duration, Instant};

/// Compares ways to copy a database.
#[derive(Debug, Parser)]
struct Args {
    /// A table of accounts and one of events: 40 makes about 1 GB.
    #[arg(long, default_value_t = 40)]
    scale: u32,
    /// So many small tables instead.
    #[arg(long)]
    tables: Option<u32>,
    /// One table of the scale's size instead.
    #[arg(long)]
    one_huge: bool,
    /// How often each way is measured.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// How many streams and builders each way has.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The peers without our settings, and pgcopydb with its own four jobs of each kind.
    #[arg(long)]
    as_they_come: bool,
    /// Ours and nobody else's.
    #[arg(long, conflicts_with = "peer")]
    ours: bool,
    /// Ours and this one: `pgcopydb`, for instance.
    #[arg(long)]
    peer: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    Pipe,
    Folder,
    Pgcopydb,
    /// Large tables in parts.
    PgcopydbSplit,
    Native,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "bluegreen",
            Self::Pipe => "pg_dump -Fc | pg_restore",
            Self::Folder => "pg_dump -Fd -j -Z0, pg_restore -j",
            Self::Pgcopydb => "pgcopydb clone",
            Self::PgcopydbSplit => "pgcopydb clone, split",
            Self::Native => "subscription, copy_data",
        }
    }
}

/// What the peers' sessions are told.
const BEST: &str = "PGOPTIONS='-c synchronous_commit=off -c maintenance_work_mem=256MB -c wal_init_zero=off'";

/// About what a way takes of the machine's memory, files included.
const WARM_BYTES: usize = 4 << 30;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::parse();
    let data = match (args.tables, args.one_huge) {
        (Some(n), _) => Data::Tables(n),
        (None, true) => Data::Huge(args.scale),
        (None, false) => Data::Scale(args.scale),
    };
    let blue = cluster().await?;
    blue.execute(DATABASE, &data.sql()).await?;
    blue.execute(DATABASE, "VACUUM ANALYZE").await?;
    blue.execute(DATABASE, "CHECKPOINT").await?;
    let size = "SELECT pg_size_pretty(pg_database_size(current_database())), pg_database_size(current_database())";
    let size = blue.connect(DATABASE).await?.query_one(size, &[]).await?;
    let (size, bytes): (String, i64) = (size.get(0), size.get(1));
    let wanted = content(&blue).await?;
    println!("{data:?}: {size}, {} tables, {} jobs", wanted.tables.len(), args.jobs);
    let (mut ways, mut pgcopydb) = (vec![Way::Ours], Vec::new());
    if !args.ours {
        ways.extend([Way::Folder, Way::Pipe]);
        if is_installed("pgcopydb") {
            ways.push(Way::Pgcopydb);
            println!("{}", pgcopydb_version().await);
            // Asked once: older ones know less.
            let help = said("pgcopydb", &["clone", "--help"]).await;
            let known = |flag: &&str| help.contains(*flag);
            pgcopydb = ["--skip-vacuum", "--skip-analyze", "--use-copy-binary"]
                .into_iter()
                .filter(known)
                .collect();
            if known(&"--use-copy-binary") && known(&"--split-max-parts") && !args.as_they_come {
                ways.push(Way::PgcopydbSplit);
            }
        } else {
            println!("SKIPPED pgcopydb: it is not installed");
        }
        ways.push(Way::Native);
    }
    if let Some(peer) = &args.peer {
        ways.retain(|w| *w == Way::Ours || w.name().starts_with(peer.as_str()));
        if ways.len() < 2 {
            return Err(format!("--peer {peer}: give the beginning of one that is installed, such as pgcopydb").into());
        }
    }
    let setting = Setting {
        args: &args,
        blue: &blue,
        wanted: &wanted,
        pgcopydb: pgcopydb.join(" "),
        bytes: u64::try_from(bytes)?,
    };
    let mut all: Vec<(Way, Vec<f64>)> = ways.iter().map(|w| (*w, Vec::new())).collect();
    for round in 1..=args.rounds.max(1) {
        ways.rotate_left(usize::from(round > 1));
        for way in &ways {
            settle().await?;
            let took = measure(*way, &setting).await?;
            println!("round {round}  {:<36} {took:>7.2} s", way.name());
            if let Some((_, took_all)) = all.iter_mut().find(|(w, _)| w == way) {
                took_all.push(took);
            }
        }
    }
    report(&mut all);
    if args.tables.is_none() {
        settle().await?;
        limits(&args, &blue, &wanted).await?;
    }
    Ok(())
}

/// What one way left for the disk to do is not the next one's. Nor is the memory: a virtual machine gives back what nobody used
/// for a while, and is slow to get it again.
async fn settle() -> Outcome<()> {
    shell("sync").await?;
    let kilobytes = std::fs::read_to_string("/proc/meminfo")?
        .lines()
        .find_map(|l| l.strip_prefix("MemFree:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0_usize);
    // Of what is free only: blue's files stay where they are.
    drop(std::hint::black_box(vec![1_u8; WARM_BYTES.min(kilobytes * 512)]));
    Ok(())
}

/// Prints each way's seconds: what one takes differs from round to round, so the middle counts.
fn report(all: &mut [(Way, Vec<f64>)]) {
    for (_, took) in all.iter_mut() {
        took.sort_by(f64::total_cmp);
    }
    let middle = |took: &[f64]| f64::midpoint(took[(took.len() - 1) / 2], took[took.len() / 2]);
    let ours = &all[0].1;
    println!(
        "{:<38} {:>7}   {:>7}   ours in proportion",
        "seconds", "median", "least"
    );
    for (way, took) in all.iter() {
        let (median, least) = (middle(took), took[0]);
        let (by_median, by_least) = (middle(ours) / median, ours[0] / least);
        println!(
            "  {:<36} {median:>7.2}   {least:>7.2}   {by_median:.2}   {by_least:.2}",
            way.name()
        );
    }
}

/// What all ways have in common.
struct Setting<'a> {
    args: &'a Args,
    blue: &'a PgCluster,
    wanted: &'a Content,
    /// What pgcopydb is told, of what it knows.
    pgcopydb: String,
    /// How large blue is.
    bytes: u64,
}

/// Seconds from the first command to the same end state, which is looked at afterwards.
async fn measure(way: Way, setting: &Setting<'_>) -> Outcome<f64> {
    let Setting { args, blue, wanted, .. } = *setting;
    let green = cluster().await?;
    let jobs = args.jobs;
    let (told, theirs, packed) = if args.as_they_come {
        ("", 4, "")
    } else {
        (BEST, jobs, "-Z0")
    };
    let (from, to) = (blue.url(DATABASE), green.url(DATABASE));
    let folder = work_folder(setting.bytes).await?;
    let place = folder.path().display();
    let (dump, restore) = (tool(green.binaries(), "pg_dump"), tool(green.binaries(), "pg_restore"));
    let psql = tool(green.binaries(), "psql");
    // Restoring leaves no statistics; all of the servers' own take is asked for in the same measure.
    let analyze = format!("{} -j {jobs} -Z -q -d '{to}'", tool(green.binaries(), "vacuumdb"));
    let begun = Instant::now();
    match way {
        Way::Ours => ours(jobs, &from, &to).await?,
        Way::Pipe => {
            shell(&format!(
                "{dump} -Fc {packed} '{from}' | {told} {restore} -d '{to}' && {analyze}"
            ))
            .await?
        }
        Way::Folder => {
            shell(&format!(
                "{dump} -Fd -j {jobs} -Z0 -f {place}/d '{from}' && {told} {restore} -j {jobs} -d '{to}' {place}/d && {analyze}"
            ))
            .await?;
        }
        Way::Pgcopydb | Way::PgcopydbSplit => {
            let split = match way {
                Way::PgcopydbSplit => format!("--split-tables-larger-than 64MB --split-max-parts {theirs}"),
                _ => String::new(),
            };
            // As it comes it makes the statistics itself.
            let (known, then) = if args.as_they_come {
                ("", "true")
            } else {
                (setting.pgcopydb.as_str(), analyze.as_str())
            };
            shell(&format!(
                "PATH=\"$(dirname {dump}):$PATH\" {told} pgcopydb clone --dir {place}/p --source '{from}' --target '{to}' \
                 --table-jobs {theirs} --index-jobs {theirs} {known} {split} && {then}"
            ))
            .await?;
        }
        Way::Native => {
            native(
                blue,
                &green,
                &format!("{dump} -s '{from}' | {psql} -q '{to}' && true"),
                &analyze,
            )
            .await?
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let there = content(&green).await?;
    if there != *wanted {
        return Err(format!("{}: green is not what blue is", way.name()).into());
    }
    // Else its subscription comes for its slot again.
    drop(green);
    forget(blue).await?;
    Ok(took)
}

async fn ours(jobs: usize, from: &str, to: &str) -> Outcome<()> {
    let replicator = PgReplicator::builder("copy", from, to).copy_jobs(jobs).build()?;
    replicator.start(Direction::BlueToGreen).await?;
    let (begun, mut last) = (Instant::now(), String::new());
    loop {
        match replicator.status(Direction::BlueToGreen).await? {
            MirrorStatus::Copying { stage, .. } | MirrorStatus::Preparing(stage) if stage != last => {
                println!("    {:>6.2} s  {stage}", begun.elapsed().as_secs_f64());
                last = stage;
            }
            MirrorStatus::Streaming(_) => break,
            MirrorStatus::Failed { why, .. } => return Err(why.into()),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    println!("    {:>6.2} s  streams", begun.elapsed().as_secs_f64());
    Ok(())
}

async fn native(blue: &PgCluster, green: &PgCluster, schema: &str, analyze: &str) -> Outcome<()> {
    shell(schema).await?;
    blue.execute(DATABASE, "CREATE PUBLICATION native FOR ALL TABLES")
        .await?;
    let sql = format!(
        "CREATE SUBSCRIPTION native CONNECTION 'host=127.0.0.1 port={} dbname={DATABASE} user=postgres' PUBLICATION native",
        blue.port()
    );
    green.execute(DATABASE, &sql).await?;
    let client = green.connect(DATABASE).await?;
    let missing = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
    while client.query_one(missing, &[]).await?.get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shell(analyze).await?;
    green.execute(DATABASE, "DROP SUBSCRIPTION native").await?;
    Ok(())
}

/// Takes away at blue what a way left there; green is thrown away.
async fn forget(blue: &PgCluster) -> Outcome<()> {
    blue.execute(
        DATABASE,
        "DO $$ DECLARE s record; BEGIN
         FOR s IN SELECT slot_name, active_pid FROM pg_replication_slots LOOP
             PERFORM pg_terminate_backend(s.active_pid, 5000);
             PERFORM pg_drop_replication_slot(s.slot_name);
         END LOOP;
         FOR s IN SELECT pubname FROM pg_publication LOOP EXECUTE format('DROP PUBLICATION %I', s.pubname); END LOOP;
         END $$; DROP SCHEMA IF EXISTS bluegreen CASCADE; DROP SCHEMA IF EXISTS pgcopydb CASCADE",
    )
    .await?;
    Ok(())
}

/// What cannot be beaten with these servers: the rows through two plain pipes into tables without indexes, and the
/// indexes alone, two at a time.
async fn limits(args: &Args, blue: &PgCluster, wanted: &Content) -> Outcome<()> {
    let green = cluster().await?;
    let (dump, psql) = (tool(green.binaries(), "pg_dump"), tool(green.binaries(), "psql"));
    let (from, to) = (blue.url(DATABASE), green.url(DATABASE));
    shell(&format!("{dump} -s --section=pre-data '{from}' | {psql} -q '{to}'")).await?;
    let mut pipes = Vec::new();
    for (table, ..) in &wanted.tables {
        let client = blue.connect(DATABASE).await?;
        let half: i64 = client
            .query_one("SELECT pg_relation_size($1::text::regclass) / 16384", &[table])
            .await?
            .get(0);
        let parts = if wanted.tables.len() >= args.jobs {
            vec![String::new()]
        } else {
            vec![
                format!(" WHERE ctid < '({half},0)'"),
                format!(" WHERE ctid >= '({half},0)'"),
            ]
        };
        for part in parts {
            pipes.push(format!(
                "{psql} -qAt '{from}' -c \"COPY (SELECT * FROM {table}{part}) TO STDOUT (FORMAT binary)\" | \
                 {BEST} {psql} -qAt '{to}' -c \"COPY {table} FROM STDIN (FORMAT binary)\""
            ));
        }
    }
    let begun = Instant::now();
    tokio::try_join!(shell(&pipes[0]), async {
        match pipes.get(1) {
            Some(p) => shell(p).await,
            None => Ok(()),
        }
    })?;
    let rows = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let indexes: Vec<String> = wanted
        .indexes
        .iter()
        .map(|i| format!("{BEST} {psql} -q '{to}' -c \"{i}\""))
        .collect();
    let (one, other): (Vec<_>, Vec<_>) = indexes.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let line = |some: Vec<(usize, &String)>| {
        let all: Vec<&str> = some.into_iter().map(|(_, l)| l.as_str()).collect();
        if all.is_empty() {
            "true".to_owned()
        } else {
            all.join(" && ")
        }
    };
    let (one, other) = (line(one), line(other));
    tokio::try_join!(shell(&one), shell(&other))?;
    let built = begun.elapsed().as_secs_f64();
    println!(
        "plain: rows {rows:.2} s through two pipes of psql, indexes {built:.2} s, together {:.2} s",
        rows + built
    );
    Ok(())
}
