//! What the gate does to all its instances together, and the ways back out of a pause.

use super::admin::Before;
use super::error::GateError;
use super::rows::Shown;
use super::{Shared, Upstream};
use bluegreen_core::Color;
use futures::future::{join_all, try_join_all};
use std::time::{Duration, Instant};

/// How often it looks, and how many times, until server connections have stopped coming and going.
const BETWEEN: Duration = Duration::from_millis(1);
const PATIENCE: u32 = 50;

impl Shared {
    pub(super) fn upstream(&self, color: Color) -> &Upstream {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    pub(super) fn color(&self, upstream: &Upstream) -> Option<Color> {
        [Color::Blue, Color::Green]
            .into_iter()
            .find(|&color| self.upstream(color) == upstream)
    }

    pub(super) async fn connect(&self) -> Result<(), GateError> {
        try_join_all(self.instances.iter().map(|instance| instance.admin.connect())).await?;
        Ok(())
    }

    pub(super) async fn shown(&self) -> Result<Vec<Shown>, GateError> {
        let database = &self.database;
        try_join_all(self.instances.iter().map(|instance| instance.admin.shown(database))).await
    }

    pub(super) async fn look(&self) -> Result<Vec<Before>, GateError> {
        let database = &self.database;
        try_join_all(self.instances.iter().map(|instance| instance.admin.before(database))).await
    }

    /// Everything that must hold before anything is touched: every instance answers, knows the database, and opens no
    /// server connection for it. PAUSE would cut that off and count it as a failed login, and whoever came after the
    /// pause would be turned away.
    async fn before(&self) -> Result<(), GateError> {
        for look in 0_u32.. {
            let before = self.look().await?;
            // A database that is seldom at rest: only a while for that.
            let quiet = |before: &Before| !before.opening && (before.settled || look >= PATIENCE);
            if before.iter().all(quiet) {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN).await;
        }
        unreachable!("it looks until it is stopped")
    }

    /// Resumes every instance, also when one of them fails.
    pub(super) async fn resume(&self) -> Result<(), GateError> {
        let all = join_all(
            self.instances
                .iter()
                .map(|instance| async move { instance.admin.resume(&self.database).await }),
        );
        all.await.into_iter().collect()
    }

    /// One try: every instance is held, or none is.
    pub(super) async fn try_hold(&self, turn: u64, until: Instant, within: Duration) -> Result<(), GateError> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let before = tokio::time::timeout(left(until), self.before()).await;
        before.unwrap_or(Err(GateError::Opening { within }))?;
        // However this ends, also by being dropped, before the turn is anybody else's.
        let mut guard = Abandoned {
            shared: self,
            turn,
            armed: true,
        };
        let syncing = self.clone();
        in_background(async move {
            if let Err(error) = syncing.files(Self::sync_staged).await {
                tracing::warn!(%error, "pointing the gate will have to write its files in the pause");
            }
        });
        let pauses = self.instances.iter().map(|instance| async move {
            let pause = instance.admin.pause(&self.database);
            let paused = tokio::time::timeout(left(until), pause).await;
            let at = instance.admin.at().to_owned();
            paused.unwrap_or(Err(GateError::Busy { at, within }))
        });
        let Err(why) = try_join_all(pauses).await else {
            guard.armed = false;
            return Ok(());
        };
        let released = self.take_back().await;
        // In the background it goes on where it is not certain: a pause that was just asked for may still be on its way.
        let certain = matches!(why, GateError::Busy { .. } | GateError::CutOff);
        guard.armed = released.is_err() || !certain;
        match released {
            Ok(()) => Err(why),
            Err(error) => Err(GateError::AndUnreleased(Box::new(why), Box::new(error))),
        }
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
    pub(super) fn settle(&self, turn: u64) {
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

/// Runs it in a task of its own. Without a runtime the process is about to end, and whoever continues the migration
/// reads the gate's state and releases it.
fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(work)),
        Err(_) => tracing::warn!("the runtime has ended: the gate stays as it is until the migration is continued"),
    }
}
