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
    let mut link_types = Vec::new();
    for input in inputs {
        read(input, &mut loaded, &mut link_types)?;
    }
    if inputs.len() > 1 {
        loaded.frames.sort_by_time();
    }
    let as_ethernet = AsEthernet::new(link_types);
    if !as_ethernet.is_nothing_to_do() {
        loaded.convert(as_ethernet);
    }
    Ok(loaded)
}

fn read(input: &Input, loaded: &mut Loaded, link_types: &mut Vec<u16>) -> Result<(), Failure> {
    let mut reader = Reader::of(input)?;
    loaded.files.push(input.given().display().to_string());
    let first_interface = loaded.interfaces.len() as u32;
    let mut records = Vec::new();
    while let Some(window) = reader.next_window(&mut records, usize::MAX)? {
        for frame in window.frames() {
            loaded.total += 1;
            loaded.bytes += frame.bytes.len() as u64;
            loaded.frames.push(InputFrame {
                number: loaded.total,
                time: frame.time,
                interface: first_interface + frame.interface,
                bytes: frame.bytes,
                wire_len: frame.wire_len,
            });
        }
    }
    // Some may be described as late as after the last frame.
    for interface in reader.interfaces() {
        loaded.named &= interface.name.is_some();
        loaded.interfaces.push(interface.name.clone().or_else(|| input.stem()));
        link_types.push(interface.link_type);
    }
    loaded.warnings.extend(reader.damage().map(ToString::to_string));
    Ok(())
}

impl Loaded {
    /// Makes all frames Ethernet, and drops those that can't be.
    fn convert(&mut self, mut as_ethernet: AsEthernet) {
        self.made_up_macs = true;
        let Loaded { frames, unreadable, .. } = self;
        for frame in frames.inputs() {
            as_ethernet.observe(frame.interface, frame.bytes);
        }
        frames.convert(|frame| match as_ethernet.convert(frame.interface, frame.bytes, frame.wire_len) {
            Ok(ethernet) => Some(ethernet),
            Err(reason) => {
                *unreadable.entry(reason.to_string()).or_default() += 1;
                None
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::capture::{pcap_head, pcap_record};
    use lvscheck_engine::Nanos;

    #[test]
    fn several_captures_are_one_in_order_of_time() {
        const RAW: u8 = 101;
        let folder = tempfile::tempdir().unwrap();
        let capture = |name: &str, link_type: u8, frames: &[(u64, &[u8])]| {
            let mut bytes = pcap_head().to_vec();
            bytes[20] = link_type;
            for (time, frame) in frames {
                pcap_record(&mut bytes, Nanos(*time), frame, frame.len() as u32);
            }
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            Input::new(&path).unwrap()
        };
        // The third frame in order of time is no IP packet.
        let inputs = [
            capture("eth1.pcap", 1, &[(1, &[7; 14]), (4, &[8; 14])]),
            capture("any.pcap", RAW, &[(2, &[0x45]), (3, &[0x15]), (4, &[0x60])]),
        ];
        let loaded = load(&inputs).unwrap();
        let found: Vec<_> = loaded.frames.inputs().map(|frame| (frame.number, frame.time.0, frame.interface)).collect();
        assert_eq!(found, [(1, 1, 0), (2, 2, 1), (4, 4, 0), (5, 4, 1)]);
        assert_eq!(loaded.interfaces, [Some("eth1".to_owned()), Some("any".to_owned())]);
        assert_eq!((loaded.total, loaded.unreadable.len(), loaded.made_up_macs), (5, 1, true));
    }
}
