//! `compare`: the data of both sides, row by row, before any user or write is moved to green.

use super::step::{Context, Progress, Step};
use crate::error::Result;
use crate::journal::Note;
use crate::model::Direction;
use crate::plan::Parts;
use crate::provider::Comparison;
use crate::spec::Spec;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct Compare;

#[async_trait]
impl Step for Compare {
    fn describe(&self, _: &Spec, parts: &Parts) -> Vec<String> {
        let by = parts.database.as_deref().unwrap_or("nobody");
        vec![format!(
            "compare all rows of blue and green ({by}) while blue is written to; a row that differs stops it here"
        )]
    }

    async fn advance(&self, cx: &Context<'_>) -> Result<Progress> {
        let done = |n: &Note| matches!(n, Note::Compared { .. }).then_some(());
        if cx.own().last(done).is_some() {
            return Ok(Progress::Done);
        }
        // A mirror that broke is said to have broken, and not that rows differ.
        cx.mirror(Direction::BlueToGreen).await?;
        let comparison = cx.with.replicator.compare().await?;
        Ok(match comparison {
            Comparison::Running { .. } => cx.look(comparison.to_string()),
            Comparison::Same(compared) => Progress::Note(Note::Compared { compared }),
            Comparison::Different { .. } => Progress::Ask(format!(
                "green is not what blue is: {comparison}\nFind out who wrote to green or what broke its mirror; mend the rows, or \
                 abort and begin again. Run again, it compares again"
            )),
        })
    }

    async fn undo(&self, _: &Context<'_>) -> Result<Progress> {
        Ok(Progress::Done)
    }
}
