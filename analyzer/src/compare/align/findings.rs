//! What an alignment found, counted and put into words.

use super::{Alignment, Found, Memory, equal_pair};
use crate::compare::difference::Differences;
use crate::compare::dissect::Dissection;
use crate::compare::draws::{Contradiction, EqualPair, Learner, Pair};
use crate::compare::fields::{Field, Name, Place};
use crate::compare::report::{Comparison, FieldDifference, Finding, FindingKind, summary};
use crate::compare::{Frame, Frames, draws, identity, servers};
use foldhash::{HashMap, HashMapExt};
use lvscheck_engine::time::Nanos;

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

impl Alignment<'_> {
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

    /// The result: all that was found, counted and, as far as the limit goes, put into words.
    pub(super) fn finish(mut self, memory: &mut Memory) -> Comparison {
        let Memory { learner, redirected: known } = memory;
        let equal = self.start + self.tail + self.equal.len();
        let mut comparison = Comparison {
            expected: self.expected.len() as u64,
            actual: self.actual.len() as u64,
            equal: equal as u64,
            ..Comparison::default()
        };
        let mut found = std::mem::take(&mut self.found);
        let (frames, options, context) = ((self.expected, self.actual), self.options, self.context);
        let details = |pair| self.differences(pair, learner).fields;
        let redirected = servers::group(frames, &mut found, details, options, context, known);
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
                    Problem::Found(found) => self.describe(&found, &copies, learner),
                    Problem::Untimely(pair) => self.untimely(pair),
                    Problem::Contradiction(found) => self.contradiction(&found),
                });
            }
        }
        comparison
    }

    fn equal_pairs(&self) -> impl Iterator<Item = EqualPair<'_>> {
        let ahead = (0..self.start).map(|index| (index, index));
        let (ends, tail) = ((self.expected.len(), self.actual.len()), self.tail);
        let behind = (0..tail).rev().map(move |back| (ends.0 - 1 - back, ends.1 - 1 - back));
        let pairs = ahead.chain(self.equal.iter().copied()).chain(behind);
        pairs.map(|pair| equal_pair(pair, &self.expected.frame(pair.0), &self.actual.frame(pair.1)))
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
        let (label, frame) = (&self.options.expected_label, self.expected.frame(index));
        let (kind, message) = match copy {
            Some(copy) => {
                let other = self.expected.frame(copy.other).number;
                (FindingKind::Duplicated, repeats(label, (frame.number, other), copy.count, copy.paired))
            }
            None => (FindingKind::Missing, format!("{label} {}: missing: {}", frame.number, servers::frame_words(&frame))),
        };
        self.finding(kind, Some(index), None, message)
    }

    fn unexpected(&self, index: usize, copy: Option<&Copy>) -> Finding {
        let (label, frame) = (&self.options.actual_label, self.actual.frame(index));
        let (kind, message) = match copy {
            Some(copy) => {
                let other = self.actual.frame(copy.other).number;
                (FindingKind::Duplicated, repeats(label, (frame.number, other), copy.paired, copy.count))
            }
            None => (FindingKind::Unexpected, format!("{label} {}: unexpected: {}", frame.number, servers::frame_words(&frame))),
        };
        self.finding(kind, None, Some(index), message)
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
                witness
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

/// A frame is a copy of another one on its side; how often it is expected, and how often there.
fn repeats(label: &str, (number, other): (u64, u64), expected: usize, got: usize) -> String {
    format!("{label} {number}: repeats {label} {other}: expected {}, got {}", times(expected), times(got))
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
