//! A golden in the one form that all threads compare at once: a plain pcap, in which the place of each frame is known. Another
//! one, compressed or pcapng, is unpacked into a temporary file, so that memory does not have to hold it.

use crate::capture::link::ETHERNET;
use crate::capture::{CaptureInterface, Input, PlainFile, Reader, pcap_head, pcap_record};
use lvscheck_engine::DirectorConfig;
use std::io::Write;
use tempfile::{NamedTempFile, TempPath};

/// A golden to compare with window by window, and the temporary file that it lies in, if it does.
pub(super) struct GoldenFile {
    pub(super) file: PlainFile,
    pub(super) unpacked: Option<TempPath>,
}

impl GoldenFile {
    /// For a golden; none if its frames must be compared one after the other, or it can't be read: it names the director's
    /// interfaces, is no Ethernet, or there is no room to unpack it.
    pub(super) fn open(golden: &Input, config: &DirectorConfig) -> Option<GoldenFile> {
        let stem = golden.stem();
        let is_fit = |interface: &CaptureInterface| {
            let name = interface.name.as_ref().or(stem.as_ref());
            interface.link_type == ETHERNET && !interface.has_fcs() && name.is_none_or(|name| config.interface(name).is_none())
        };
        match PlainFile::open(golden.path()).ok()? {
            Some(file) => file.interfaces().iter().all(is_fit).then_some(GoldenFile { file, unpacked: None }),
            None => {
                let unpacked = unpack(golden, is_fit)?;
                let file = PlainFile::open(&unpacked).ok()??;
                Some(GoldenFile { file, unpacked: Some(unpacked) })
            }
        }
    }
}

/// A plain pcap of the same frames; none if it can't be made, or some interface is not fit for it.
fn unpack(golden: &Input, is_fit: impl Fn(&CaptureInterface) -> bool) -> Option<TempPath> {
    let mut reader = Reader::of(golden).ok()?;
    let mut file = NamedTempFile::with_prefix("lvscheck-").ok()?;
    file.write_all(&pcap_head()).ok()?;
    let (mut records, mut bytes) = (Vec::new(), Vec::new());
    while let Some(window) = reader.next_window(&mut records, usize::MAX).ok()? {
        if !window.interfaces.iter().all(&is_fit) {
            return None;
        }
        bytes.clear();
        for frame in window.frames() {
            pcap_record(&mut bytes, frame.time, frame.bytes, frame.wire_len);
        }
        file.write_all(&bytes).ok()?;
    }
    let whole = reader.damage().is_none() && reader.interfaces().iter().all(is_fit);
    whole.then(|| file.into_temp_path())
}
