//! The first copy beside its peers: two clusters, the data, and whether both ends are the same.

use bluegreen_testkit::servers::{PgBinaries, PgCluster};
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// What can go wrong in a measurement.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The database that is copied.
pub const DATABASE: &str = "postgres";

/// A cluster as all measurements have it: durable, and with the settings of a small production server.
///
/// # Errors
/// When it does not start.
pub async fn cluster() -> io::Result<PgCluster> {
    PgCluster::builder()
        .fsync(true)
        .setting("wal_level", "logical")
        .setting("max_wal_senders", "20")
        .setting("max_replication_slots", "20")
        .setting("max_worker_processes", "20")
        .setting("max_logical_replication_workers", "12")
        .setting("shared_buffers", "512MB")
        .setting("max_connections", "200")
        .start()
        .await
}

/// Which data is copied.
#[derive(Debug, Clone, Copy)]
pub enum Data {
    /// A table of accounts and one of events, about 25 MB for each of the scale.
    Scale(u32),
    /// So many small tables with an index each.
    Tables(u32),
    /// One table, of so many times 25 MB, with three indexes.
    Huge(u32),
}

impl Data {
    /// The statements that make it.
    #[must_use]
    pub fn sql(self) -> String {
        match self {
            Self::Scale(n) => format!(
                "CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84)) WITH (fillfactor = 100);
                 INSERT INTO pgbench_accounts SELECT g, 1 + (g - 1) / 100000, 0, '' FROM generate_series(1, 100000 * {n}) g;
                 ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid);
                 {}", events("ev", 20_000 * n)
            ),
            Self::Tables(n) => format!(
                "DO $$ BEGIN FOR i IN 1..{n} LOOP
                 EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, a text NOT NULL, ts timestamptz DEFAULT now())', i);
                 EXECUTE format('CREATE INDEX ON t%s (a)', i);
                 EXECUTE format('INSERT INTO t%s (a) SELECT md5(g::text) FROM generate_series(1, 100) g', i);
                 IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$"
            ),
            Self::Huge(n) => events("huge", 50_000 * n),
        }
    }
}

fn events(table: &str, rows: u32) -> String {
    format!(
        "CREATE TABLE {table} AS SELECT g AS id, md5(g::text) AS a, repeat(md5(g::text), 6) AS b, now() - g * interval '1 s' AS ts, \
         jsonb_build_object('k', g, 'v', md5(g::text)) AS j FROM generate_series(1, {rows}) g;
         ALTER TABLE {table} ADD PRIMARY KEY (id);
         CREATE INDEX ON {table} (a);
         CREATE INDEX ON {table} (ts)"
    )
}

/// What must be equal at both ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// Each table with its number of rows and a sum over digests of them.
    pub tables: Vec<(String, i64, String)>,
    /// Every index, as it is made.
    pub indexes: Vec<String>,
    /// Every constraint, and whether it is valid.
    pub constraints: Vec<String>,
    /// How many of the tables have statistics.
    pub analyzed: i64,
}

/// Reads it.
///
/// # Errors
/// When the server cannot be asked.
pub async fn content(cluster: &PgCluster) -> Outcome<Content> {
    let client = cluster.connect(DATABASE).await?;
    let list = |sql: &'static str| {
        let client = &client;
        async move {
            let rows = client.query(sql, &[]).await?;
            Ok::<Vec<String>, tokio_postgres::Error>(rows.iter().map(|r| r.get(0)).collect())
        }
    };
    let names = list(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1",
    )
    .await?;
    let mut tables = Vec::new();
    for some in names.chunks(50) {
        let all: Vec<String> = some
            .iter()
            .map(|t| {
                format!(
                    "SELECT '{t}', count(*), coalesce(sum(hash_record_extended(x, 0)::numeric), 0)::text FROM {t} x"
                )
            })
            .collect();
        for row in client.query(&all.join(" UNION ALL "), &[]).await? {
            tables.push((row.get(0), row.get(1), row.get(2)));
        }
    }
    let analyzed = client
        .query_one(
            "SELECT count(DISTINCT starelid) FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid \
             WHERE relnamespace = 'public'::regnamespace",
            &[],
        )
        .await?
        .get(0);
    Ok(Content {
        tables,
        indexes: list("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1").await?,
        constraints: list(
            "SELECT format('%s %s %s %s', conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid)) \
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1",
        )
        .await?,
        analyzed,
    })
}

/// Runs a shell's command line.
///
/// # Errors
/// When it fails; with what it printed last.
pub async fn shell(line: &str) -> Outcome<()> {
    let done = Command::new("bash")
        .args(["-o", "pipefail", "-c", line])
        .stdin(Stdio::null())
        .output()
        .await?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{line}: {}", said.lines().last().unwrap_or_default()).into())
}

/// What a program prints when it is asked this, wherever it prints it; nothing where it is not installed.
pub async fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().await;
    output.map_or_else(
        |_| String::new(),
        |o| String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned(),
    )
}

/// The line of `pgcopydb --version` that says it.
pub async fn pgcopydb_version() -> String {
    let said = said("pgcopydb", &["--version"]).await;
    let line = said.lines().find(|line| line.starts_with("pgcopydb version"));
    line.unwrap_or("pgcopydb of an unknown version").to_owned()
}

/// A folder for what a way writes down on the side: in memory, where so much is twice there, so that nobody's files wait for
/// the disk that the servers need.
///
/// # Errors
/// When it cannot be made.
pub async fn work_folder(bytes: u64) -> io::Result<tempfile::TempDir> {
    let free = said("df", &["--output=avail", "--block-size=1", "/dev/shm"]).await;
    let free: u64 = free
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or(0);
    if free / 2 > bytes {
        tempfile::tempdir_in("/dev/shm")
    } else {
        tempfile::tempdir()
    }
}

/// Where a program of PostgreSQL's is, of the version that runs.
#[must_use]
pub fn tool(binaries: &PgBinaries, name: &str) -> String {
    binaries.dir().join(name).display().to_string()
}

/// Whether a program is on the path.
#[must_use]
pub fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(name).is_file())
}
