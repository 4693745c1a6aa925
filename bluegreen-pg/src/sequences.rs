//! Sequences do not travel in a mirror: they are read at the writer and set at the other side, all of them.

use crate::connect::Session;
use crate::error::{Doing, fault};
use crate::ident::Relation;
use crate::{catalog, writers};
use bluegreen_core::{Kind, Result};
use std::sync::{Mutex, PoisonError};
use tokio_postgres::Statement;
use tokio_postgres::types::Type;

/// How many are read by one statement: a longer one is slow to plan.
const BATCH: usize = 400;

/// All sequences of the application, ready to be carried from one side to the other.
#[derive(Debug)]
pub(crate) struct Sequences {
    /// Their oids at the side they are carried to, in the order in which the statements read them.
    targets: Vec<u32>,
    read: Vec<Statement>,
    set: Statement,
    /// What was carried last: only what differs is set in the pause.
    carried: Mutex<Vec<Option<(i64, bool)>>>,
}

impl Sequences {
    /// Lists them at `from` and finds each at `to`.
    pub(crate) async fn prepare(from: &Session, to: &Session) -> Result<Self> {
        let doing = "prepare to carry the sequences";
        let all = catalog::sequences(from).await?;
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        let rows = to
            .query(
                "SELECT to_regclass(name)::oid FROM unnest($1::text[]) WITH ORDINALITY AS t (name, i) ORDER BY i",
                &[&names],
            )
            .await
            .doing(doing)?;
        let mut targets = Vec::with_capacity(all.len());
        for (row, sequence) in rows.iter().zip(&all) {
            targets.push(row.get::<_, Option<u32>>(0).ok_or_else(|| {
                fault(
                    Kind::Diverged,
                    doing,
                    format!("the sequence {sequence} is not at the other side: create it there"),
                )
            })?);
        }
        let mut read = Vec::new();
        for batch in all.chunks(BATCH) {
            read.push(from.prepare(&read_sql(batch)).await.doing(doing)?);
        }
        let set = to
            .prepare_typed(
                &format!(
                    "SELECT setval(o::regclass, v, c) FROM unnest($1, $2, $3) AS t (o, v, c) WHERE {}",
                    writers::CLOSED
                ),
                &[Type::OID_ARRAY, Type::INT8_ARRAY, Type::BOOL_ARRAY],
            )
            .await
            .doing(doing)?;
        Ok(Self {
            carried: Mutex::new(vec![None; targets.len()]),
            targets,
            read,
            set,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> i64 {
        i64::try_from(self.targets.len()).unwrap_or(i64::MAX)
    }

    /// Reads them where they count.
    pub(crate) async fn read(&self, from: &Session) -> Result<Vec<(i64, bool)>> {
        let mut values = Vec::with_capacity(self.targets.len());
        for statement in &self.read {
            for row in from.query(statement, &[]).await.doing("read the sequences")? {
                values.push((row.get(0), row.get(1)));
            }
        }
        Ok(values)
    }

    /// Sets those that changed since the last time, in one statement. Nothing where their side takes writes: a statement that is
    /// late, of somebody who was cut off, would take back numbers that were given out.
    pub(crate) async fn set(&self, to: &Session, values: Vec<(i64, bool)>) -> Result<()> {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut oids, mut last, mut called) = (Vec::new(), Vec::new(), Vec::new());
        for (i, value) in values.iter().enumerate() {
            if carried[i] != Some(*value) {
                oids.push(self.targets[i]);
                last.push(value.0);
                called.push(value.1);
            }
        }
        if !oids.is_empty() {
            let doing = "set the sequences";
            let set = to.query(&self.set, &[&oids, &last, &called]).await.doing(doing)?;
            if set.len() != oids.len() {
                let why = "their side takes writes: it has given out numbers of its own";
                return Err(fault(Kind::Diverged, doing, why));
            }
        }
        *self.carried.lock().unwrap_or_else(PoisonError::into_inner) = values.into_iter().map(Some).collect();
        Ok(())
    }
}

fn read_sql(batch: &[Relation]) -> String {
    let parts: Vec<String> = batch
        .iter()
        .enumerate()
        .map(|(i, s)| format!("SELECT last_value, is_called, {i} AS i FROM {s}"))
        .collect();
    format!("{} ORDER BY i", parts.join(" UNION ALL "))
}
