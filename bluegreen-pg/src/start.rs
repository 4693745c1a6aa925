//! `start`: a first copy, the adoption of what is there, or the turning round of the mirrors after a cut-over.

use crate::error::fault;
use crate::ident::mirror_name;
use crate::keeper::{AT_EASE, Keeper};
use crate::marker::{self, Stage};
use crate::progress::{Report, Work};
use crate::replicator::{Context, PgReplicator};
use crate::{baseline, echo, guard, identity, mirror, shut, slot, writers};
use bluegreen_core::{Direction, Kind, Result};
use std::sync::Arc;
use std::time::Duration;

/// How long the other mirror's worker may take to go: it notices within about a second.
const WORKER_GONE: Duration = Duration::from_secs(60);

/// How long the mirror forward is waited for until it brings everything again: longer than the server takes to start a worker anew
/// (5 s by default), and not as long as a mirror that is stuck may go unnamed.
const BEYOND: Duration = Duration::from_secs(10);

impl PgReplicator {
    pub(crate) async fn start_mirror(&self, direction: Direction) -> Result<()> {
        self.begin_mirror(direction).await?;
        // Now that there is something to guard.
        self.guard_the_log();
        Ok(())
    }

    async fn begin_mirror(&self, direction: Direction) -> Result<()> {
        if self.work().get(&direction).is_some_and(Work::is_running) {
            return Ok(());
        }
        self.work().remove(&direction);
        let settings = &self.context.settings;
        let (origin, follower) = tokio::try_join!(
            settings.connect(direction.origin()),
            settings.connect(direction.follower())
        )?;
        identity::check(&self.context, direction, &origin, &follower).await?;
        if marker::gave_up(&origin, &settings.name).await?.is_some() {
            // Nothing begins again by itself; the status says why.
            return Ok(());
        }
        let (forth, back) = (self.name_of(direction), self.name_of(reverse(direction)));
        let there = mirror::look(&follower, &forth).await?;
        let opposite = mirror::look(&origin, &back).await?;
        let stage = marker::stage(&follower, &settings.name).await?;
        match (there, opposite) {
            (Some(ours), opposite) if stage != Stage::Copying => {
                match slot::look(&origin, &forth).await? {
                    Some(state) if !state.lost => {}
                    found => {
                        let how = if found.is_some() { "lost its log" } else { "is gone" };
                        return Err(fault(
                            Kind::Diverged,
                            format!("start the mirror {direction}"),
                            format!("its replication slot {forth} {how}: stop the mirror and begin again"),
                        ));
                    }
                }
                let runs = opposite.as_ref().is_some_and(|o| o.enabled || o.worker.is_some());
                if !writers::is_closed(&follower).await? {
                    // Whoever asks for this is mistaken about who writes; the other mirror would be stopped, and the writer shut.
                    return Err(fault(
                        Kind::Diverged,
                        format!("start the mirror {direction}"),
                        format!("{} takes writes: it is no follower", direction.follower()),
                    ));
                }
                let turning = direction == Direction::BlueToGreen && echo::passes_over(&follower, &forth).await?;
                if ours.enabled && !runs && !turning {
                    if opposite.is_some() {
                        *self.keeper() = Some(Keeper::spawn(self.context.clone(), reverse(direction), AT_EASE));
                    }
                    return Ok(());
                }
                self.watch.lock().await.remove(&direction);
                self.keeper().take();
                let context = self.context.clone();
                let work = Work::spawn("the other direction stops", |report| turn(context, direction, report));
                self.work().insert(direction, work);
                *self.keeper() = Some(Keeper::spawn(self.context.clone(), reverse(direction), AT_EASE));
                Ok(())
            }
            (None, Some(_)) => Err(fault(
                Kind::Diverged,
                format!("start the mirror {direction}"),
                "only the other direction's is there: arm a cut-over first",
            )),
            _ => {
                drop((origin, follower));
                self.watch.lock().await.remove(&direction);
                baseline::begin(&self.context, direction).await?;
                let context = self.context.clone();
                let work = Work::spawn("first copy", |report| baseline::run(context, direction, report));
                self.work().insert(direction, work);
                Ok(())
            }
        }
    }
}

/// The other direction.
pub(crate) fn reverse(direction: Direction) -> Direction {
    Direction::from(direction.follower())
}

/// Stops the opposite mirror, waits until its worker is gone, and only then lets this one run: in any other order
/// changes would come back to where they were made.
async fn turn(context: Arc<Context>, direction: Direction, report: Arc<Report>) -> Result<()> {
    let settings = &context.settings;
    let (forth, back) = (
        mirror_name(&settings.name, direction),
        mirror_name(&settings.name, reverse(direction)),
    );
    let origin = settings.connect_copy(direction.origin()).await?;
    let follower = settings.connect_copy(direction.follower()).await?;
    report.stage("the old writer's clients go");
    guard::wait_for_guard(&follower, &settings.name, WORKER_GONE).await?;
    shut::shut(&follower, &settings.name, shut::WITHIN).await?;
    if mirror::look(&origin, &back).await?.is_some() {
        mirror::disable(&origin, &back).await?;
        report.stage("the other direction's worker goes");
        mirror::wait_for_worker_to_go(&origin, &back, WORKER_GONE).await?;
    }
    report.stage("this direction starts");
    mirror::enable(&follower, &forth).await?;
    // Of the time when it was the mirror.
    shut::ease(&origin, &settings.name).await?;
    if direction == Direction::BlueToGreen {
        report.stage("this direction gets beyond what came by the other");
        match echo::let_in(&origin, &follower, &settings.name, &forth, &back, BEYOND).await {
            // Not yet: the status says what ails it, if anything does, and nothing is cut over before it has worked.
            Err(e) if e.kind() == Kind::Timeout => {
                tracing::warn!(error = %e, mirror = forth, "it passes over what the writer has from elsewhere until later");
            }
            other => other?,
        }
    }
    Ok(())
}
