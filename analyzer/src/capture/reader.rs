//! Reading a capture in windows: a window's frames lie in one buffer, so memory stays bounded however long the capture is.

use super::compress::{InputFault, Stream, decompress};
use super::error::{CaptureError, Damage};
use super::format::{self, CaptureInterface, Format, Record, Step};
use super::input::Input;
use lvscheck_engine::Nanos;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How many bytes are read at a time.
const CHUNK: usize = 4 << 20;

/// A capture that is being read: from a file, a pipe, or anything else, compressed or not.
///
/// ```
/// # fn main() -> Result<(), lvscheck::capture::CaptureError> {
/// # use lvscheck::capture::{Reader, pcap_head, pcap_record};
/// # let mut bytes = pcap_head().to_vec();
/// # pcap_record(&mut bytes, lvscheck_engine::Nanos(7), b"frame", 5);
/// let mut reader = Reader::from_bytes("example.pcap", bytes)?;
/// let mut records = Vec::new();
/// while let Some(window) = reader.next_window(&mut records, usize::MAX)? {
///     for frame in window.frames() {
///         assert_eq!((frame.number, frame.time.0, frame.bytes), (1, 7, &b"frame"[..]));
///     }
/// }
/// assert_eq!(reader.damage(), None);
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    name: String,
    input: Stream,
    input_fault: InputFault,
    format: Format,
    interfaces: Vec<CaptureInterface>,
    /// Bytes read; those before `at` are done.
    buffer: Vec<u8>,
    at: usize,
    /// Uncompressed bytes before the buffer.
    offset: u64,
    frames: u64,
    ended: bool,
    /// Why the input ended early: told once what came before is used.
    broken: Option<String>,
    damage: Option<Damage>,
}

/// Some frames of a capture, in order.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// What the records lie in.
    pub bytes: &'a [u8],
    /// The number of the first frame, from 1.
    pub first_number: u64,
    /// The frames.
    pub records: &'a [Record],
    /// The capture's interfaces known so far.
    pub interfaces: &'a [CaptureInterface],
}

/// A frame of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its number, from 1, as Wireshark counts.
    pub number: u64,
    /// When it was captured.
    pub time: Nanos,
    /// Which of the capture's interfaces.
    pub interface: u32,
    /// That interface's link type (tcpdump.org's list).
    pub link_type: u16,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// How long it was on the wire.
    pub wire_len: u32,
}

/// A window that owns its bytes: it can go to another thread while the next is read.
#[derive(Clone, Debug, Default)]
pub struct OwnedWindow {
    /// What the records lie in.
    pub bytes: Vec<u8>,
    /// The number of the first frame, from 1.
    pub first_number: u64,
    /// The frames.
    pub records: Vec<Record>,
}

impl<'a> Window<'a> {
    /// The frames, in order.
    pub fn frames(self) -> impl ExactSizeIterator<Item = Frame<'a>> {
        let Window { bytes, first_number, records, interfaces } = self;
        records.iter().enumerate().map(move |(index, record)| Frame {
            number: first_number + index as u64,
            time: record.time,
            interface: record.interface,
            link_type: interfaces.get(record.interface as usize).map_or(1, |interface| interface.link_type),
            bytes: record.of(bytes),
            wire_len: record.wire_len,
        })
    }
}

impl Reader {
    /// Opens a file to read it once; `-` is standard input.
    ///
    /// # Errors
    /// It can't be opened, or is no capture.
    pub fn open(path: &Path) -> Result<Reader, CaptureError> {
        if path.as_os_str() == "-" {
            return Reader::new("standard input", Box::new(io::stdin()));
        }
        Reader::open_as(path.display().to_string(), path)
    }

    /// Opens an input.
    ///
    /// # Errors
    /// It can't be opened, or is no capture.
    pub fn of(input: &Input) -> Result<Reader, CaptureError> {
        Reader::open_as(input.name(), input.path())
    }

    fn open_as(name: String, path: &Path) -> Result<Reader, CaptureError> {
        if path.is_dir() {
            return Err(CaptureError::Folder(path.to_path_buf()));
        }
        let file = File::open(path).map_err(|source| CaptureError::Io { name: name.clone(), source })?;
        Reader::new(&name, Box::new(file))
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// They are no capture.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Reader, CaptureError> {
        Reader::new(name, Box::new(io::Cursor::new(bytes)))
    }

    /// Reads from anything.
    ///
    /// # Errors
    /// It can't be read, or is no capture.
    pub fn new(name: &str, input: Stream) -> Result<Reader, CaptureError> {
        let io = |source| CaptureError::Io { name: name.to_owned(), source };
        let mut buffer = Vec::new();
        let (mut input, input_fault) = decompress(input).map_err(io)?;
        let read = input.by_ref().take(format::HEAD as u64).read_to_end(&mut buffer);
        if let Some(fault) = input_fault.take() {
            return Err(io(fault));
        }
        if let Err(error) = &read
            && buffer.len() < format::HEAD
        {
            return Err(CaptureError::Broken { name: name.to_owned(), what: error.to_string(), offset: buffer.len() as u64 });
        }
        if buffer.is_empty() {
            return Err(CaptureError::Empty { name: name.to_owned() });
        }
        let mut interfaces = Vec::new();
        let (format, at) = format::detect(&buffer, &mut interfaces)
            .map_err(|looks_like| CaptureError::NotACapture { name: name.to_owned(), looks_like })?;
        Ok(Reader {
            name: name.to_owned(),
            input,
            input_fault,
            format,
            interfaces,
            buffer,
            at,
            offset: 0,
            frames: 0,
            ended: false,
            broken: None,
            damage: None,
        })
    }

    /// The capture's interfaces known so far; pcapng may add more in later windows.
    pub fn interfaces(&self) -> &[CaptureInterface] {
        &self.interfaces
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fault that ended the capture early, once the last window was given.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// The next frames; none at the end. `records` is cleared and filled. At most `most` frames (but one, if there is one), and
    /// few more bytes than are read at a time.
    ///
    /// # Errors
    /// The input can't be read, or the capture is broken before its first frame. A later fault ends the capture, see
    /// [`Reader::damage`].
    pub fn next_window<'a>(&'a mut self, records: &'a mut Vec<Record>, most: usize) -> Result<Option<Window<'a>>, CaptureError> {
        let first_number = self.frames + 1;
        self.find(records, most)?;
        let Reader { buffer, interfaces, .. } = self;
        Ok((!records.is_empty()).then_some(Window { bytes: buffer, first_number, records, interfaces }))
    }

    /// As [`Reader::next_window`], into a window that owns its bytes; false at the end. The window's memory is used again.
    ///
    /// # Errors
    /// As [`Reader::next_window`].
    pub fn next_owned(&mut self, window: &mut OwnedWindow, most: usize) -> Result<bool, CaptureError> {
        window.first_number = self.frames + 1;
        self.find(&mut window.records, most)?;
        window.bytes.clear();
        let Some(first) = window.records.first().map(|record| record.start) else { return Ok(false) };
        let rest = self.buffer.len() - self.at;
        if self.at - first <= rest {
            // Few of many: they are copied.
            window.bytes.extend_from_slice(&self.buffer[first..self.at]);
            for record in &mut window.records {
                record.start -= first;
            }
        } else {
            // Most of them: the rest is.
            std::mem::swap(&mut self.buffer, &mut window.bytes);
            self.buffer.extend_from_slice(&window.bytes[self.at..]);
            self.offset += self.at as u64;
            self.at = 0;
        }
        Ok(true)
    }

    /// Finds the records of the next window in the buffer, and fills the buffer until it holds one.
    fn find(&mut self, records: &mut Vec<Record>, most: usize) -> Result<(), CaptureError> {
        records.clear();
        while records.is_empty() && self.damage.is_none() {
            let Some(wanted) = self.walk(records, most.max(1)) else { break };
            if !records.is_empty() {
                break;
            }
            if !self.ended {
                self.read_more(wanted);
                continue;
            }
            if let Some(source) = self.input_fault.take() {
                return Err(CaptureError::Io { name: self.name.clone(), source });
            }
            let rest = self.buffer.len() - self.at;
            if let Some(what) = self.broken.take() {
                self.fail(what, 0);
            } else if rest > 0 {
                self.fail(format!("the last record is cut: {rest} of {wanted} bytes are there"), 0);
            }
            break;
        }
        self.frames += records.len() as u64;
        match &self.damage {
            Some(Damage { name, offset, what, .. }) if self.frames == 0 => {
                Err(CaptureError::Broken { name: name.clone(), what: what.clone(), offset: *offset })
            }
            _ => Ok(()),
        }
    }

    /// Walks whole records in the buffer. Where more bytes are needed: how many, for the next record.
    fn walk(&mut self, records: &mut Vec<Record>, most: usize) -> Option<usize> {
        while records.len() < most {
            let step = match &mut self.format {
                Format::Pcap(pcap) => pcap.step(&self.buffer, self.at),
                Format::PcapNg(pcapng) => pcapng.step(&self.buffer, self.at, &mut self.interfaces),
            };
            match step {
                Step::Frame(record, size) => {
                    records.push(record);
                    self.at += size;
                }
                Step::Skip(size) => self.at += size,
                Step::More(size) => return Some(size),
                Step::Damage(fault) => {
                    self.fail(fault.to_string(), records.len());
                    return None;
                }
            }
        }
        None
    }

    /// Reads the next chunk after what is left of the last.
    fn read_more(&mut self, wanted: usize) {
        self.buffer.drain(..self.at);
        self.offset += self.at as u64;
        self.at = 0;
        let target = CHUNK.max(wanted) as u64;
        match self.input.by_ref().take(target).read_to_end(&mut self.buffer) {
            Ok(read) => self.ended = (read as u64) < target,
            Err(error) => {
                // What was decoded before the fault is in the buffer and is used first.
                self.ended = true;
                self.broken = Some(error.to_string());
            }
        }
    }

    fn fail(&mut self, what: String, pending: usize) {
        let frames = self.frames + pending as u64;
        self.damage = Some(Damage { name: self.name.clone(), frames, offset: self.offset + self.at as u64, what });
        self.ended = true;
    }
}
