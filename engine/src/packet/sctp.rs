//! SCTP (RFC 9260): the common header and what of the chunks decides a connection's state.

use super::{HeaderError, be16, checksum, require};

/// Length of the common header.
pub const HEADER_LEN: usize = 12;
/// Where the checksum stands.
pub const CHECKSUM_AT: usize = 8;

/// Chunk types.
pub mod chunk {
    #![expect(missing_docs, reason = "the names are the chunks'")]
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// A packet's common header.
#[derive(Clone, Copy, Debug)]
pub struct Sctp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Sctp<T> {
    /// Checks that the common header is whole.
    ///
    /// # Errors
    /// Fewer than 12 bytes.
    pub fn new_checked(bytes: T) -> Result<Sctp<T>, HeaderError> {
        require(bytes.as_ref(), "SCTP", HEADER_LEN)?;
        Ok(Sctp { bytes })
    }

    fn all(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        be16(self.all(), 0)
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        be16(self.all(), 2)
    }

    /// Type of the first chunk; none when its header is not whole.
    pub fn first_chunk(&self) -> Option<u8> {
        (self.all().len() >= HEADER_LEN + 4).then(|| self.all()[HEADER_LEN])
    }

    /// The chunk type that decides the state (reference/linux-ipvs.md section 4.3): the first one, but ABORT when a cookie
    /// chunk comes first and an ABORT right behind it.
    pub fn deciding_chunk(&self) -> Option<u8> {
        let first = self.first_chunk()?;
        if matches!(first, chunk::COOKIE_ECHO | chunk::COOKIE_ACK) {
            let len = usize::from(be16(self.all(), HEADER_LEN + 2));
            let next = HEADER_LEN + len.next_multiple_of(4);
            if len >= 4 && self.all().len() >= next + 4 && self.all()[next] == chunk::ABORT {
                return Some(chunk::ABORT);
            }
        }
        Some(first)
    }
}

/// Whether the checksum of a whole packet is right.
pub fn checksum_is_right(packet: &[u8]) -> bool {
    let mut copy = packet.to_vec();
    fill_checksum(&mut copy);
    copy == packet
}

/// How a host answers a packet of no association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTheBlue {
    /// The answer's verification tag, in wire order.
    pub tag: [u8; 4],
    /// Its chunk's type.
    pub chunk: u8,
    /// Its chunk's flags: the T bit when the tag is the packet's own.
    pub flags: u8,
}

/// The answer to a packet of no association (RFC 9260 section 8.4), by all its chunks: none to ABORT, SHUTDOWN COMPLETE,
/// COOKIE ACK and an INIT that is not alone; SHUTDOWN COMPLETE to SHUTDOWN ACK; else ABORT.
pub fn out_of_the_blue(packet: &[u8]) -> Option<OutOfTheBlue> {
    let own_tag: [u8; 4] = packet.get(4..8)?.try_into().ok()?;
    let first = *packet.get(HEADER_LEN)?;
    let (mut shutdown, mut cookie) = (false, false);
    let mut at = HEADER_LEN;
    while let Some(header) = packet.get(at..at + 4) {
        let len = usize::from(be16(header, 2));
        if len < 4 {
            break;
        }
        match header[0] {
            chunk::ABORT | chunk::SHUTDOWN_COMPLETE => return None,
            chunk::INIT if at != HEADER_LEN => return None,
            chunk::SHUTDOWN_ACK => shutdown = true,
            chunk::COOKIE_ACK => cookie = true,
            _ => {}
        }
        at += len.next_multiple_of(4);
    }
    if first == chunk::INIT {
        // The tag that the peer asked for.
        let tag = packet.get(HEADER_LEN + 4..HEADER_LEN + 8)?.try_into().ok()?;
        return Some(OutOfTheBlue { tag, chunk: chunk::ABORT, flags: 0 });
    }
    let chunk = match (shutdown, cookie) {
        (true, _) => chunk::SHUTDOWN_COMPLETE,
        (false, true) => return None,
        (false, false) => chunk::ABORT,
    };
    Some(OutOfTheBlue { tag: own_tag, chunk, flags: 1 })
}

/// Computes the checksum of a whole packet and stores it. Fewer than 12 bytes stay as they are.
pub fn fill_checksum(packet: &mut [u8]) {
    if packet.len() >= HEADER_LEN {
        let crc = checksum::sctp(&[&packet[..CHECKSUM_AT], &[0; 4], &packet[CHECKSUM_AT + 4..]]);
        packet[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&crc);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn packet(chunks: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0];
        bytes.extend_from_slice(chunks);
        bytes
    }

    #[test]
    fn deciding_chunks() {
        let of = |chunks: &[u8]| Sctp::new_checked(packet(chunks)).unwrap().deciding_chunk();
        assert_eq!(of(&[1, 0, 0, 20]), Some(chunk::INIT));
        assert_eq!(of(&[10, 0, 0, 6, 1, 2, 0, 0, 6, 0, 0, 4]), Some(chunk::ABORT));
        assert_eq!(of(&[10, 0, 0, 6, 1, 2, 0, 0, 0, 0, 0, 4]), Some(chunk::COOKIE_ECHO));
        assert_eq!(of(&[10, 0, 0xff, 0xff]), Some(chunk::COOKIE_ECHO));
        assert_eq!(of(&[1, 0]), None);
    }

    #[test]
    fn checksum_covers_all_but_itself() {
        let mut bytes = packet(&[1, 0, 0, 4]);
        fill_checksum(&mut bytes);
        let first = bytes.clone();
        fill_checksum(&mut bytes);
        assert_eq!(bytes, first);
        assert_ne!(&bytes[8..12], [0; 4]);
    }
}
