//! What leaves a large replay as pcapng: each frame with its interface and, as its comment, why it left.

use super::cause::Cause;
use super::frames::Frames;
use crate::capture::{CaptureError, Writer};
use lvscheck_engine::EmittedFrame;
use lvscheck_engine::verdict::Names;

/// A pcapng file, and the frames of a window that are not written yet: the director, which has the names for their comments, is
/// at work while they leave.
pub(super) struct Annotated {
    writer: Writer,
    frames: Frames,
    causes: Vec<Cause>,
}

impl Annotated {
    /// To a file that keeps comments.
    pub(super) fn new(writer: Writer) -> Annotated {
        Annotated { writer, frames: Frames::default(), causes: Vec::new() }
    }

    /// Takes a frame.
    pub(super) fn push(&mut self, frame: EmittedFrame<'_>, cause: Cause) {
        self.frames.push_emitted(self.frames.len() as u64 + 1, frame);
        self.causes.push(cause);
    }

    /// Writes the frames that were taken. A director never gives the number of a service or a real server to another one, so the
    /// names are those that it has at its end, too.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub(super) fn write(&mut self, names: &impl Names) -> Result<(), CaptureError> {
        for (frame, cause) in self.frames.records().iter().zip(&self.causes) {
            let bytes = self.frames.bytes(frame);
            self.writer.write(frame.time, frame.interface, bytes, frame.wire_len, Some(&cause.words(names)))?;
        }
        self.frames.clear();
        self.causes.clear();
        Ok(())
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// The disk is full, or the name can't be taken.
    pub(super) fn finish(self) -> Result<(), CaptureError> {
        self.writer.finish()
    }
}
