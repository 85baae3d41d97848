//! What can be wrong with a capture file, in words that say where and what to do.

use std::io;
use std::path::PathBuf;

/// A capture that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file could not be opened, read or written.
    #[error("{name}: {source}{}", advice(source))]
    Io {
        /// Which file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A folder where a capture was expected.
    #[error("{0}: is a folder; name a capture file")]
    Folder(PathBuf),
    /// There is nothing in it.
    #[error("{name}: is empty; expected a pcap or pcapng capture")]
    Empty {
        /// Which file.
        name: String,
    },
    /// It begins like something else.
    #[error(
        "{name}: is no capture: it looks like {looks_like}; expected pcap or pcapng, plain or compressed by gzip, zstd or lz4"
    )]
    NotACapture {
        /// Which file.
        name: String,
        /// What it looks like.
        looks_like: &'static str,
    },
    /// A frame of an interface that the capture being written does not have.
    #[error("{name}: a frame for interface {interface}, but only {count} were named")]
    NoInterface {
        /// Which file.
        name: String,
        /// The frame's interface, from 0.
        interface: u32,
        /// How many there are.
        count: usize,
    },
    /// It is cut or broken before the first frame.
    #[error("{name}: {what} at byte {offset}, before any frame could be read; capture it again, or repair it with pcapfix")]
    Broken {
        /// Which file.
        name: String,
        /// What is wrong.
        what: String,
        /// Where, in bytes of the uncompressed capture.
        offset: u64,
    },
}

/// What to do about an error of the system, where that is not plain.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there, or take another disk",
        io::ErrorKind::FileTooLarge => "; name a file on a file system that takes larger ones",
        _ => "",
    }
}

impl CaptureError {
    /// Whether the input is at fault rather than the way to it: exit status 3 instead of 2.
    pub fn is_not_a_capture(&self) -> bool {
        matches!(self, CaptureError::Empty { .. } | CaptureError::NotACapture { .. } | CaptureError::Broken { .. })
    }
}

/// What makes no sense in a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A pcap record longer than any frame.
    #[error("a record claims {0} bytes")]
    RecordLength(u32),
    /// A pcapng block shorter than its own frame, of a length that is no multiple of four, or longer than any block.
    #[error("a block claims {0} bytes")]
    BlockLength(u32),
    /// The length before and after a pcapng block must be equal.
    #[error("a block's two lengths disagree")]
    BlockLengths,
    /// A pcapng section of neither byte order.
    #[error("a section header without its byte-order magic")]
    ByteOrder,
    /// A pcapng section of another major version.
    #[error("a section of pcapng version {0}, of which only 1 is known")]
    Version(u16),
    /// A pcapng interface description block.
    #[error("an interface description that can't be read")]
    InterfaceDescription,
    /// More interfaces than any host has.
    #[error("more interface descriptions than any capture has")]
    Interfaces,
    /// A packet block without room for its own header.
    #[error("a packet block that is too short")]
    PacketBlock,
    /// A packet of an interface without description.
    #[error("a packet of interface {0}, which no block describes")]
    NoInterface(u32),
    /// A packet longer than the block that holds it.
    #[error("a packet claims {len} bytes in a block of {block}")]
    PacketLength {
        /// Captured bytes by the packet's header.
        len: u32,
        /// The block's length.
        block: u32,
    },
}

/// A fault after some frames were read: they are delivered, the rest is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which file.
    pub name: String,
    /// How many frames came before.
    pub frames: u64,
    /// Where, in bytes of the uncompressed capture.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { name, frames, offset, what } = self;
        let used = match frames {
            1 => "the frame before it is".to_owned(),
            _ => format!("the {frames} frames before it are"),
        };
        write!(f, "{name}: {what} at byte {offset}; {used} used, the rest is lost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_to_do() {
        let error = |kind: io::ErrorKind| CaptureError::Io { name: "out.pcap".to_owned(), source: kind.into() }.to_string();
        assert_eq!(error(io::ErrorKind::StorageFull), "out.pcap: no storage space; make room there, or take another disk");
        assert_eq!(error(io::ErrorKind::NotFound), "out.pcap: entity not found");
    }
}
