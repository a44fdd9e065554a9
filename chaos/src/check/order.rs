//! Is there an order? Given operations with begins and ends, and what each does to a state, this looks for one sequence in which
//! every operation does what it was seen to do and none comes before another that had ended before it began.
//!
//! The search is that of Wing and Gong, with Lowe's memory of what has been tried ("Testing for linearizability", 2016), as
//! porcupine does it: begins and ends stand in one list by time; an operation whose begin is reached before any end may be next;
//! at an end whose operation has no place yet, the last choice is taken back. In the worst case this is exponential, so it is
//! given a number of steps and says when they are used up.

use std::collections::HashSet;
use std::hash::Hash;

/// An operation with its begin and its end; one that never ended has `u64::MAX`.
#[derive(Clone, Debug)]
pub struct Timed<O> {
    /// When it was asked for.
    pub begun: u64,
    /// When its answer came.
    pub ended: u64,
    /// What it is.
    pub operation: O,
}

/// What the search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// There is one.
    Found,
    /// There is none. The operation that had no place in the longest sequence, by index, and how long that was.
    None {
        /// Which could not be placed.
        without_place: usize,
        /// How many could.
        placed: usize,
    },
    /// The steps are used up.
    TooMuch,
}

/// The list of begins and ends, linked both ways, so that taking an operation out and putting it back is cheap. Entry 0 is the
/// head; an index of 0 in `next` is the end.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Of each entry: the operation, and whether this is its begin.
    entries: Vec<(usize, bool)>,
    /// Of each operation: the entry of its end.
    ends: Vec<usize>,
}

impl List {
    fn new<O>(operations: &[Timed<O>]) -> Self {
        let mut entries: Vec<(u64, bool, usize)> = Vec::new();
        for (index, timed) in operations.iter().enumerate() {
            entries.push((timed.begun, false, index));
            entries.push((timed.ended, true, index));
        }
        // What touches counts as overlapping: clocks are not that fine.
        entries.sort_unstable();
        let mut list = Self {
            next: (1..=entries.len()).chain([0]).collect(),
            previous: std::iter::once(0).chain(0..entries.len()).collect(),
            entries: vec![(0, false)],
            ends: vec![0; operations.len()],
        };
        for (at, (_, is_end, operation)) in entries.into_iter().enumerate() {
            list.entries.push((operation, !is_end));
            if is_end {
                list.ends[operation] = at + 1;
            }
        }
        list
    }

    fn remove(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = next;
        if next != 0 {
            self.previous[next] = previous;
        }
    }

    fn restore(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = entry;
        if next != 0 {
            self.previous[next] = entry;
        }
    }

    /// Takes out an operation, begin and end.
    fn take(&mut self, begin: usize) {
        self.remove(begin);
        self.remove(self.ends[self.entries[begin].0]);
    }

    /// Puts it back, in the opposite order.
    fn put_back(&mut self, begin: usize) {
        self.restore(self.ends[self.entries[begin].0]);
        self.restore(begin);
    }
}

/// Looks for an order, in at most `steps` steps; what is left of them is left there.
pub fn search<S, O>(
    first: S,
    operations: &[Timed<O>],
    step: impl Fn(&S, &O) -> Option<S>,
    steps: &mut u64,
) -> Order
where
    S: Clone + Eq + Hash,
{
    let mut list = List::new(operations);
    let mut state = first;
    let mut placed = vec![0u64; operations.len().div_ceil(64)];
    let mut tried: HashSet<(Vec<u64>, S)> = HashSet::new();
    let mut choices: Vec<(usize, S)> = Vec::new();
    let mut longest = Order::None { without_place: 0, placed: 0 };
    let mut entry = list.next[0];
    while list.next[0] != 0 {
        if *steps == 0 {
            return Order::TooMuch;
        }
        *steps -= 1;
        // An open end at the list's end has `entry` 0 only when nothing is left.
        let (operation, is_begin) = list.entries[entry];
        if is_begin {
            if let Some(after) = step(&state, &operations[operation].operation) {
                placed[operation / 64] |= 1 << (operation % 64);
                if tried.insert((placed.clone(), after.clone())) {
                    choices.push((entry, std::mem::replace(&mut state, after)));
                    list.take(entry);
                    entry = list.next[0];
                    continue;
                }
                placed[operation / 64] &= !(1 << (operation % 64));
            }
            entry = list.next[entry];
            continue;
        }
        if let Order::None { placed: most, .. } = longest
            && (choices.len() > most || choices.is_empty() && most == 0)
        {
            longest = Order::None { without_place: operation, placed: choices.len() };
        }
        let Some((begin, before)) = choices.pop() else { return longest };
        let (operation, _) = list.entries[begin];
        placed[operation / 64] &= !(1 << (operation % 64));
        state = before;
        list.put_back(begin);
        entry = list.next[begin];
    }
    Order::Found
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// A register of small numbers: `(is it a write, the number)`.
    fn step(state: &u8, (writes, number): &(bool, u8)) -> Option<u8> {
        if *writes { Some(*number) } else { (state == number).then_some(*state) }
    }

    fn timed(begun: u64, ended: u64, operation: (bool, u8)) -> Timed<(bool, u8)> {
        Timed { begun, ended, operation }
    }

    #[test]
    fn overlapping_operations_may_be_in_either_order_and_others_may_not() {
        let both = |read: u8| {
            let operations =
                [timed(0, 10, (true, 1)), timed(5, 15, (true, 2)), timed(20, 30, (false, read))];
            search(0, &operations, step, &mut 1_000)
        };
        assert_eq!((both(1), both(2)), (Order::Found, Order::Found));
        assert_eq!(both(0), Order::None { without_place: 2, placed: 2 });
        let stale = [timed(0, 10, (true, 1)), timed(11, 15, (true, 2)), timed(20, 30, (false, 1))];
        assert!(matches!(search(0, &stale, step, &mut 1_000), Order::None { .. }));
    }

    #[test]
    fn what_never_ended_may_have_happened_late_or_not_at_all() {
        let open = timed(0, u64::MAX, (true, 1));
        for reads in [[0, 0], [0, 1], [1, 1]] {
            let operations =
                [open.clone(), timed(5, 6, (false, reads[0])), timed(7, 8, (false, reads[1]))];
            assert_eq!(search(0, &operations, step, &mut 1_000), Order::Found, "{reads:?}");
        }
        let back = [open, timed(5, 6, (false, 1)), timed(7, 8, (false, 0))];
        assert!(matches!(search(0, &back, step, &mut 1_000), Order::None { .. }));
    }

    #[test]
    fn too_much_work_is_said_and_is_no_answer() {
        let many: Vec<_> = (0..20).map(|n| timed(0, u64::MAX, (true, n))).collect();
        let read = [timed(1, 2, (false, 99))];
        let operations: Vec<_> = many.into_iter().chain(read).collect();
        assert_eq!(search(0, &operations, step, &mut 10_000), Order::TooMuch);
    }

    /// All orders of a few operations, tried one by one.
    fn by_hand(operations: &[Timed<(bool, u8)>], used: u32, state: u8) -> bool {
        if used.count_ones() as usize == operations.len() {
            return true;
        }
        let left = |index: &usize| used & (1 << index) == 0;
        (0..operations.len()).filter(left).any(|next| {
            let earlier = |other: usize| operations[other].ended < operations[next].begun;
            let is_early = (0..operations.len()).filter(left).any(earlier);
            let after = step(&state, &operations[next].operation);
            !is_early && after.is_some_and(|after| by_hand(operations, used | 1 << next, after))
        })
    }

    #[test]
    fn it_says_what_trying_all_orders_says() {
        let (mut found, mut none) = (0, 0);
        for seed in 0..3_000 {
            let mut coin = StdRng::seed_from_u64(seed);
            let operations: Vec<_> = (0..6)
                .map(|_| {
                    let begun = coin.random_range(0..12);
                    let ended = match coin.random_range(0..8) {
                        0 => u64::MAX,
                        _ => begun + coin.random_range(1..8),
                    };
                    timed(begun, ended, (coin.random_bool(0.5), coin.random_range(0..3)))
                })
                .collect();
            let expected = by_hand(&operations, 0, 0);
            let got = search(0, &operations, step, &mut 1_000_000);
            assert_eq!(got == Order::Found, expected, "seed {seed}: {operations:?}");
            if expected { found += 1 } else { none += 1 }
        }
        assert!(found > 300 && none > 300, "{found} and {none}");
    }
}
