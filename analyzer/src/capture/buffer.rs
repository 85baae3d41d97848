//! A large buffer that is used again and again. Where the system has huge pages it lies in them: with small ones, every use of
//! a new megabyte costs 256 page faults, which is a part of the time of a replay that one can measure.

use memmap2::MmapMut;
use std::io;
use std::ops::{Deref, DerefMut};

/// Size of a huge page, or any other good measure of growth.
const STEP: usize = 2 << 20;

/// Bytes, as many as are in use of those that there is room for.
#[derive(Debug, Default)]
pub struct Buffer {
    room: Option<MmapMut>,
    len: usize,
}

impl Buffer {
    /// Makes it so long; bytes that are new hold anything.
    ///
    /// # Errors
    /// There is no memory.
    pub fn resize(&mut self, len: usize) -> io::Result<()> {
        if self.room.as_ref().map_or(0, |room| room.len()) < len {
            let mut room = MmapMut::map_anon(len.next_multiple_of(STEP))?;
            // It is only faster so.
            #[cfg(target_os = "linux")]
            let _no_huge_pages = room.advise(memmap2::Advice::HugePage);
            room[..self.len].copy_from_slice(self);
            self.room = Some(room);
        }
        self.len = len;
        Ok(())
    }

    /// Leaves the first so many bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// There is no memory.
    pub fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.len;
        if self.room.as_ref().map_or(0, |room| room.len()) < start + bytes.len() {
            // Twice as much, so that what is there is seldom moved.
            self.resize((start + bytes.len()).max(2 * start))?;
        }
        self.resize(start + bytes.len())?;
        self[start..].copy_from_slice(bytes);
        Ok(())
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.room.as_ref().map_or(&[], |room| &room[..self.len])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.room.as_mut().map_or(&mut [], |room| &mut room[..self.len])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_stay_when_it_grows() {
        let mut buffer = Buffer::default();
        let mut expected = Vec::new();
        for number in 0..200u32 {
            let bytes = vec![number as u8; 50_000];
            buffer.extend(&bytes).unwrap();
            expected.extend_from_slice(&bytes);
        }
        assert!(buffer[..] == expected[..]);
        buffer.truncate(7);
        assert_eq!(buffer.len(), 7);
        buffer.resize(3).unwrap();
        assert_eq!(buffer[..], expected[..3]);
    }
}
