//! Where the ways of large captures write: the file that was asked for, or one that stands for a pipe until it is sure that
//! nothing needs care. What was written to a pipe can't be taken back when the careful way begins anew.

use crate::capture::{CaptureError, Container, Input, Writer};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file or a pipe.
pub(super) struct Destination {
    asked: PathBuf,
    /// Where it is kept for a pipe.
    kept: Option<(TempDir, PathBuf)>,
}

impl Destination {
    /// For what a path stands for; `-` is standard output.
    ///
    /// # Errors
    /// There is no room for what a pipe gets.
    pub(super) fn new(asked: &Path) -> Result<Destination, CaptureError> {
        let asked = asked.to_path_buf();
        if !Input::is_read_once(&asked) {
            return Ok(Destination { asked, kept: None });
        }
        let folder = tempfile::tempdir().map_err(|source| no_room(&asked, source))?;
        let path = folder.path().join(match Container::of(&asked) {
            Container::Pcap => "leaving.pcap",
            Container::PcapNg => "leaving.pcapng",
        });
        Ok(Destination { asked, kept: Some((folder, path)) })
    }

    /// Where to write; `names` are those of the director's interfaces.
    ///
    /// # Errors
    /// It can't be written to.
    pub(super) fn writer(&self, names: &[&str]) -> Result<Writer, CaptureError> {
        Writer::create(self.kept.as_ref().map_or(&self.asked, |(_, path)| path), names)
    }

    /// Gives a pipe what was kept for it, once that is complete.
    ///
    /// # Errors
    /// It can't be written to.
    pub(super) fn finish(self) -> Result<(), CaptureError> {
        let Some((_folder, path)) = self.kept else { return Ok(()) };
        let mut pipe = Writer::without_head(&self.asked, Container::of(&self.asked))?;
        let mut buffer = vec![0; 1 << 20];
        let broken = |source| no_room(&self.asked, source);
        let mut file = File::open(path).map_err(broken)?;
        while !pipe.is_closed() {
            match file.read(&mut buffer).map_err(broken)? {
                0 => break,
                read => pipe.write_raw(&buffer[..read])?,
            }
        }
        pipe.finish()
    }
}

fn no_room(asked: &Path, source: io::Error) -> CaptureError {
    let (folder, asked) = (std::env::temp_dir(), asked.display());
    CaptureError::Io {
        name: format!("{}: no room to keep what leaves for {asked} (TMPDIR names another folder)", folder.display()),
        source,
    }
}
