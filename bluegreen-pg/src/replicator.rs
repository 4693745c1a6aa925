//! `PgReplicator` and its builder. The `Replicator` methods here are the table of contents of the rest.

use crate::armed::Armed;
use crate::connect::{Server, Settings};
use crate::handover::Rest;
use crate::keeper::Keeper;
use crate::options::{BySide, Options};
use crate::progress::Work;
use crate::status::Watch;
use crate::wal::{Guards, Works};
use async_trait::async_trait;
use bluegreen_core::{Color, Comparison, Direction, Finding, Forecast, MirrorStatus, Position, Replicator, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What every part gets: the servers and the options.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) options: Options,
}

/// Moves a PostgreSQL database. Made by [`new`](Self::new) or [`builder`](Self::builder).
///
/// Several processes may hold one for the same migration, one after the other: what it must remember is in the two
/// databases (schema `bluegreen`), except the lock of a fence, which dies with its process on purpose.
#[derive(Debug)]
pub struct PgReplicator {
    pub(crate) context: Arc<Context>,
    /// The background work of a direction: the first copy, or the turning round of the mirrors.
    work: Arc<Works>,
    /// Watches what the slots keep.
    pub(crate) guards: Guards,
    /// What the last look at each mirror saw, to tell a worker that is late from one that is dead.
    pub(crate) watch: tokio::sync::Mutex<HashMap<Direction, Watch>>,
    /// The sessions of a cut-over, opened before its pause.
    pub(crate) armed: tokio::sync::Mutex<Option<Armed>>,
    keeper: Mutex<Option<Keeper>>,
    /// How long an opening was held up so far for what the old writer may have taken.
    pub(crate) rest: Mutex<Rest>,
    /// The comparison in the background.
    pub(crate) comparing: Mutex<Option<crate::verify::Comparing>>,
}

/// Builds a [`PgReplicator`]. See [`PgReplicator::builder`].
#[derive(Debug, Clone)]
pub struct PgReplicatorBuilder {
    name: String,
    blue: Side,
    green: Side,
    options: Options,
}

#[derive(Clone, Default)]
struct Side {
    database: String,
    from_peer: Option<String>,
    password: Option<String>,
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Side { .. }")
    }
}

impl PgReplicator {
    /// A replicator of the migration `name` between two databases, given in either of libpq's forms.
    ///
    /// ```
    /// use bluegreen_pg::PgReplicator;
    /// let replicator = PgReplicator::new(
    ///     "shop",
    ///     "postgresql://mover@old.example/shop?sslmode=verify-full",
    ///     "host=new.example user=mover dbname=shop sslmode=verify-full",
    /// )?;
    /// # Ok::<(), bluegreen_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// When a connection string cannot be read.
    pub fn new(name: impl Into<String>, blue: impl Into<String>, green: impl Into<String>) -> Result<Self> {
        Self::builder(name, blue, green).build()
    }

    /// The same with more to say.
    pub fn builder(name: impl Into<String>, blue: impl Into<String>, green: impl Into<String>) -> PgReplicatorBuilder {
        let side = |database: String| Side {
            database,
            ..Side::default()
        };
        PgReplicatorBuilder {
            name: name.into(),
            blue: side(blue.into()),
            green: side(green.into()),
            options: Options {
                copy_jobs: 4,
                fence_lock_timeout: Duration::from_millis(100),
                slot_wait: Duration::from_secs(60),
                blue_latency: Duration::from_millis(100),
                tools: None,
                compare: crate::verify::Options::default(),
                free_disk: BySide::default(),
                wal_limit: BySide::default(),
            },
        }
    }

    /// The servers.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.context.settings
    }

    pub(crate) fn name_of(&self, direction: Direction) -> String {
        crate::ident::mirror_name(&self.context.settings.name, direction)
    }

    pub(crate) fn work(&self) -> MutexGuard<'_, HashMap<Direction, Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on somebody looks at what the slots keep.
    pub(crate) fn guard_the_log(&self) {
        self.guards.watch(&self.context, &self.work);
    }

    pub(crate) fn keeper(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PgReplicatorBuilder {
    /// How the *other* server reaches this side's; the same string as ours when not said.
    #[must_use]
    pub fn database_from_peer(mut self, color: Color, database: impl Into<String>) -> Self {
        self.side(color).from_peer = Some(database.into());
        self
    }

    /// The password of this side's user, where the connection string holds none.
    #[must_use]
    pub fn password(mut self, color: Color, password: impl Into<String>) -> Self {
        self.side(color).password = Some(password.into());
        self
    }

    /// How many streams the first copy has, and how many indexes are built at a time; 4 when not said.
    #[must_use]
    pub fn copy_jobs(mut self, jobs: usize) -> Self {
        self.options.copy_jobs = jobs.max(1);
        self
    }

    /// How many pieces a comparison digests at a time, at both sides; 2 when not said.
    #[must_use]
    pub fn compare_jobs(mut self, jobs: usize) -> Self {
        self.options.compare.jobs = jobs.max(1);
        self
    }

    /// Which part of the time a comparison works, and rests for the other: 0.25 is a quarter; all of it when not said.
    #[must_use]
    pub fn compare_share(mut self, share: f64) -> Self {
        self.options.compare.share = share.clamp(0.01, 1.0);
        self
    }

    /// How long one try to lock all tables may make writers queue; 100 ms when not said.
    #[must_use]
    pub fn fence_lock_timeout(mut self, timeout: Duration) -> Self {
        self.options.fence_lock_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// How long a new slot may wait for open transactions to end; a minute when not said.
    #[must_use]
    pub fn slot_wait(mut self, wait: Duration) -> Self {
        self.options.slot_wait = wait;
        self
    }

    /// How long a small query at the copied side may take before the first copy holds itself back, if that is far above
    /// what it took before; 100 ms when not said.
    #[must_use]
    pub fn copy_latency(mut self, limit: Duration) -> Self {
        self.options.blue_latency = limit;
        self
    }

    /// The folder with `pg_dump` and `pg_restore`, or one that has them in `18/bin` for version 18, and so on; looked for
    /// when not said.
    #[must_use]
    pub fn tools(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.tools = Some(folder.into());
        self
    }

    /// How much disk is free at a side, for the preflight and for what a mirror may make it keep: no server says it in SQL.
    /// Unknown when not said.
    #[must_use]
    pub fn free_disk(mut self, color: Color, bytes: u64) -> Self {
        self.options.free_disk.say(color, bytes);
        self
    }

    /// How many bytes of its log a side may be made to keep by a mirror that does not take them: beyond, the mirror is given
    /// up. When not said, half of [`free_disk`](Self::free_disk); never more than the server's `max_slot_wal_keep_size`. Where
    /// neither is known nothing is given up, and it is said from 4 GiB on.
    #[must_use]
    pub fn wal_limit(mut self, color: Color, bytes: u64) -> Self {
        self.options.wal_limit.say(color, bytes.max(1));
        self
    }

    /// Reads the connection strings. Connects to nothing.
    ///
    /// # Errors
    /// `InvalidInput` that says which side's is wrong and how.
    pub fn build(self) -> Result<PgReplicator> {
        let server = |color, side: &Side| {
            Server::new(
                color,
                &side.database,
                side.from_peer.as_deref(),
                side.password.as_deref(),
            )
        };
        let settings = Settings {
            blue: server(Color::Blue, &self.blue)?,
            green: server(Color::Green, &self.green)?,
            name: self.name,
        };
        Ok(PgReplicator {
            context: Arc::new(Context {
                settings,
                options: self.options,
            }),
            work: Arc::default(),
            guards: Guards::default(),
            watch: tokio::sync::Mutex::default(),
            armed: tokio::sync::Mutex::default(),
            keeper: Mutex::default(),
            rest: Mutex::default(),
            comparing: Mutex::default(),
        })
    }

    fn side(&mut self, color: Color) -> &mut Side {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }
}

#[async_trait]
impl Replicator for PgReplicator {
    fn name(&self) -> &str {
        crate::error::PROVIDER
    }

    fn acts_on(&self) -> String {
        let place = |color| self.context.settings.server(color).conninfo().place();
        format!("blue {}, green {}", place(Color::Blue), place(Color::Green))
    }

    async fn preflight(&self) -> Result<Vec<Finding>> {
        Ok(crate::preflight::run(&self.context).await)
    }

    async fn start(&self, direction: Direction) -> Result<()> {
        self.start_mirror(direction).await
    }

    async fn status(&self, direction: Direction) -> Result<MirrorStatus> {
        self.mirror_status(direction).await
    }

    fn warnings(&self) -> Vec<String> {
        self.guards.said()
    }

    fn compares(&self) -> bool {
        true
    }

    async fn compare(&self) -> Result<Comparison> {
        self.compare_data()
    }

    async fn arm(&self, to: Color, budget: Duration) -> Result<Forecast> {
        self.arm_cutover(to, budget).await
    }

    async fn fence(&self, color: Color, within: Duration) -> Result<Position> {
        self.take_fence(color, within).await
    }

    async fn caught_up(&self, position: &Position) -> Result<bool> {
        self.prove(position).await
    }

    async fn hand_over(&self, to: Color) -> Result<()> {
        self.hand_to(to).await
    }

    async fn may_promote(&self, to: Color) -> Result<()> {
        self.may_open_for(to).await
    }

    async fn promote(&self, to: Color) -> Result<()> {
        self.open_for(to).await
    }

    async fn unfence(&self, color: Color) -> Result<()> {
        self.give_back(color).await
    }

    async fn stop(&self, writer: Color) -> Result<()> {
        self.clean_up(writer).await
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        self.what_is_left().await
    }
}
