//! Up to where sequences that go on can be aligned already, so that what was aligned need not be kept.

use super::classes::Classes;
use super::{Single, pair_by, singles};
use crate::compare::difference::Judge;
use crate::compare::dissect::Dissection;
use crate::compare::identity::{Identity, STAGES};
use crate::compare::order::{self, NONE};
use crate::compare::{Frame, Options};
use foldhash::HashMap;

/// How many frames of each side stand before a place that no pair crosses, so that what comes later changes nothing about them: as far
/// as frames are partners at most `reach` frames apart. Of what lies further from the ends, at least three quarters stand before it.
pub fn cut(expected: &[Frame<'_>], actual: &[Frame<'_>], options: &Options, reach: usize) -> (usize, usize) {
    let mut judge = Judge::new(&options.ignore);
    let mut equal = |(one, other): (&Frame<'_>, &Frame<'_>)| judge.same_interface(one, other) && judge.equal(one, other);
    let shortest = expected.len().min(actual.len());
    let start = expected.iter().zip(actual).take_while(|pair| equal(*pair)).count();
    let limit = (expected.len().saturating_sub(reach).max(start), actual.len().saturating_sub(reach).max(start));
    if start == shortest {
        return limit;
    }
    // What stays is looked at again.
    let enough = |(one, other): &(usize, usize)| (one + other) * 4 >= (limit.0 + limit.1) * 3;
    let by_bytes = || {
        let classes = Classes::of((&expected, &(start..expected.len())), (&actual, &(start..actual.len())), options);
        crossed_by_none(&classes, start, limit)
    };
    let by_identity = || crossed_by_none(&identities(&expected[start..], &actual[start..]), start, limit);
    let ways: [&dyn Fn() -> (usize, usize); 2] = [&by_bytes, &by_identity];
    ways.iter().map(|place| place()).find(enough).unwrap_or(limit)
}

/// The last place at or before `limit` where no pair of one class crosses: behind such a pair, or the start.
fn crossed_by_none(classes: &Classes, start: usize, limit: (usize, usize)) -> (usize, usize) {
    let in_order = order::common(&classes.expected, &classes.actual);
    let mut ones = singles(&classes.expected, 0, in_order.iter().map(|(one, _)| *one));
    let mut others = singles(&classes.actual, 0, in_order.iter().map(|(_, other)| *other));
    let gaps =
        |singles: &[Single]| -> HashMap<usize, usize> { singles.iter().map(|single| (single.index, single.gap)).collect() };
    let (left, right) = (gaps(&ones), gaps(&others));
    let class = |single: &Single| (single.class != NONE).then_some(u64::from(single.class));
    // By how many pairs in order before a place the number of pairs changes that cross it.
    let mut changes = vec![0i64; in_order.len() + 2];
    for (one, other) in pair_by(&mut ones, &mut others, class, class) {
        let (Some(one), Some(other)) = (left.get(&one), right.get(&other)) else { continue };
        changes[one.min(other) + 1] += 1;
        changes[one.max(other) + 1] -= 1;
    }
    let mut crossing = 0;
    let mut last = (start, start);
    for ((one, other), change) in in_order.iter().zip(&changes[1..]) {
        crossing += change;
        let place = (start + one + 1, start + other + 1);
        if place.0 > limit.0 || place.1 > limit.1 {
            break;
        }
        if crossing == 0 {
            last = place;
        }
    }
    last
}

/// Numbers for frames, equal for those of one identity: where none is equal to another, those pair.
fn identities(expected: &[Frame<'_>], actual: &[Frame<'_>]) -> Classes {
    let mut dissection = Dissection::default();
    let mut key = |frame: &Frame<'_>| {
        dissection.read(frame.bytes);
        Some(Identity::of(frame.bytes, &dissection)?.key(STAGES.first()?))
    };
    let mut numbers: HashMap<Option<u64>, u32> = HashMap::default();
    numbers.insert(None, NONE);
    let mut of_actual = Vec::with_capacity(actual.len());
    for frame in actual {
        let next = numbers.len() as u32;
        of_actual.push(*numbers.entry(key(frame)).or_insert(next));
    }
    let of_expected = expected.iter().map(|frame| numbers.get(&key(frame)).copied().unwrap_or(NONE)).collect();
    Classes { expected: of_expected, actual: of_actual }
}
