//! Writing captures: nanosecond pcap, or pcapng with interface names and packet comments. A file appears under its name only
//! when it is whole.

use super::error::CaptureError;
use lvscheck_engine::Nanos;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A capture that is being written.
pub struct Writer {
    name: String,
    target: Target,
    pcapng: bool,
    record: Vec<u8>,
}

enum Target {
    File(BufWriter<NamedTempFile>, PathBuf),
    Stream(BufWriter<Box<dyn Write + Send>>),
}

impl Target {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::File(file, _) => file.write_all(bytes),
            Target::Stream(stream) => stream.write_all(bytes),
        }
    }
}

impl Writer {
    /// Creates a file beside its final name; pcapng when the name ends so, else pcap. `-` is standard output (pcap).
    ///
    /// # Errors
    /// The folder does not exist or can't be written.
    pub fn create(path: &Path, interfaces: &[&str]) -> Result<Writer, CaptureError> {
        let name = if path.as_os_str() == "-" { "standard output".to_owned() } else { path.display().to_string() };
        let pcapng = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("pcapng"));
        let target = if path.as_os_str() == "-" {
            Target::Stream(BufWriter::with_capacity(1 << 20, Box::new(io::stdout())))
        } else {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let file = tempfile::Builder::new()
                .prefix(".lvscheck-")
                .tempfile_in(folder)
                .map_err(|source| CaptureError::Io { name: name.clone(), source })?;
            Target::File(BufWriter::with_capacity(1 << 20, file), path.to_path_buf())
        };
        let mut writer = Writer { name, target, pcapng, record: Vec::new() };
        let head = if pcapng { pcapng_head(interfaces) } else { pcap_head().to_vec() };
        writer.write_raw(&head)?;
        Ok(writer)
    }

    /// Whether comments are kept: only pcapng has room for them.
    pub fn keeps_comments(&self) -> bool {
        self.pcapng
    }

    /// Writes a frame. `wire_len` is its length on the wire, `comment` what Wireshark shows as packet comment.
    ///
    /// # Errors
    /// The disk is full, or the like.
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
        if self.pcapng {
            packet_block(&mut record, time, interface, frame, wire_len, comment);
        } else {
            pcap_record(&mut record, time, frame, wire_len);
        }
        let result = self.write_raw(&record);
        self.record = record;
        result
    }

    /// Writes records that are ready, as [`pcap_record`] makes them.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write_raw(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        self.target.write_all(bytes).map_err(|source| CaptureError::Io { name: self.name.clone(), source })
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// The disk is full, or the name can't be taken.
    pub fn finish(self) -> Result<(), CaptureError> {
        let Writer { name, target, .. } = self;
        let io = |source| CaptureError::Io { name: name.clone(), source };
        match target {
            Target::File(file, path) => {
                let file = file.into_inner().map_err(|error| io(error.into_error()))?;
                // A temporary file is private; a capture gets the usual permissions.
                #[cfg(unix)]
                {
                    use std::os::unix::fs::PermissionsExt;
                    let _ = file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644));
                }
                file.persist(&path).map_err(|error| io(error.error))?;
                Ok(())
            }
            Target::Stream(mut stream) => match stream.flush() {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(io(error)),
                _ => Ok(()),
            },
        }
    }
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

/// Appends a nanosecond pcap record.
#[inline]
pub fn pcap_record(buffer: &mut Vec<u8>, time: Nanos, frame: &[u8], wire_len: u32) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&((time.0 / 1_000_000_000) as u32).to_le_bytes());
    header[4..8].copy_from_slice(&((time.0 % 1_000_000_000) as u32).to_le_bytes());
    header[8..12].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    header[12..].copy_from_slice(&wire_len.to_le_bytes());
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(frame);
}

fn option(buffer: &mut Vec<u8>, code: u16, value: &[u8]) {
    // An option's length has 16 bits.
    let value = &value[..value.len().min(65_532)];
    buffer.extend_from_slice(&code.to_le_bytes());
    buffer.extend_from_slice(&(value.len() as u16).to_le_bytes());
    buffer.extend_from_slice(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
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
        option(buffer, 4, concat!("lvscheck ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(buffer, 0, &[]);
    });
    for name in interfaces {
        block(&mut buffer, 1, |buffer| {
            buffer.extend_from_slice(&[1, 0, 0, 0]);
            buffer.extend_from_slice(&262_144u32.to_le_bytes());
            option(buffer, 2, name.as_bytes());
            option(buffer, 9, &[9]);
            option(buffer, 0, &[]);
        });
    }
    buffer
}

fn packet_block(buffer: &mut Vec<u8>, time: Nanos, interface: u32, frame: &[u8], wire_len: u32, comment: Option<&str>) {
    block(buffer, 6, |buffer| {
        buffer.extend_from_slice(&interface.to_le_bytes());
        buffer.extend_from_slice(&((time.0 >> 32) as u32).to_le_bytes());
        buffer.extend_from_slice(&(time.0 as u32).to_le_bytes());
        buffer.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&wire_len.to_le_bytes());
        buffer.extend_from_slice(frame);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
        if let Some(comment) = comment {
            option(buffer, 1, comment.as_bytes());
        }
        // epb_flags: outbound.
        option(buffer, 2, &2u32.to_le_bytes());
        option(buffer, 0, &[]);
    });
}
