//! Which emitted frame is which expected one.
//!
//! Frames that are equal at the same position settle nearly everything: a common start and a common end are taken off first,
//! at the cost of a memory comparison. What is left between is aligned in stages: equal frames in the same order; equal
//! frames elsewhere (moved); equal but for the interface; frames with the same identity ([`super::identity`]), the strictest
//! first; alike frames between the same neighbours. What then has no partner is missing, unexpected, or a repetition.
//!
//! Times are not compared: an emitted frame carries its cause's. Frames that a timer caused are the exception on both counts:
//! their place among frames up to [`LATE_ORDER`] away is free, and a time that is off by more than [`LATE_TIME`] is a finding.

mod classes;
mod cut;
mod findings;

use super::difference::Judge;
use super::dissect::Dissection;
use super::draws::{EqualPair, Learner, Pair};
use super::identity::{self, Identity, STAGES};
use super::order::{self, NONE};
use super::report::Comparison;
use super::servers::Redirected;
use super::{Context, Frame, Frames, Options};
use classes::Classes;
use foldhash::{HashMap, HashMapExt};
use lvscheck_engine::time::Nanos;
use std::collections::VecDeque;
use std::ops::Range;

pub use cut::cut;

/// How far from a timer's frame others may stand on its other side: timers of one moment fire in no fixed order, and recorded
/// times of such frames are rounded to 0.1 s, those of DPVS jitter by up to 1 s.
pub const LATE_ORDER: Nanos = Nanos::from_millis(2500);

/// How far a timer's frame may be from the recorded time.
pub const LATE_TIME: Nanos = Nanos::from_secs(4);

/// Frames between the same neighbours that are at least this alike (in thousandths) are taken for the same.
const ALIKE: u32 = 500;

/// More frames than this between two neighbours are not compared each with each.
const EACH_WITH_EACH: usize = 64;

/// Compares two sequences of frames.
pub fn compare<E: Frames, A: Frames>(expected: &E, actual: &A, options: &Options, context: &dyn Context) -> Comparison {
    let mut memory = Memory::new(options);
    let comparison = compare_on(expected, actual, options, context, &mut memory);
    Comparison { learned: memory.learner.counts(), ..comparison }
}

/// What comparing frames found that matters to those after them.
#[derive(Debug)]
pub struct Memory {
    /// The values of draws.
    pub learner: Learner,
    /// Connections that went to another real server.
    pub redirected: Redirected,
}

impl Memory {
    /// Nothing compared yet.
    pub fn new(options: &Options) -> Memory {
        Memory { learner: Learner::new(options.local_ports.clone()), redirected: Redirected::default() }
    }
}

/// Compares two sequences of frames that follow others of which there is a memory. The result does not say what was learned.
pub fn compare_on<E: Frames, A: Frames>(
    expected: &E,
    actual: &A,
    options: &Options,
    context: &dyn Context,
    memory: &mut Memory,
) -> Comparison {
    let learner = &mut memory.learner;
    let mut judge = Judge::new(&options.ignore);
    let mut untimely = Vec::new();
    let shortest = expected.len().min(actual.len());
    let mut start = 0;
    while start < shortest {
        let (one, other) = (expected.frame(start), actual.frame(start));
        if !judge.same_interface(&one, &other) || !judge.equal(&one, &other) {
            break;
        }
        note((start, start), &one, &other, learner, &mut untimely);
        start += 1;
    }
    let mut tail = 0;
    while tail < shortest - start {
        let pair = (expected.len() - 1 - tail, actual.len() - 1 - tail);
        let (one, other) = (expected.frame(pair.0), actual.frame(pair.1));
        if !judge.same_interface(&one, &other) || !judge.equal(&one, &other) {
            break;
        }
        note(pair, &one, &other, learner, &mut untimely);
        tail += 1;
    }
    let middle = (start..expected.len() - tail, start..actual.len() - tail);
    let mut alignment = Alignment {
        expected,
        actual,
        options,
        context,
        judge,
        untimely,
        tail,
        start,
        partners: HashMap::new(),
        equal: Vec::new(),
        found: Vec::new(),
    };
    if !middle.0.is_empty() || !middle.1.is_empty() {
        alignment.align(middle.0, middle.1, learner);
    }
    alignment.finish(memory)
}

/// Learns from an equal pair and looks at its time.
fn note(pair: Pair, expected: &Frame<'_>, actual: &Frame<'_>, learner: &mut Learner, untimely: &mut Vec<Pair>) {
    if !actual.drawn.is_empty() {
        learner.see(equal_pair(pair, expected, actual));
    }
    if actual.late && apart(expected, actual) > LATE_TIME {
        untimely.push(pair);
    }
}

fn equal_pair<'f>(pair: Pair, expected: &Frame<'f>, actual: &Frame<'f>) -> EqualPair<'f> {
    EqualPair { pair, number: expected.number, expected: expected.bytes, actual: actual.bytes, drawn: actual.drawn }
}

fn apart(one: &Frame<'_>, other: &Frame<'_>) -> Nanos {
    Nanos(one.time.0.abs_diff(other.time.0))
}

/// A disagreement, before it is put into words.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// Partners with differing fields.
    Differs(Pair),
    /// Partners in another order.
    Moved(Pair),
    /// Partners on other interfaces.
    Interface(Pair),
    /// Only expected.
    Missing(usize),
    /// Only emitted.
    Unexpected(usize),
}

struct Alignment<'c> {
    expected: &'c dyn Frames,
    actual: &'c dyn Frames,
    options: &'c Options,
    context: &'c dyn Context,
    judge: Judge<'c>,
    untimely: Vec<Pair>,
    /// How many frames at the start and at the end are equal.
    start: usize,
    tail: usize,
    /// From expected to actual position, for what lies between.
    partners: HashMap<usize, usize>,
    /// The pairs between start and end that are equal.
    equal: Vec<Pair>,
    found: Vec<Found>,
}

/// A frame without partner so far.
#[derive(Clone, Copy, Debug)]
struct Single {
    index: usize,
    /// How many pairs stand in order before it.
    gap: usize,
    class: u32,
}

impl Alignment<'_> {
    fn align(&mut self, left: Range<usize>, right: Range<usize>, learner: &mut Learner) {
        let classes = Classes::of((self.expected, &left), (self.actual, &right), self.options);
        let in_order = order::common(&classes.expected, &classes.actual);
        for (one, other) in &in_order {
            let pair = (left.start + one, right.start + other);
            self.partners.insert(pair.0, pair.1);
            self.settle(pair, learner);
        }
        let mut ones = singles(&classes.expected, left.start, in_order.iter().map(|(one, _)| *one));
        let mut others = singles(&classes.actual, right.start, in_order.iter().map(|(_, other)| *other));

        // Equal frames elsewhere.
        let pairs = pair_by(
            &mut ones,
            &mut others,
            |single| (single.class != NONE).then_some(u64::from(single.class)),
            |single| (single.class != NONE).then_some(u64::from(single.class)),
        );
        for pair in pairs {
            self.partners.insert(pair.0, pair.1);
            if self.equal(pair) {
                if self.may_move(pair, &in_order, (left.start, right.start)) {
                    self.note_equal(pair, learner);
                } else {
                    self.found.push(Found::Moved(pair));
                }
            } else {
                self.found.push(Found::Differs(pair));
            }
        }

        // Equal frames on another interface.
        let bytes = |frames: &dyn Frames, single: &Single| Some(identity::hash(frames.frame(single.index).bytes));
        let (expected, actual) = (self.expected, self.actual);
        for pair in pair_by(&mut ones, &mut others, |single| bytes(expected, single), |single| bytes(actual, single)) {
            self.partners.insert(pair.0, pair.1);
            let same = self.judge.same_interface(&expected.frame(pair.0), &actual.frame(pair.1));
            self.found.push(if same { Found::Moved(pair) } else { Found::Interface(pair) });
        }

        self.align_by_identity(&mut ones, &mut others, learner);
        self.align_alike(&mut ones, &mut others, learner);
        self.found.extend(ones.iter().map(|single| Found::Missing(single.index)));
        self.found.extend(others.iter().map(|single| Found::Unexpected(single.index)));
    }

    fn equal(&mut self, pair: Pair) -> bool {
        self.judge.equal(&self.expected.frame(pair.0), &self.actual.frame(pair.1))
    }

    fn note_equal(&mut self, pair: Pair, learner: &mut Learner) {
        let (one, other) = (self.expected.frame(pair.0), self.actual.frame(pair.1));
        note(pair, &one, &other, learner, &mut self.untimely);
        self.equal.push(pair);
    }

    /// Partners in order: equal, or a finding.
    fn settle(&mut self, pair: Pair, learner: &mut Learner) {
        let (one, other) = (self.expected.frame(pair.0), self.actual.frame(pair.1));
        let same_interface = self.judge.same_interface(&one, &other);
        match (self.equal(pair), same_interface) {
            (true, true) => self.note_equal(pair, learner),
            (true, false) => self.found.push(Found::Interface(pair)),
            (false, _) => self.found.push(Found::Differs(pair)),
        }
    }

    /// Whether a pair that crosses others may do so, because it or each of them is a timer's work.
    fn may_move(&self, pair: Pair, in_order: &[(usize, usize)], base: (usize, usize)) -> bool {
        let late = |(one, other): Pair| {
            let other = self.actual.frame(other);
            other.late && apart(&self.expected.frame(one), &other) <= LATE_ORDER
        };
        if late(pair) {
            return true;
        }
        // Pairs rise on both sides: those that cross this one lie between its two places.
        let one = pair.0 - base.0;
        let other = pair.1 - base.1;
        let before_one = in_order.partition_point(|(position, _)| *position < one);
        let before_other = in_order.partition_point(|(_, position)| *position < other);
        let crossed = before_one.min(before_other)..before_one.max(before_other);
        in_order[crossed].iter().all(|(one, other)| late((base.0 + one, base.1 + other)))
    }

    fn align_by_identity(&mut self, ones: &mut Vec<Single>, others: &mut Vec<Single>, learner: &mut Learner) {
        if ones.is_empty() || others.is_empty() {
            return;
        }
        let identities = |frames: &dyn Frames, singles: &[Single]| {
            let mut dissection = Dissection::default();
            let mut found = HashMap::with_capacity(singles.len());
            for single in singles {
                let bytes = frames.frame(single.index).bytes;
                dissection.read(bytes);
                if let Some(identity) = Identity::of(bytes, &dissection) {
                    found.insert(single.index, identity);
                }
            }
            found
        };
        let left = identities(self.expected, ones);
        let right = identities(self.actual, others);
        for stage in STAGES {
            // Between the same neighbours first, then anywhere.
            for anywhere in [false, true] {
                let key = |identities: &HashMap<usize, Identity>, single: &Single| {
                    let key = identities.get(&single.index)?.key(stage);
                    Some(if anywhere { key } else { key ^ (single.gap as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) })
                };
                for pair in pair_by(ones, others, |single| key(&left, single), |single| key(&right, single)) {
                    self.partners.insert(pair.0, pair.1);
                    self.settle(pair, learner);
                }
            }
        }
    }

    /// Pairs what stands between the same neighbours and is alike, the most alike first.
    fn align_alike(&mut self, ones: &mut Vec<Single>, others: &mut Vec<Single>, learner: &mut Learner) {
        let mut chosen = Vec::new();
        let mut from = 0;
        for gap in ones.chunk_by(|one, next| one.gap == next.gap) {
            let number = gap[0].gap;
            from += others[from..].partition_point(|single| single.gap < number);
            let count = others[from..].partition_point(|single| single.gap == number);
            let facing = &others[from..from + count];
            let mut candidates = Vec::new();
            for (position, one) in gap.iter().enumerate() {
                let near = if gap.len().max(facing.len()) <= EACH_WITH_EACH { 0..facing.len() } else { position..position + 1 };
                for other in facing.get(near).unwrap_or_default() {
                    let likeness = identity::likeness(self.expected.frame(one.index).bytes, self.actual.frame(other.index).bytes);
                    if likeness >= ALIKE {
                        candidates.push((std::cmp::Reverse(likeness), one.index, other.index));
                    }
                }
            }
            candidates.sort_unstable();
            let before = chosen.len();
            for (_, one, other) in candidates {
                if !chosen[before..].iter().any(|(left, right): &Pair| *left == one || *right == other) {
                    chosen.push((one, other));
                }
            }
        }
        for pair in &chosen {
            self.partners.insert(pair.0, pair.1);
            self.settle(*pair, learner);
        }
        let mut taken: (Vec<usize>, Vec<usize>) = chosen.into_iter().unzip();
        taken.0.sort_unstable();
        taken.1.sort_unstable();
        ones.retain(|single| taken.0.binary_search(&single.index).is_err());
        others.retain(|single| taken.1.binary_search(&single.index).is_err());
    }
}

/// The positions that are in no pair, with the number of pairs before each.
fn singles(classes: &[u32], base: usize, paired: impl Iterator<Item = usize>) -> Vec<Single> {
    let mut paired = paired.peekable();
    let mut gap = 0;
    let mut found = Vec::new();
    for (position, class) in classes.iter().enumerate() {
        if paired.next_if_eq(&position).is_some() {
            gap += 1;
        } else {
            found.push(Single { index: base + position, gap, class: *class });
        }
    }
    found
}

/// Pairs frames of both sides with equal keys, the first with the first, and takes them out. Frames without key stay.
fn pair_by(
    ones: &mut Vec<Single>,
    others: &mut Vec<Single>,
    key_of_one: impl Fn(&Single) -> Option<u64>,
    key_of_other: impl Fn(&Single) -> Option<u64>,
) -> Vec<Pair> {
    if ones.is_empty() || others.is_empty() {
        return Vec::new();
    }
    let mut waiting: HashMap<u64, VecDeque<usize>> = HashMap::new();
    for (position, single) in others.iter().enumerate() {
        if let Some(key) = key_of_other(single) {
            waiting.entry(key).or_default().push_back(position);
        }
    }
    let mut pairs = Vec::new();
    let mut taken = vec![false; others.len()];
    ones.retain(|single| {
        let partner = key_of_one(single).and_then(|key| waiting.get_mut(&key)).and_then(VecDeque::pop_front);
        if let Some(position) = partner {
            taken[position] = true;
            pairs.push((single.index, others[position].index));
        }
        partner.is_none()
    });
    let mut position = 0;
    others.retain(|_| {
        position += 1;
        !taken[position - 1]
    });
    pairs
}
