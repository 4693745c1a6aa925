//! `Replicator`: mirrors a database in a direction, proves that the follower has everything, and hands the writing over.

use super::comparison::Comparison;
use crate::duration::format_duration;
use crate::error::{Error, Kind, Result};
use crate::model::{Color, Direction, Position};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// It works, but somebody should look.
    Warning,
    /// The migration does not start before it is mended.
    Blocking,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "notes",
            Self::Warning => "warns",
            Self::Blocking => "blocks",
        })
    }
}

/// Something a preflight check saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name for it: `no-replica-identity`.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen, with the evidence.
    pub seen: String,
    /// Why it matters.
    pub why: String,
    /// The exact command or change that mends it.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}\n    why:  {}\n    mend: {}",
            self.severity, self.id, self.seen, self.why, self.mend
        )
    }
}

/// So much done of so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Done so far.
    pub done: u64,
    /// Of all; an estimate until the end.
    pub total: u64,
}

/// How far the follower is behind. Never a proof: see [`Replicator::caught_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lag {
    /// Bytes of log not yet applied.
    pub bytes: u64,
    /// How long a change took to be seen at the follower, as last measured; none when it was not measured.
    pub time: Option<Duration>,
}

/// Where a mirror is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorStatus {
    /// There is none.
    Absent,
    /// Being set up; says at what.
    Preparing(String),
    /// The first copy runs.
    Copying {
        /// Rows.
        rows: Progress,
        /// Bytes.
        bytes: Progress,
        /// What it is at: `copy`, `indexes`, `constraints`.
        stage: String,
        /// How long it will still take, about; none while nobody can tell.
        #[serde(default)]
        left: Option<Duration>,
    },
    /// Exists and is ready to be switched on, but does not run.
    Armed,
    /// Follows.
    Streaming(Lag),
    /// It does not get on.
    Failed {
        /// What is done about it, as with every error: one that may pass is begun again after a while, one that somebody can
        /// mend is asked about, and after any other the migration is given up.
        kind: Kind,
        /// What happened, and how to mend it.
        why: String,
    },
}

impl fmt::Display for MirrorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Preparing(what) => write!(f, "being set up: {what}"),
            Self::Copying { rows, stage, .. } => write!(f, "copying ({stage}): {} of {} rows", rows.done, rows.total),
            Self::Armed => f.write_str("ready, but not running"),
            Self::Streaming(lag) => write!(f, "streaming, {} bytes behind", lag.bytes),
            Self::Failed { why, .. } => write!(f, "failed: {why}"),
        }
    }
}

/// What a pause would be like now, as far as that can be known before it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Forecast {
    /// How long what was rehearsed took. The pause is about as long, and the time in which writers drain.
    pub expected: Duration,
    /// What would keep writers from draining: which transaction, whose, since when. While there is something, no pause begins.
    pub in_the_way: Vec<String>,
}

impl Forecast {
    /// Why no pause should begin that may take so long; none when it may.
    #[must_use]
    pub fn against(&self, budget: Duration) -> Option<String> {
        if !self.in_the_way.is_empty() {
            return Some(format!("in the way of a pause: {}", self.in_the_way.join("; ")));
        }
        (self.expected > budget).then(|| {
            format!(
                "a pause would take about {}, above its budget of {}",
                format_duration(self.expected),
                format_duration(budget)
            )
        })
    }
}

/// Moves a database. See the [module](crate::provider) for what every provider owes.
///
/// # The protocol of a cut-over to `to`
///
/// Blue and green stand for "the one that writes" and `to`; going back is the same with the colours exchanged.
///
/// 1. `arm(to, budget)`, outside the pause: all that is slow (the reverse mirror's slot).
/// 2. The gate is held. `fence(to.other())`: writes stop; the position after the last of them.
/// 3. `caught_up(position)` until true: the proof.
/// 4. `hand_over(to)`: sequences carried, reverse mirror armed from here, the old writer durably read-only.
/// 5. The engine makes the commit record durable. **Before it, a death leaves the old writer the writer; after it, `to`.**
/// 6. `promote(to)`: `to` accepts writes. The gate is pointed and released.
/// 7. `start(Direction::from(to))`, outside the pause: the old writer follows.
///
/// If anything fails before 5, or the process dies: `unfence(to.other())`, and the old writer writes again. `unfence` is
/// called even when `fence` may not have been.
#[async_trait]
#[diagnostic::on_unimplemented(
    message = "the migration has no replicator: call `.replicator(..)` before `.build()`",
    label = "`{Self}` is no `Replicator`",
    note = "a migration of an application without a database says so: `.replicator(NoDatabase)`"
)]
pub trait Replicator: fmt::Debug + Send + Sync + 'static {
    /// A short name for messages: `postgres`.
    fn name(&self) -> &str;

    /// What it acts on, in one line and always in the same form: a migration is only resumed with what it was begun with.
    /// No secret, and nothing that may change meanwhile, such as a user or a timeout. Its name where nothing tells more.
    fn acts_on(&self) -> String {
        self.name().to_owned()
    }

    /// Whether there is a database at all. Only [`NoDatabase`](crate::NoDatabase) answers false.
    fn is_present(&self) -> bool {
        true
    }

    /// Looks at both sides for what would make the migration fail or harm somebody. Changes nothing.
    ///
    /// # Errors
    /// Only when it could not look; a side that cannot be reached is a blocking finding.
    async fn preflight(&self) -> Result<Vec<Finding>>;

    /// Makes sure that the mirror in this direction exists and runs: creates it, adopts what is ours, refuses what is not.
    /// Returns when that is under way; [`status`](Self::status) tells the rest. Called again after a crash, it begins again
    /// what cannot be continued. Starting the reverse mirror first stops the forward one, so that changes never loop.
    ///
    /// # Errors
    /// When it cannot be begun.
    async fn start(&self, direction: Direction) -> Result<()>;

    /// Where the mirror in this direction is. Its background work that died or failed is [`MirrorStatus::Failed`].
    ///
    /// # Errors
    /// When it cannot be told.
    async fn status(&self, direction: Direction) -> Result<MirrorStatus>;

    /// What somebody should know and what stops nothing: all that came up since it was last asked, each once. The engine
    /// asks with every look, and passes it on to observers.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether it can [`compare`](Self::compare).
    fn compares(&self) -> bool {
        false
    }

    /// Compares the data of both sides while one is written to, row by row in the end: begins when no comparison is under
    /// way, says how far it is, and once what it found; the next call then begins anew. It does not harm the side that
    /// writes: it reads little at a time, and less when that side suffers. What it found is certain: a row that a mirror
    /// had not brought yet is no difference. Killed, it may go on where it was.
    ///
    /// # Errors
    /// `Unsupported` where it is not offered; `Diverged` when the tables themselves are not alike; else when it could not
    /// look.
    async fn compare(&self) -> Result<Comparison> {
        Err(Error::new(
            Kind::Unsupported,
            "compare the data",
            "this replicator does not compare",
        )
        .provider(self.name()))
    }

    /// Prepares a cut-over to `to` as far as that can be done while the other side still writes, and rehearses it. Called
    /// shortly before a pause of at most `budget`, and again while the answer says that no pause should begin; then nothing
    /// needs to be prepared.
    ///
    /// # Errors
    /// When the mirror towards `to` does not stream, or the reverse one cannot be armed.
    async fn arm(&self, to: Color, budget: Duration) -> Result<Forecast>;

    /// Stops all writes at `color` and returns the position after the last one. What is held for it is held by this
    /// process: if it dies before [`hand_over`](Self::hand_over), writes go on by themselves.
    ///
    /// # Errors
    /// `Timeout` when writers did not drain `within` so long; then nothing is held. After any other error
    /// [`unfence`](Self::unfence) follows, as it does after a timeout of one of [several databases](crate::AllDatabases).
    async fn fence(&self, color: Color, within: Duration) -> Result<Position>;

    /// Whether the follower durably has everything up to `position`. Asked again and again within the pause: one round
    /// trip, no sleep.
    ///
    /// # Errors
    /// When it cannot be told, or can never become true (the mirror broke).
    async fn caught_up(&self, position: &Position) -> Result<bool>;

    /// All that `to` needs to be the writer and that must be true before the commit record: sequences carried, the reverse
    /// mirror armed at this point, and the old writer read-only in a way that outlives this process.
    ///
    /// # Errors
    /// Then [`unfence`](Self::unfence) follows.
    async fn hand_over(&self, to: Color) -> Result<()>;

    /// Whether [`promote`](Self::promote) may open `to`: looks, and changes nothing. Where several databases move together, all
    /// are asked before the first is opened, and at the price of a round trip none is where one must not be.
    ///
    /// # Errors
    /// `Diverged` when the old writer accepts writes again; else when it could not look. Who cannot look says yes: `promote`
    /// refuses all the same.
    async fn may_promote(&self, _: Color) -> Result<()> {
        Ok(())
    }

    /// Opens `to` for writes and lets go of what [`fence`](Self::fence) held. Called after the commit record is durable,
    /// again after a crash, and then in a process that never fenced anything: what [`hand_over`](Self::hand_over) made
    /// read-only must still be so, and clients who do not know it are ended.
    ///
    /// # Errors
    /// `Diverged`, without any effect, when the old writer accepts writes again: then it was opened after the proof, and
    /// may have what `to` has not. After any other error it is called again until it works.
    async fn promote(&self, to: Color) -> Result<()>;

    /// Makes `color` accept writes again, and the other side not, after a cut-over that was given up. Releases what is held.
    ///
    /// # Errors
    /// It is called again until it works.
    async fn unfence(&self, color: Color) -> Result<()>;

    /// Takes away every mirror and everything that was made for it, on both sides, and leaves `writer` open for writes.
    /// With `writer` green, blue stays read-only. The data stays where it is.
    ///
    /// # Errors
    /// It is called again until [`leftovers`](Self::leftovers) is empty.
    async fn stop(&self, writer: Color) -> Result<()>;

    /// What is still there of ours: slots, publications, subscriptions, tables, flags. Empty is the proof of a clean-up.
    ///
    /// # Errors
    /// When it could not look.
    async fn leftovers(&self) -> Result<Vec<String>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Replicator + ?Sized> Replicator for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn acts_on(&self) -> String {
        (**self).acts_on()
    }
    fn is_present(&self) -> bool {
        (**self).is_present()
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        (**self).preflight().await
    }
    async fn start(&self, direction: Direction) -> Result<()> {
        (**self).start(direction).await
    }
    async fn status(&self, direction: Direction) -> Result<MirrorStatus> {
        (**self).status(direction).await
    }
    fn warnings(&self) -> Vec<String> {
        (**self).warnings()
    }
    fn compares(&self) -> bool {
        (**self).compares()
    }
    async fn compare(&self) -> Result<Comparison> {
        (**self).compare().await
    }
    async fn arm(&self, to: Color, budget: Duration) -> Result<Forecast> {
        (**self).arm(to, budget).await
    }
    async fn fence(&self, color: Color, within: Duration) -> Result<Position> {
        (**self).fence(color, within).await
    }
    async fn caught_up(&self, position: &Position) -> Result<bool> {
        (**self).caught_up(position).await
    }
    async fn hand_over(&self, to: Color) -> Result<()> {
        (**self).hand_over(to).await
    }
    async fn may_promote(&self, to: Color) -> Result<()> {
        (**self).may_promote(to).await
    }
    async fn promote(&self, to: Color) -> Result<()> {
        (**self).promote(to).await
    }
    async fn unfence(&self, color: Color) -> Result<()> {
        (**self).unfence(color).await
    }
    async fn stop(&self, writer: Color) -> Result<()> {
        (**self).stop(writer).await
    }
    async fn leftovers(&self) -> Result<Vec<String>> {
        (**self).leftovers().await
    }
}
