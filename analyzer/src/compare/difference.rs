//! Whether two frames are equal, and if not, in which fields they differ.

use super::checksum;
use super::dissect::{Dissection, Sum};
use super::draws::Learner;
use super::fields::{Field, Name, Place, hex};
use super::ignore::Ignore;
use super::report::{Excerpt, FieldDifference};
use super::{Frame, draws};

/// How two frames differ.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    /// The fields.
    pub fields: Vec<FieldDifference>,
    /// The bytes.
    pub bytes: Option<Excerpt>,
    /// Fields with random values that no other frame confirms, with their expected values.
    pub taken: Vec<String>,
}

/// Compares frames; keeps its buffers from frame to frame.
#[derive(Debug)]
pub struct Judge<'o> {
    ignore: &'o Ignore,
    scratch: Vec<u8>,
    expected: Dissection,
    actual: Dissection,
}

impl<'o> Judge<'o> {
    /// A judge that lets these fields differ.
    pub fn new(ignore: &'o Ignore) -> Judge<'o> {
        Judge { ignore, scratch: Vec::new(), expected: Dissection::default(), actual: Dissection::default() }
    }

    /// Whether the interfaces are equal, as far as both are known.
    pub fn same_interface(&self, expected: &Frame<'_>, actual: &Frame<'_>) -> bool {
        match (expected.interface, actual.interface) {
            (Some(expected), Some(actual)) => expected == actual || self.ignore.has(Name::FrameInterface, 1),
            _ => true,
        }
    }

    /// Whether the bytes are equal: as they are, or but for random draws, ignored fields, padding and what was not captured.
    pub fn equal(&mut self, expected: &Frame<'_>, actual: &Frame<'_>) -> bool {
        if expected.bytes == actual.bytes && expected.wire_len == actual.wire_len {
            return true;
        }
        // Frames that differ in more than what follows are told apart here already, at little cost.
        if actual.drawn.is_empty() && self.ignore.is_empty() && expected.bytes.len() == actual.bytes.len() {
            return expected.bytes == actual.bytes && lengths_agree(expected, actual);
        }
        let (expected_bytes, actual_bytes) = comparable(expected, actual);
        self.scratch.clear();
        self.scratch.extend_from_slice(actual_bytes);
        draws::take_over(expected_bytes, &mut self.scratch, actual.drawn);
        if !lengths_agree(expected, actual) && !self.ignore.has(Name::FrameLength, 1) {
            return false;
        }
        if self.scratch == expected_bytes {
            return true;
        }
        if self.ignore.is_empty() {
            return false;
        }
        self.fields(expected_bytes).is_empty()
    }

    /// The fields in which two frames differ, none that only differ by a random draw or are ignored.
    pub fn differences(&mut self, expected: &Frame<'_>, actual: &Frame<'_>, learner: &Learner) -> Differences {
        let (expected_bytes, actual_bytes) = comparable(expected, actual);
        self.scratch.clear();
        self.scratch.extend_from_slice(actual_bytes);
        let drawn = learner.apply(expected_bytes, &mut self.scratch, actual.drawn);
        let mut fields = self.fields(expected_bytes);
        if fields.is_empty() && expected_bytes != self.scratch && self.ignore.is_empty() {
            fields.push(self.undissected(expected_bytes));
        }
        let taken = drawn
            .iter()
            .filter_map(|drawn| {
                let start = u32::from(drawn.offset);
                let field =
                    self.expected.fields.iter().find(|field| field.start == start && field.name.text() != "ipv6.version")?;
                Some(format!("{} {}", field.label(), field.value(expected_bytes)))
            })
            .collect();
        if !lengths_agree(expected, actual) && !self.ignore.has(Name::FrameLength, 1) {
            fields.push(FieldDifference {
                field: Name::FrameLength.text().to_owned(),
                offset: 0,
                expected: Some(expected.wire_len.to_string()),
                actual: Some(actual.wire_len.to_string()),
                follows: false,
            });
        }
        Differences { fields, bytes: Excerpt::of(expected_bytes, &self.scratch), taken }
    }

    /// Compares the scratch frame with the expected one, field by field.
    fn fields(&mut self, expected: &[u8]) -> Vec<FieldDifference> {
        self.expected.read(expected);
        self.actual.read(&self.scratch);
        if self.expected.fields.len() == self.actual.fields.len()
            && self.expected.fields.iter().zip(&self.actual.fields).all(|(expected, actual)| expected == actual)
        {
            self.fields_of_one_layout(expected)
        } else {
            self.fields_of_two_layouts(expected)
        }
    }

    /// Both frames have the same headers at the same offsets. Ignored fields take the expected value, and so do the checksums
    /// that cover them; a checksum that is right for the differing fields is told to follow from them.
    fn fields_of_one_layout(&mut self, expected: &[u8]) -> Vec<FieldDifference> {
        let sums = &self.actual.sums;
        if !self.ignore.is_empty() {
            for field in self.actual.fields.iter().filter(|field| self.ignore.has(field.name, field.layer)) {
                take_field(expected, &mut self.scratch, field, sums);
            }
        }
        let mut follows = self.scratch.clone();
        for field in self.actual.fields.iter().filter(|field| !field.name.is_checksum()) {
            take_field(expected, &mut follows, field, sums);
        }
        self.actual
            .fields
            .iter()
            .filter(|field| !self.ignore.has(field.name, field.layer) && !field.same(expected, field, &self.scratch))
            .map(|field| {
                let mut difference = describe(Some((field, expected)), Some((field, &self.scratch)));
                difference.follows = field.name.is_checksum() && field.same(expected, field, &follows);
                difference
            })
            .collect()
    }

    fn fields_of_two_layouts(&self, expected: &[u8]) -> Vec<FieldDifference> {
        let expected_keys = keyed(&self.expected.fields);
        let actual_keys = keyed(&self.actual.fields);
        let mut found = Vec::new();
        // What the differences that both layouts show make of the actual frame.
        let mut explained = self.scratch.clone();
        for (key, field) in &expected_keys {
            if self.ignore.has(field.name, field.layer) {
                continue;
            }
            match actual_keys.binary_search_by_key(key, |(key, _)| *key) {
                Ok(position) => {
                    let other = actual_keys[position].1;
                    if !field.same(expected, other, &self.scratch) {
                        if (field.start, field.len) == (other.start, other.len) {
                            take_field(expected, &mut explained, field, &[]);
                        }
                        found.push(describe(Some((field, expected)), Some((other, &self.scratch))));
                    }
                }
                Err(_) => found.push(describe(Some((field, expected)), None)),
            }
        }
        for (key, field) in &actual_keys {
            let ignored = self.ignore.has(field.name, field.layer);
            if !ignored && expected_keys.binary_search_by_key(key, |(key, _)| *key).is_err() {
                found.push(describe(None, Some((field, &self.scratch))));
            }
        }
        // A changed type or length gives what follows another meaning. That is no difference of its own.
        if explained == expected {
            found.retain(|difference| difference.expected.is_some() && difference.actual.is_some());
        }
        found.sort_by_key(|difference| difference.offset);
        found
    }

    /// A difference that no field shows, as a slice of the frame.
    fn undissected(&self, expected: &[u8]) -> FieldDifference {
        let whole = |bytes: &[u8]| Field {
            name: Name::FrameBytes,
            place: Place::Outer,
            layer: 1,
            start: 0,
            len: bytes.len() as u32,
            mask: 0,
        };
        describe(Some((&whole(expected), expected)), Some((&whole(&self.scratch), &self.scratch)))
    }
}

type Key = (Place, u8, Name, u16);

/// Fields sorted by what they are; those of one name and header (TCP options) are numbered.
fn keyed(fields: &[Field]) -> Vec<(Key, &Field)> {
    let mut keyed: Vec<(Key, &Field)> = fields.iter().map(|field| ((field.place, field.layer, field.name, 0), field)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    for position in 1..keyed.len() {
        let (place, layer, name, number) = keyed[position - 1].0;
        let key = &mut keyed[position].0;
        if (key.0, key.1, key.2) == (place, layer, name) {
            key.3 = number.saturating_add(1);
        }
    }
    keyed
}

/// The parts of two frames that can be compared: up to where the shorter capture was cut, and without the padding that only
/// one of them carries.
fn comparable<'f>(expected: &Frame<'f>, actual: &Frame<'f>) -> (&'f [u8], &'f [u8]) {
    let cut = |frame: &Frame<'_>| (frame.bytes.len() as u64) < u64::from(frame.wire_len);
    let (mut one, mut other) = (expected.bytes, actual.bytes);
    if one.len() != other.len() {
        let shorter = one.len().min(other.len());
        if cut(expected) || cut(actual) || is_padding(one, other) {
            one = &one[..shorter];
            other = &other[..shorter];
        }
    }
    (one, other)
}

/// Whether the lengths on the wire agree. Frames that were cut may differ in nothing else.
fn lengths_agree(expected: &Frame<'_>, actual: &Frame<'_>) -> bool {
    let whole = |frame: &Frame<'_>| frame.bytes.len() as u64 >= u64::from(frame.wire_len);
    // Whole frames show their length in their bytes.
    whole(expected) && whole(actual)
        || expected.wire_len == actual.wire_len
        || expected.wire_len.max(actual.wire_len) == 60
        || expected.wire_len == 0
        || actual.wire_len == 0
}

/// Whether the longer frame is the shorter with padding to Ethernet's minimum of 60 bytes.
fn is_padding(one: &[u8], other: &[u8]) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    long.len() <= 60 && unpadded(long) == short.len()
}

/// The length of a frame without the padding behind its packet.
fn unpadded(frame: &[u8]) -> usize {
    let word = |at: usize| frame.get(at..at + 2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut at = 12;
    while matches!(word(at), Some(0x8100 | 0x88a8)) {
        at += 4;
    }
    let packet = at + 2;
    let len = match word(at) {
        Some(0x0800) => word(packet + 2).map(usize::from),
        Some(0x86dd) => word(packet + 4).map(|len| usize::from(len) + 40),
        Some(0x0806) => Some(28),
        _ => None,
    };
    len.map_or(frame.len(), |len| frame.len().min(packet + len))
}

/// Gives a field its expected value and updates what depends on it.
fn take_field(expected: &[u8], frame: &mut [u8], field: &Field, sums: &[Sum]) {
    let range = field.start as usize..(field.start + field.len) as usize;
    let (Some(source), Some(target)) = (expected.get(range.clone()), frame.get(range.clone())) else { return };
    let mut bytes = source.to_vec();
    if field.mask != 0 {
        for (position, byte) in bytes.iter_mut().enumerate() {
            let mask = (field.mask >> (8 * (range.len() - 1 - position))) as u8;
            *byte = target[position] & !mask | *byte & mask;
        }
    }
    put(frame, range.start, &bytes, sums, 0);
}

/// Writes bytes, and updates the checksums over them and those over these.
fn put(frame: &mut [u8], offset: usize, bytes: &[u8], sums: &[Sum], depth: u8) {
    let before = frame.get(offset..offset + bytes.len()).map(<[u8]>::to_vec);
    // A checksum covers less than the one around it, so this ends by itself; the bound is for malformed frames.
    if depth > 16 || before.is_none_or(|before| before == bytes) {
        return;
    }
    let covering: Vec<usize> = sums
        .iter()
        .filter(|sum| sum.at != offset && (sum.covers.contains(&offset) || sum.pseudo.contains(&offset)))
        .map(|sum| sum.at)
        .collect();
    // Each change of a checksum is itself a change under the checksums around it.
    for at in covering {
        let mut after = frame.to_vec();
        checksum::replace(&mut after, offset, bytes, &[at]);
        if let Some(value) = after.get(at..at + 2) {
            let value = [value[0], value[1]];
            put(frame, at, &value, sums, depth + 1);
        }
    }
    checksum::replace(frame, offset, bytes, &[]);
}

/// A difference in words. At least one side has the field.
fn describe(expected: Option<(&Field, &[u8])>, actual: Option<(&Field, &[u8])>) -> FieldDifference {
    let label = expected.or(actual).map(|(field, _)| field.label()).unwrap_or_default();
    let start = expected.or(actual).map_or(0, |(field, _)| field.start as usize);
    if let (Some((expected, expected_frame)), Some((actual, actual_frame))) = (expected, actual)
        && expected.name.is_bulk()
    {
        return bulk(label, expected.bytes(expected_frame), actual.bytes(actual_frame), start);
    }
    let value = |side: Option<(&Field, &[u8])>| side.map(|(field, frame)| field.value(frame));
    FieldDifference { field: label, offset: start, expected: value(expected), actual: value(actual), follows: false }
}

/// A difference of payloads: the slice that differs, in Wireshark's notation `tcp.payload[12:4]`.
fn bulk(label: String, expected: &[u8], actual: &[u8], start: usize) -> FieldDifference {
    if expected.len() != actual.len() {
        let bytes = |len| Some(format!("{len} bytes"));
        return FieldDifference {
            field: label,
            offset: start,
            expected: bytes(expected.len()),
            actual: bytes(actual.len()),
            follows: false,
        };
    }
    let differs = |position: &usize| expected[*position] != actual[*position];
    let first = (0..expected.len()).find(differs).unwrap_or(0);
    let last = (0..expected.len()).rfind(differs).unwrap_or(first);
    let slice = first..last.max(first).saturating_add(1).min(expected.len());
    FieldDifference {
        field: if slice.len() == expected.len() { label } else { format!("{label}[{first}:{}]", slice.len()) },
        offset: start + first,
        expected: Some(hex(&expected[slice.clone()])),
        actual: Some(hex(&actual[slice])),
        follows: false,
    }
}
