//! Whether rows without a key differ: each is known by its digest, and counted. As with a key, the follower has what the writer
//! had at some moment between two counts of the writer's. It differs when it has fewer than stood there all the while, or when more
//! stood at the follower than the writer had.

use super::plan::{Bound, Table};
use super::rows::{ENOUGH, Found};
use super::sides::{Count, Settling, Sides};
use bluegreen_core::Result;
use std::collections::BTreeMap;

/// How often rows that move all the while are counted before it is said that this could not be settled.
const LOOKS: u32 = 12;

/// How often a count must be seen to differ: a commit is in the log a moment before its own server shows it.
const SURE: u32 = 2;

/// How often a count must lie between the writer's before and after.
const BETWEEN: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As often, and nothing moved.
    Alike,
    /// As often as the writer may have had it.
    Between,
    Differs,
    Moves,
}

/// Which of these really differ.
pub(super) async fn confirm(
    sides: &Sides,
    table: &Table,
    settling: &Settling<'_>,
    suspects: &[Bound],
) -> Result<Found> {
    let (writer, follower) = (settling.writer(), settling.writer().other());
    let mut found = Found::default();
    // How often each was seen to differ, and how often it was between.
    let mut open: BTreeMap<i64, (u32, u32)> = suspects
        .iter()
        .filter_map(|key| Some((key.first()?.parse().ok()?, (0, 0))))
        .collect();
    let mut earlier: Option<String> = None;
    for look in 1..=LOOKS {
        let digests: Vec<i64> = open.keys().copied().collect();
        let horizon = sides.horizon(writer).await?;
        let before = sides.counts(writer, table, &digests, None).await?;
        settling.settle().await?;
        let there_horizon = sides.horizon(follower).await?;
        let there = sides.counts(follower, table, &digests, earlier.as_deref()).await?;
        let after = sides.counts(writer, table, &digests, Some(&horizon)).await?;
        earlier = Some(there_horizon);
        open.retain(|digest, (differed, between)| {
            let of = |counts: &std::collections::HashMap<i64, Count>| counts.get(digest).copied().unwrap_or_default();
            match judge(of(&before), of(&there), of(&after)) {
                Verdict::Alike => return false,
                Verdict::Between => *between += 1,
                Verdict::Differs => *differed += 1,
                Verdict::Moves => {}
            }
            let key = || vec![digest.to_string()];
            if *differed >= SURE {
                found.different.push(key());
                return false;
            }
            let calm = *differed == 0 && *between > 0;
            if calm && (*between >= BETWEEN || look == LOOKS) {
                return false;
            }
            if look == LOOKS {
                found.moving.push(key());
            }
            true
        });
        if open.is_empty() || found.different.len() >= ENOUGH {
            break;
        }
    }
    Ok(found)
}

/// `after.old` are those that were there `before` too, `there.old` those of the follower's that were there at the look before.
fn judge(before: Count, there: Count, after: Count) -> Verdict {
    if there.all < after.old || there.old > before.all {
        Verdict::Differs
    } else if before.all == there.all && after.all == there.all && after.old == after.all {
        Verdict::Alike
    } else if (before.all.min(after.all)..=before.all.max(after.all)).contains(&there.all) {
        Verdict::Between
    } else {
        Verdict::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(before: i64, there: (i64, i64), after: (i64, i64)) -> Verdict {
        let count = |(all, old)| Count { all, old };
        judge(count((before, 0)), count(there), count(after))
    }

    #[test]
    fn only_what_stood_still_is_missing_or_too_many() {
        assert_eq!(judged(5, (5, 0), (5, 5)), Verdict::Alike);
        assert_eq!(judged(5, (4, 0), (5, 5)), Verdict::Differs);
        assert_eq!(judged(0, (1, 0), (0, 0)), Verdict::Moves, "it may have come and gone");
        assert_eq!(judged(0, (1, 1), (0, 0)), Verdict::Differs);
        assert_eq!(judged(5, (6, 6), (5, 5)), Verdict::Differs);
        // Rows come.
        assert_eq!(judged(5, (7, 5), (9, 5)), Verdict::Between);
        assert_eq!(judged(5, (4, 4), (9, 5)), Verdict::Differs);
        // They come and go: fewer than at both moments, and more.
        assert_eq!(judged(5, (3, 2), (5, 2)), Verdict::Moves);
        assert_eq!(judged(5, (8, 2), (5, 2)), Verdict::Moves);
        assert_eq!(judged(5, (5, 3), (5, 3)), Verdict::Between, "others that are as many");
    }
}
