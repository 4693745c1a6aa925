//! From a range that differs to the rows that do, and to whether that is real. After a marker the follower has what the writer
//! had at some moment between two looks at the writer: a row is different when it is not that, because the writer's stood
//! still all the while, or because the follower's did.

use super::plan::{Bound, Range, Table};
use super::sides::{Rows, Seen, Settling, Sides};
use bluegreen_core::{Color, ColumnDifference, Difference, Differs, Result};
use std::collections::{BTreeMap, BTreeSet};

/// After so many rows that differ it is said that they do, and no more is looked for.
pub(super) const ENOUGH: usize = 1_000;

/// How many rows are looked at one by one at a time.
const AT_A_TIME: usize = 2_000;

/// How often a row that moves all the while is looked at before it is said that this could not be settled.
const LOOKS: u32 = 40;

/// How often a row must be seen to differ: a commit is in the log a moment before its own server shows it.
const SURE: u32 = 2;

/// Where rows move at each of the first looks, so many rows are read in one look, as many times as that makes: of one that
/// changes a thousand times a second hardly a state is missed.
const BURST: (u32, usize) = (2, 4_096);

/// So many times at most.
const MOST: usize = 128;

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
        if found.different.len() >= ENOUGH {
            break;
        }
    }
    Ok(found)
}

/// A row that is not settled yet.
#[derive(Debug, Default)]
struct Open {
    /// How often it was seen to differ.
    differed: u32,
    /// The follower's, at the end of the look before.
    earlier: Option<Seen>,
}

async fn confirm_some(
    sides: &Sides,
    table: &Table,
    settling: &Settling<'_>,
    suspects: &[Bound],
    found: &mut Found,
) -> Result<()> {
    let (writer, follower) = (settling.writer(), settling.writer().other());
    let mut open: BTreeMap<Bound, Open> = suspects.iter().map(|key| (key.clone(), Open::default())).collect();
    for look in 0..LOOKS {
        let keys: Vec<Bound> = open.keys().cloned().collect();
        let sql = table.rows_of_keys(&keys);
        let times = times(look, keys.len());
        let mut at_writer = sides.looks(writer, table, &sql, 1).await?;
        settling.settle().await?;
        let (at_follower, meanwhile) = tokio::try_join!(
            sides.looks(follower, table, &sql, times),
            sides.looks(writer, table, &sql, times - 1)
        )?;
        at_writer.extend(meanwhile);
        at_writer.extend(sides.looks(writer, table, &sql, 1).await?);
        open.retain(|key, row| {
            let of = |looks: &[Rows]| looks.iter().map(|rows| rows.get(key).copied()).collect::<Vec<_>>();
            let (at_writer, at_follower) = (of(&at_writer), of(&at_follower));
            match judge(&at_writer, &at_follower, row.earlier) {
                Verdict::Alike => return false,
                Verdict::Differs => row.differed += 1,
                Verdict::Moves => {}
            }
            row.earlier = at_follower.last().copied().flatten();
            if row.differed >= SURE {
                found.different.push(key.clone());
            }
            row.differed < SURE
        });
        if open.is_empty() {
            return Ok(());
        }
    }
    found.moving.extend(open.into_keys());
    Ok(())
}

/// How many times each side is read in a look at so many rows.
fn times(look: u32, rows: usize) -> usize {
    if look < BURST.0 {
        1
    } else {
        (BURST.1 / rows.max(1)).clamp(1, MOST)
    }
}

/// What a look at a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Alike,
    Differs,
    Moves,
}

/// `at_writer` begins before the marker and ends after all of `at_follower`, which begins when it has arrived. `earlier` is the
/// follower's at the look before. What is absent may have been there in between: only what is present stands still.
fn judge(at_writer: &[Option<Seen>], at_follower: &[Option<Seen>], earlier: Option<Seen>) -> Verdict {
    let digest = |seen: &Option<Seen>| seen.map(|s| s.digest);
    let had: BTreeSet<Option<i64>> = at_writer.iter().map(digest).collect();
    if at_follower.iter().any(|seen| had.contains(&digest(seen))) {
        return Verdict::Alike;
    }
    let stood_still = |seen: Option<Seen>, again: Option<&Option<Seen>>| seen.is_some() && again == Some(&seen);
    let writer_did = stood_still(at_writer.first().copied().flatten(), at_writer.last());
    if writer_did || stood_still(earlier, at_follower.first()) {
        Verdict::Differs
    } else {
        Verdict::Moves
    }
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

    const fn seen(digest: i64, writer: i64) -> Option<Seen> {
        Some(Seen { digest, writer })
    }

    #[test]
    fn what_goes_there_and_back_stands_not_still() {
        let (here, there) = (seen(1, 10), seen(2, 11));
        // One that the writer had before or after, and one that it had in between.
        assert_eq!(judge(&[here, there], &[seen(2, 7)], None), Verdict::Alike);
        assert_eq!(
            judge(&[here, there, seen(3, 12)], &[seen(9, 7), seen(2, 8)], None),
            Verdict::Alike
        );
        assert_eq!(judge(&[here, here], &[seen(2, 7)], None), Verdict::Differs);
        assert_eq!(judge(&[here, here], &[None], None), Verdict::Differs);
        // The same values, written again.
        assert_eq!(judge(&[here, seen(1, 12)], &[seen(2, 7)], None), Verdict::Moves);
        assert_eq!(judge(&[here, seen(1, 12)], &[seen(2, 8)], seen(2, 7)), Verdict::Moves);
        assert_eq!(judge(&[here, seen(1, 12)], &[None], None), Verdict::Moves);
        // It came and went, or it never was there.
        assert_eq!(judge(&[None, None], &[seen(2, 7)], None), Verdict::Moves);
        assert_eq!(judge(&[None, None], &[seen(2, 8)], seen(2, 7)), Verdict::Moves);
        assert_eq!(judge(&[None, None], &[seen(2, 7)], seen(2, 7)), Verdict::Differs);
        assert_eq!(judge(&[None, None], &[None], seen(2, 7)), Verdict::Alike);
    }

    #[test]
    fn few_rows_that_move_are_read_often() {
        assert_eq!(
            [times(0, 1), times(2, 1), times(2, 100), times(9, 5_000)],
            [1, MOST, 40, 1]
        );
    }
}
