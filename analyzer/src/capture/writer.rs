//! Writing captures: nanosecond pcap, or pcapng with interface names and packet comments. A file appears under its name only
//! when it is whole: it is written beside it under another name, which is removed if the writer is dropped before its end.

use super::error::CaptureError;
use lvscheck_engine::Nanos;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// How many bytes are written at a time.
const CHUNK: usize = 1 << 20;

/// What captures are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Nanosecond pcap: one interface, no comments.
    Pcap,
    /// pcapng.
    PcapNg,
}

impl Container {
    /// By a file's name: pcapng when it ends so, else pcap.
    pub fn of(path: &Path) -> Container {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("pcapng") => Container::PcapNg,
            _ => Container::Pcap,
        }
    }
}

/// A capture of Ethernet frames that is being written.
pub struct Writer {
    name: String,
    target: Target,
    container: Container,
    interfaces: usize,
    record: Vec<u8>,
    closed: bool,
}

enum Target {
    File(BufWriter<NamedTempFile>, PathBuf),
    Stream(BufWriter<Box<dyn Write + Send + Sync>>),
}

impl Target {
    /// Opens what a path stands for.
    fn open(path: &Path) -> io::Result<Target> {
        if path.as_os_str() == "-" {
            return Ok(Target::stream(io::stdout()));
        }
        let old = match path.metadata() {
            // Pipes and devices, /dev/null among them, are written to, never replaced.
            Ok(old) if !old.is_file() => return Ok(Target::stream(OpenOptions::new().write(true).open(path)?)),
            Ok(old) => Some(old),
            Err(_) => None,
        };
        // A link stays a link: the file that it points to is replaced.
        let path = if old.is_some() { path.canonicalize()? } else { path.to_path_buf() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // Temporary files are private; a capture gets what a new file gets (less the umask), or what it had.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.prefix(".lvscheck-").tempfile_in(folder)?;
        if let Some(permissions) = old.as_ref().map(Metadata::permissions) {
            file.as_file().set_permissions(permissions)?;
        }
        Ok(Target::File(BufWriter::with_capacity(CHUNK, file), path))
    }

    fn stream(stream: impl Write + Send + Sync + 'static) -> Target {
        Target::Stream(BufWriter::with_capacity(CHUNK, Box::new(stream)))
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::File(file, _) => file.write_all(bytes),
            Target::Stream(stream) => stream.write_all(bytes),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        match self {
            Target::File(file, path) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.persist(path).map(|_: File| ()).map_err(|error| error.error)
            }
            Target::Stream(ref mut stream) => match stream.flush() {
                Err(error) if self.reader_left(&error) => Ok(()),
                flushed => flushed,
            },
        }
    }

    /// Whether the error says that a pipe has no reader any more.
    fn reader_left(&self, error: &io::Error) -> bool {
        matches!(self, Target::Stream(_)) && error.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Writer {
    /// Creates a file beside its final name; pcapng when the name ends so, else pcap. `-` is standard output (pcap).
    ///
    /// # Errors
    /// The folder does not exist or can't be written.
    pub fn create(path: &Path, interfaces: &[&str]) -> Result<Writer, CaptureError> {
        Writer::create_as(path, Container::of(path), interfaces)
    }

    /// As [`Writer::create`], in that form whatever the name.
    ///
    /// # Errors
    /// The folder does not exist or can't be written.
    pub fn create_as(path: &Path, container: Container, interfaces: &[&str]) -> Result<Writer, CaptureError> {
        let mut writer = Writer::without_head(path, container)?;
        writer.interfaces = interfaces.len();
        match container {
            Container::Pcap => writer.write_raw(&pcap_head())?,
            Container::PcapNg => writer.write_raw(&pcapng_head(interfaces))?,
        }
        Ok(writer)
    }

    /// As [`Writer::create_as`], for a capture that brings its own head, by [`Writer::write_raw`].
    ///
    /// # Errors
    /// The folder does not exist or can't be written.
    pub fn without_head(path: &Path, container: Container) -> Result<Writer, CaptureError> {
        if path.is_dir() {
            return Err(CaptureError::Folder(path.to_path_buf()));
        }
        let name = if path.as_os_str() == "-" { "standard output".to_owned() } else { path.display().to_string() };
        let target = Target::open(path).map_err(|source| CaptureError::Io { name: name.clone(), source })?;
        Ok(Writer { name, target, container, interfaces: 0, record: Vec::new(), closed: false })
    }

    /// Whether comments are kept: only pcapng has room for them.
    pub fn keeps_comments(&self) -> bool {
        self.container == Container::PcapNg
    }

    /// Writes a frame. `interface` is its place among those that the capture was created with, `wire_len` its length on the
    /// wire, `comment` what Wireshark shows as packet comment; pcap keeps neither interface nor comment.
    ///
    /// # Errors
    /// The disk is full, or the like; or there is no such interface.
    pub fn write(
        &mut self,
        time: Nanos,
        interface: u32,
        frame: &[u8],
        wire_len: u32,
        comment: Option<&str>,
    ) -> Result<(), CaptureError> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        match self.container {
            Container::Pcap => pcap_record(&mut record, time, frame, wire_len),
            Container::PcapNg if interface as usize >= self.interfaces => {
                return Err(CaptureError::NoInterface { name: self.name.clone(), interface, count: self.interfaces });
            }
            Container::PcapNg => pcapng_record(&mut record, time, interface, frame, wire_len, comment),
        }
        let result = self.write_raw(&record);
        self.record = record;
        result
    }

    /// Writes records that are ready, as [`pcap_record`] or [`pcapng_record`] make them. Large pieces go straight to the file.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write_raw(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        if self.closed {
            return Ok(());
        }
        match self.target.write_all(bytes) {
            Err(error) if self.target.reader_left(&error) => self.closed = true,
            Err(source) => return Err(CaptureError::Io { name: self.name.clone(), source }),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Writes what waits in memory.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        let flushed = match &mut self.target {
            Target::File(file, _) => file.flush(),
            Target::Stream(stream) => stream.flush(),
        };
        flushed.map_err(|source| CaptureError::Io { name: self.name.clone(), source })
    }

    /// Writes records at a place of the file, after a [`Writer::flush`]; several threads may do that at once.
    ///
    /// # Errors
    /// The disk is full, or the like; it is a pipe, which has no places.
    pub fn write_piece(&self, bytes: &[u8], offset: u64) -> Result<(), CaptureError> {
        let written = match &self.target {
            Target::File(file, _) => write_at(file.get_ref().as_file(), bytes, offset),
            Target::Stream(_) => Err(io::ErrorKind::NotSeekable.into()),
        };
        written.map_err(|source| CaptureError::Io { name: self.name.clone(), source })
    }

    /// Whether the reader at the other end of a pipe went away: what is written now goes nowhere, and that is no error.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// The disk is full, or the name can't be taken.
    pub fn finish(self) -> Result<(), CaptureError> {
        let Writer { name, target, closed, .. } = self;
        if closed {
            return Ok(());
        }
        target.finish().map_err(|source| CaptureError::Io { name, source })
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// The header of a nanosecond pcap of Ethernet frames, little-endian.
pub fn pcap_head() -> [u8; 24] {
    let mut head = [0; 24];
    head[..4].copy_from_slice(&0xa1b2_3c4du32.to_le_bytes());
    head[4..6].copy_from_slice(&2u16.to_le_bytes());
    head[6..8].copy_from_slice(&4u16.to_le_bytes());
    head[16..20].copy_from_slice(&262_144u32.to_le_bytes());
    head[20..].copy_from_slice(&1u32.to_le_bytes());
    head
}

/// Length of the header of a pcap record as it is written.
pub const PCAP_RECORD_HEAD: usize = 16;

/// The header of a nanosecond pcap record; the frame follows it.
#[inline]
pub fn pcap_record_head(time: Nanos, len: u32, wire_len: u32) -> [u8; PCAP_RECORD_HEAD] {
    let mut header = [0; PCAP_RECORD_HEAD];
    // The field has 32 bits; what lies beyond 2106 stays at its end.
    let seconds = (time.0 / 1_000_000_000).min(u64::from(u32::MAX)) as u32;
    header[..4].copy_from_slice(&seconds.to_le_bytes());
    header[4..8].copy_from_slice(&((time.0 % 1_000_000_000) as u32).to_le_bytes());
    header[8..12].copy_from_slice(&len.to_le_bytes());
    header[12..].copy_from_slice(&wire_len.to_le_bytes());
    header
}

/// Appends a nanosecond pcap record.
#[inline]
pub fn pcap_record(buffer: &mut Vec<u8>, time: Nanos, frame: &[u8], wire_len: u32) {
    buffer.extend_from_slice(&pcap_record_head(time, frame.len() as u32, wire_len));
    buffer.extend_from_slice(frame);
}

fn option(buffer: &mut Vec<u8>, code: u16, value: &[u8]) {
    buffer.extend_from_slice(&code.to_le_bytes());
    buffer.extend_from_slice(&(value.len() as u16).to_le_bytes());
    buffer.extend_from_slice(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// A text option, cut to what an option's 16 bits of length allow.
fn text_option(buffer: &mut Vec<u8>, code: u16, text: &str) {
    let end = (0..=text.len().min(65_532)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    option(buffer, code, &text.as_bytes()[..end]);
}

fn block(buffer: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&kind.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    // Options are padded relative to the whole buffer, so a block must begin on four bytes: every block is a multiple.
    fill(buffer);
    let size = (buffer.len() - start + 4) as u32;
    buffer.extend_from_slice(&size.to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&size.to_le_bytes());
}

fn pcapng_head(interfaces: &[&str]) -> Vec<u8> {
    let mut buffer = Vec::new();
    block(&mut buffer, 0x0a0d_0d0a, |buffer| {
        buffer.extend_from_slice(&0x1a2b_3c4du32.to_le_bytes());
        buffer.extend_from_slice(&[1, 0, 0, 0]);
        buffer.extend_from_slice(&u64::MAX.to_le_bytes());
        text_option(buffer, 4, concat!("lvscheck ", env!("CARGO_PKG_VERSION")));
        option(buffer, 0, &[]);
    });
    for name in interfaces {
        block(&mut buffer, 1, |buffer| {
            buffer.extend_from_slice(&[1, 0, 0, 0]);
            buffer.extend_from_slice(&262_144u32.to_le_bytes());
            text_option(buffer, 2, name);
            option(buffer, 9, &[9]);
            option(buffer, 0, &[]);
        });
    }
    buffer
}

/// Appends an enhanced packet block with nanoseconds, direction outbound and a comment. `buffer` holds whole blocks.
pub fn pcapng_record(buffer: &mut Vec<u8>, time: Nanos, interface: u32, frame: &[u8], wire_len: u32, comment: Option<&str>) {
    block(buffer, 6, |buffer| {
        buffer.extend_from_slice(&interface.to_le_bytes());
        buffer.extend_from_slice(&((time.0 >> 32) as u32).to_le_bytes());
        buffer.extend_from_slice(&(time.0 as u32).to_le_bytes());
        buffer.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&wire_len.to_le_bytes());
        buffer.extend_from_slice(frame);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
        if let Some(comment) = comment {
            text_option(buffer, 1, comment);
        }
        // epb_flags: outbound.
        option(buffer, 2, &2u32.to_le_bytes());
        option(buffer, 0, &[]);
    });
}
