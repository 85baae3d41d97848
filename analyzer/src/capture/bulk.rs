//! Reading plain pcap files in bulk: large windows, read and walked by all threads at once.
//!
//! Bytes are read into a buffer that is used again for each window; measured against a mapped file this is cheaper (page
//! tables cost more than a copy that stays in the cache), needs no unsafe code, and a file that shrinks meanwhile is an error
//! instead of a signal. pcap has no index, so a thread that starts in the middle guesses where a record begins; each guess is
//! checked against where the part before it really ends, and a wrong one is walked again. What is found is therefore exactly
//! what [`super::Reader`] finds.

use super::error::{CaptureError, Damage};
use super::format::{self, CaptureInterface, Format, PcapFormat, Record, Step};
use lvscheck_engine::Nanos;
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// How many bytes one thread walks at a time: its share of a window stays in the second-level cache.
const PART: usize = 512 << 10;
/// How many records in a row must look right before a guess is worth checking.
const CONVINCING: usize = 4;
/// Seconds by which time stamps of neighbouring records may differ in a guess.
const NEAR: u32 = 86_400;

/// A plain pcap file.
#[derive(Debug)]
pub struct BulkReader {
    name: String,
    file: File,
    size: u64,
    format: PcapFormat,
    interfaces: Vec<CaptureInterface>,
    at: u64,
    frames: u64,
    damage: Option<Damage>,
}

/// Frames of a capture, in parts that were walked by one thread each.
#[derive(Debug, Default)]
pub struct BulkWindow {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    count: usize,
    first_number: u64,
    format: Option<(PcapFormat, Vec<CaptureInterface>)>,
}

/// Records of one part.
#[derive(Debug, Default)]
struct Part {
    /// Where each record starts in the window.
    records: Vec<u32>,
    /// Where the walk began and ended.
    walked: Range<usize>,
    /// Why it ended before the part's end: the rest is not whole, or makes no sense.
    stopped: Option<Step>,
    /// Captured bytes, and bytes on the wire.
    bytes: u64,
    wire_bytes: u64,
}

impl BulkReader {
    /// Opens a file if it is one for bulk reading: plain pcap, not compressed, on a disk. None: read it another way.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(path: &Path) -> Result<Option<BulkReader>, CaptureError> {
        let name = path.display().to_string();
        let io = |source| CaptureError::Io { name: name.clone(), source };
        if path.as_os_str() == "-" {
            return Ok(None);
        }
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let file = File::open(path).map_err(io)?;
        let mut head = [0; format::HEAD];
        if read_at(&file, &mut head, 0).map_err(io)? < head.len() {
            return Ok(None);
        }
        let mut interfaces = Vec::new();
        let Ok((Format::Pcap(format), at)) = format::detect(&head, &mut interfaces) else { return Ok(None) };
        Ok(Some(BulkReader { name, file, size: metadata.len(), format, interfaces, at: at as u64, frames: 0, damage: None }))
    }

    /// The capture's one interface.
    pub fn interfaces(&self) -> &[CaptureInterface] {
        &self.interfaces
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Length of the header before each frame.
    #[inline]
    pub fn record_head(&self) -> usize {
        self.format.record_head()
    }

    /// Reads bytes of the file, wherever the windows stand; returns how many there were.
    ///
    /// # Errors
    /// The file's.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(&self.file, buffer, offset)
    }

    /// The record that stands at a place of bytes of the file, if it is whole.
    #[inline]
    pub fn record(&self, bytes: &[u8], at: usize) -> Option<Record> {
        match self.format.step(bytes, at, &self.interfaces) {
            Step::Frame(record, _) => Some(record),
            _ => None,
        }
    }

    /// How many bytes are done.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The fault that ended the capture early, once the last window was given.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Fills the window with the next frames that lie in at most `most` bytes; false at the end.
    ///
    /// # Errors
    /// The file can't be read, or is broken before its first frame. A later fault ends the capture, see
    /// [`BulkReader::damage`].
    pub fn next_window(&mut self, window: &mut BulkWindow, most: usize) -> Result<bool, CaptureError> {
        window.count = 0;
        window.first_number = self.frames + 1;
        window.format = Some((self.format, self.interfaces.clone()));
        if self.damage.is_some() || self.at >= self.size {
            return Ok(false);
        }
        // Room for at least one record, however small a window is asked for.
        let most = most.clamp(2 * format::MAX_RECORD, u32::MAX as usize) as u64;
        let len = most.min(self.size - self.at) as usize;
        window.bytes.resize(len, 0);
        self.fill(&mut window.bytes)?;
        window.parts.resize_with(window.bytes.len().div_ceil(PART).max(1), Part::default);
        let bytes = &window.bytes[..];
        window.parts.par_iter_mut().enumerate().for_each(|(number, part)| {
            let from = number * PART;
            let start = if number == 0 { Some(0) } else { self.guess(bytes, from) };
            part.walk(self, bytes, start, from + PART);
        });
        let mut end = 0;
        let mut stopped = None;
        for (number, part) in window.parts.iter_mut().enumerate() {
            let limit = (number + 1) * PART;
            // After a fault, and inside a record longer than the part, nothing begins.
            if stopped.is_some() || end >= limit {
                part.clear();
                continue;
            }
            if part.walked.start != end {
                part.walk(self, bytes, Some(end), limit);
            }
            end = part.walked.end;
            stopped = part.stopped.take();
        }
        window.count = window.parts.iter().map(|part| part.records.len()).sum();
        self.at += end as u64;
        self.frames += window.count as u64;
        match stopped {
            Some(Step::Damage(fault)) => self.fail(fault.to_string()),
            Some(Step::More(wanted)) if self.at + wanted as u64 > self.size => {
                let rest = self.size - self.at;
                self.fail(format!("the last record is cut: {rest} of {wanted} bytes are there"));
            }
            _ => {}
        }
        match &self.damage {
            Some(Damage { name, offset, what, .. }) if self.frames == 0 => {
                Err(CaptureError::Broken { name: name.clone(), what: what.clone(), offset: *offset })
            }
            _ => Ok(window.count > 0),
        }
    }

    /// Reads the window's bytes, all threads at once. A file that became shorter ends there.
    fn fill(&mut self, bytes: &mut Vec<u8>) -> Result<(), CaptureError> {
        let at = self.at;
        let read: Vec<io::Result<(usize, usize)>> = bytes
            .par_chunks_mut(PART)
            .enumerate()
            .map(|(number, chunk)| Ok((chunk.len(), read_at(&self.file, chunk, at + (number * PART) as u64)?)))
            .collect();
        let mut whole = 0;
        for part in read {
            let (wanted, found) = part.map_err(|source| CaptureError::Io { name: self.name.clone(), source })?;
            whole += found;
            if found < wanted {
                bytes.truncate(whole);
                self.size = at + whole as u64;
                break;
            }
        }
        Ok(())
    }

    fn fail(&mut self, what: String) {
        self.damage = Some(Damage { name: self.name.clone(), frames: self.frames, offset: self.at, what });
    }

    /// The first place from `from` on, within one part, where records seem to begin.
    fn guess(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let near = self.seconds(bytes, 0)?;
        (from..(from + PART).min(bytes.len())).find(|at| self.convinces(bytes, *at, near))
    }

    fn seconds(&self, bytes: &[u8], at: usize) -> Option<u32> {
        match self.format.step(bytes, at, &self.interfaces) {
            Step::Frame(record, _) => Some((record.time.0 / 1_000_000_000) as u32),
            _ => None,
        }
    }

    fn convinces(&self, bytes: &[u8], mut at: usize, near: u32) -> bool {
        for _ in 0..CONVINCING {
            match self.format.step(bytes, at, &self.interfaces) {
                Step::Frame(record, size) => {
                    let seconds = (record.time.0 / 1_000_000_000) as u32;
                    if record.len == 0 || record.wire_len > 0xff_ffff || seconds.abs_diff(near) > NEAR {
                        return false;
                    }
                    at += size;
                }
                Step::More(_) => return true,
                _ => return false,
            }
        }
        true
    }
}

impl Part {
    fn clear(&mut self) {
        self.records.clear();
        self.stopped = None;
        (self.bytes, self.wire_bytes) = (0, 0);
    }

    /// Finds the records that begin from `start` up to `end`. Without a start there are none.
    fn walk(&mut self, reader: &BulkReader, bytes: &[u8], start: Option<usize>, end: usize) {
        self.clear();
        let Some(mut at) = start else {
            self.walked = usize::MAX..usize::MAX;
            return;
        };
        let first = at;
        while at < end.min(bytes.len()) {
            match reader.format.step(bytes, at, &reader.interfaces) {
                Step::Frame(record, size) => {
                    self.records.push(at as u32);
                    self.bytes += u64::from(record.len);
                    self.wire_bytes += u64::from(record.wire_len);
                    at += size;
                }
                step => {
                    self.stopped = Some(step);
                    break;
                }
            }
        }
        self.walked = first..at;
    }
}

impl BulkWindow {
    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of the first frame, from 1.
    pub fn first_number(&self) -> u64 {
        self.first_number
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// How many frames a part has.
    pub fn part_len(&self, part: usize) -> usize {
        self.parts.get(part).map_or(0, |part| part.records.len())
    }

    /// A frame of a part. None beyond its end.
    #[inline]
    pub fn frame(&self, part: usize, number: usize) -> Option<(Record, &[u8])> {
        let at = *self.parts.get(part)?.records.get(number)? as usize;
        let (format, interfaces) = self.format.as_ref()?;
        match format.step(&self.bytes, at, interfaces) {
            Step::Frame(record, _) => {
                let frame = self.bytes.get(record.start..record.start + record.len as usize)?;
                Some((record, frame))
            }
            _ => None,
        }
    }
}

impl BulkWindow {
    /// The time of a frame.
    #[inline]
    pub fn time(&self, part: usize, number: usize) -> Option<Nanos> {
        self.frame(part, number).map(|(record, _)| record.time)
    }

    /// Captured bytes of all frames, and their bytes on the wire.
    pub fn lengths(&self) -> (u64, u64) {
        self.parts.iter().fold((0, 0), |sum, part| (sum.0 + part.bytes, sum.1 + part.wire_bytes))
    }
}

/// Reads at an offset until the buffer is full or the file ends; how many bytes were there.
pub(crate) fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let wanted = buffer.len();
    while !buffer.is_empty() {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(file, buffer, offset);
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(file, buffer, offset);
        match read {
            Ok(0) => break,
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wanted - buffer.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Reader, pcap_head, pcap_record};
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// All frames (time, bytes, wire length) and the damage, read both ways.
    type Found = (Vec<(u64, Vec<u8>, u32)>, Option<String>);

    fn one_by_one(path: &Path) -> Option<Found> {
        let mut reader = Reader::open(path).unwrap();
        let mut found = Vec::new();
        let mut records = Vec::new();
        while let Some(window) = reader.next_window(&mut records, 1000).ok()? {
            for record in window.records {
                let bytes = window.bytes[record.start..record.start + record.len as usize].to_vec();
                found.push((record.time.0, bytes, record.wire_len));
            }
        }
        Some((found, reader.damage().map(ToString::to_string)))
    }

    fn in_bulk(path: &Path, most: usize) -> Option<Found> {
        let mut reader = BulkReader::open(path).unwrap().unwrap();
        let mut window = BulkWindow::default();
        let mut found = Vec::new();
        while reader.next_window(&mut window, most).ok()? {
            for part in 0..window.parts() {
                for number in 0..window.part_len(part) {
                    let (record, bytes) = window.frame(part, number).unwrap();
                    found.push((record.time.0, bytes.to_vec(), record.wire_len));
                }
            }
        }
        Some((found, reader.damage().map(ToString::to_string)))
    }

    fn same(bytes: &[u8]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let expected = one_by_one(file.path());
        for most in [0, 1 << 20, 64 << 20] {
            assert!(in_bulk(file.path(), most) == expected, "windows of {most}");
        }
    }

    fn capture(sizes: impl Iterator<Item = usize>) -> Vec<u8> {
        let mut bytes = pcap_head().to_vec();
        for (number, size) in sizes.enumerate() {
            let frame: Vec<u8> = (0..size).map(|byte| (byte * 7 + number) as u8).collect();
            pcap_record(&mut bytes, Nanos(1_700_000_000_000_000_000 + number as u64 * 1000), &frame, size as u32);
        }
        bytes
    }

    #[test]
    fn frames_that_hold_captures_mislead_nobody() {
        // Payloads that are themselves runs of records make every guess inside them wrong.
        let inner = capture((0..400).map(|_| 60));
        let mut bytes = pcap_head().to_vec();
        for number in 0..60 {
            pcap_record(&mut bytes, Nanos(1_700_000_000_000_000_000 + number), &inner[24..], 99_000);
        }
        same(&bytes);
    }

    #[test]
    fn records_longer_than_a_part_and_empty_ones() {
        same(&capture([300_000, 0, 60, 320_000, 327_680, 1, 0, 0].into_iter().cycle().take(64)));
        same(&capture(std::iter::empty()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bulk_reading_finds_what_reading_one_by_one_finds(
            sizes in proptest::collection::vec(prop_oneof![8 => 0usize..200, 1 => 0usize..70_000], 0..3000),
            cut in 0usize..100, harm in proptest::option::of((0usize..2_000_000, any::<u8>())),
        ) {
            let mut bytes = capture(sizes.into_iter());
            let keep = bytes.len().saturating_sub(cut).max(24);
            bytes.truncate(keep);
            if let Some((at, value)) = harm && at >= 24 && at < bytes.len() {
                bytes[at] = value;
            }
            same(&bytes);
        }
    }
}
