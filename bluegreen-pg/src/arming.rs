//! Arming: all that a cut-over can do while writes still flow, the way back included, and how long its pause will be.

use crate::armed::Armed;
use crate::connect::Session;
use crate::error::fault;
use crate::keeper::{ARMED, Keeper};
use crate::replicator::PgReplicator;
use crate::start::reverse;
use crate::{catalog, drift, echo, identity, mirror, mirrored, obstacles, slot, unbound, writers};
use bluegreen_core::{Color, Direction, Forecast, Kind, Result};
use std::time::{Duration, Instant};

impl PgReplicator {
    /// See `Replicator::arm`.
    pub(crate) async fn arm_cutover(&self, to: Color, budget: Duration) -> Result<Forecast> {
        let settings = &self.context.settings;
        let (forth, from) = (Direction::to(to), to.other());
        // Of an attempt before: its sessions end now, and not at the beginning of the pause.
        drop(self.armed.lock().await.take());
        let (writer, follower) = tokio::try_join!(settings.connect(from), settings.connect(to))?;
        identity::check(&self.context, forth, &writer, &follower).await?;
        self.guard_the_log();
        // One that is as old as half of what a pause may take will hardly end within the other half.
        let in_the_way = obstacles::older_than(&writer, &settings.name, budget / 2).await?;
        if !in_the_way.is_empty() {
            return Ok(Forecast {
                expected: Duration::ZERO,
                in_the_way,
            });
        }
        if forth == Direction::BlueToGreen {
            let (forth, back) = (self.name_of(forth), self.name_of(reverse(forth)));
            echo::let_in(&writer, &follower, &settings.name, &forth, &back, echo::WITHIN).await?;
        }
        for object in drift::check_before_the_hand_over(&writer, &follower, &settings.name).await? {
            self.guards.shared.say(format!(
                "{object} is at {to} only: what is written there after the cut-over would stop the mirror back to {from}, and with \
                 it the way back. Make it at {from} too"
            ));
        }
        let travel = self.round_trip(&writer, &follower, Duration::from_secs(5)).await?;
        // An advance of the old keeper's may still be under way at the server: the slot's own advance waits for it.
        self.keeper().take();
        self.ensure_way_back(to, &follower, &writer).await?;
        *self.keeper() = Some(Keeper::spawn(self.context.clone(), reverse(forth), ARMED));
        let started = Instant::now();
        let mut armed = Box::pin(Armed::open(&self.context, to)).await?;
        let rehearsed = self.rehearse(&mut armed).await?;
        armed.spent = vec![writer, follower];
        tracing::debug!(migration = %settings.name, %from, %to, elapsed = ?started.elapsed(), "armed");
        *self.armed.lock().await = Some(armed);
        Ok(Forecast {
            expected: travel + rehearsed,
            in_the_way: vec![],
        })
    }

    /// Publication and slot at `to`, and a subscription at the other side that does not run.
    async fn ensure_way_back(&self, to: Color, origin: &Session, follower: &Session) -> Result<()> {
        let settings = &self.context.settings;
        let back = Direction::from(to);
        let name = self.name_of(back);
        if !writers::is_closed(origin).await? {
            // Advancing the slot of the way back would skip what clients write there.
            return Err(fault(
                Kind::Diverged,
                "arm the way back",
                format!("{to} takes writes: it is not a mirror now"),
            ));
        }
        for session in [origin, follower] {
            unbound::no_exceptions(session).await?;
        }
        catalog::all_identified(origin, to, Kind::HumanNeeded, "arm the way back").await?;
        let slot_state = slot::look(origin, &name).await?;
        let subscription = mirror::look(follower, &name).await?;
        if let Some(s) = subscription.as_ref().filter(|s| s.enabled || s.worker.is_some()) {
            return Err(fault(
                Kind::Diverged,
                "arm the way back",
                format!("the mirror {back} runs (worker {:?})", s.worker),
            ));
        }
        let whole = slot_state.as_ref().is_some_and(|s| !s.lost)
            && subscription.is_some()
            && match mirrored::check(origin, follower, &name).await {
                Err(e) if e.kind() != Kind::Diverged => return Err(e),
                checked => checked.is_ok(),
            };
        if !whole {
            mirror::unsubscribe(follower, &name).await?;
            slot::drop(origin, &name).await?;
            let tables = catalog::tables(follower).await?;
            mirror::publish(origin, &settings.name, &name, &tables).await?;
            slot::create(origin, &name, self.context.options.slot_wait).await?;
            let version = catalog::version(follower).await?;
            mirror::subscribe(&**follower, version, &settings.name, &name, settings.server(to)).await?;
        }
        if back == Direction::BlueToGreen {
            echo::pass_over(origin, follower, &name, &self.name_of(reverse(back))).await?;
        }
        // Twice: an advance begins at the last point but one.
        for _ in 0..2 {
            if let Err(e) = slot::mark_restart(origin, &name).await {
                tracing::warn!(error = %e, "the pause may be longer: an advance of the reverse slot reads more of the log");
            }
            slot::advance(origin, &name).await?;
        }
        Ok(())
    }
}
