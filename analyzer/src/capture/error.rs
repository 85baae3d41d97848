//! What can be wrong with a capture file, in words that say where and what to do.

use std::io;
use std::path::PathBuf;

/// A capture that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file could not be opened, read or written.
    #[error("{name}: {source}")]
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

impl CaptureError {
    /// Whether the input is at fault rather than the way to it: exit status 3 instead of 2.
    pub fn is_not_a_capture(&self) -> bool {
        matches!(self, CaptureError::Empty { .. } | CaptureError::NotACapture { .. } | CaptureError::Broken { .. })
    }
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
        write!(f, "{name}: {what} at byte {offset}; the {frames} frames before it are used, the rest is lost")
    }
}
