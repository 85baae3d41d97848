//! Which emitted frame is which expected one.
//!
//! Frames that are equal at the same position settle nearly everything: a common start and a common end are taken off first,
//! at the cost of a memory comparison. What is left between is aligned in stages: equal frames in the same order; equal
//! frames elsewhere (moved); equal but for the interface; frames with the same identity ([`super::identity`]), the strictest
//! first; alike frames between the same neighbours. What then has no partner is missing, unexpected, or a repetition.
//!
//! Times are not compared: an emitted frame carries its cause's. Frames that a timer caused are the exception on both counts:
//! their place among frames up to [`LATE_ORDER`] away is free, and a time that is off by more than [`LATE_TIME`] is a finding.

use super::difference::{Differences, Judge};
use super::dissect::Dissection;
use super::draws::{Contradiction, Learner, Pair};
use super::fields::{Field, Name, Place};
use super::identity::{self, Identity, STAGES};
use super::order::{self, NONE};
use super::report::{Comparison, FieldDifference, Finding, FindingKind, summary};
use super::{Context, Frame, Frames, Options, draws, servers};
use foldhash::{HashMap, HashMapExt};
use lvscheck_engine::output::DrawnField;
use lvscheck_engine::time::Nanos;
use std::collections::VecDeque;
use std::ops::Range;

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
    let mut judge = Judge::new(&options.ignore);
    let mut learner = Learner::new(options.local_ports.clone());
    let mut untimely = Vec::new();
    let shortest = expected.len().min(actual.len());
    let mut start = 0;
    while start < shortest {
        let (one, other) = (expected.frame(start), actual.frame(start));
        if !judge.same_interface(&one, &other) || !judge.equal(&one, &other) {
            break;
        }
        note((start, start), &one, &other, &mut learner, &mut untimely);
        start += 1;
    }
    let mut tail = 0;
    while tail < shortest - start {
        let pair = (expected.len() - 1 - tail, actual.len() - 1 - tail);
        let (one, other) = (expected.frame(pair.0), actual.frame(pair.1));
        if !judge.same_interface(&one, &other) || !judge.equal(&one, &other) {
            break;
        }
        note(pair, &one, &other, &mut learner, &mut untimely);
        tail += 1;
    }
    let middle = (start..expected.len() - tail, start..actual.len() - tail);
    let mut alignment = Alignment {
        expected,
        actual,
        options,
        context,
        judge,
        learner,
        untimely,
        tail,
        start,
        partners: HashMap::new(),
        equal: Vec::new(),
        found: Vec::new(),
    };
    if !middle.0.is_empty() || !middle.1.is_empty() {
        alignment.align(middle.0, middle.1);
    }
    alignment.finish()
}

/// Learns from an equal pair and looks at its time.
fn note(pair: Pair, expected: &Frame<'_>, actual: &Frame<'_>, learner: &mut Learner, untimely: &mut Vec<Pair>) {
    if !actual.drawn.is_empty() {
        learner.see(pair, expected.bytes, actual.bytes, actual.drawn);
    }
    if actual.late && apart(expected, actual) > LATE_TIME {
        untimely.push(pair);
    }
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

/// Something to report, not yet in words: only so many are put into words.
enum Problem {
    Words(Box<Finding>),
    Found(Found),
    Contradiction(Contradiction),
    Untimely(Pair),
}

impl Problem {
    fn kind(&self, copies: &Copies) -> FindingKind {
        match self {
            Problem::Words(finding) => finding.kind,
            Problem::Contradiction(_) => FindingKind::Draw,
            Problem::Untimely(_) => FindingKind::Time,
            Problem::Found(found) => match found {
                Found::Differs(_) => FindingKind::Field,
                Found::Moved(_) => FindingKind::Moved,
                Found::Interface(_) => FindingKind::Interface,
                Found::Missing(index) if copies.expected.contains_key(index) => FindingKind::Duplicated,
                Found::Missing(_) => FindingKind::Missing,
                Found::Unexpected(index) if copies.actual.contains_key(index) => FindingKind::Duplicated,
                Found::Unexpected(_) => FindingKind::Unexpected,
            },
        }
    }
}

struct Alignment<'c> {
    expected: &'c dyn Frames,
    actual: &'c dyn Frames,
    options: &'c Options,
    context: &'c dyn Context,
    judge: Judge<'c>,
    learner: Learner,
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
    fn align(&mut self, left: Range<usize>, right: Range<usize>) {
        let classes = self.classes(&left, &right);
        let in_order = order::common(&classes.expected, &classes.actual);
        for (one, other) in &in_order {
            let pair = (left.start + one, right.start + other);
            self.partners.insert(pair.0, pair.1);
            self.settle(pair);
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
                    self.note_equal(pair);
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

        self.align_by_identity(&mut ones, &mut others);
        self.align_alike(&mut ones, &mut others);
        self.found.extend(ones.iter().map(|single| Found::Missing(single.index)));
        self.found.extend(others.iter().map(|single| Found::Unexpected(single.index)));
    }

    fn equal(&mut self, pair: Pair) -> bool {
        self.judge.equal(&self.expected.frame(pair.0), &self.actual.frame(pair.1))
    }

    fn note_equal(&mut self, pair: Pair) {
        let (one, other) = (self.expected.frame(pair.0), self.actual.frame(pair.1));
        note(pair, &one, &other, &mut self.learner, &mut self.untimely);
        self.equal.push(pair);
    }

    /// Partners in order: equal, or a finding.
    fn settle(&mut self, pair: Pair) {
        let (one, other) = (self.expected.frame(pair.0), self.actual.frame(pair.1));
        let same_interface = self.judge.same_interface(&one, &other);
        match (self.equal(pair), same_interface) {
            (true, true) => self.note_equal(pair),
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

    fn align_by_identity(&mut self, ones: &mut Vec<Single>, others: &mut Vec<Single>) {
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
                    self.settle(pair);
                }
            }
        }
    }

    /// Pairs what stands between the same neighbours and is alike, the most alike first.
    fn align_alike(&mut self, ones: &mut Vec<Single>, others: &mut Vec<Single>) {
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
            self.settle(*pair);
        }
        let mut taken: (Vec<usize>, Vec<usize>) = chosen.into_iter().unzip();
        taken.0.sort_unstable();
        taken.1.sort_unstable();
        ones.retain(|single| taken.0.binary_search(&single.index).is_err());
        others.retain(|single| taken.1.binary_search(&single.index).is_err());
    }

    /// Numbers for frames, equal for frames that are equal but for draws, ignored fields and padding.
    fn classes(&mut self, left: &Range<usize>, right: &Range<usize>) -> Classes {
        let interfaces = !self.options.ignore.has(Name::FrameInterface, 1)
            && left.clone().all(|index| self.expected.frame(index).interface.is_some())
            && right.clone().all(|index| self.actual.frame(index).interface.is_some());
        let mut masks = Masks { shapes: vec![Vec::new()], ..Masks::default() };
        let mut numbers: HashMap<(usize, u64, u64), u32> = HashMap::with_capacity(right.len());
        let place = |frame: &Frame<'_>| match frame.interface {
            Some(name) if interfaces => identity::hash(name.as_bytes()),
            _ => 0,
        };
        let mut classes = Classes { expected: Vec::with_capacity(left.len()), actual: Vec::with_capacity(right.len()) };
        for index in right.clone() {
            let frame = self.actual.frame(index);
            let shape = masks.shape(frame.drawn);
            let key = (shape, masks.hash(frame.bytes, shape, self.options), place(&frame));
            let next = numbers.len() as u32;
            classes.actual.push(*numbers.entry(key).or_insert(next));
        }
        for index in left.clone() {
            let frame = self.expected.frame(index);
            let class = (0..masks.shapes.len())
                .find_map(|shape| numbers.get(&(shape, masks.hash(frame.bytes, shape, self.options), place(&frame))).copied());
            classes.expected.push(class.unwrap_or(NONE));
        }
        classes
    }

    /// The actual position of an expected frame.
    fn partner(&self, expected: usize) -> Option<usize> {
        if expected < self.start {
            return Some(expected);
        }
        let from_end = self.expected.len() - 1 - expected;
        if from_end < self.tail {
            return Some(self.actual.len() - 1 - from_end);
        }
        self.partners.get(&expected).copied()
    }

    fn finish(mut self) -> Comparison {
        let equal = self.start + self.tail + self.equal.len();
        let learner = std::mem::replace(&mut self.learner, Learner::new(0..=0));
        let mut comparison = Comparison {
            expected: self.expected.len() as u64,
            actual: self.actual.len() as u64,
            equal: equal as u64,
            learned: learner.counts(),
            ..Comparison::default()
        };
        let mut found = std::mem::take(&mut self.found);
        let (frames, options, context) = ((self.expected, self.actual), self.options, self.context);
        let details = |pair| self.differences(pair, &learner).fields;
        let redirected = servers::group(frames, &mut found, details, options, context);
        let copies = self.copies(&found);
        let untimely = std::mem::take(&mut self.untimely);
        let mut problems: Vec<(usize, Problem)> = redirected
            .into_iter()
            .map(|(position, finding)| (position, Problem::Words(Box::new(finding))))
            .chain(found.into_iter().map(|found| (self.position(&found), Problem::Found(found))))
            .chain(untimely.into_iter().map(|pair| (pair.0, Problem::Untimely(pair))))
            .collect();
        let contradictions = learner.contradictions(self.equal_pairs());
        let mut contradicted: Vec<Pair> = contradictions.iter().map(|contradiction| contradiction.pair).collect();
        contradicted.sort_unstable();
        contradicted.dedup();
        comparison.equal -= contradicted.len() as u64;
        problems.extend(contradictions.into_iter().map(|found| (found.pair.0, Problem::Contradiction(found))));
        problems.sort_by_key(|(position, _)| *position);
        for (_, problem) in problems {
            *comparison.counts.entry(problem.kind(&copies)).or_insert(0) += 1;
            if comparison.findings.len() < self.options.limit {
                comparison.findings.push(match problem {
                    Problem::Words(finding) => *finding,
                    Problem::Found(found) => self.describe(&found, &copies, &learner),
                    Problem::Untimely(pair) => self.untimely(pair),
                    Problem::Contradiction(found) => self.contradiction(&found),
                });
            }
        }
        comparison
    }

    fn equal_pairs(&self) -> impl Iterator<Item = (Pair, &[u8], &[u8], &[DrawnField])> {
        let ahead = (0..self.start).map(|index| (index, index));
        let (ends, tail) = ((self.expected.len(), self.actual.len()), self.tail);
        let behind = (0..tail).rev().map(move |back| (ends.0 - 1 - back, ends.1 - 1 - back));
        ahead.chain(self.equal.iter().copied()).chain(behind).map(|pair| {
            let other = self.actual.frame(pair.1);
            (pair, self.expected.frame(pair.0).bytes, other.bytes, other.drawn)
        })
    }

    fn differences(&mut self, pair: Pair, learner: &Learner) -> Differences {
        let (one, other) = (self.expected.frame(pair.0), self.actual.frame(pair.1));
        let mut found = self.judge.differences(&one, &other, learner);
        if !self.judge.same_interface(&one, &other) {
            found.fields.push(FieldDifference {
                field: Name::FrameInterface.text().to_owned(),
                offset: 0,
                expected: one.interface.map(str::to_owned),
                actual: other.interface.map(str::to_owned),
                follows: false,
            });
        }
        found
    }

    fn pair_words(&self, (one, other): Pair) -> String {
        format!(
            "{} {} ({} {})",
            self.options.actual_label,
            self.actual.frame(other).number,
            self.options.expected_label,
            self.expected.frame(one).number
        )
    }

    /// The expected position at which a disagreement stands.
    fn position(&self, found: &Found) -> usize {
        match found {
            Found::Differs(pair) | Found::Moved(pair) | Found::Interface(pair) => pair.0,
            Found::Missing(index) => *index,
            Found::Unexpected(index) => self.position_of(*index),
        }
    }

    fn describe(&mut self, found: &Found, copies: &Copies, learner: &Learner) -> Finding {
        match *found {
            Found::Differs(pair) => {
                let Differences { fields, bytes, taken } = self.differences(pair, learner);
                let mut message = format!("{}: {}", self.pair_words(pair), summary(&fields));
                // A random value that was changed shows in nothing but its checksum.
                if !taken.is_empty() && fields.iter().all(|field| field.field.ends_with(".checksum")) {
                    message.push_str(&format!(", for {} as there, which is random", taken.join(" and ")));
                }
                let finding = self.finding(FindingKind::Field, Some(pair.0), Some(pair.1), message);
                Finding { fields, bytes, ..finding }
            }
            Found::Moved(pair) => {
                let label = &self.options.actual_label;
                let before = pair.0.checked_sub(1).and_then(|before| self.partner(before));
                let should = match before {
                    Some(before) => format!("expected right after {label} {}", self.actual.frame(before).number),
                    None if pair.0 == 0 => "expected first".to_owned(),
                    None => {
                        format!("expected right after {} {}", self.options.expected_label, self.expected.frame(pair.0 - 1).number)
                    }
                };
                let does = match pair.1.checked_sub(1) {
                    Some(before) => format!("came after {label} {}", self.actual.frame(before).number),
                    None => "came first".to_owned(),
                };
                let message = format!("{}: out of order: {should}, {does}", self.pair_words(pair));
                self.finding(FindingKind::Moved, Some(pair.0), Some(pair.1), message)
            }
            Found::Interface(pair) => {
                let name = |frame: Frame<'_>| frame.interface.unwrap_or("none").to_owned();
                let message = format!(
                    "{}: left by {}, expected {}",
                    self.pair_words(pair),
                    name(self.actual.frame(pair.1)),
                    name(self.expected.frame(pair.0))
                );
                self.finding(FindingKind::Interface, Some(pair.0), Some(pair.1), message)
            }
            Found::Missing(index) => self.missing(index, copies.expected.get(&index)),
            Found::Unexpected(index) => self.unexpected(index, copies.actual.get(&index)),
        }
    }

    fn missing(&self, index: usize, copy: Option<&Copy>) -> Finding {
        let frame = self.expected.frame(index);
        let name = format!("{} {}", self.options.expected_label, frame.number);
        match copy {
            Some(copy) => {
                let message = format!(
                    "{name}: repeats {} {}: expected {}, got {}",
                    self.options.expected_label,
                    self.expected.frame(copy.other).number,
                    times(copy.count),
                    times(copy.paired),
                );
                self.finding(FindingKind::Duplicated, Some(index), None, message)
            }
            None => {
                let message = format!("{name}: missing: {}", servers::frame_words(&frame));
                self.finding(FindingKind::Missing, Some(index), None, message)
            }
        }
    }

    fn unexpected(&self, index: usize, copy: Option<&Copy>) -> Finding {
        let frame = self.actual.frame(index);
        let name = format!("{} {}", self.options.actual_label, frame.number);
        match copy {
            Some(copy) => {
                let message = format!(
                    "{name}: repeats {} {}: expected {}, got {}",
                    self.options.actual_label,
                    self.actual.frame(copy.other).number,
                    times(copy.paired),
                    times(copy.count),
                );
                self.finding(FindingKind::Duplicated, None, Some(index), message)
            }
            None => {
                let message = format!("{name}: unexpected: {}", servers::frame_words(&frame));
                self.finding(FindingKind::Unexpected, None, Some(index), message)
            }
        }
    }

    fn finding(&self, kind: FindingKind, expected: Option<usize>, actual: Option<usize>, message: String) -> Finding {
        Finding {
            kind,
            expected: expected.map(|index| self.expected.frame(index).number),
            actual: actual.map(|index| self.actual.frame(index).number),
            frames: 1,
            message,
            verdict: actual.and_then(|index| self.context.verdict(index)),
            fields: Vec::new(),
            bytes: None,
        }
    }

    fn contradiction(&self, contradiction: &Contradiction) -> Finding {
        let Contradiction { pair, field, value, elsewhere } = *contradiction;
        let bytes = self.actual.frame(pair.1).bytes;
        let dissection = Dissection::of(bytes);
        let offset = u32::from(field.offset);
        let covering = |known: &&Field| known.start == offset && (known.mask == 0 || u32::from(field.bits) < known.len * 8);
        let label = dissection.fields.iter().find(covering).map_or_else(|| format!("frame[{offset}]"), Field::label);
        let shown = |value: u64| {
            let bytes = value.to_be_bytes();
            let len = usize::from(field.len).min(8);
            let name = dissection.fields.iter().find(covering).map_or(Name::FrameBytes, |known| known.name);
            let whole = Field { name, place: Place::Outer, layer: 1, start: 0, len: len as u32, mask: 0 };
            whole.value(&bytes[8 - len..])
        };
        let kind = draws::kind(&field.draw);
        let reason = match elsewhere {
            Some((witness, there)) => format!(
                "{} here, but {} to agree with {} {}: a {kind} is drawn once",
                shown(value),
                shown(there),
                self.options.expected_label,
                self.expected.frame(witness.0).number
            ),
            None => format!(
                "{} can't be a {kind}: outside {} to {}",
                shown(value),
                self.options.local_ports.start(),
                self.options.local_ports.end()
            ),
        };
        let message = format!("{}: {label}: {reason}", self.pair_words(pair));
        self.finding(FindingKind::Draw, Some(pair.0), Some(pair.1), message)
    }

    fn untimely(&self, pair: Pair) -> Finding {
        let (one, other) = (self.expected.frame(pair.0).time, self.actual.frame(pair.1).time);
        let side = if other > one { "late" } else { "early" };
        let seconds = Nanos(one.0.abs_diff(other.0)).as_secs_f64();
        let message = format!("{}: {seconds:.1} s too {side} for the timer that sends it", self.pair_words(pair));
        self.finding(FindingKind::Time, Some(pair.0), Some(pair.1), message)
    }

    /// Where in the expected order an unexpected frame belongs: behind the nearest partner before it.
    fn position_of(&self, actual: usize) -> usize {
        if actual <= self.start {
            return self.start;
        }
        let before = self.equal.partition_point(|(_, other)| *other < actual);
        before.checked_sub(1).map_or(self.start, |before| self.equal[before].0)
    }

    /// Which frames without partner are copies of others on their side that have one.
    fn copies(&self, found: &[Found]) -> Copies {
        let alone = |choose: fn(&Found) -> Option<usize>| found.iter().filter_map(choose).collect::<Vec<usize>>();
        let expected = alone(|found| if let Found::Missing(index) = found { Some(*index) } else { None });
        let actual = alone(|found| if let Found::Unexpected(index) = found { Some(*index) } else { None });
        Copies { expected: repeated(self.expected, &expected), actual: repeated(self.actual, &actual) }
    }
}

/// "once", "twice", "3 times".
fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        count => format!("{count} times"),
    }
}

/// How often the frame of an index occurs on its side.
#[derive(Clone, Copy, Debug)]
struct Copy {
    /// An earlier copy, or else a later one.
    other: usize,
    /// All copies.
    count: usize,
    /// Those with a partner.
    paired: usize,
}

#[derive(Debug, Default)]
struct Copies {
    expected: HashMap<usize, Copy>,
    actual: HashMap<usize, Copy>,
}

/// For those of the given positions whose bytes occur elsewhere too: where and how often.
fn repeated(frames: &dyn Frames, alone: &[usize]) -> HashMap<usize, Copy> {
    let mut occurrences: HashMap<u64, Vec<usize>> = HashMap::new();
    for index in alone {
        occurrences.insert(identity::hash(frames.frame(*index).bytes), Vec::new());
    }
    if alone.is_empty() {
        return HashMap::new();
    }
    for index in 0..frames.len() {
        if let Some(indices) = occurrences.get_mut(&identity::hash(frames.frame(index).bytes)) {
            indices.push(index);
        }
    }
    let mut copies = HashMap::new();
    for index in alone {
        let Some(all) = occurrences.get(&identity::hash(frames.frame(*index).bytes)) else { continue };
        let paired: Vec<usize> = all.iter().copied().filter(|other| alone.binary_search(other).is_err()).collect();
        if let Some(other) = paired.iter().rev().find(|other| *other < index).or(paired.first()) {
            copies.insert(*index, Copy { other: *other, count: all.len(), paired: paired.len() });
        }
    }
    copies
}

#[derive(Debug)]
struct Classes {
    expected: Vec<u32>,
    actual: Vec<u32>,
}

/// Where a drawn field stands: offset, length, bits, and its checksums.
type Drawn = (u16, u8, u8, [u16; 2]);

/// The places of drawn fields that occur among emitted frames: a golden frame does not say what is drawn in it, so it is tried
/// with each.
#[derive(Debug, Default)]
struct Masks {
    shapes: Vec<Vec<Drawn>>,
    scratch: Vec<u8>,
    dissection: Dissection,
}

impl Masks {
    /// More kinds of places than this are not told apart; their frames are aligned by identity.
    const MOST: usize = 64;

    fn shape(&mut self, drawn: &[DrawnField]) -> usize {
        let same = |shape: &Vec<Drawn>| {
            shape.len() == drawn.len()
                && shape.iter().zip(drawn).all(|(one, field)| *one == (field.offset, field.len, field.bits, field.checksums))
        };
        if let Some(known) = self.shapes.iter().position(same) {
            return known;
        }
        if self.shapes.len() >= Masks::MOST {
            return 0;
        }
        self.shapes.push(drawn.iter().map(|field| (field.offset, field.len, field.bits, field.checksums)).collect());
        self.shapes.len() - 1
    }

    /// A hash of the frame without what is drawn, ignored, or depends on that.
    fn hash(&mut self, bytes: &[u8], shape: usize, options: &Options) -> u64 {
        let plain = options.ignore.is_empty();
        let Some(shape) = self.shapes.get(shape).filter(|shape| !plain || !shape.is_empty()) else {
            return identity::hash(bytes);
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(bytes);
        for (offset, len, bits, checksums) in shape {
            blank(&mut self.scratch, usize::from(*offset), usize::from(*len), usize::from(*bits));
            for checksum in checksums.iter().filter(|at| **at != 0) {
                blank(&mut self.scratch, usize::from(*checksum), 2, 16);
            }
        }
        if !plain {
            self.dissection.read(bytes);
            for field in &self.dissection.fields {
                if field.name.is_checksum() || options.ignore.has(field.name, field.layer) {
                    let range = field.start as usize..(field.start + field.len) as usize;
                    if field.mask == 0 {
                        self.scratch[range].fill(0);
                    } else {
                        let len = range.len();
                        for (position, byte) in self.scratch[range].iter_mut().enumerate() {
                            *byte &= !((field.mask >> (8 * (len - 1 - position))) as u8);
                        }
                    }
                }
            }
        }
        identity::hash(&self.scratch)
    }
}

/// Clears the lowest bits of a big-endian field.
fn blank(frame: &mut [u8], offset: usize, len: usize, bits: usize) {
    let Some(field) = frame.get_mut(offset..offset + len) else { return };
    for (position, byte) in field.iter_mut().rev().enumerate() {
        *byte &= match bits.saturating_sub(position * 8) {
            0 => 0xff,
            left if left >= 8 => 0,
            left => 0xff << left,
        };
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
