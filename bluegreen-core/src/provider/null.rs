//! Null providers, asked for by name: a database moves without DNS, a stateless application without a database.

use super::dns::{
    Applied, AuthorityAnswer, ChangePlan, ChangeStatus, DnsCapabilities, DnsProvider, Intent, Receipt, Record,
    Snapshot, Weights,
};
use super::gate::{GateState, WriteGate};
use super::probe::{Health, HealthProbe};
use super::replicator::{Finding, Forecast, MirrorStatus, Replicator};
use crate::error::{Error, Kind, Result};
use crate::model::{Color, Direction, Endpoint, Position};
use async_trait::async_trait;
use std::time::Duration;

/// No name moves: the migration plans no traffic shift.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDns;

/// No database moves: the migration plans no mirror and its cut-over is the shift's last step.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDatabase;

/// Nothing is probed: health is never judged, and no step waits for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProbe;

/// Nothing holds writes: clients see errors while the old side is fenced. Must be asked for by name.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGate;

fn absent<T>(what: &str, operation: &str) -> Result<T> {
    Err(Error::new(
        Kind::Unsupported,
        operation,
        format!("this migration has no {what}"),
    ))
}

#[async_trait]
impl DnsProvider for NoDns {
    fn name(&self) -> &str {
        "none"
    }
    fn is_present(&self) -> bool {
        false
    }
    fn capabilities(&self) -> DnsCapabilities {
        DnsCapabilities::new(Weights::Switch)
    }
    async fn read(&self, _: &Record) -> Result<Snapshot> {
        absent("DNS", "read the record")
    }
    fn compile(&self, _: &Snapshot, _: &Intent) -> Result<ChangePlan> {
        absent("DNS", "compile a change")
    }
    async fn apply(&self, _: &ChangePlan) -> Result<Applied> {
        absent("DNS", "change the record")
    }
    async fn poll(&self, _: &Receipt) -> Result<ChangeStatus> {
        absent("DNS", "ask for a change")
    }
    async fn ask_authorities(&self, _: &Record, _: u32) -> Result<Vec<AuthorityAnswer>> {
        absent("DNS", "ask the authorities")
    }
}

#[async_trait]
impl Replicator for NoDatabase {
    fn name(&self) -> &str {
        "none"
    }
    fn is_present(&self) -> bool {
        false
    }
    async fn preflight(&self) -> Result<Vec<Finding>> {
        Ok(vec![])
    }
    async fn start(&self, _: Direction) -> Result<()> {
        absent("database", "start the mirror")
    }
    async fn status(&self, _: Direction) -> Result<MirrorStatus> {
        Ok(MirrorStatus::Absent)
    }
    async fn arm(&self, _: Color, _: Duration) -> Result<Forecast> {
        absent("database", "arm the cut-over")
    }
    async fn fence(&self, _: Color, _: Duration) -> Result<Position> {
        absent("database", "fence")
    }
    async fn caught_up(&self, _: &Position) -> Result<bool> {
        absent("database", "prove")
    }
    async fn hand_over(&self, _: Color) -> Result<()> {
        absent("database", "hand over")
    }
    async fn promote(&self, _: Color) -> Result<()> {
        absent("database", "promote")
    }
    async fn unfence(&self, _: Color) -> Result<()> {
        Ok(())
    }
    async fn stop(&self, _: Color) -> Result<()> {
        Ok(())
    }
    async fn leftovers(&self) -> Result<Vec<String>> {
        Ok(vec![])
    }
}

#[async_trait]
impl HealthProbe for NoProbe {
    fn is_present(&self) -> bool {
        false
    }
    async fn check(&self, _: &Endpoint) -> Result<Health> {
        absent("probe", "check health")
    }
}

#[async_trait]
impl WriteGate for NoGate {
    fn name(&self) -> &str {
        "none"
    }
    fn is_present(&self) -> bool {
        false
    }
    async fn hold(&self, _: Duration) -> Result<()> {
        Ok(())
    }
    async fn point_at(&self, _: Color) -> Result<()> {
        Ok(())
    }
    async fn release(&self) -> Result<()> {
        Ok(())
    }
    async fn state(&self) -> Result<GateState> {
        Ok(GateState {
            held: false,
            at: Color::Blue,
        })
    }
}
