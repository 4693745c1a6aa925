//! The step that compares the data: where it stands, what it says, and that nothing goes on past a row that differs.
#![allow(clippy::unwrap_used)]

use bluegreen_core::{
    AtOnce, Body, Color, Environment, Kind, Migration, NoDatabase, NoDns, NoProbe, Note, Outcome, Spec, StepName,
};
use bluegreen_testkit::World;
use bluegreen_testkit::fake::MemoryJournal;
use bluegreen_testkit::world::Ended;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn steps(world: &World) -> Vec<StepName> {
    let entries = world.journal.entries().unwrap();
    let started = entries.iter().filter_map(|e| match e.body {
        Body::Started { step } => Some(step),
        _ => None,
    });
    started.collect()
}

#[test]
fn alike_is_noted_and_the_share_moves() {
    let mut world = World::new(5);
    world.spec.compare = true;
    let outcome = world.finish();
    assert_eq!(outcome, Outcome::Completed);
    world.assert_laws(&outcome);
    let at = |wanted| steps(&world).iter().position(|s| *s == wanted).unwrap();
    assert!(at(StepName::Mirror) < at(StepName::Compare) && at(StepName::Compare) < at(StepName::Shift));
    let noted = |n: &Note| matches!(n, Note::Compared { compared } if compared.rows > 0);
    let entries = world.journal.entries().unwrap();
    assert!(
        entries
            .iter()
            .any(|e| matches!(&e.body, Body::Noted { note, .. } if noted(note)))
    );
}

#[test]
fn a_row_that_differs_stops_it_before_any_user_moves() {
    let mut world = World::new(6);
    world.spec.compare = true;
    let changed = Arc::new(AtomicU64::new(0));
    for second in 1..300 {
        let (databases, changed) = (world.databases.clone(), changed.clone());
        world.clock.after(Duration::from_secs(second), move || {
            let first = databases.tokens(Color::Green).first().copied();
            if let Some(token) = first.filter(|_| changed.load(Ordering::SeqCst) == 0) {
                assert!(databases.tamper(Color::Green, token, u64::MAX));
                changed.store(token.max(1), Ordering::SeqCst);
            }
        });
    }
    let faults = world.sound();
    let Ended::Answered(Err(stopped)) = world.process(&faults) else {
        panic!("it went on")
    };
    assert_eq!(stopped.kind(), Kind::HumanNeeded, "{stopped}");
    let said = stopped.to_string();
    assert!(
        said.contains("compare: green is not what blue is") && said.contains("id=1: token"),
        "{said}"
    );
    assert_eq!(steps(&world).last(), Some(&StepName::Compare));
    assert!(!faults.calls().contains(&"replicator.fence"));
    // Mended, and run again: it compares again, and goes on.
    assert!(
        world
            .databases
            .tamper(Color::Green, u64::MAX, changed.load(Ordering::SeqCst))
    );
    let outcome = world.finish();
    assert_eq!(outcome, Outcome::Completed);
    world.assert_laws(&outcome);
}

#[test]
fn it_is_planned_only_where_asked_for_and_refused_where_it_is_not_offered() {
    let spec = Spec::new("app", Environment::none(), Environment::none()).compare();
    let refused = Migration::builder("app")
        .dns(NoDns)
        .replicator(Silent)
        .probe(NoProbe)
        .policy(AtOnce::new())
        .gate(bluegreen_core::NoGate)
        .journal(MemoryJournal::new())
        .spec(spec)
        .build()
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("does not compare"), "{refused}");
}

/// A replicator that does not compare.
#[derive(Debug)]
struct Silent;

#[async_trait::async_trait]
impl bluegreen_core::Replicator for Silent {
    fn name(&self) -> &str {
        "silent"
    }
    async fn preflight(&self) -> bluegreen_core::Result<Vec<bluegreen_core::Finding>> {
        NoDatabase.preflight().await
    }
    async fn start(&self, direction: bluegreen_core::Direction) -> bluegreen_core::Result<()> {
        NoDatabase.start(direction).await
    }
    async fn status(
        &self,
        direction: bluegreen_core::Direction,
    ) -> bluegreen_core::Result<bluegreen_core::MirrorStatus> {
        NoDatabase.status(direction).await
    }
    async fn arm(&self, to: Color, budget: Duration) -> bluegreen_core::Result<bluegreen_core::Forecast> {
        NoDatabase.arm(to, budget).await
    }
    async fn fence(&self, color: Color, within: Duration) -> bluegreen_core::Result<bluegreen_core::Position> {
        NoDatabase.fence(color, within).await
    }
    async fn caught_up(&self, position: &bluegreen_core::Position) -> bluegreen_core::Result<bool> {
        NoDatabase.caught_up(position).await
    }
    async fn hand_over(&self, to: Color) -> bluegreen_core::Result<()> {
        NoDatabase.hand_over(to).await
    }
    async fn promote(&self, to: Color) -> bluegreen_core::Result<()> {
        NoDatabase.promote(to).await
    }
    async fn unfence(&self, color: Color) -> bluegreen_core::Result<()> {
        NoDatabase.unfence(color).await
    }
    async fn stop(&self, writer: Color) -> bluegreen_core::Result<()> {
        NoDatabase.stop(writer).await
    }
    async fn leftovers(&self) -> bluegreen_core::Result<Vec<String>> {
        NoDatabase.leftovers().await
    }
}
