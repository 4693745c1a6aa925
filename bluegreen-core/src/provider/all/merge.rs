//! What several databases are together: their mirrors, their comparisons, their positions. Pure.

use crate::error::{Error, Result};
use crate::model::Position;
use crate::provider::{Compared, Comparison, Difference, Lag, MirrorStatus, Progress};
use std::collections::BTreeMap;
use std::time::Duration;

/// The worst of all: a mirror that failed, one that cannot be seen, one that must be started, and so on down to streaming.
pub(super) fn status(parts: Vec<(&str, Result<MirrorStatus>)>) -> Result<MirrorStatus> {
    let (mut failed, mut errors, mut seen) = (vec![], vec![], vec![]);
    for (name, answer) in parts {
        match answer {
            Ok(MirrorStatus::Failed { kind, why }) => failed.push((kind, format!("{name}: {why}"))),
            Ok(status) => seen.push((name, status)),
            Err(e) => errors.push(e),
        }
    }
    if let Some(kind) = failed.iter().map(|(kind, _)| *kind).min_by_key(|kind| kind.gravity()) {
        let why = failed
            .into_iter()
            .map(|(_, why)| why)
            .collect::<Vec<_>>()
            .join("; and ");
        return Ok(MirrorStatus::Failed { kind, why });
    }
    if !errors.is_empty() {
        let first = errors.remove(0);
        return Err(Error::several("look at the mirrors", first, errors));
    }
    if seen.is_empty() || seen.iter().any(|(_, s)| *s == MirrorStatus::Absent) {
        return Ok(MirrorStatus::Absent);
    }
    if let Some(copying) = copying(&seen) {
        return Ok(copying);
    }
    let preparing = seen.iter().filter_map(|(name, s)| match s {
        MirrorStatus::Preparing(what) => Some(format!("{name}: {what}")),
        _ => None,
    });
    let preparing: Vec<String> = preparing.collect();
    if !preparing.is_empty() {
        return Ok(MirrorStatus::Preparing(preparing.join("; ")));
    }
    let lags: Option<Vec<Lag>> = seen
        .iter()
        .map(|(_, s)| {
            if let MirrorStatus::Streaming(lag) = s {
                Some(*lag)
            } else {
                None
            }
        })
        .collect();
    Ok(lags.map_or(MirrorStatus::Armed, |lags| {
        MirrorStatus::Streaming(Lag {
            bytes: lags.iter().map(|lag| lag.bytes).max().unwrap_or_default(),
            time: slowest(lags.iter().map(|lag| lag.time)),
        })
    }))
}

/// All copies that run, as one; none when none does.
fn copying(seen: &[(&str, MirrorStatus)]) -> Option<MirrorStatus> {
    let (mut all_rows, mut all_bytes) = (Progress::default(), Progress::default());
    let (mut stages, mut lefts) = (vec![], vec![]);
    for (name, status) in seen {
        if let MirrorStatus::Copying {
            rows,
            bytes,
            stage,
            left,
        } = status
        {
            add(&mut all_rows, *rows);
            add(&mut all_bytes, *bytes);
            stages.push(format!("{name}: {stage}"));
            lefts.push(*left);
        }
    }
    (!stages.is_empty()).then(|| MirrorStatus::Copying {
        rows: all_rows,
        bytes: all_bytes,
        stage: stages.join(", "),
        left: slowest(lefts.into_iter()),
    })
}

fn add(sum: &mut Progress, more: Progress) {
    sum.done = sum.done.saturating_add(more.done);
    sum.total = sum.total.saturating_add(more.total);
}

/// The longest; none when one of them is not known.
fn slowest(mut all: impl Iterator<Item = Option<Duration>>) -> Option<Duration> {
    all.try_fold(Duration::ZERO, |longest, one| Some(longest.max(one?)))
}

/// Under way while one of them is, different when one is, else the same.
pub(super) fn comparison(parts: Vec<(&str, Comparison)>) -> Comparison {
    let (mut rows, mut bytes, mut tables) = (Progress::default(), Progress::default(), 0);
    let (mut running, mut different, mut lefts) = (false, false, vec![]);
    let (mut all, mut more) = (vec![], 0_u64);
    let whole = |n: u64| Progress { done: n, total: n };
    for (name, part) in parts {
        let compared = match part {
            Comparison::Running {
                rows: r,
                bytes: b,
                left,
            } => {
                running = true;
                add(&mut rows, r);
                add(&mut bytes, b);
                lefts.push(left);
                continue;
            }
            Comparison::Same(compared) => compared,
            Comparison::Different {
                compared,
                differences,
                more: others,
            } => {
                different = true;
                more = more.saturating_add(others);
                all.extend(differences.into_iter().map(|difference| Difference {
                    table: format!("{name}: {}", difference.table),
                    ..difference
                }));
                compared
            }
        };
        add(&mut rows, whole(compared.rows));
        add(&mut bytes, whole(compared.bytes));
        tables += compared.tables;
    }
    if running {
        let left = slowest(lefts.into_iter());
        return Comparison::Running { rows, bytes, left };
    }
    let compared = Compared {
        tables,
        rows: rows.total,
        bytes: bytes.total,
    };
    if different {
        return Comparison::Different {
            compared,
            differences: all,
            more,
        };
    }
    Comparison::Same(compared)
}

/// A position in each of them, as one.
pub(super) fn position(parts: Vec<(&str, Position)>) -> Result<Position> {
    let all: BTreeMap<&str, &str> = parts
        .iter()
        .map(|(name, position)| (*name, position.as_str()))
        .collect();
    let text = serde_json::to_string(&all).map_err(|e| Error::invalid("write the positions down", e.to_string()))?;
    Ok(Position::new(text))
}

/// The position of each, in the order of the names.
pub(super) fn positions(position: &Position, names: &[&str]) -> Result<Vec<Position>> {
    let wrong = |what: String| Error::invalid("read the positions", what);
    let mut all: BTreeMap<String, String> = serde_json::from_str(position.as_str())
        .map_err(|e| wrong(format!("{position} is not one of several databases: {e}")))?;
    let found = names.iter().map(|name| {
        let found = all.remove(*name).map(Position::new);
        found.ok_or_else(|| wrong(format!("{position} says nothing of {name}")))
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    match all.into_keys().next() {
        Some(unknown) => Err(wrong(format!(
            "{position} is of {unknown} too, which is not moved here"
        ))),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Kind;
    use MirrorStatus::{Absent, Armed, Preparing, Streaming};

    fn streaming(bytes: u64, millis: Option<u64>) -> MirrorStatus {
        let time = millis.map(Duration::from_millis);
        Streaming(Lag { bytes, time })
    }

    fn copying(done: u64, left: Option<u64>) -> MirrorStatus {
        MirrorStatus::Copying {
            rows: Progress { done, total: 100 },
            bytes: Progress {
                done: 10 * done,
                total: 1000,
            },
            stage: "copy".into(),
            left: left.map(Duration::from_secs),
        }
    }

    fn failed(kind: Kind) -> MirrorStatus {
        MirrorStatus::Failed {
            kind,
            why: "broke".into(),
        }
    }

    fn of(first: MirrorStatus, second: MirrorStatus) -> MirrorStatus {
        status(vec![("a", Ok(first)), ("b", Ok(second))]).unwrap()
    }

    #[test]
    fn the_status_is_the_worst_of_all() {
        let preparing = || Preparing("its worker starts".into());
        assert_eq!(of(streaming(5, Some(7)), streaming(9, Some(3))), streaming(9, Some(7)));
        assert_eq!(of(streaming(5, None), streaming(9, Some(3))), streaming(9, None));
        assert_eq!(of(streaming(5, Some(7)), Armed), Armed);
        assert_eq!(of(Armed, Absent), Absent);
        assert_eq!(of(copying(1, Some(1)), Absent), Absent);
        assert_eq!(of(preparing(), Armed), Preparing("a: its worker starts".into()));
        assert!(matches!(
            of(preparing(), copying(1, None)),
            MirrorStatus::Copying { .. }
        ));
        let worst = of(failed(Kind::Unavailable), failed(Kind::Diverged));
        let MirrorStatus::Failed { kind, why } = worst else {
            panic!("{worst}")
        };
        assert!(
            kind == Kind::Diverged && why.contains("a: broke") && why.contains("b: broke"),
            "{why}"
        );
        let MirrorStatus::Failed { why, .. } = of(copying(1, None), failed(Kind::Unavailable)) else {
            panic!()
        };
        assert_eq!(why, "b: broke");
    }

    #[test]
    fn what_cannot_be_seen_is_not_streaming() {
        let unseen = || Err(Error::new(Kind::Unavailable, "look", "refused"));
        let e = status(vec![("a", Ok(streaming(0, Some(1)))), ("b", unseen())]).unwrap_err();
        assert_eq!(e.kind(), Kind::Unavailable);
        assert!(status(vec![("a", unseen()), ("b", Ok(failed(Kind::Diverged)))]).is_ok());
    }

    #[test]
    fn copies_are_added_up() {
        let both = of(copying(20, Some(5)), copying(30, Some(9)));
        let MirrorStatus::Copying {
            rows,
            bytes,
            stage,
            left,
        } = both
        else {
            panic!("{both}")
        };
        assert_eq!((rows.done, rows.total, bytes.done), (50, 200, 500));
        assert_eq!(
            (stage.as_str(), left),
            ("a: copy, b: copy", Some(Duration::from_secs(9)))
        );
        let MirrorStatus::Copying { left, .. } = of(copying(20, None), copying(30, Some(9))) else {
            panic!()
        };
        assert_eq!(left, None, "nobody can tell");
    }

    #[test]
    fn positions_are_read_back_by_name_and_only_whole() {
        let both = position(vec![("b", Position::new("blue 1 \"0/2\"")), ("a", Position::new("x"))]).unwrap();
        let read = positions(&both, &["b", "a"]).unwrap();
        assert_eq!(read, [Position::new("blue 1 \"0/2\""), Position::new("x")]);
        for names in [&["a"][..], &["a", "b", "c"], &["a", "c"]] {
            assert_eq!(positions(&both, names).unwrap_err().kind(), Kind::InvalidInput);
        }
        assert!(positions(&Position::new("blue 1 0/2"), &["a"]).is_err());
    }
}
