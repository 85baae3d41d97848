//! Reading a capture in windows: a window's frames lie in one buffer, so memory stays bounded however long the capture is.

use super::compress::decompress;
use super::error::{CaptureError, Damage};
use super::format::{self, CaptureInterface, Format, Record, Step};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How many bytes are read at a time.
const CHUNK: usize = 4 << 20;

/// A capture that is being read.
pub struct Reader {
    name: String,
    input: Box<dyn Read + Send>,
    format: Format,
    interfaces: Vec<CaptureInterface>,
    /// Bytes read; those before `at` are done.
    buffer: Vec<u8>,
    at: usize,
    /// Uncompressed bytes before the buffer.
    offset: u64,
    frames: u64,
    ended: bool,
    damage: Option<Damage>,
}

/// Some frames of a capture, in order.
#[derive(Debug)]
pub struct Window<'a> {
    /// What the records lie in.
    pub bytes: &'a [u8],
    /// The number of the first frame, from 1.
    pub first_number: u64,
    /// The frames.
    pub records: &'a [Record],
}

impl Reader {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// It can't be opened, or is no capture.
    pub fn open(path: &Path) -> Result<Reader, CaptureError> {
        if path.as_os_str() == "-" {
            return Reader::new("standard input", Box::new(io::stdin()));
        }
        if path.is_dir() {
            return Err(CaptureError::Folder(path.to_path_buf()));
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(|source| CaptureError::Io { name: name.clone(), source })?;
        Reader::new(&name, Box::new(file))
    }

    /// Reads from anything.
    ///
    /// # Errors
    /// It can't be read, or is no capture.
    pub fn new(name: &str, input: Box<dyn Read + Send>) -> Result<Reader, CaptureError> {
        let io = |source| CaptureError::Io { name: name.to_owned(), source };
        let mut input = decompress(input).map_err(io)?;
        let mut buffer = Vec::new();
        let read = input.by_ref().take(format::HEAD as u64).read_to_end(&mut buffer);
        if buffer.is_empty() {
            return Err(read.err().map_or_else(|| CaptureError::Empty { name: name.to_owned() }, io));
        }
        let mut interfaces = Vec::new();
        let (format, at) = format::detect(&buffer, &mut interfaces)
            .map_err(|looks_like| CaptureError::NotACapture { name: name.to_owned(), looks_like })?;
        Ok(Reader {
            name: name.to_owned(),
            input,
            format,
            interfaces,
            buffer,
            at,
            offset: 0,
            frames: 0,
            ended: false,
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

    /// The next frames; none at the end. `records` is cleared and filled. At most `most` frames, and few more bytes than are
    /// read at a time.
    ///
    /// # Errors
    /// The capture is broken before its first frame. A later fault ends the capture, see [`Reader::damage`].
    pub fn next_window<'a>(&'a mut self, records: &'a mut Vec<Record>, most: usize) -> Result<Option<Window<'a>>, CaptureError> {
        records.clear();
        let first_number = self.frames + 1;
        self.buffer.drain(..self.at);
        self.offset += self.at as u64;
        self.at = 0;
        while records.is_empty() && self.damage.is_none() {
            let wanted = loop {
                if records.len() >= most {
                    break 0;
                }
                let step = match &mut self.format {
                    Format::Pcap(pcap) => pcap.step(&self.buffer, self.at, &self.interfaces),
                    Format::PcapNg(pcapng) => pcapng.step(&self.buffer, self.at, &mut self.interfaces),
                };
                match step {
                    Step::Frame(record, size) => {
                        records.push(record);
                        self.at += size;
                    }
                    Step::Skip(size) => self.at += size,
                    Step::More(size) => break size,
                    Step::Damage(what) => {
                        self.fail(what, records.len());
                        break 0;
                    }
                }
            };
            if !records.is_empty() || self.damage.is_some() {
                break;
            }
            let rest = self.buffer.len() - self.at;
            if self.ended {
                if rest > 0 {
                    self.fail(format!("the last record is cut: {rest} of {wanted} bytes are there"), records.len());
                }
                break;
            }
            self.read_more(wanted);
        }
        self.frames += records.len() as u64;
        if let Some(damage) = &self.damage
            && self.frames == 0
        {
            let Damage { name, offset, what, .. } = damage.clone();
            return Err(CaptureError::Broken { name, what, offset });
        }
        Ok((!records.is_empty()).then_some(Window { bytes: &self.buffer, first_number, records }))
    }

    fn read_more(&mut self, wanted: usize) {
        let target = CHUNK.max(wanted) as u64;
        match self.input.by_ref().take(target).read_to_end(&mut self.buffer) {
            Ok(read) => self.ended = (read as u64) < target,
            Err(error) => {
                self.ended = true;
                // What was decoded before the fault is in the buffer and is used first.
                if self.buffer.len() == self.at {
                    self.fail(format!("the stream breaks: {error}"), 0);
                }
            }
        }
    }

    fn fail(&mut self, what: String, pending: usize) {
        let frames = self.frames + pending as u64;
        self.damage = Some(Damage { name: self.name.clone(), frames, offset: self.offset + self.at as u64, what });
        self.ended = true;
    }
}
