//! A golden in the one form that is compared window by window: a plain pcap, in which the place of each frame is known. Another
//! one, compressed or pcapng, is unpacked into a temporary file, so that memory does not have to hold it.

use crate::capture::{CaptureError, CaptureInterface, Input, PlainFile, Reader, pcap_head, pcap_record};
use lvscheck_engine::DirectorConfig;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempPath};

/// A golden to compare with window by window.
pub(super) struct GoldenFile {
    given: PathBuf,
    unpacked: Option<TempPath>,
}

impl GoldenFile {
    /// The file at a path; none if only the careful way can compare with it, or tell what is wrong with it: it names the
    /// director's interfaces, is no Ethernet, can be read only once, or not at all.
    pub(super) fn new(path: &Path, config: &DirectorConfig) -> Option<GoldenFile> {
        if Input::is_read_once(path) {
            return None;
        }
        let given = path.to_path_buf();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let is_plain = |interface: &CaptureInterface| {
            let name = interface.name.as_ref().or(stem.as_ref());
            interface.link_type == 1 && !interface.has_fcs() && name.is_none_or(|name| config.interface(name).is_none())
        };
        match PlainFile::open(path).ok()? {
            Some(file) => file.interfaces().iter().all(is_plain).then_some(GoldenFile { given, unpacked: None }),
            None => {
                let unpacked = Some(unpack(path, is_plain)?);
                Some(GoldenFile { given, unpacked })
            }
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// It can't be read any more.
    pub(super) fn open(&self) -> Result<Option<PlainFile>, CaptureError> {
        PlainFile::open(self.unpacked.as_deref().unwrap_or(&self.given))
    }
}

/// A plain pcap of the same frames; none if it can't be made, or some interface is not fit for it.
fn unpack(path: &Path, is_fit: impl Fn(&CaptureInterface) -> bool) -> Option<TempPath> {
    let mut reader = Reader::open(path).ok()?;
    let mut file = NamedTempFile::with_prefix("lvscheck-").ok()?;
    file.write_all(&pcap_head()).ok()?;
    let (mut records, mut bytes) = (Vec::new(), Vec::new());
    while let Some(window) = reader.next_window(&mut records, usize::MAX).ok()? {
        bytes.clear();
        for frame in window.frames() {
            pcap_record(&mut bytes, frame.time, frame.bytes, frame.wire_len);
        }
        file.write_all(&bytes).ok()?;
    }
    let whole = reader.damage().is_none() && reader.interfaces().iter().all(is_fit);
    whole.then(|| file.into_temp_path())
}
