//! GRE (RFC 2784) as IPVS writes and reads it: no key, no sequence number.

use super::{be16, checksum, put16};

/// The checksum flag in the first word.
pub const CHECKSUM: u16 = 0x8000;

/// Length of the header.
pub const fn header_len(checksum: bool) -> usize {
    if checksum { 8 } else { 4 }
}

/// Appends the header; the checksum, if any, is filled in by [`fill_checksum`] once the payload stands behind it.
pub fn write(out: &mut Vec<u8>, checksum: bool, ether_type: u16) {
    out.extend_from_slice(&(if checksum { CHECKSUM } else { 0 }).to_be_bytes());
    out.extend_from_slice(&ether_type.to_be_bytes());
    if checksum {
        out.extend_from_slice(&[0; 4]);
    }
}

/// Fills the checksum in over header and payload, if the header has one.
pub fn fill_checksum(packet: &mut [u8]) {
    if packet.len() >= 8 && be16(packet, 0) & CHECKSUM != 0 {
        put16(packet, 4, 0);
        let check = checksum::internet(packet);
        put16(packet, 4, check);
    }
}

/// Length and EtherType of a header that IPVS could have written; none for any other.
pub fn parse(bytes: &[u8]) -> Option<(usize, u16)> {
    if bytes.len() < 4 {
        return None;
    }
    let flags = be16(bytes, 0);
    (flags & !CHECKSUM == 0).then(|| (header_len(flags != 0), be16(bytes, 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_checksum() {
        let mut bytes = Vec::new();
        write(&mut bytes, true, 0x0800);
        bytes.extend_from_slice(&[0x45, 1, 2]);
        fill_checksum(&mut bytes);
        assert!(checksum::is_right(checksum::Sum::new().bytes(&bytes)));
        assert_eq!(parse(&bytes), Some((8, 0x0800)));
    }

    #[test]
    fn key_is_not_ours() {
        assert_eq!(parse(&[0x20, 0, 8, 0, 0, 0, 0, 1]), None);
        assert_eq!(parse(&[0, 0, 8]), None);
    }
}
