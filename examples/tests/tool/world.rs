//! A whole world for the tool: two PostgreSQL clusters, PgBouncer, PowerDNS, and the live application in both places.

use super::Tool;
use bluegreen_core::Color;
use bluegreen_testkit::app::{App, Clients, ClientsConfig, Database, Outcome, Pool, ledger, schema};
use bluegreen_testkit::servers::{
    PgBinaries, PgBouncerServer, PgCluster, PowerDnsBinaries, PowerDnsServer, available, free_port,
};
use std::time::Duration;

pub const NAME: &str = "shop.example.test";

pub struct World {
    pub blue: PgCluster,
    pub green: PgCluster,
    pub pooler: PgBouncerServer,
    pub dns: PowerDnsServer,
    pub port: u16,
    _apps: [App; 2],
}

impl World {
    /// None when a server is not installed here.
    pub async fn start(rows: u64) -> Option<Self> {
        available("PostgreSQL", PgBinaries::find())?;
        let program = available("PgBouncer", PgBouncerServer::find())?;
        available("PowerDNS", PowerDnsBinaries::find())?;
        let blue = PgCluster::start().await.unwrap();
        let green = PgCluster::start().await.unwrap();
        let pooler = PgBouncerServer::builder(program)
            .database(format!("shop = host=127.0.0.1 port={} dbname=shop", blue.port()))
            .start()
            .await
            .unwrap();
        let dns = PowerDnsServer::start("example.test").await.unwrap();
        let database = Database::Pooled(Pool::new(pooler.url("postgres", "shop"), 16));
        let port = free_port().unwrap();
        blue.create_database("shop").await.unwrap();
        schema::create(&blue.url("shop"), rows).await.unwrap();
        let apps = [
            App::start(Color::Blue, port, database.clone()).await.unwrap(),
            App::start(Color::Green, port, database).await.unwrap(),
        ];
        let world = Self {
            blue,
            green,
            pooler,
            dns,
            port,
            _apps: apps,
        };
        world.begin_again().await;
        Some(world)
    }

    /// Green empty, the name at blue.
    pub async fn begin_again(&self) {
        self.green
            .execute("postgres", "DROP DATABASE IF EXISTS shop")
            .await
            .unwrap();
        self.green.create_database("shop").await.unwrap();
        self.dns.set(NAME, "A", 1, &["127.0.0.2"]).await.unwrap();
    }

    /// The tool with a file for this world; short settings.
    pub fn tool(&self) -> Tool {
        Tool::new(&format!(
            "[migration]\nname = \"shop\"\njournal = \"shop.journal\"\nwrite_path = \"blue-database\"\n\
             pause_budget = \"5s\"\nhold = \"1s\"\nlook = \"50ms\"\nwatch = \"100ms\"\ncut_over_retry = \"200ms\"\n\
             [blue]\nurl = \"http://127.0.0.2:{port}\"\nhealth = [\"/api/health\", \"/api/ready\"]\ntarget = \"127.0.0.2\"\n\
             database_env = \"BLUE_DATABASE\"\n\
             [green]\nurl = \"http://127.0.0.3:{port}\"\nhealth = [\"/api/health\"]\ntarget = \"127.0.0.3\"\n\
             database_env = \"GREEN_DATABASE\"\n\
             [dns]\nprovider = \"powerdns\"\napi = \"{api}\"\nkey_env = \"PDNS_KEY\"\nzone = \"example.test\"\nrecord = \"{NAME}\"\n\
             ttl = \"1s\"\nslack = \"100ms\"\nsamples = 50\nauthorities = [\"{dns}\"]\n\
             [gate]\nkind = \"pgbouncer\"\nadmin = [\"{admin}\"]\nconfig = \"{ini}\"\ndatabase = \"shop\"\n\
             [policy]\nsteps = [50, 100]\nbake = \"200ms\"\nmin_requests = 3\nmax_error_rate = 0.5\n",
            port = self.port,
            api = self.dns.api_url(),
            dns = self.dns.dns(),
            admin = self.pooler.admin_url(),
            ini = self.pooler.ini().display(),
        ))
        .env("BLUE_DATABASE", &self.blue.url("shop"))
        .env("GREEN_DATABASE", &self.green.url("shop"))
        .env("PDNS_KEY", self.dns.key())
    }

    /// Clients who find the application by its name, and keep on writing and reading.
    pub fn clients(&self, writers: usize) -> Clients {
        Clients::start(&ClientsConfig {
            name: NAME.into(),
            port: self.port,
            resolver: self.dns.dns(),
            writers,
            readers: 1,
            think: Duration::from_millis(2),
        })
    }

    fn cluster(&self, color: Color) -> &PgCluster {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// Everything a migration must not leave behind, and what it must: one writer, the gate open and pointing there, a plain
    /// record; and every acknowledged write in its database.
    pub async fn check_end(&self, writer: Color, outcome: &Outcome) {
        for color in [Color::Blue, Color::Green] {
            check_side(self.cluster(color), "shop", color, writer).await;
        }
        assert_eq!(self.paused().await, "0", "PgBouncer's paused flag");
        check_line(&self.pooler, "shop", self.cluster(writer));
        let (address, ttl) = match writer {
            Color::Blue => ("127.0.0.2", 1),
            Color::Green => ("127.0.0.3", 1),
        };
        let sets = self.dns.sets().await.unwrap();
        let ours: Vec<String> = sets
            .iter()
            .filter(|s| s["name"].as_str().unwrap().contains("shop."))
            .map(|s| format!("{} {} {}", s["type"].as_str().unwrap(), s["ttl"], s["records"]))
            .collect();
        assert_eq!(
            ours,
            [format!("A {ttl} [{{\"content\":\"{address}\",\"disabled\":false}}]")]
        );
        let url = self.cluster(writer).url("shop");
        let ledger = ledger::check(&outcome.acked, &url).await.unwrap();
        assert!(
            ledger.is_clean(),
            "{ledger:?} of {} acknowledged writes",
            outcome.acked.len()
        );
    }

    /// All that a migration could have touched, as text: two of these are compared.
    pub async fn everything(&self) -> String {
        let mut all = String::new();
        for cluster in [&self.blue, &self.green] {
            let client = cluster.connect("shop").await.unwrap();
            let seen = "SELECT 'slot ' || slot_name FROM pg_replication_slots
                 UNION ALL SELECT 'publication ' || pubname FROM pg_publication
                 UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
                 UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_'
                 UNION ALL SELECT 'relation ' || oid::regclass || ' ' || relreplident::text FROM pg_class WHERE oid >= 16384
                     AND relnamespace <> 'pg_toast'::regnamespace
                 UNION ALL SELECT 'setting ' || array_to_string(setconfig, ' ') FROM pg_db_role_setting
                 ORDER BY 1";
            for row in client.query(seen, &[]).await.unwrap() {
                all += &format!("{}: {}\n", cluster.port(), row.get::<_, String>(0));
            }
        }
        for set in self.dns.sets().await.unwrap() {
            all += &format!("{set}\n");
        }
        all += &std::fs::read_to_string(self.pooler.ini()).unwrap();
        all + &self.paused().await
    }

    /// Makes a superuser at blue who must give a password.
    pub async fn require_password(&self, user: &str, password: &str) {
        let client = self.blue.connect("shop").await.unwrap();
        let made = format!("CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'");
        client.batch_execute(&made).await.unwrap();
        let file: String = client.query_one("SHOW hba_file", &[]).await.unwrap().get(0);
        let rules = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("host all {user} 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        // The postmaster takes it up a moment later; a new session shows when.
        let without = format!("postgres://{user}@127.0.0.1:{}/shop", self.blue.port());
        for _ in 0..500 {
            if tokio_postgres::connect(&without, tokio_postgres::NoTls).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the password is still not asked for");
    }

    /// PgBouncer's paused flag.
    pub async fn paused(&self) -> String {
        paused(&self.pooler, "shop").await
    }
}

/// Nothing of a migration is left in a side's database, and it takes writes exactly if it is to.
pub async fn check_side(cluster: &PgCluster, database: &str, color: Color, writer: Color) {
    let client = cluster.connect(database).await.unwrap();
    let left = "SELECT 'slot ' || slot_name FROM pg_replication_slots
         UNION ALL SELECT 'publication ' || pubname FROM pg_publication
         UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
         UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'bluegreen'";
    let left: Vec<String> = client
        .query(left, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(left.is_empty(), "left behind at {color}, in {database}: {left:?}");
    let read_only: String = client
        .query_one("SHOW default_transaction_read_only", &[])
        .await
        .unwrap()
        .get(0);
    // A migration that never began at green left it as it was.
    if color == writer || writer == Color::Green {
        assert_eq!(
            read_only,
            if color == writer { "off" } else { "on" },
            "read-only at {color}, in {database}"
        );
    }
}

/// PgBouncer's file sends a database to that server.
pub fn check_line(pooler: &PgBouncerServer, database: &str, writer: &PgCluster) {
    let ini = std::fs::read_to_string(pooler.ini()).unwrap();
    let line = ini.lines().find(|l| l.starts_with(&format!("{database} ="))).unwrap();
    assert!(line.contains(&format!("port={} ", writer.port())), "{line}");
}

/// A database's paused flag in PgBouncer.
pub async fn paused(pooler: &PgBouncerServer, database: &str) -> String {
    let admin = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(pooler.port())
        .user("admin")
        .dbname("pgbouncer")
        .connect(tokio_postgres::NoTls)
        .await;
    let (client, connection) = admin.unwrap();
    let driving = tokio::spawn(connection);
    let rows = client.simple_query("SHOW DATABASES").await.unwrap();
    let row = rows.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) if row.get("name") == Some(database) => row.get("paused"),
        _ => None,
    });
    let paused = row.unwrap().to_owned();
    drop(client);
    driving.await.unwrap().unwrap();
    paused
}
