//! Several captures in bulk: their frames are merged by time as a window is filled.

use super::bulk::size_of;
use super::error::{CaptureError, Damage};
use super::format::{CaptureInterface, Record};
use super::input::Input;
use super::merge::{Merge, MergedInterface};
use super::reader::Reader;
use super::window::BulkWindow;
use std::io;

/// Captures that are read as one.
pub(super) struct MergedCaptures {
    merge: Merge,
    interfaces: Vec<CaptureInterface>,
    size: Option<u64>,
}

impl MergedCaptures {
    /// Opens them.
    ///
    /// # Errors
    /// One of them can't be opened, or is no capture.
    pub(super) fn open(inputs: &[Input]) -> Result<MergedCaptures, CaptureError> {
        let mut merge = Merge::new(inputs.iter().map(Reader::of).collect::<Result<_, _>>()?);
        // This reads the first frames of all, and with them of the interfaces before those.
        merge.earliest()?;
        let named = |MergedInterface { capture, interface }: &MergedInterface| {
            let mut named = interface.clone();
            named.name = named.name.or_else(|| inputs.get(*capture)?.stem());
            named
        };
        let interfaces = merge.interfaces().iter().map(named).collect();
        Ok(MergedCaptures { merge, interfaces, size: inputs.iter().map(size_of).sum() })
    }

    /// The interfaces that are described before the first frame of their capture, numbered one capture after the other: each with
    /// its own name, or else its capture's. One that is described later gets a number beyond them.
    pub(super) fn interfaces(&self) -> &[CaptureInterface] {
        &self.interfaces
    }

    /// Size of all files in bytes, compressed or not, if they are files.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// The faults that ended captures early, known once the last frame was given.
    pub(super) fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.merge.damage()
    }

    /// Puts the next frames into a window's bytes, about so many, and says where they lie.
    pub(super) fn gather(&mut self, window: &mut BulkWindow, most: usize) -> Result<Vec<Record>, CaptureError> {
        let no_memory = |source: io::Error| CaptureError::Io { name: "a window of several captures".to_owned(), source };
        let mut records = Vec::new();
        window.bytes.truncate(0);
        while window.bytes.len() < most.min(u32::MAX as usize / 2)
            && let Some((_, frame)) = self.merge.next_frame()?
        {
            let (time, interface, wire_len) = (frame.time, frame.interface, frame.wire_len);
            records.push(Record { time, interface, start: window.bytes.len(), len: frame.bytes.len() as u32, wire_len });
            window.bytes.extend(frame.bytes).map_err(no_memory)?;
        }
        Ok(records)
    }
}
