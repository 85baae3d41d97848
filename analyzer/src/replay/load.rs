//! Whole captures in memory, merged by time.

use super::frames::Frames;
use super::session::InputFrame;
use crate::capture::{CaptureError, Input, Reader, link};
use crate::exit::{Failure, Status};
use std::collections::BTreeMap;

/// Captures that were read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Their names.
    pub files: Vec<String>,
    /// Their frames, as Ethernet, in order of time, numbered in this order when there are several captures.
    pub frames: Frames,
    /// The name of each interface, by the number in the frames: a pcapng interface's, else the file's stem.
    pub interfaces: Vec<Option<String>>,
    /// Whether the interfaces' names are the captures' own.
    pub named: bool,
    /// Some link type does not tell the MAC addresses of both ends.
    pub made_up_macs: bool,
    /// Frames that could not be made Ethernet, by reason.
    pub unreadable: BTreeMap<String, u64>,
    /// Faults that lost something.
    pub warnings: Vec<String>,
    /// Frames in all, the unreadable ones too.
    pub total: u64,
    /// Captured bytes in all.
    pub bytes: u64,
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Failure {
        let status = if error.is_not_a_capture() { Status::NotACapture } else { Status::Usage };
        Failure::new(status, error)
    }
}

/// Reads captures whole.
///
/// # Errors
/// One of them can't be read.
pub fn load(inputs: &[Input]) -> Result<Loaded, Failure> {
    let mut loaded = Loaded { named: true, ..Loaded::default() };
    for input in inputs {
        read(input, &mut loaded)?;
    }
    if inputs.len() > 1 {
        loaded.frames.sort_by_time();
    }
    Ok(loaded)
}

fn read(input: &Input, loaded: &mut Loaded) -> Result<(), Failure> {
    let mut reader = Reader::of(input)?;
    loaded.files.push(input.given().display().to_string());
    let first_interface = loaded.interfaces.len() as u32;
    let stem = input.given().file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut records = Vec::new();
    let mut link_types: Vec<u16> = Vec::new();
    while let Some(window) = reader.next_window(&mut records, usize::MAX)? {
        let (bytes, records, first_number) = (window.bytes, window.records, window.first_number);
        // Interfaces can't be asked while the window borrows the reader, so unknown ones are read off afterwards; frames
        // keep the original bytes until then.
        for (index, record) in records.iter().enumerate() {
            let frame = &bytes[record.start..record.start + record.len as usize];
            loaded.frames.push(InputFrame {
                number: first_number + index as u64,
                time: record.time,
                interface: first_interface + record.interface,
                bytes: frame,
                wire_len: record.wire_len,
            });
            loaded.total += 1;
            loaded.bytes += u64::from(record.len);
        }
    }
    for interface in reader.interfaces() {
        loaded.named &= interface.name.is_some();
        loaded.interfaces.push(interface.name.clone().or_else(|| stem.clone()));
        link_types.push(interface.link_type);
    }
    if let Some(damage) = reader.damage() {
        loaded.warnings.push(damage.to_string());
    }
    if link_types.iter().any(|link_type| *link_type != 1) {
        loaded.made_up_macs = true;
        let Loaded { frames, unreadable, .. } = loaded;
        let link_type_of = |interface: u32| match interface.checked_sub(first_interface) {
            Some(index) => link_types.get(index as usize).copied().unwrap_or(1),
            // Of a capture before this one: Ethernet by now.
            None => 1,
        };
        let mut own = link::OwnAddresses::default();
        for frame in frames.inputs() {
            own.observe(frame.interface, link_type_of(frame.interface), frame.bytes);
        }
        frames.convert(|frame| {
            let link_type = link_type_of(frame.interface);
            let converted = own.to_ethernet(frame.interface, link_type, frame.bytes);
            let wire_len = (i64::from(frame.wire_len) + link::growth(link_type)).clamp(0, i64::from(u32::MAX)) as u32;
            match converted {
                Ok(bytes) => Some((bytes, wire_len)),
                Err(reason) => {
                    *unreadable.entry(reason.to_string()).or_default() += 1;
                    None
                }
            }
        });
    }
    Ok(())
}
