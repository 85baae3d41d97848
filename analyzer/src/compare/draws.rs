//! Learns random draws from the golden: a field that the engine marked as drawn takes the golden's value.
//!
//! A draw is one value: all its fields must agree on it. The first frame that shows a draw sets it; where others disagree,
//! the majority is right and the rest are findings. Only draws that the engine marks can be learned, and it marks only
//! what the reference lists as random.

use super::checksum;
use foldhash::HashMap;
use lvscheck_engine::draws::Draw;
use lvscheck_engine::output::{DrawnField, DrawnKind};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Gives the drawn fields of a frame the values of the expected frame, and updates the checksums that cover them.
pub fn take_over(expected: &[u8], frame: &mut [u8], drawn: &[DrawnField]) {
    for field in drawn {
        if let Some(value) = read(expected, field) {
            put(expected, frame, field, value);
        }
    }
}

/// Gives a drawn field a value, and updates the checksums that cover it.
fn put(expected: &[u8], frame: &mut [u8], field: &DrawnField, value: u64) {
    if read(frame, field).is_some_and(|own| own != value) {
        let start = usize::from(field.offset);
        let len = usize::from(field.len);
        let mask = mask(field);
        let mut whole = 0u64;
        for byte in &frame[start..start + len] {
            whole = whole << 8 | u64::from(*byte);
        }
        let bytes = (whole & !mask | value).to_be_bytes();
        let checksums = field.checksums.map(usize::from);
        let covering = checksums.iter().position(|at| *at == 0).unwrap_or(checksums.len());
        checksum::replace(frame, start, &bytes[8 - len..], &checksums[..covering]);
        for at in &checksums[..covering] {
            settle_zero(expected, frame, *at);
        }
    }
}

/// Zero has two forms in ones' complement, and a UDP header writes the other one (RFC 768). Where the two frames differ by
/// that alone, the expected form holds.
fn settle_zero(expected: &[u8], frame: &mut [u8], at: usize) {
    if let (Some(expected), Some(own)) = (expected.get(at..at + 2), frame.get_mut(at..at + 2))
        && own == [0, 0]
        && expected == [0xff, 0xff]
    {
        own.copy_from_slice(expected);
    }
}

/// The bits of a drawn field that hold the draw.
fn mask(field: &DrawnField) -> u64 {
    match field.bits {
        0 => 0,
        bits if bits >= 64 => u64::MAX,
        bits => (1 << bits) - 1,
    }
}

/// The value of a drawn field; `None` where the frame is too short.
pub fn read(frame: &[u8], field: &DrawnField) -> Option<u64> {
    let start = usize::from(field.offset);
    let len = usize::from(field.len);
    if len > 8 || len == 0 {
        return None;
    }
    let bytes = frame.get(start..start + len)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) & mask(field))
}

/// What reports call a kind of draw.
pub fn kind(draw: &Draw) -> &'static str {
    match draw {
        Draw::Ipv4Id(_) => "IP ID",
        Draw::GueSourcePort { .. } => "GUE source port",
        Draw::FlowLabel(_) => "IPv6 flow label",
        Draw::Ipv6FragmentId(_) => "IPv6 fragment ID",
        Draw::Timestamp(_) => "clock",
        Draw::Payload(_) => "payload",
        Draw::SequenceOffset(_) => "TCP sequence offset",
        Draw::DoubleStep(_) => "local address step",
        Draw::SynCookie(_) => "SYN cookie",
        Draw::TimerJitter(_) => "timer jitter",
        Draw::Twos(_) => "scheduler draw",
    }
}

/// How far the golden's value of a draw is from the engine's: the same for every field of the draw, whether it holds the
/// value, a number plus it, or a number minus it.
pub(super) fn shift(field: &DrawnField, expected: u64, actual: u64) -> u64 {
    let difference = match field.kind {
        DrawnKind::Value | DrawnKind::Plus => expected.wrapping_sub(actual),
        DrawnKind::Minus => actual.wrapping_sub(expected),
    };
    difference & mask(field)
}

/// The golden's value of a field, for the engine's and that distance.
fn from_shift(field: &DrawnField, actual: u64, shift: u64) -> u64 {
    let value = match field.kind {
        DrawnKind::Value | DrawnKind::Plus => actual.wrapping_add(shift),
        DrawnKind::Minus => actual.wrapping_sub(shift),
    };
    value & mask(field)
}

/// Two frames that were compared, by position in their sequences.
pub type Pair = (usize, usize);

/// A drawn field whose value can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The frames at fault.
    pub pair: Pair,
    /// The field.
    pub field: DrawnField,
    /// The golden's value there.
    pub value: u64,
    /// The number of an expected frame with the value that the draw has elsewhere, and that value as it would stand in this field;
    /// `None`: the value lies outside the range for such draws.
    pub elsewhere: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    shift: u64,
    /// The number of the expected frame that showed it first.
    first: u64,
}

/// Two frames that are equal but for their draws.
#[derive(Clone, Copy, Debug, Default)]
pub struct EqualPair<'f> {
    /// Where they stand.
    pub pair: Pair,
    /// The number of the expected one.
    pub number: u64,
    /// The expected one's bytes.
    pub expected: &'f [u8],
    /// The other one's.
    pub actual: &'f [u8],
    /// What is drawn in it.
    pub drawn: &'f [DrawnField],
}

/// A field that shows a draw: the shift, the frames and the expected one's number, the field, its expected and its actual value.
type Use = (u64, Pair, u64, DrawnField, u64, u64);

/// So many draws are never too many.
const ENOUGH: usize = 1 << 18;

/// Collects draws.
#[derive(Debug)]
pub struct Learner {
    values: HashMap<Draw, Learned>,
    /// How many were forgotten, by kind.
    forgotten: BTreeMap<&'static str, u64>,
    /// How many may be known before old ones are looked for.
    enough: usize,
    local_ports: RangeInclusive<u16>,
    disputed: Vec<Draw>,
    outside: Vec<Contradiction>,
}

impl Learner {
    /// Nothing learned yet; drawn source ports must lie in this range.
    pub fn new(local_ports: RangeInclusive<u16>) -> Learner {
        let (values, forgotten, disputed, outside) = Default::default();
        Learner { values, forgotten, enough: ENOUGH, local_ports, disputed, outside }
    }

    /// Learns from two frames that are equal but for their draws.
    pub fn see(&mut self, frames: EqualPair<'_>) {
        let EqualPair { pair, number, expected, actual, drawn } = frames;
        for field in drawn {
            let (Some(value), Some(own)) = (read(expected, field), read(actual, field)) else { continue };
            if matches!(field.draw, Draw::GueSourcePort { .. })
                && !u16::try_from(value).is_ok_and(|port| self.local_ports.contains(&port))
            {
                self.outside.push(Contradiction { pair, field: *field, value, elsewhere: None });
                continue;
            }
            let shift = shift(field, value, own);
            let known = self.values.entry(field.draw).or_insert(Learned { shift, first: number });
            if known.shift != shift {
                self.disputed.push(field.draw);
            }
        }
    }

    /// Gives the drawn fields of a frame the values that equal frames showed for their draws, and those of the expected frame
    /// where no other shows them. Returns which were taken from the expected frame alone.
    pub fn apply<'d>(&self, expected: &[u8], frame: &mut [u8], drawn: &'d [DrawnField]) -> Vec<&'d DrawnField> {
        let mut taken = Vec::new();
        for field in drawn {
            let (Some(value), Some(own)) = (read(expected, field), read(frame, field)) else { continue };
            match self.values.get(&field.draw) {
                Some(known) => put(expected, frame, field, from_shift(field, own, known.shift)),
                None => {
                    put(expected, frame, field, value);
                    taken.push(field);
                }
            }
        }
        taken
    }

    /// Forgets draws of single packets that are old, once there are many: no frame that is still to come shows them. `is_old` is told
    /// the draw, its number among those of its kind, and the number of the expected frame that showed it.
    pub fn forget(&mut self, is_old: impl Fn(&Draw, u64, u64) -> bool) {
        if self.values.len() < self.enough {
            return;
        }
        let forgotten = &mut self.forgotten;
        self.values.retain(|draw, learned| {
            let old = draw.of_packet().is_some_and(|number| is_old(draw, number, learned.first));
            if old {
                *forgotten.entry(kind(draw)).or_insert(0) += 1;
            }
            !old
        });
        self.enough = (2 * self.values.len()).max(ENOUGH);
    }

    /// Whether every draw had one value so far, and one that it may have.
    pub fn agrees(&self) -> bool {
        self.disputed.is_empty() && self.outside.is_empty()
    }

    /// How many draws are known.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.values.len()
    }

    /// How many draws were learned, by kind.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.forgotten.clone();
        for draw in self.values.keys() {
            *counts.entry(kind(draw)).or_insert(0) += 1;
        }
        counts
    }

    /// The contradictions, given the equal pairs once more that were seen since the last time. Of several values the one that most
    /// frames show is right, or that frames showed before those.
    pub fn contradictions<'f>(&mut self, pairs: impl Iterator<Item = EqualPair<'f>>) -> Vec<Contradiction> {
        let mut disputed = std::mem::take(&mut self.disputed);
        disputed.sort_unstable();
        disputed.dedup();
        let mut uses: BTreeMap<Draw, Vec<Use>> = BTreeMap::new();
        if !disputed.is_empty() {
            for EqualPair { pair, number, expected, actual, drawn } in pairs {
                for field in drawn.iter().filter(|field| disputed.binary_search(&field.draw).is_ok()) {
                    if let (Some(value), Some(own)) = (read(expected, field), read(actual, field)) {
                        let shift = shift(field, value, own);
                        uses.entry(field.draw).or_default().push((shift, pair, number, *field, value, own));
                    }
                }
            }
        }
        let mut found = std::mem::take(&mut self.outside);
        for (draw, uses) in uses {
            let mut votes: Vec<(u64, usize)> = Vec::new();
            for (shift, ..) in &uses {
                match votes.iter_mut().find(|(value, _)| value == shift) {
                    Some((_, count)) => *count += 1,
                    None => votes.push((*shift, 1)),
                }
            }
            // Of equally many, the first seen holds: max_by_key takes the last, so the order is turned round.
            let Some(&(most, _)) = votes.iter().rev().max_by_key(|(_, count)| *count) else { continue };
            let of_these = |number: u64| uses.iter().any(|(_, _, seen, ..)| *seen == number);
            let known = self.values.get(&draw).filter(|known| !of_these(known.first));
            let right = known.map_or(most, |known| known.shift);
            let shows = uses.iter().find(|(shift, ..)| *shift == right).map(|(_, _, number, ..)| *number);
            let witness = known.map(|known| known.first).or(shows);
            for (shift, pair, _, field, value, own) in uses {
                if shift == right {
                    continue;
                }
                let elsewhere = witness.map(|witness| (witness, from_shift(&field, own, right)));
                found.push(Contradiction { pair, field, value, elsewhere });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn port(number: u16) -> Draw {
        let address = std::net::IpAddr::from([10, 0, 0, 1]);
        Draw::GueSourcePort { source: address, destination: address, ports: (number, 80), protocol: 6, flow_label: 0 }
    }

    fn learn(goldens: &[u16], kind: DrawnKind) -> (BTreeMap<&'static str, u64>, Vec<Contradiction>) {
        let field = DrawnField { kind, ..DrawnField::value(port(1), 0, 2) };
        let frames: Vec<[u8; 2]> = goldens.iter().map(|value| value.to_be_bytes()).collect();
        let own = 40000u16.to_be_bytes();
        let drawn = [field];
        let mut learner = Learner::new(32768..=60999);
        let pair =
            |(at, golden)| EqualPair { pair: (at, at), number: at as u64 + 1, expected: golden, actual: &own, drawn: &drawn };
        let pairs = frames.iter().map(|golden| &golden[..]).enumerate().map(pair);
        pairs.clone().for_each(|pair| learner.see(pair));
        (learner.counts(), learner.contradictions(pairs))
    }

    #[test]
    fn a_draw_has_one_value_and_the_majority_is_right() {
        let (counts, none) = learn(&[45487, 45487, 45487], DrawnKind::Value);
        assert_eq!(counts.get("GUE source port"), Some(&1));
        assert!(none.is_empty());
        let (_, found) = learn(&[45488, 45487, 45487], DrawnKind::Value);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pair, found[0].value, found[0].elsewhere), ((0, 0), 45488, Some((2, 45487))));
        let (_, found) = learn(&[45487, 45488], DrawnKind::Minus);
        assert_eq!((found[0].pair, found[0].elsewhere), ((1, 1), Some((1, 45487))));
    }

    #[test]
    fn what_was_learned_before_is_right() {
        let drawn = [DrawnField::value(port(1), 0, 2)];
        let own = 40000u16.to_be_bytes();
        let (before, after) = (45487u16.to_be_bytes(), 45488u16.to_be_bytes());
        let pair = |number, expected| EqualPair { pair: (0, 0), number, expected, actual: &own, drawn: &drawn };
        let mut learner = Learner::new(32768..=60999);
        learner.see(pair(1, &before));
        assert!(learner.contradictions([pair(1, &before)].into_iter()).is_empty());
        let later = [pair(2, &after[..]), pair(3, &after)];
        later.into_iter().for_each(|pair| learner.see(pair));
        let found = learner.contradictions(later.into_iter());
        assert_eq!(found.iter().map(|found| found.elsewhere).collect::<Vec<_>>(), [Some((1, 45487)); 2]);
        assert!(learner.agrees(), "told once");
    }

    #[test]
    fn a_source_port_outside_the_local_range_is_refused() {
        let (counts, found) = learn(&[80], DrawnKind::Value);
        assert!(counts.is_empty());
        assert_eq!((found[0].value, found[0].elsewhere), (80, None));
    }

    #[test]
    fn checksums_follow_the_value_taken_over() {
        // An IP header with the ID as drawn field.
        let golden = [0x45, 0, 0, 20, 0x12, 0x34, 0, 0, 64, 1, 0x54, 0xaa, 10, 0, 0, 1, 10, 0, 0, 2];
        let mut own = golden;
        own[4..6].copy_from_slice(&[0, 7]);
        own[10..12].copy_from_slice(&[0x66, 0xd7]);
        take_over(&golden, &mut own, &[DrawnField::value(Draw::Ipv4Id(1), 4, 2).summed_at(10)]);
        assert_eq!(own, golden);
    }

    #[test]
    fn only_the_bits_of_the_draw_change() {
        let golden = [0x60, 0x01, 0x23, 0x45];
        let mut own = [0x6f, 0xf0, 0, 1];
        let field = DrawnField { bits: 20, ..DrawnField::value(Draw::FlowLabel(1), 0, 4) };
        take_over(&golden, &mut own, &[field]);
        assert_eq!(own, [0x6f, 0xf1, 0x23, 0x45]);
    }
}
