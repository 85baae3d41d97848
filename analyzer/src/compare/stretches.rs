//! Compares sequences of frames that are too long to be held, stretch by stretch.
//!
//! Each stretch ends at a place that no pair of frames crosses ([`super::align::cut()`]), so that the result is the same as of all
//! frames together, but for what only those far away can tell: partners more than [`REACH`] frames apart are missing and unexpected
//! instead of moved, and a copy is known as such, and a changed address from another real server, by frames of the stretch alone.

use super::align::{Memory, compare_on, cut};
use super::difference::Judge;
use super::report::{Comparison, FindingKind};
use super::{Context, Frame, Options};

/// How many frames of a side are compared at once: some megabytes, and several times [`REACH`].
pub const STRETCH: usize = 32_768;

/// How many bytes of a side are enough, however few frames they are.
const ENOUGH: u64 = 32 << 20;

/// Whether a side that has so many frames, of so many bytes in all, has enough for a stretch.
pub fn is_enough(frames: usize, bytes: u64) -> bool {
    frames >= STRETCH || bytes >= ENOUGH
}

/// How many frames partners may be apart; fewer where frames are so long that a stretch has fewer than four times as many.
pub const REACH: usize = 8_192;

/// What the stretches so far gave.
#[derive(Debug)]
pub struct Stretches {
    options: Options,
    reach: usize,
    memory: Memory,
    result: Comparison,
    /// So many frames at the start of both sides are compared already, and equal: what follows them is put into words with them.
    known: usize,
}

impl Stretches {
    /// Nothing compared yet.
    pub fn new(options: Options) -> Stretches {
        Stretches::reaching(options, REACH)
    }

    fn reaching(options: Options, reach: usize) -> Stretches {
        let memory = Memory::new(&options);
        Stretches { options, reach, memory, result: Comparison::default(), known: 0 }
    }

    /// Compares as much as can be of what is there so far, or if that is `all` there is, all of it. Returns how many frames of each
    /// side are not needed any more.
    pub fn go_on(&mut self, expected: &[Frame<'_>], actual: &[Frame<'_>], all: bool, context: &dyn Context) -> (usize, usize) {
        // Of long frames few fill a stretch, most of which is to be done.
        let reach = self.reach.min(expected.len().max(actual.len()) / 4);
        let done = if all { (expected.len(), actual.len()) } else { cut(expected, actual, &self.options, reach) };
        let (expected, actual) = (&expected[..done.0], &actual[..done.1]);
        let limit = self.options.limit.saturating_sub(self.result.findings.len());
        let options = Options { limit, ..self.options.clone() };
        let found = compare_on(&expected, &actual, &options, context, &mut self.memory);
        let twice = self.known as u64;
        self.result.expected += found.expected - twice;
        self.result.actual += found.actual - twice;
        self.result.equal += found.equal - twice;
        for (kind, count) in &found.counts {
            *self.result.counts.entry(*kind).or_insert(0) += count;
        }
        // What is wrong with frames that are equal would be told twice.
        let tells_twice = [FindingKind::Draw, FindingKind::Time].iter().any(|kind| found.counts.contains_key(kind));
        self.result.findings.extend(found.findings);
        let mut judge = Judge::new(&self.options.ignore);
        let mut equal = |(one, other): (&Frame<'_>, &Frame<'_>)| judge.same_interface(one, other) && judge.equal(one, other);
        let most = if tells_twice { 0 } else { reach };
        // Fragments of one packet may stand on both sides of the place, but not far from it.
        let last = expected.last().map_or(0, |frame| frame.number);
        self.memory.learner.forget(|_, _, first| first.saturating_add(self.reach as u64) < last);
        self.known = expected.iter().rev().zip(actual.iter().rev()).take(most).take_while(|pair| equal(*pair)).count();
        (done.0 - self.known, done.1 - self.known)
    }

    /// Where the first finding stands, as a place among frames, the lower one of both sides.
    pub fn first_finding(&self) -> Option<u64> {
        let places = self.result.findings.iter().flat_map(|finding| [finding.expected, finding.actual]);
        places.flatten().min().map(|number| number.saturating_sub(1))
    }

    /// The result.
    pub fn finish(mut self) -> Comparison {
        self.memory.redirected.complete(&mut self.result.findings);
        Comparison { learned: self.memory.learner.counts(), ..self.result }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::compare::compare;
    use lvscheck_engine::time::Nanos;
    use proptest::prelude::*;

    /// The frames of the numbers, each with a content of its own.
    fn frames(numbers: &[u16]) -> Vec<Vec<u8>> {
        let frame = |number: &u16| {
            let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 32];
            frame.extend(number.to_be_bytes());
            frame.extend([0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 4, (number % 5) as u8, 0, 80, 0, 12, 0, 0]);
            frame.extend((u32::from(*number).wrapping_mul(0x9e37_79b1)).to_be_bytes());
            frame
        };
        numbers.iter().map(frame).collect()
    }

    fn numbered(frames: &[Vec<u8>]) -> Vec<Frame<'_>> {
        let frame = |(number, bytes): (u64, _)| {
            let bytes: &[u8] = bytes;
            Frame { number, time: Nanos(number), bytes, wire_len: bytes.len() as u32, ..Frame::default() }
        };
        (1..).zip(frames.iter().map(Vec::as_slice)).map(frame).collect()
    }

    /// What is compared in stretches of `size` frames, of which so many come at a time.
    fn in_stretches(expected: &[Frame<'_>], actual: &[Frame<'_>], size: usize, at_once: (usize, usize)) -> Comparison {
        let mut stretches = Stretches::reaching(Options::default(), size / 4);
        let (mut from, mut to) = ((0, 0), (0, 0));
        while to != (expected.len(), actual.len()) {
            to = ((to.0 + at_once.0).min(expected.len()), (to.1 + at_once.1).min(actual.len()));
            if (to.0 - from.0).max(to.1 - from.1) >= size {
                let done = stretches.go_on(&expected[from.0..to.0], &actual[from.1..to.1], false, &());
                from = (from.0 + done.0, from.1 + done.1);
                assert!(to.0 - from.0 < size && to.1 - from.1 < size, "memory is bounded");
            }
        }
        stretches.go_on(&expected[from.0..], &actual[from.1..], true, &());
        stretches.finish()
    }

    proptest! {
        #[test]
        fn stretches_find_what_is_found_in_all_of_it(
            // Apart: what is wrong with neighbours can be told in several ways.
            edits in prop::collection::vec((0..6u8, 1..10usize), 50), size in 200..400usize,
        ) {
            let numbers: Vec<u16> = (0..2000).collect();
            let expected = frames(&numbers);
            let mut actual = expected.clone();
            for (number, (kind, by)) in (0..50_u16).zip(edits).rev() {
                let at = usize::from(number) * 40 + by;
                match kind {
                    0 => drop(actual.remove(at)),
                    1 => actual.insert(at, actual[at].clone()),
                    2 => actual[at][22] ^= 1,
                    3 => actual.insert(at, frames(&[3000 + number])[0].clone()),
                    4 => {
                        let frame = actual.remove(at);
                        actual.insert(at + by, frame);
                    }
                    _ => {}
                }
            }
            let (expected, actual) = (numbered(&expected), numbered(&actual));
            let mut whole = compare(&expected, &actual, &Options::default(), &());
            let mut found = in_stretches(&expected, &actual, size, (1, 1));
            // Of two copies, or two that changed places, it may be either.
            for found in [&mut whole, &mut found] {
                found.findings.retain(|finding| !matches!(finding.kind, FindingKind::Duplicated | FindingKind::Moved));
            }
            prop_assert_eq!(found, whole);
        }
    }

    #[test]
    fn what_differs_everywhere_pairs_in_every_stretch() {
        let numbers: Vec<u16> = (0..2000).collect();
        let expected = frames(&numbers);
        let mut actual = expected.clone();
        actual.remove(700);
        actual.iter_mut().for_each(|frame| frame[22] = 1);
        let (expected, actual) = (numbered(&expected), numbered(&actual));
        let found = in_stretches(&expected, &actual, 300, (1, 1));
        let counts: Vec<(FindingKind, u64)> = found.counts.iter().map(|(kind, count)| (*kind, *count)).collect();
        assert_eq!(counts, [(FindingKind::Field, 1999), (FindingKind::Missing, 1)]);
        assert_eq!((found.expected, found.actual, found.equal, found.findings.len()), (2000, 1999, 0, 1000));
    }

    #[test]
    fn a_stretch_of_few_frames_is_done_for_the_most_part() {
        let (one, other) = (frames(&(0..100).collect::<Vec<u16>>()), frames(&(1000..1100).collect::<Vec<u16>>()));
        let mut stretches = Stretches::new(Options::default());
        let done = stretches.go_on(&numbered(&one), &numbered(&other), false, &());
        assert_eq!(done, (75, 75));
    }

    #[test]
    fn a_side_that_has_nothing_does_not_hold_the_other_back() {
        let some = frames(&(0..2000).collect::<Vec<u16>>());
        let (some, none) = (numbered(&some), Vec::new());
        let missing = in_stretches(&some, &none, 300, (1, 1));
        assert_eq!((missing.expected, missing.counts[&FindingKind::Missing]), (2000, 2000));
        let late = in_stretches(&some, &some, 300, (3, 2));
        assert!(!late.conforms(), "a side that lies too far behind is not waited for");
        assert_eq!(in_stretches(&some, &some[..1990], 300, (1, 1)).counts[&FindingKind::Missing], 10);
    }
}
