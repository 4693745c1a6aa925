//! Two clusters, a replicator between them, and the ways to compare and to wait.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

pub mod comparing;
pub mod copying;
pub mod course;
pub mod findings;
pub mod mover;
pub mod secure;
pub mod whole;
pub mod writers;

use bluegreen_core::{Color, Direction, Kind, MirrorStatus, Position, Replicator};
use bluegreen_pg::{PgReplicator, PgReplicatorBuilder};
use bluegreen_testkit::servers::{PgBinaries, PgCluster, available};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

pub const DB: &str = "shop \"ü\"";
pub const WITHIN: Duration = Duration::from_secs(5);

pub const TWO: &str = "CREATE TABLE live (id int PRIMARY KEY, v text); CREATE TABLE staging (id int PRIMARY KEY, v text);
    INSERT INTO live SELECT i, 'old' FROM generate_series(1, 3) i; INSERT INTO staging SELECT i, 'new' FROM generate_series(11, 14) i";

pub const COLUMNS: &str =
    "CREATE TABLE t (id int PRIMARY KEY, gone int, a text, b text, c int); ALTER TABLE t DROP COLUMN gone;
    INSERT INTO t SELECT i, 'a', 'b', i FROM generate_series(1, 3) i";

pub struct Pair {
    pub blue: PgCluster,
    pub green: PgCluster,
    /// Whom clients come as.
    pub user: &'static str,
}

fn major(major: u32) -> Option<PgBinaries> {
    available(&format!("PostgreSQL {major}"), PgBinaries::major(major))
}

impl Pair {
    /// Two clusters, each with an empty database whose name needs quoting; none where PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        let found = available("PostgreSQL", PgBinaries::find())?;
        Some(Self::of(found.clone(), found, false).await)
    }

    /// The same, but it survives a crash.
    pub async fn durable() -> Option<Self> {
        let found = available("PostgreSQL", PgBinaries::find())?;
        Some(Self::of(found.clone(), found, true).await)
    }

    /// The same with a major version each.
    pub async fn of_majors(blue: u32, green: u32) -> Option<Self> {
        let (blue, green) = (major(blue)?, major(green)?);
        Some(Self::of(blue, green, false).await)
    }

    /// The same, but they survive a crash.
    pub async fn durable_of_majors(blue: u32, green: u32) -> Option<Self> {
        let (blue, green) = (major(blue)?, major(green)?);
        Some(Self::of(blue, green, true).await)
    }

    async fn of(blue: PgBinaries, green: PgBinaries, durable: bool) -> Self {
        let start = |binaries| {
            PgCluster::builder()
                .binaries(binaries)
                .fsync(durable)
                .setting("max_prepared_transactions", "5")
                .setting("wal_retrieve_retry_interval", "500ms")
                .start()
        };
        let (blue, green) = tokio::join!(start(blue), start(green));
        let pair = Self {
            blue: blue.unwrap(),
            green: green.unwrap(),
            user: "postgres",
        };
        pair.blue.create_database(DB).await.unwrap();
        pair.green.create_database(DB).await.unwrap();
        pair
    }

    pub fn url(&self, color: Color) -> String {
        format!(
            "host=127.0.0.1 port={} user={} dbname='{DB}'",
            self.cluster(color).port(),
            self.user
        )
    }

    pub fn cluster(&self, color: Color) -> &PgCluster {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    pub fn builder(&self) -> PgReplicatorBuilder {
        self.builder_of(self.url(Color::Blue), self.url(Color::Green))
    }

    /// The same with other connection strings.
    pub fn builder_of(&self, blue: String, green: String) -> PgReplicatorBuilder {
        let builder = PgReplicator::builder("shop", blue, green).copy_jobs(2);
        // What was fetched for tests is nowhere that a replicator would look by itself.
        if self.green.binaries().dir().starts_with(PgBinaries::fetched()) {
            builder.tools(PgBinaries::fetched())
        } else {
            builder
        }
    }

    pub fn replicator(&self) -> PgReplicator {
        self.builder().build().unwrap()
    }

    pub async fn client(&self, color: Color) -> Client {
        connect(&self.url(color)).await.unwrap()
    }

    /// A migration that streams from blue to green, `sql` being what blue had.
    pub async fn mirrored(sql: &str) -> Option<(Self, PgReplicator)> {
        let pair = Self::start().await?;
        pair.client(Color::Blue).await.batch_execute(sql).await.unwrap();
        let replicator = pair.replicator();
        replicator.start(Direction::BlueToGreen).await.unwrap();
        streaming(&replicator, Direction::BlueToGreen).await;
        Some((pair, replicator))
    }
}

pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(async move {
        // Its end is seen by the client's next statement.
        let _ended = connection.await;
    });
    Ok(client)
}

/// Waits until the mirror streams; a failure of it is ours.
pub async fn streaming(replicator: &PgReplicator, direction: Direction) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let status = replicator.status(direction).await.unwrap();
        match status {
            MirrorStatus::Streaming(lag) if lag.time.is_some() => return,
            MirrorStatus::Failed { why, .. } => panic!("the mirror failed: {why}"),
            MirrorStatus::Absent => panic!("there is no mirror"),
            other => assert!(Instant::now() < until, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the status of the mirror forward is a failure, and returns of which kind and why.
pub async fn fails(replicator: &PgReplicator) -> (Kind, String) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match replicator.status(Direction::BlueToGreen).await.unwrap() {
            MirrorStatus::Failed { kind, why } => return (kind, why),
            other => assert!(Instant::now() < until, "still {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same where the two sides are apart.
pub async fn failed(replicator: &PgReplicator) -> String {
    let (kind, why) = fails(replicator).await;
    assert_eq!(kind, Kind::Diverged, "{why}");
    why
}

/// That status and arming refuse, of another process too; what the status said.
pub async fn refused(pair: &Pair) -> String {
    let replicator = pair.replicator();
    let why = failed(&replicator).await;
    let e = replicator.arm(Color::Green, WITHIN).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Diverged, "{e}");
    why
}

/// Asks until the follower has everything.
pub async fn proved(replicator: &PgReplicator, position: &Position) {
    let until = Instant::now() + WITHIN;
    while !replicator.caught_up(position).await.unwrap() {
        assert!(Instant::now() < until, "never caught up");
    }
}

/// A session that writes at green, where clients may not: behind the mirror's back.
pub async fn behind_the_mirror(pair: &Pair) -> Client {
    let client = pair.client(Color::Green).await;
    let open = "SET default_transaction_read_only = off; SET bluegreen.mend = on";
    client.batch_execute(open).await.unwrap();
    client
}

/// The pause up to where the commit record would come.
pub async fn handed_over(replicator: &PgReplicator, to: Color) {
    replicator.arm(to, WITHIN).await.unwrap();
    let position = replicator.fence(to.other(), WITHIN).await.unwrap();
    proved(replicator, &position).await;
    replicator.hand_over(to).await.unwrap();
}

/// The whole pause, without a commit record.
pub async fn cut_over(replicator: &PgReplicator, to: Color) {
    handed_over(replicator, to).await;
    replicator.promote(to).await.unwrap();
}

/// Every user table with a digest of its rows.
pub async fn digests(client: &Client) -> Vec<(String, i64, String)> {
    let tables = client
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bluegreen') \
             ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    let mut all = Vec::new();
    for row in tables {
        let table: String = row.get(0);
        let row = client
            .query_one(
                &format!(
                    "SELECT count(*), coalesce(md5(convert_to(string_agg(a_row::text, '|' ORDER BY a_row::text COLLATE \"C\"), 'UTF8')), '') FROM {table} AS a_row"
                ),
                &[],
            )
            .await
            .unwrap();
        all.push((table, row.get(0), row.get(1)));
    }
    all
}

/// Every sequence's state.
pub async fn sequences(client: &Client) -> Vec<(String, i64, bool)> {
    let names = client
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'S' AND n.nspname <> 'bluegreen' ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    let mut all = Vec::new();
    for row in names {
        let name: String = row.get(0);
        let row = client
            .query_one(&format!("SELECT last_value, is_called FROM {name}"), &[])
            .await
            .unwrap();
        all.push((name, row.get(0), row.get(1)));
    }
    all
}
