//! Which frames are equal, for all frames at once: by a number that equal frames share.

use crate::compare::dissect::Dissection;
use crate::compare::fields::Name;
use crate::compare::order::NONE;
use crate::compare::{Frame, Frames, Options, identity};
use foldhash::{HashMap, HashMapExt};
use lvscheck_engine::output::DrawnField;
use std::ops::Range;

/// Numbers for frames, equal for frames that are equal but for draws, ignored fields and padding; [`NONE`] for an expected frame
/// that no emitted one is equal to.
#[derive(Debug)]
pub(super) struct Classes {
    pub(super) expected: Vec<u32>,
    pub(super) actual: Vec<u32>,
}

impl Classes {
    /// Of the frames of those ranges.
    pub(super) fn of(
        (expected, left): (&dyn Frames, &Range<usize>),
        (actual, right): (&dyn Frames, &Range<usize>),
        options: &Options,
    ) -> Classes {
        let interfaces = !options.ignore.has(Name::FrameInterface, 1)
            && left.clone().all(|index| expected.frame(index).interface.is_some())
            && right.clone().all(|index| actual.frame(index).interface.is_some());
        let mut masks = Masks { shapes: vec![Vec::new()], ..Masks::default() };
        let mut numbers: HashMap<(usize, u64, u64), u32> = HashMap::with_capacity(right.len());
        let place = |frame: &Frame<'_>| match frame.interface {
            Some(name) if interfaces => identity::hash(name.as_bytes()),
            _ => 0,
        };
        let mut classes = Classes { expected: Vec::with_capacity(left.len()), actual: Vec::with_capacity(right.len()) };
        for index in right.clone() {
            let frame = actual.frame(index);
            let shape = masks.shape(frame.drawn);
            let key = (shape, masks.hash(frame.bytes, shape, options), place(&frame));
            let next = numbers.len() as u32;
            classes.actual.push(*numbers.entry(key).or_insert(next));
        }
        for index in left.clone() {
            let frame = expected.frame(index);
            let class = (0..masks.shapes.len())
                .find_map(|shape| numbers.get(&(shape, masks.hash(frame.bytes, shape, options), place(&frame))).copied());
            classes.expected.push(class.unwrap_or(NONE));
        }
        classes
    }
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
