//! `PgBouncer`: the gate in front of a database that is reached through PgBouncer. PAUSE holds it, a rewritten ini and
//! RELOAD point it, RESUME releases it.

mod admin;
mod error;
mod files;
mod ini;
mod preflight;

use admin::{Admin, Before, Shown};
use async_trait::async_trait;
use bluegreen_core::{Color, Error, Finding, GateState, Result, WriteGate};
use error::GateError;
use files::Files;
use futures::future::{join_all, try_join_all};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Where PgBouncer finds a database: what its line in `[databases]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    host: String,
    port: u16,
    dbname: String,
}

impl Upstream {
    /// The address as PgBouncer reaches it, which need not be how we do.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, dbname: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            dbname: dbname.into(),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host={} port={} dbname={}", self.host, self.port, self.dbname)
    }
}

/// The gate of an application whose every write goes through PgBouncer, in transaction or statement mode.
///
/// Of several instances all are held or none is. The admin consoles are connected to beforehand
/// ([`connect`](Self::connect), or the first [`state`](WriteGate::state)) and stay so, because every millisecond of the
/// pause is one that users wait. A gate that is dropped while it is held stays held: whoever continues the migration
/// releases it. A [`hold`](WriteGate::hold) that is dropped releases.
///
/// PgBouncer closes all its connections to the database when it pauses, and opens them one after the other when it
/// resumes: the fewer there are (`default_pool_size`), the shorter the pause. With 8 writers on 2 cores a hold took
/// about 13 ms with 8 of them and 6 ms with 3.
///
/// ```no_run
/// use bluegreen_pg::{PgBouncer, Upstream};
/// # fn main() -> bluegreen_core::Result<()> {
/// let blue = Upstream::new("db-blue.internal", 5432, "shop");
/// let green = Upstream::new("db-green.internal", 5432, "shop");
/// let gate = PgBouncer::new("shop", blue, green)
///     .instance("postgres://admin@pooler:6432/pgbouncer", "/etc/pgbouncer/pgbouncer.ini")?;
/// # let _ = gate; Ok(()) }
/// ```
#[derive(Debug)]
pub struct PgBouncer {
    shared: Arc<Shared>,
}

#[derive(Debug, Clone)]
struct Shared {
    database: String,
    blue: Upstream,
    green: Upstream,
    instances: Vec<Arc<Instance>>,
    files: Files,
    /// Counts the holds. Whoever moves the gate has it locked; a late release of an earlier hold sees that it is late.
    turn: Arc<Mutex<u64>>,
}

#[derive(Debug)]
struct Instance {
    admin: Admin,
    ini: PathBuf,
}

impl PgBouncer {
    /// A gate for `database`, the name that applications connect to. It needs at least one [`instance`](Self::instance).
    #[must_use]
    pub fn new(database: impl Into<String>, blue: Upstream, green: Upstream) -> Self {
        let shared = Shared {
            database: database.into(),
            blue,
            green,
            instances: Vec::new(),
            files: Files::default(),
            turn: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Adds an instance: how to connect to its admin console (as one of its `admin_users`), and the ini file it reads, in
    /// which, or in a file it includes, the database's line is rewritten. Everything else in it stays byte for byte.
    ///
    /// # Errors
    /// `InvalidInput` when the connection string is not one.
    pub fn instance(mut self, admin: &str, ini: impl Into<PathBuf>) -> Result<Self> {
        let doing = "read the admin connection string of PgBouncer";
        let admin = Admin::new(admin).map_err(|e| Error::new(e.kind(), doing, e.message()).provider("pgbouncer"))?;
        let for_host = [&self.shared.blue, &self.shared.green];
        if for_host.iter().any(|upstream| upstream.host.is_empty()) {
            return Err(
                Error::invalid(doing, "blue and green need a host each, as PgBouncer reaches it").provider("pgbouncer"),
            );
        }
        let shared = Arc::make_mut(&mut self.shared);
        shared.instances.push(Arc::new(Instance { admin, ini: ini.into() }));
        Ok(self)
    }

    /// Opens the admin connections, so that a later [`hold`](WriteGate::hold) does not spend the pause on it.
    ///
    /// # Errors
    /// `Unavailable` or `Unauthenticated` with the instance that cannot be reached or refuses.
    pub async fn connect(&self) -> Result<()> {
        let doing = "connect to the admin console";
        if self.shared.instances.is_empty() {
            return Err(Error::invalid(doing, "the gate has no PgBouncer: call `.instance(..)`").provider("pgbouncer"));
        }
        self.shared.connect().await.map_err(|e| e.during(doing))
    }
}

impl Shared {
    fn upstream(&self, color: Color) -> &Upstream {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    fn color(&self, upstream: &Upstream) -> Option<Color> {
        [Color::Blue, Color::Green]
            .into_iter()
            .find(|&color| self.upstream(color) == upstream)
    }

    async fn connect(&self) -> Result<(), GateError> {
        try_join_all(self.instances.iter().map(|instance| instance.admin.connect())).await?;
        Ok(())
    }

    async fn shown(&self) -> Result<Vec<Shown>, GateError> {
        let database = &self.database;
        try_join_all(self.instances.iter().map(|instance| instance.admin.shown(database))).await
    }

    /// Everything that must hold before anything is touched: every instance answers and knows the database.
    async fn before(&self) -> Result<Vec<Before>, GateError> {
        let mut tries = 20;
        loop {
            let all = self
                .instances
                .iter()
                .map(|instance| instance.admin.before(&self.database));
            let before = try_join_all(all).await?;
            tries -= 1;
            // A login that a pause cuts off counts as failed. They take milliseconds: let them finish, but not forever.
            if tries == 0 || before.iter().all(|before| before.logins == 0) {
                return Ok(before);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Resumes every instance, also when one of them fails.
    async fn resume(&self) -> Result<(), GateError> {
        let all = join_all(
            self.instances
                .iter()
                .map(|instance| async move { instance.admin.resume(&self.database).await }),
        );
        all.await.into_iter().collect()
    }

    /// Takes a pause back that was asked for and not waited for.
    async fn take_back(&self) -> Result<(), GateError> {
        // Afterwards nothing more can be sent there, and what was sent before is there before what is asked now.
        join_all(self.instances.iter().map(|instance| instance.admin.forget_pause())).await;
        self.resume().await?;
        for (instance, shown) in self.instances.iter().zip(self.shown().await?) {
            if shown.paused {
                let at = instance.admin.at().to_owned();
                return Err(GateError::StillPaused { at });
            }
        }
        Ok(())
    }

    /// What can wait until clients are served again: the new files durable, what was prepared for nothing taken away,
    /// and, when servers have had time to come up, `server_login_retry` as it was.
    fn settle(&self, turn: u64) {
        let shared = self.clone();
        in_background(async move {
            if let Err(error) = shared.files(Self::sync).await {
                tracing::error!(%error, "the gate points where it should, but a crash of the machine may undo that");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = shared.turn.lock().await;
            if *now != turn {
                return;
            }
            for instance in &shared.instances {
                if let Err(error) = instance.admin.restore_login_retry().await {
                    tracing::warn!(%error, "server_login_retry stays short until PgBouncer's next RELOAD");
                }
            }
        });
    }

    /// Takes a pause back in the background, again and again until it is certain or another hold has begun.
    fn take_back_later(&self, turn: u64) {
        let shared = self.clone();
        in_background(async move {
            let mut wait = Duration::from_millis(20);
            // A hung instance may read our PAUSE only when it comes round: one success is not the end.
            let mut certain = 0;
            while certain < 3 {
                {
                    let now = shared.turn.lock().await;
                    if *now != turn {
                        return;
                    }
                    match shared.take_back().await {
                        Ok(()) => certain += 1,
                        Err(error) => {
                            certain = 0;
                            tracing::warn!(%error, "the gate could not be released; trying again");
                        }
                    }
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        });
    }
}

/// Releases a gate whose hold was dropped half way.
struct Abandoned<'a> {
    shared: &'a Shared,
    turn: u64,
    armed: bool,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.take_back_later(self.turn);
        }
    }
}

#[async_trait]
impl WriteGate for PgBouncer {
    fn name(&self) -> &str {
        "pgbouncer"
    }

    async fn preflight(&self) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for instance in &self.shared.instances {
            preflight::look(&self.shared, instance, &mut findings).await;
        }
        Ok(findings)
    }

    async fn hold(&self, within: Duration) -> Result<()> {
        let doing = "hold the gate";
        let since = Instant::now();
        self.connect().await?;
        let shared = &*self.shared;
        let mut turn = shared.turn.lock().await;
        let busy = |at: &str| GateError::Busy {
            at: at.to_owned(),
            within,
        };
        let before = match tokio::time::timeout(within, shared.before()).await {
            Ok(before) => before.map_err(|e| e.during(doing))?,
            Err(_) => return Err(busy(shared.instances[0].admin.at()).during(doing)),
        };
        // A file that cannot be replaced is found out now and not after the commit.
        shared.files(Shared::stage).await.map_err(|e| e.during(doing))?;
        *turn += 1;
        // Dropped before the lock is let go, so that nothing moves in between: it only spawns.
        let mut guard = Abandoned {
            shared,
            turn: *turn,
            armed: true,
        };
        let left = within.saturating_sub(since.elapsed());
        let pauses = shared
            .instances
            .iter()
            .zip(before)
            .map(|(instance, before)| async move {
                let pause = instance.admin.pause(&shared.database, before);
                let paused = tokio::time::timeout(left, pause).await;
                paused.unwrap_or_else(|_| Err(busy(instance.admin.at())))
            });
        let syncing = shared.clone();
        in_background(async move {
            if let Err(error) = syncing.files(Shared::sync_staged).await {
                tracing::warn!(%error, "pointing the gate will have to write its files in the pause");
            }
        });
        let Err(why) = try_join_all(pauses).await else {
            guard.armed = false;
            return Ok(());
        };
        let released = shared.take_back().await;
        let released = released.and(shared.files(Shared::unstage).await);
        shared.settle(*turn);
        // It goes on in the background only where it is not certain.
        guard.armed = released.is_err();
        Err(match released {
            Ok(()) => why,
            Err(error) => GateError::AndUnreleased(Box::new(why), Box::new(error)),
        }
        .during(doing))
    }

    async fn point_at(&self, color: Color) -> Result<()> {
        let doing = "point the gate";
        let shared = &*self.shared;
        let _turn = shared.turn.lock().await;
        let wanted = shared.upstream(color);
        let pointed = async {
            let upstream = wanted.clone();
            shared.files(move |shared| shared.rewrite(&upstream)).await?;
            let reloads = shared.instances.iter().map(|instance| async move {
                let shown = instance.admin.reload(&shared.database).await?;
                if shown.upstream == *wanted {
                    return Ok(());
                }
                Err(GateError::NotEffective {
                    at: instance.admin.at().to_owned(),
                    database: shared.database.clone(),
                    seen: Box::new(shown.upstream),
                    wanted: Box::new(wanted.clone()),
                    ini: instance.ini.clone(),
                })
            });
            try_join_all(reloads).await
        };
        pointed.await.map(drop).map_err(|e| e.during(doing))
    }

    async fn release(&self) -> Result<()> {
        let doing = "release the gate";
        let shared = &*self.shared;
        let turn = shared.turn.lock().await;
        let (released, cleaned) = tokio::join!(shared.resume(), shared.files(Shared::unstage));
        shared.settle(*turn);
        released.and(cleaned).map_err(|e| e.during(doing))
    }

    async fn state(&self) -> Result<GateState> {
        let doing = "read the gate";
        self.connect().await?;
        let shared = &*self.shared;
        shared.files(Shared::sync).await.map_err(|e| e.during(doing))?;
        let shown = shared.shown().await.map_err(|e| e.during(doing))?;
        let held = shown.iter().any(|shown| shown.paused);
        let mut colors = Vec::new();
        for (instance, shown) in shared.instances.iter().zip(&shown) {
            let color = shared.color(&shown.upstream).ok_or_else(|| GateError::Foreign {
                at: instance.admin.at().to_owned(),
                database: shared.database.clone(),
                seen: shown.upstream.clone(),
            });
            colors.push(color.map_err(|e| e.during(doing))?);
        }
        if colors.iter().all(|&color| color == colors[0]) {
            return Ok(GateState { held, at: colors[0] });
        }
        let seen: Vec<String> = shared
            .instances
            .iter()
            .zip(&colors)
            .map(|(instance, color)| format!("{} at {color}", instance.admin.at()))
            .collect();
        let database = shared.database.clone();
        let error = GateError::Disagree {
            database,
            seen: seen.join(", "),
        };
        Err(error.during(doing))
    }
}

/// Runs it in a task of its own. Without a runtime the process is about to end, and whoever continues the migration
/// reads the gate's state and releases it.
fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(work)),
        Err(_) => tracing::warn!("the runtime has ended: the gate stays as it is until the migration is continued"),
    }
}

/// Whether two paths are the same file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
