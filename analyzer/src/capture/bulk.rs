//! Reading captures in bulk: large windows, whose frames lie in parts that are worked on by one thread each.
//!
//! A plain pcap file is read and walked by all threads at once. Bytes are read into a buffer that is used again for each window;
//! measured against a mapped file this is cheaper (page tables cost more than a copy that stays in the cache), needs no unsafe
//! code, and a file that shrinks meanwhile is an error instead of a signal. pcap has no index, so a thread that starts in the
//! middle guesses where a record begins; each guess is checked against where the part before it really ends, and a wrong one is
//! walked again. What is found is therefore exactly what [`super::Reader`] finds. Anything else, compressed or pcapng, comes from
//! a [`super::Reader`].

use super::error::{CaptureError, Damage};
use super::format::{self, CaptureInterface, Format, PcapFormat, Record, RecordHead, Step};
use super::input::Input;
use super::merged::MergedCaptures;
use super::reader::Reader;
use super::window::{Adding, BulkWindow, Part, Place};
use lvscheck_engine::Nanos;
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::path::Path;

/// How many bytes one thread walks at a time: its share of a window stays in the second-level cache.
const PART: usize = 256 << 10;
/// How many frames a part has at most that comes from a reader.
const PART_FRAMES: usize = 8192;
/// How many records in a row must look right before a guess is worth checking.
const CONVINCING: usize = 4;
/// Seconds by which time stamps of neighbouring records may differ in a guess.
const NEAR: u32 = 86_400;

/// A capture that is read in bulk.
pub struct BulkReader {
    source: Source,
    at: u64,
    frames: u64,
    /// The time of the last frame.
    last: Nanos,
}

enum Source {
    Plain(PlainFile),
    Other(Box<OtherCapture>),
    Several(MergedCaptures),
}

/// A capture that a reader reads.
struct OtherCapture {
    reader: Reader,
    /// The records that it found last.
    found: Vec<Record>,
    /// The first frame, which was read to learn of the interfaces before it.
    first: Option<(Record, Vec<u8>)>,
    size: Option<u64>,
}

/// A pcap file, not compressed, on a disk.
#[derive(Debug)]
pub struct PlainFile {
    name: String,
    file: File,
    size: u64,
    format: PcapFormat,
    interfaces: Vec<CaptureInterface>,
    damage: Option<Damage>,
}

impl PlainFile {
    /// Opens a file if it is a pcap file on a disk that is not compressed. None: it is read another way.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(path: &Path) -> Result<Option<PlainFile>, CaptureError> {
        PlainFile::open_as(path.display().to_string(), path)
    }

    fn open_as(name: String, path: &Path) -> Result<Option<PlainFile>, CaptureError> {
        let io = |source| CaptureError::Io { name: name.clone(), source };
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
        let Ok((Format::Pcap(format), _)) = format::detect(&head, &mut interfaces) else { return Ok(None) };
        Ok(Some(PlainFile { name, file, size: metadata.len(), format, interfaces, damage: None }))
    }

    /// The capture's one interface.
    pub fn interfaces(&self) -> &[CaptureInterface] {
        &self.interfaces
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the first record stands.
    pub fn first(&self) -> u64 {
        format::HEAD as u64
    }

    /// The time of a record.
    pub fn time(&self, head: &RecordHead) -> Nanos {
        self.format.time(head)
    }

    /// Length of the header before each frame.
    #[inline]
    pub fn record_head(&self) -> usize {
        self.format.record_head()
    }

    /// Reads bytes of the file; returns how many there were.
    ///
    /// # Errors
    /// The file's.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(&self.file, buffer, offset)
    }

    /// What the header of a record says.
    #[inline]
    pub fn head(&self, record: &[u8]) -> Option<RecordHead> {
        self.format.head(record)
    }
}

impl BulkReader {
    /// Opens a capture, whatever it is.
    ///
    /// # Errors
    /// It can't be opened, or is no capture.
    pub fn open(input: &Input) -> Result<BulkReader, CaptureError> {
        let (source, at) = match PlainFile::open_as(input.name(), input.path())? {
            Some(file) => {
                let first = file.first();
                (Source::Plain(file), first)
            }
            None => (Source::Other(Box::new(OtherCapture::open(input)?)), 0),
        };
        Ok(BulkReader { source, at, frames: 0, last: Nanos(0) })
    }

    /// Opens captures; several are merged by time, frames of one moment in the order in which the captures are named. That is the
    /// order of time only if the clock of none of them steps back; otherwise [`BulkWindow::steps_back`] tells so.
    ///
    /// # Errors
    /// One of them can't be opened, or is no capture.
    pub fn open_all(inputs: &[Input]) -> Result<BulkReader, CaptureError> {
        match inputs {
            [input] => BulkReader::open(input),
            _ => Ok(BulkReader { source: Source::Several(MergedCaptures::open(inputs)?), at: 0, frames: 0, last: Nanos(0) }),
        }
    }

    /// The capture's interfaces that are described before its first frame, and more once they are known.
    pub fn interfaces(&self) -> &[CaptureInterface] {
        match &self.source {
            Source::Plain(file) => &file.interfaces,
            Source::Other(other) => other.reader.interfaces(),
            Source::Several(captures) => captures.interfaces(),
        }
    }

    /// Size of the file in bytes, compressed or not, if it is one.
    pub fn size(&self) -> Option<u64> {
        match &self.source {
            Source::Plain(file) => Some(file.size),
            Source::Other(other) => other.size,
            Source::Several(captures) => captures.size(),
        }
    }

    /// Whether these are several captures.
    pub fn is_merged(&self) -> bool {
        matches!(self.source, Source::Several(_))
    }

    /// Whether it is a pcap file that is not compressed.
    pub fn is_plain(&self) -> bool {
        matches!(self.source, Source::Plain(_))
    }

    /// How many bytes are done, uncompressed.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The faults that ended captures early, once the last window was given.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        let (one, several) = match &self.source {
            Source::Plain(file) => (file.damage.as_ref(), None),
            Source::Other(other) => (other.reader.damage(), None),
            Source::Several(captures) => (None, Some(captures.damage())),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }

    /// Fills the window with the next frames that lie in about `most` bytes; false at the end.
    ///
    /// # Errors
    /// The file can't be read, or is broken before its first frame. A later fault ends the capture, see
    /// [`BulkReader::damage`].
    pub fn next_window(&mut self, window: &mut BulkWindow, most: usize, place: &impl Place) -> Result<bool, CaptureError> {
        window.first_number = self.frames + 1;
        window.steps_back = false;
        match &mut self.source {
            Source::Plain(file) => self.at = file.window(window, self.at, self.frames, most, place)?,
            Source::Other(other) => self.at += window.gather(other, most, place)?,
            Source::Several(captures) => {
                let records = captures.gather(window, most)?;
                self.at += window.share(&records, place);
            }
        }
        window.finish(&mut self.last);
        self.frames += window.count as u64;
        Ok(window.count > 0)
    }
}

/// Size in bytes of what can be read as often as is needed.
pub(super) fn size_of(input: &Input) -> Option<u64> {
    std::fs::metadata(input.path()).ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
}

impl OtherCapture {
    fn open(input: &Input) -> Result<OtherCapture, CaptureError> {
        let mut reader = Reader::of(input)?;
        let size = size_of(input);
        let mut found = Vec::new();
        let first = reader.next_window(&mut found, 1)?.and_then(|window| {
            let record = *window.records.first()?;
            Some((Record { start: 0, ..record }, record.of(window.bytes).to_vec()))
        });
        Ok(OtherCapture { reader, found, first, size })
    }
}

impl PlainFile {
    /// Fills the window from `from` on, before which so many frames stand; returns where the next one begins.
    fn window(
        &mut self,
        window: &mut BulkWindow,
        from: u64,
        frames: u64,
        most: usize,
        place: &impl Place,
    ) -> Result<u64, CaptureError> {
        if self.damage.is_some() || from >= self.size {
            window.parts.clear();
            return Ok(from);
        }
        // Room for at least one record, however small a window is asked for.
        let most = most.clamp(2 * format::MAX_RECORD, u32::MAX as usize) as u64;
        let io = |source| CaptureError::Io { name: self.name.clone(), source };
        window.bytes.resize(most.min(self.size - from) as usize).map_err(io)?;
        window.parts.resize_with(window.bytes.len().div_ceil(PART), Part::default);
        let near = {
            let mut head = [0; format::HEAD];
            let read = self.read_at(&mut head, from).unwrap_or(0);
            self.seconds(&head[..read])
        };
        self.read_parts(window, from, near, place)?;
        let bytes = &window.bytes[..];
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
                part.clear();
                part.walked = end..end;
            }
            // What a part left is the record that reaches into the next one; all of it, if its start was guessed wrong.
            part.walk(self, bytes, 0, limit, place);
            end = part.walked.end;
            stopped = part.stopped.take();
        }
        let found = frames + window.parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let next = from + end as u64;
        let mut fail = |what| self.damage = Some(Damage { name: self.name.clone(), frames: found, offset: next, what });
        match stopped {
            Some(Step::Damage(fault)) => fail(fault.to_string()),
            Some(Step::More(wanted)) if next + wanted as u64 > self.size => {
                fail(format!("the last record is cut: {} of {wanted} bytes are there", self.size - next));
            }
            _ => {}
        }
        match &self.damage {
            Some(Damage { name, offset, what, .. }) if found == 0 => {
                Err(CaptureError::Broken { name: name.clone(), what: what.clone(), offset: *offset })
            }
            _ => Ok(next),
        }
    }

    /// Reads the window's bytes and walks what lies whole within each part, all threads at once. A file that became shorter
    /// ends there.
    fn read_parts(
        &mut self,
        window: &mut BulkWindow,
        at: u64,
        near: Option<u32>,
        place: &impl Place,
    ) -> Result<(), CaptureError> {
        let file = &*self;
        let read: Vec<io::Result<(usize, usize)>> = window
            .bytes
            .par_chunks_mut(PART)
            .zip(window.parts.par_iter_mut())
            .enumerate()
            .map(|(number, (chunk, part))| {
                let from = number * PART;
                let read = read_at(&file.file, chunk, at + from as u64)?;
                part.clear();
                let start = if number == 0 { Some(0) } else { file.guess(chunk, near) };
                part.walked = start.map_or(usize::MAX..usize::MAX, |start| from + start..from + start);
                if start.is_some() {
                    part.walk(file, chunk, from, from + PART, place);
                    part.stopped = None;
                }
                Ok((chunk.len(), read))
            })
            .collect();
        let mut whole = 0;
        for part in read {
            let (wanted, found) = part.map_err(|source| CaptureError::Io { name: self.name.clone(), source })?;
            whole += found;
            if found < wanted {
                window.bytes.truncate(whole);
                self.size = at + whole as u64;
                // Rare, and parts may have seen bytes that are not there: walked again from the start.
                window.parts.iter_mut().for_each(Part::clear);
                break;
            }
        }
        Ok(())
    }

    /// The first place of a part where records seem to begin.
    fn guess(&self, part: &[u8], near: Option<u32>) -> Option<usize> {
        let near = near?;
        (0..part.len()).find(|at| self.convinces(part, *at, near))
    }

    /// The seconds of the record whose header that is.
    fn seconds(&self, head: &[u8]) -> Option<u32> {
        self.format.head(head).map(|head| (head.stamp >> 32) as u32)
    }

    fn convinces(&self, bytes: &[u8], mut at: usize, near: u32) -> bool {
        for _ in 0..CONVINCING {
            match self.format.step(bytes, at) {
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
    /// Finds the records that begin from where the last walk ended up to `end`, in bytes of which the first stands at `from`.
    fn walk(&mut self, file: &PlainFile, bytes: &[u8], from: usize, end: usize, place: &impl Place) {
        match file.format.usual() {
            Some(usual) => self.walk_as(&usual, bytes, from, end, place),
            None => self.walk_as(&file.format, bytes, from, end, place),
        }
    }

    #[inline(always)]
    fn walk_as(&mut self, format: &PcapFormat, bytes: &[u8], from: usize, end: usize, place: &impl Place) {
        let mut at = self.walked.end;
        let end = end.min(from + bytes.len());
        let mut adding = Adding::to(self);
        while at < end {
            match format.step(bytes, at - from) {
                Step::Frame(record, size) => {
                    adding.add(self, &record, record.start + from, record.of(bytes), place);
                    at += size;
                }
                step => {
                    self.stopped = Some(step);
                    break;
                }
            }
        }
        self.walked.end = at;
        adding.done(self);
    }
}

impl BulkWindow {
    /// Takes frames from a reader, about so many bytes; returns how many there were.
    fn gather(&mut self, capture: &mut OtherCapture, most: usize, place: &impl Place) -> Result<u64, CaptureError> {
        let name = capture.reader.name().to_owned();
        let io = |source| CaptureError::Io { name: name.clone(), source };
        self.bytes.truncate(0);
        let mut records = Vec::new();
        if let Some((record, bytes)) = capture.first.take() {
            records.push(record);
            self.bytes.extend(&bytes).map_err(io)?;
        }
        while self.bytes.len() < most.min(u32::MAX as usize / 2)
            && let Some(window) = capture.reader.next_window(&mut capture.found, usize::MAX)?
        {
            let (Some(first), Some(last)) = (window.records.first(), window.records.last()) else { break };
            let moved = |start: usize| start - first.start + self.bytes.len();
            records.extend(window.records.iter().map(|record| Record { start: moved(record.start), ..*record }));
            let bytes = window.bytes.get(first.start..last.start + last.len as usize).unwrap_or_default();
            self.bytes.extend(bytes).map_err(io)?;
        }
        Ok(self.share(&records, place))
    }

    /// Shares frames that lie in its bytes among parts; returns how many bytes there are.
    fn share(&mut self, records: &[Record], place: &impl Place) -> u64 {
        self.parts.resize_with(records.len().div_ceil(PART_FRAMES), Part::default);
        let bytes = &self.bytes[..];
        self.parts.par_iter_mut().zip(records.par_chunks(PART_FRAMES)).for_each(|(part, records)| {
            part.clear();
            let mut adding = Adding::to(part);
            records.iter().for_each(|record| adding.add(part, record, record.start, record.of(bytes), place));
            adding.done(part);
        });
        self.bytes.len() as u64
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
        let mut reader = BulkReader::open(&Input::new(path).unwrap()).unwrap();
        let mut window = BulkWindow::default();
        let mut found = Vec::new();
        while reader.next_window(&mut window, most, &|_, _| Some(0)).ok()? {
            for part in 0..window.parts() {
                for number in 0..window.part_len(part) {
                    let frame = window.frame(part, number).unwrap();
                    found.push((frame.time.0, frame.bytes.to_vec(), frame.wire_len));
                }
            }
        }
        Some((found, reader.damage().map(ToString::to_string).next()))
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
