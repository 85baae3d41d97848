//! Compares the frames that a director emitted with those of a golden capture, or two captures with each other.
//!
//! Pure functions over frames: nothing here opens a file or prints. The steps, one file each:
//!
//! 1. [`align`]: which frame is which. Equal bytes in order settle nearly all; only the rest is looked at closer.
//! 2. [`draws`]: values that a real system draws at random are taken over from the golden, and must agree with each other.
//! 3. [`dissect`], [`fields`] and [`difference`]: the rest is taken apart into fields, named as Wireshark names them.
//! 4. [`servers`]: a connection that went to another real server is one finding, however many frames it has.
//! 5. [`report`]: findings, as data and as text.
//!
//! What is too long to be held is compared stretch by stretch ([`stretches`]).
//!
//! Frames come from strangers: no content may panic. Every offset is checked against the frame before it is used.

pub mod align;
pub mod checksum;
pub mod difference;
pub mod dissect;
pub mod draws;
pub mod fields;
pub mod identity;
pub mod ignore;
pub mod observe;
pub mod order;
pub mod report;
pub mod servers;
pub mod shared_learner;
pub mod stretches;
#[cfg(test)]
mod tests;

use ignore::Ignore;
use lvscheck_engine::output::DrawnField;
use lvscheck_engine::time::Nanos;
use observe::Flow;
use std::ops::RangeInclusive;

pub use align::compare;
pub use report::{Comparison, Finding, FindingKind};

/// A frame, of either side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame<'a> {
    /// Its number in its capture, counted from 1, as reports show it.
    pub number: u64,
    /// When it was seen, or emitted.
    pub time: Nanos,
    /// The name of its interface. Compared where both sides know it.
    pub interface: Option<&'a str>,
    /// The Ethernet frame, without FCS, as far as captured.
    pub bytes: &'a [u8],
    /// Its length on the wire in bytes, at least `bytes.len()`.
    pub wire_len: u32,
    /// Fields that hold random draws; empty for frames of a capture.
    pub drawn: &'a [DrawnField],
    /// A timer caused it: its moment, and its place among others of that moment, are only roughly a real system's.
    pub late: bool,
}

/// A sequence of frames. Implemented for slices, so that callers with millions of frames may keep them as they like.
pub trait Frames {
    /// How many there are.
    fn len(&self) -> usize;

    /// The frame at that position; only asked for positions below [`Frames::len`].
    fn frame(&self, index: usize) -> Frame<'_>;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Frames for Vec<Frame<'_>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        self[index]
    }
}

impl Frames for &[Frame<'_>] {
    fn len(&self) -> usize {
        <[Frame<'_>]>::len(self)
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        self[index]
    }
}

/// What the caller knows about emitted frames beyond their bytes. Only asked for frames with findings.
pub trait Context {
    /// The connection that the emitted frame at this position belongs to, as its client sees it.
    fn connection(&self, _actual: usize) -> Option<Flow> {
        None
    }

    /// Why the frame was emitted, in words.
    fn verdict(&self, _actual: usize) -> Option<String> {
        None
    }

    /// The name by which an operator knows the owner of a MAC address, usually its IP address.
    fn owner(&self, _mac: [u8; 6]) -> Option<String> {
        None
    }
}

/// Knows nothing: for two captures of unknown origin.
impl Context for () {}

/// How to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fields that may differ.
    pub ignore: Ignore,
    /// Where drawn source ports must lie: ip_local_port_range of the director.
    pub local_ports: RangeInclusive<u16>,
    /// How reports call a frame of the actual side, such as `frame`.
    pub actual_label: String,
    /// How reports call a frame of the expected side, such as `golden`.
    pub expected_label: String,
    /// At most this many findings are kept with their details; all are counted.
    pub limit: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ignore: Ignore::default(),
            local_ports: 32768..=60999,
            actual_label: "frame".to_owned(),
            expected_label: "golden".to_owned(),
            limit: 1000,
        }
    }
}
