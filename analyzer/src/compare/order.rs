//! Which elements of two sequences stand in the same order: the longest common subsequence, or close to it.

use foldhash::{HashMap, HashMapExt};
use std::ops::Range;

/// Elements with this class equal nothing.
pub const NONE: u32 = u32::MAX;

/// Below this many cells the exact table is filled; above, elements that are unique on both sides divide the task.
const TABLE: usize = 250_000;

/// Deeper divisions than this are not worth it.
const MAX_DEPTH: u8 = 40;

/// Pairs of positions with equal classes, rising on both sides. Linear for sequences that are nearly equal; exact where the
/// differing parts are short.
pub fn common(expected: &[u32], actual: &[u32]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::with_capacity(expected.len().min(actual.len()));
    divide(expected, actual, 0..expected.len(), 0..actual.len(), 0, &mut pairs);
    pairs
}

fn equal(one: u32, other: u32) -> bool {
    one == other && one != NONE
}

fn divide(
    expected: &[u32],
    actual: &[u32],
    mut left: Range<usize>,
    mut right: Range<usize>,
    depth: u8,
    pairs: &mut Vec<(usize, usize)>,
) {
    while !left.is_empty() && !right.is_empty() && equal(expected[left.start], actual[right.start]) {
        pairs.push((left.start, right.start));
        left.start += 1;
        right.start += 1;
    }
    let mut tail = 0;
    while left.len() > tail && right.len() > tail && equal(expected[left.end - 1 - tail], actual[right.end - 1 - tail]) {
        tail += 1;
    }
    left.end -= tail;
    right.end -= tail;
    if !left.is_empty() && !right.is_empty() {
        if left.len().saturating_mul(right.len()) <= TABLE {
            table(expected, actual, &left, &right, pairs);
        } else {
            let anchors = if depth < MAX_DEPTH { unique(expected, actual, &left, &right) } else { Vec::new() };
            if anchors.is_empty() {
                pairs.extend(rising(&nth_with_nth(expected, actual, &left, &right)));
            } else {
                let (mut from_left, mut from_right) = (left.start, right.start);
                for (one, other) in anchors {
                    divide(expected, actual, from_left..one, from_right..other, depth + 1, pairs);
                    pairs.push((one, other));
                    (from_left, from_right) = (one + 1, other + 1);
                }
                divide(expected, actual, from_left..left.end, from_right..right.end, depth + 1, pairs);
            }
        }
    }
    pairs.extend((0..tail).map(|offset| (left.end + offset, right.end + offset)));
}

/// The longest common subsequence by the textbook's table. Of equal choices the earliest pairs win.
fn table(expected: &[u32], actual: &[u32], left: &Range<usize>, right: &Range<usize>, pairs: &mut Vec<(usize, usize)>) {
    let width = right.len() + 1;
    // Cell (i, j): the length for what follows i and j.
    let mut lengths = vec![0u32; (left.len() + 1) * width];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            lengths[i * width + j] = if equal(expected[left.start + i], actual[right.start + j]) {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        if equal(expected[left.start + i], actual[right.start + j]) {
            pairs.push((left.start + i, right.start + j));
            i += 1;
            j += 1;
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
}

/// Pairs of elements that occur exactly once on each side, as far as they rise.
fn unique(expected: &[u32], actual: &[u32], left: &Range<usize>, right: &Range<usize>) -> Vec<(usize, usize)> {
    let mut seen: HashMap<u32, (usize, usize, usize, usize)> = HashMap::with_capacity(left.len());
    for at in left.clone().filter(|at| expected[*at] != NONE) {
        let entry = seen.entry(expected[at]).or_insert((0, at, 0, 0));
        entry.0 += 1;
    }
    for at in right.clone() {
        if let Some(entry) = seen.get_mut(&actual[at]) {
            entry.2 += 1;
            entry.3 = at;
        }
    }
    let mut pairs: Vec<(usize, usize)> = seen
        .into_values()
        .filter(|(on_left, _, on_right, _)| *on_left == 1 && *on_right == 1)
        .map(|(_, one, _, other)| (one, other))
        .collect();
    pairs.sort_unstable();
    rising(&pairs)
}

/// Pairs the first occurrence of a class with the first on the other side, the second with the second, and so on.
fn nth_with_nth(expected: &[u32], actual: &[u32], left: &Range<usize>, right: &Range<usize>) -> Vec<(usize, usize)> {
    let mut waiting: HashMap<u32, (usize, Vec<usize>)> = HashMap::new();
    for at in right.clone().filter(|at| actual[*at] != NONE) {
        waiting.entry(actual[at]).or_default().1.push(at);
    }
    let mut pairs = Vec::new();
    for at in left.clone() {
        if let Some((next, others)) = waiting.get_mut(&expected[at])
            && let Some(other) = others.get(*next)
        {
            pairs.push((at, *other));
            *next += 1;
        }
    }
    pairs
}

/// The longest rising subsequence of pairs that are sorted by their first part, by patience sorting.
pub fn rising(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut piles: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (position, (_, other)) in pairs.iter().enumerate() {
        let pile = piles.partition_point(|top| pairs[*top].1 < *other);
        before.push(pile.checked_sub(1).map(|below| piles[below]));
        match piles.get_mut(pile) {
            Some(top) => *top = position,
            None => piles.push(position),
        }
    }
    let mut chosen = Vec::with_capacity(piles.len());
    let mut next = piles.last().copied();
    while let Some(position) = next {
        chosen.push(pairs[position]);
        next = before[position];
    }
    chosen.reverse();
    chosen
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_missing_among_equals_moves_nothing() {
        // X A X B X without its first X.
        assert_eq!(common(&[0, 1, 0, 2, 0], &[1, 0, 2, 0]), [(1, 0), (2, 1), (3, 2), (4, 3)]);
    }

    #[test]
    fn one_moved_far_leaves_the_rest_in_order() {
        let expected: Vec<u32> = (0..5000).collect();
        let mut actual = expected.clone();
        let moved = actual.remove(10);
        actual.insert(4000, moved);
        let pairs = common(&expected, &actual);
        assert_eq!(pairs.len(), 4999);
        assert!(pairs.iter().all(|(one, _)| *one != 10));
    }

    proptest! {
        #[test]
        fn pairs_rise_and_are_equal(
            expected in prop::collection::vec(0..5u32, 0..60),
            actual in prop::collection::vec(0..6u32, 0..60),
        ) {
            let pairs = common(&expected, &actual);
            prop_assert!(pairs.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 < two[1].1));
            prop_assert!(pairs.iter().all(|(one, other)| expected[*one] == actual[*other]));
        }

        #[test]
        fn equal_sequences_pair_whole(classes in prop::collection::vec(0..9u32, 0..3000)) {
            prop_assert_eq!(common(&classes, &classes).len(), classes.len());
        }
    }
}
