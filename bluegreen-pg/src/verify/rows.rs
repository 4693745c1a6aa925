//! From a range that differs to the rows that do, and to whether that is real: a row is different when the follower still
//! has another one after it was told all that the writer had, and the writer's did not move meanwhile.

use super::plan::{Bound, Range, Table};
use super::sides::{Settling, Sides};
use bluegreen_core::{Color, ColumnDifference, Difference, Differs, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How many rows are looked at one by one at a time.
const AT_A_TIME: usize = 500;

/// How often a row that moves all the while is looked at before it is said that this could not be settled.
const LOOKS: u32 = 40;

/// How often a row must be seen to differ at rest: once could be a change that went there and back between two looks.
const SURE: u32 = 2;

/// What rows came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Keys whose rows differ.
    pub(super) different: Vec<Bound>,
    /// Keys whose rows moved at every look.
    pub(super) moving: Vec<Bound>,
}

/// The rows of a range that are not alike, as they stand.
pub(super) async fn suspects(sides: &Sides, table: &Table, range: &Range) -> Result<Vec<Bound>> {
    let [blue, green] = sides.rows(table, &table.rows_of(range)).await?;
    Ok(unlike(blue, green))
}

/// The same of some parts of a table that is not walked.
pub(super) async fn suspects_of_buckets(sides: &Sides, table: &Table, buckets: &[i64]) -> Result<Vec<Bound>> {
    let [blue, green] = sides.rows(table, &table.rows_of_buckets(buckets)).await?;
    Ok(unlike(blue, green))
}

/// Keys that one side has more often than the other, or with another row. Rows without a key are counted by their digest.
fn unlike(blue: Vec<(Bound, i64)>, green: Vec<(Bound, i64)>) -> Vec<Bound> {
    let mut balance: BTreeMap<(Bound, i64), i64> = BTreeMap::new();
    for row in blue {
        *balance.entry(row).or_default() += 1;
    }
    for row in green {
        *balance.entry(row).or_default() -= 1;
    }
    let keys: BTreeSet<Bound> = balance
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|((key, _), _)| key)
        .collect();
    keys.into_iter().collect()
}

/// Which of these rows really differ.
pub(super) async fn confirm(
    sides: &Sides,
    table: &Table,
    settling: &Settling<'_>,
    suspects: &[Bound],
) -> Result<Found> {
    let mut found = Found::default();
    for some in suspects.chunks(AT_A_TIME) {
        confirm_some(sides, table, settling, some, &mut found).await?;
    }
    Ok(found)
}

async fn confirm_some(
    sides: &Sides,
    table: &Table,
    settling: &Settling<'_>,
    suspects: &[Bound],
    found: &mut Found,
) -> Result<()> {
    let (writer, follower) = (settling.writer(), settling.writer().other());
    // How often each was seen to differ while the writer's row stood still.
    let mut open: BTreeMap<Bound, u32> = suspects.iter().map(|key| (key.clone(), 0)).collect();
    for _ in 0..LOOKS {
        let keys: Vec<Bound> = open.keys().cloned().collect();
        let sql = table.rows_of_keys(&keys);
        let before: HashMap<Bound, i64> = sides.rows_at(writer, table, &sql).await?.into_iter().collect();
        settling.settle().await?;
        let there: HashMap<Bound, i64> = sides.rows_at(follower, table, &sql).await?.into_iter().collect();
        let after: HashMap<Bound, i64> = sides.rows_at(writer, table, &sql).await?.into_iter().collect();
        open.retain(|key, seen| {
            let (before, there, after) = (before.get(key), there.get(key), after.get(key));
            if there == before || there == after {
                return false;
            }
            if before == after {
                *seen += 1;
            }
            if *seen >= SURE {
                found.different.push(key.clone());
            }
            *seen < SURE
        });
        if open.is_empty() {
            return Ok(());
        }
    }
    found.moving.extend(open.into_keys());
    Ok(())
}

/// A difference in a person's words: the row, and the columns of it that differ.
pub(super) async fn describe(sides: &Sides, table: &Table, key: &Bound) -> Result<Difference> {
    let (blue, green) = (
        sides.values(Color::Blue, table, key).await?,
        sides.values(Color::Green, table, key).await?,
    );
    let named = |values: Vec<Option<String>>| table.columns.iter().map(|c| c.name.clone()).zip(values);
    let differs = if table.key.is_empty() {
        let (at_blue, at_green) = (
            sides.count(Color::Blue, table, key).await?,
            sides.count(Color::Green, table, key).await?,
        );
        Differs::times(at_blue, at_green, named(blue.or(green).unwrap_or_default()))
    } else {
        match (blue, green) {
            (Some(blue), Some(green)) => {
                let unlike = named(blue).zip(green).filter(|((_, blue), green)| blue != green);
                Differs::Columns(unlike.map(|((c, b), g)| ColumnDifference::new(c, b, g)).collect())
            }
            (Some(_), None) => Differs::OnlyAt(Color::Blue),
            (None, Some(_)) => Differs::OnlyAt(Color::Green),
            (None, None) => Differs::Columns(vec![]),
        }
    };
    Ok(Difference {
        table: table.relation.to_string(),
        row: table.name_of(key),
        differs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlike_rows_are_found_by_key_and_counted_without_one() {
        let row = |key: &str, digest| (vec![key.to_owned()], digest);
        let blue = vec![
            row("same", 1),
            row("changed", 2),
            row("gone", 3),
            row("9", 9),
            row("9", 9),
        ];
        let green = vec![row("changed", 4), row("same", 1), row("new", 5), row("9", 9)];
        let keys: Vec<String> = unlike(blue, green).concat();
        assert_eq!(keys, ["9", "changed", "gone", "new"]);
    }
}
