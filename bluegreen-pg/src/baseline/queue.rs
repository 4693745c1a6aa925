//! Which stream copies what next. Pure.

use super::plan::{Load, Piece};
use std::collections::VecDeque;

/// The loads and what of each is still to be done.
#[derive(Debug)]
pub(super) struct Queue {
    open: Vec<Open>,
    /// Pieces that a stream has and that are not in yet.
    under_way: usize,
}

#[derive(Debug)]
struct Open {
    pieces: VecDeque<Piece>,
    begun: bool,
    /// Pieces that are not in yet, those under way included.
    missing: usize,
}

impl Queue {
    /// Of loads that come largest first.
    pub(super) fn new(loads: &[Load]) -> Self {
        let open = loads
            .iter()
            .map(|load| Open {
                pieces: load.pieces.iter().cloned().collect(),
                begun: false,
                missing: load.pieces.len(),
            })
            .collect();
        Self { open, under_way: 0 }
    }

    /// The next piece for a stream that was at the load `at`: it stays there, so that rows keep their order; else it takes
    /// the largest that nobody began; else it helps where most is left, from the end.
    pub(super) fn next(&mut self, at: Option<usize>) -> Option<(usize, Piece)> {
        let next = self.take(at);
        self.under_way += usize::from(next.is_some());
        next
    }

    fn take(&mut self, at: Option<usize>) -> Option<(usize, Piece)> {
        let stays = at.filter(|i| self.open.get(*i).is_some_and(|o| !o.pieces.is_empty()));
        let fresh = || self.open.iter().position(|o| !o.begun && !o.pieces.is_empty());
        if let Some(i) = stays.or_else(fresh) {
            self.open[i].begun = true;
            return self.open[i].pieces.pop_front().map(|p| (i, p));
        }
        let left = |o: &Open| o.pieces.iter().map(|p| p.bytes).sum::<u64>();
        let i = (0..self.open.len())
            .filter(|i| !self.open[*i].pieces.is_empty())
            .max_by_key(|i| left(&self.open[*i]))?;
        self.open[i].pieces.pop_back().map(|p| (i, p))
    }

    /// A piece of the load is in. Whether all of them are.
    pub(super) fn is_in(&mut self, load: usize) -> bool {
        self.under_way -= 1;
        self.open[load].missing -= 1;
        self.open[load].missing == 0
    }

    /// How many indexes may be made at a time; those that are being made are not ended when it is less. What is copied when
    /// nothing is left to take is what all wait for in the end: from then on one is begun only in the place of a stream that is
    /// through, but one is always made.
    /// A stream that is held back for blue's sake counts as busy.
    pub(super) fn builders(&self, jobs: usize) -> usize {
        if self.is_empty() {
            jobs.saturating_sub(self.under_way).max(1)
        } else {
            jobs
        }
    }

    /// Whether there is nothing left to take.
    pub(super) fn is_empty(&self) -> bool {
        self.open.iter().all(|o| o.pieces.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(first: i32, sizes: &[u64]) -> Load {
        let pieces = sizes
            .iter()
            .zip(first..)
            .map(|(bytes, step)| Piece {
                step,
                read: String::new(),
                write: String::new(),
                bytes: *bytes,
                name: String::new(),
            })
            .collect();
        Load {
            tables: Vec::new(),
            pieces,
        }
    }

    #[test]
    fn a_stream_stays_with_its_table_then_takes_another_then_helps() {
        let mut queue = Queue::new(&[load(10, &[5, 5, 5, 5]), load(20, &[4, 4]), load(30, &[1])]);
        let mut take = |at| queue.next(at).map(|(i, p)| (i, p.step));
        assert_eq!(take(None), Some((0, 10)));
        assert_eq!(take(None), Some((1, 20)));
        assert_eq!(take(Some(1)), Some((1, 21)));
        assert_eq!(take(Some(1)), Some((2, 30)));
        assert_eq!(take(Some(2)), Some((0, 13)), "it helps from the end");
        assert_eq!(take(Some(0)), Some((0, 11)));
        assert_eq!(take(Some(0)), Some((0, 12)));
        assert_eq!(take(Some(0)), None);
        assert!(queue.is_empty());
        assert!(queue.is_in(2));
        assert!(!queue.is_in(1));
        assert!(queue.is_in(1));
    }

    #[test]
    fn at_the_end_of_the_rows_an_index_gets_no_more_than_an_idle_streams_place() {
        let mut queue = Queue::new(&[load(10, &[5]), load(20, &[4]), load(30, &[3]), load(40, &[2])]);
        for _ in 0..3 {
            queue.next(None);
        }
        assert_eq!(
            queue.builders(4),
            4,
            "there is more to copy: it is the same work in any order"
        );
        queue.next(None);
        assert_eq!(
            queue.builders(4),
            1,
            "every stream is at its last piece, and one index may be made all the same"
        );
        queue.is_in(0);
        assert_eq!(queue.builders(4), 1);
        queue.is_in(2);
        assert_eq!(queue.builders(4), 2);
        queue.is_in(1);
        queue.is_in(3);
        assert!(queue.next(None).is_none() && queue.next(Some(0)).is_none());
        assert_eq!(queue.builders(4), 4, "all rows are in");
        assert_eq!(Queue::new(&[]).builders(2), 2, "there were none");
    }
}
