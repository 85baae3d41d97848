//! Records of a pcap file, put together in the place where they are written from.

use crate::capture::{PCAP_RECORD_HEAD, pcap_record_head};
use lvscheck_engine::Nanos;

/// By which a buffer of records grows.
const STEP: usize = 64 << 10;

/// Records to write, one after the other.
#[derive(Default)]
pub(super) struct Records {
    /// It is used again: behind what is filled stands anything.
    buffer: Vec<u8>,
    filled: usize,
    /// Where they belong in the file.
    at: u64,
}

impl Records {
    /// None yet, in a buffer that holds anything; they belong to that place of the file.
    pub(super) fn new(buffer: Vec<u8>, at: u64) -> Records {
        Records { buffer, filled: 0, at }
    }

    /// Where they belong in the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Room for the next bytes, so many.
    #[inline(always)]
    fn room(&mut self, len: usize) -> &mut [u8] {
        let from = self.filled;
        self.filled += len;
        if self.filled > self.buffer.len() {
            self.grow();
        }
        self.buffer.get_mut(from..self.filled).unwrap_or_default()
    }

    #[cold]
    fn grow(&mut self) {
        // By a step, not to twice as much: it is used again, and there are many.
        let len = self.filled.next_multiple_of(STEP);
        self.buffer.reserve_exact(len - self.buffer.len());
        self.buffer.resize(len, 0);
    }

    /// Adds a record, and gives the room of its frame, which has so many bytes.
    #[inline(always)]
    pub(super) fn add(&mut self, time: Nanos, len: usize, wire_len: u32) -> &mut [u8] {
        let Some((head, frame)) = self.room(PCAP_RECORD_HEAD + len).split_first_chunk_mut() else { return &mut [] };
        *head = pcap_record_head(time, len as u32, wire_len);
        frame
    }

    /// Their bytes.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.buffer.truncate(self.filled);
        self.buffer
    }
}
