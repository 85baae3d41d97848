//! Whole captures in memory, merged by time.

use super::frames::Frames;
use super::session::InputFrame;
use crate::capture::link::AsEthernet;
use crate::capture::{CaptureError, Input, Reader};
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
    let mut as_ethernet = AsEthernet::new(link_types);
    if !as_ethernet.is_nothing_to_do() {
        loaded.made_up_macs = true;
        let Loaded { frames, unreadable, .. } = loaded;
        // Those of a capture before this one are Ethernet by now.
        for frame in frames.inputs().filter(|frame| frame.interface >= first_interface) {
            as_ethernet.observe(frame.interface - first_interface, frame.bytes);
        }
        frames.convert(|frame| {
            let converted = match frame.interface.checked_sub(first_interface) {
                Some(interface) => as_ethernet.convert(interface, frame.bytes, frame.wire_len),
                None => Ok((frame.bytes.into(), frame.wire_len)),
            };
            match converted {
                Ok(ethernet) => Some(ethernet),
                Err(reason) => {
                    *unreadable.entry(reason.to_string()).or_default() += 1;
                    None
                }
            }
        });
    }
    Ok(())
}
