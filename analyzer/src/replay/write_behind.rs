//! A file that is written while other windows are worked on: pieces wait for a thread that has nothing else to do.

use super::bulk::Attempt;
use crate::capture::{CaptureError, Writer};
use crate::exit::Failure;
use rayon::Scope;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A file and the pieces that wait for it.
pub(super) struct WriteBehind {
    writer: Writer,
    /// Pieces with their places in the file.
    waiting: Mutex<Vec<(u64, Vec<u8>)>>,
    /// Short pieces that follow each other, as one.
    joined: Mutex<(u64, Vec<u8>)>,
    /// Somebody writes. A file takes one write at a time: others would only wait for each other.
    busy: AtomicBool,
    /// Buffers of pieces that were written.
    spare: Mutex<Vec<Vec<u8>>>,
    /// The first write that failed.
    error: Mutex<Option<CaptureError>>,
}

/// Where what leaves is written, and what it takes to do that later.
pub(super) type File<'a, 'scope> = (&'scope WriteBehind, &'a Scope<'scope>);

/// Works with a file behind, if there is one; what an attempt that failed wrote is nobody's.
///
/// # Errors
/// The work's, or what waits can't be written.
pub(super) fn with(
    writer: Option<Writer>,
    work: impl FnOnce(Option<File<'_, '_>>) -> Result<Attempt, Failure>,
) -> Result<Attempt, Failure> {
    let Some(writer) = writer else { return work(None) };
    let behind = WriteBehind::new(writer)?;
    let attempt = rayon::in_place_scope(|scope| work(Some((&behind, scope))))?;
    if attempt.is_ok() {
        behind.finish()?;
    }
    Ok(attempt)
}

/// Bytes of a piece that is worth a write of its own.
const LONG: usize = 64 << 10;
/// How many pieces may wait. Whoever makes more of them waits for the file, so that memory does not grow.
const MOST_WAITING: usize = 8;

impl WriteBehind {
    /// For a file.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub(super) fn new(mut writer: Writer) -> Result<WriteBehind, CaptureError> {
        writer.flush()?;
        let (waiting, joined, spare, error) = Default::default();
        Ok(WriteBehind { writer, waiting, joined, busy: AtomicBool::new(false), spare, error })
    }

    /// A buffer for a piece, which holds anything.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.spare.lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default()
    }

    /// Writes a piece at a place of the file, some time before the scope ends.
    pub(super) fn write<'scope>(&'scope self, scope: &Scope<'scope>, piece: Vec<u8>, at: u64) {
        let Some((at, piece)) = self.join(piece, at) else { return };
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.push((at, piece));
        }
        if !self.busy.swap(true, Ordering::AcqRel) {
            scope.spawn(|scope| self.write_on(scope));
        }
        while self.waiting() > MOST_WAITING && self.write_one() {}
    }

    /// Keeps a short piece until those that follow it make a long one; gives what is to be written now.
    fn join(&self, piece: Vec<u8>, at: u64) -> Option<(u64, Vec<u8>)> {
        let Ok(mut joined) = self.joined.lock() else { return Some((at, piece)) };
        let (start, bytes) = &mut *joined;
        if piece.len() >= LONG {
            return Some((at, piece));
        }
        if *start + bytes.len() as u64 == at && bytes.len() < LONG {
            bytes.extend_from_slice(&piece);
            if let Ok(mut spare) = self.spare.lock() {
                spare.push(piece);
            }
            return None;
        }
        Some(std::mem::replace(&mut *joined, (at, piece))).filter(|(_, bytes)| !bytes.is_empty())
    }

    /// Writes a piece, and leaves the others to a time when a thread has nothing else to do again: it may have by now.
    fn write_on<'scope>(&'scope self, scope: &Scope<'scope>) {
        self.write_one();
        if self.waiting() == 0 {
            self.busy.store(false, Ordering::Release);
            // One that came in between saw that somebody was writing.
            if self.waiting() == 0 || self.busy.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        scope.spawn(|scope| self.write_on(scope));
    }

    fn waiting(&self) -> usize {
        self.waiting.lock().map_or(0, |waiting| waiting.len())
    }

    /// Writes one of the pieces that wait; false if there is none.
    fn write_one(&self) -> bool {
        let Some((at, piece)) = self.waiting.lock().ok().and_then(|mut waiting| waiting.pop()) else { return false };
        if let Err(failed) = self.writer.write_piece(&piece, at)
            && let Ok(mut error) = self.error.lock()
        {
            error.get_or_insert(failed);
        }
        if let Ok(mut spare) = self.spare.lock() {
            spare.push(piece);
        }
        true
    }

    /// What went wrong so far, once.
    pub(super) fn error(&self) -> Option<CaptureError> {
        self.error.lock().ok().and_then(|mut error| error.take())
    }

    /// Puts the file under its name, after the scope.
    ///
    /// # Errors
    /// Something could not be written, or the name can't be taken.
    pub(super) fn finish(self) -> Result<(), CaptureError> {
        let (at, rest) = self.joined.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.writer.write_piece(&rest, at)?;
        match self.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => self.writer.finish(),
        }
    }
}
