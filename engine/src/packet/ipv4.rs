//! IPv4 (RFC 791).

use super::{HeaderError, be16, be32, checksum, put16, require};
use std::net::Ipv4Addr;

/// Length of the header without options.
pub const HEADER_LEN: usize = 20;

/// Option kinds.
pub mod option {
    #![expect(missing_docs, reason = "the names are the options'")]
    pub const END: u8 = 0;
    pub const NO_OPERATION: u8 = 1;
    pub const RECORD_ROUTE: u8 = 7;
    pub const TIMESTAMP: u8 = 68;
    pub const SECURITY: u8 = 130;
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub const CIPSO: u8 = 134;
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
    pub const ROUTER_ALERT: u8 = 148;
    /// Bit of a kind: the option is copied into every fragment.
    pub const COPIED: u8 = 0x80;
}

/// The flag "don't fragment" in the word of flags and fragment offset.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// The flag "more fragments".
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// A packet's header, over what was captured of the packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// Checks that the header is whole, options included, and says what it is. The checksum and the total length are not
    /// checked: see [`Ipv4::checksum_is_right`] and [`Ipv4::total_len`].
    ///
    /// # Errors
    /// Too short, another version, or a header length below 20.
    pub fn new_checked(bytes: T) -> Result<Ipv4<T>, HeaderError> {
        let all = bytes.as_ref();
        require(all, "IPv4", HEADER_LEN)?;
        if all[0] >> 4 != 4 {
            return Err(HeaderError::Malformed { layer: "IPv4", field: "version" });
        }
        let header_len = usize::from(all[0] & 0x0f) * 4;
        if header_len < HEADER_LEN {
            return Err(HeaderError::Malformed { layer: "IPv4", field: "header length" });
        }
        require(all, "IPv4", header_len)?;
        Ok(Ipv4 { bytes })
    }

    fn all(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Length of the header with options.
    pub fn header_len(&self) -> usize {
        usize::from(self.all()[0] & 0x0f) * 4
    }

    /// Type of service: DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.all()[1]
    }

    /// Total length as the header says.
    pub fn total_len(&self) -> usize {
        usize::from(be16(self.all(), 2))
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        be16(self.all(), 4)
    }

    /// The word of flags and fragment offset.
    pub fn flags_and_offset(&self) -> u16 {
        be16(self.all(), 6)
    }

    /// Don't fragment.
    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// More fragments follow.
    pub fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Fragment offset in bytes.
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_and_offset() & 0x1fff) * 8
    }

    /// Whether it is a fragment of a longer datagram.
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & 0x3fff != 0
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.all()[8]
    }

    /// Number of the protocol inside.
    pub fn protocol(&self) -> u8 {
        self.all()[9]
    }

    /// Header checksum.
    pub fn checksum(&self) -> u16 {
        be16(self.all(), 10)
    }

    /// Whether the header checksum is right.
    pub fn checksum_is_right(&self) -> bool {
        checksum::is_right(checksum::Sum::new().bytes(&self.all()[..self.header_len()]))
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        be32(self.all(), 12).into()
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        be32(self.all(), 16).into()
    }

    /// The bytes of the options.
    pub fn options(&self) -> &[u8] {
        &self.all()[HEADER_LEN..self.header_len()]
    }

    /// What the packet carries: up to its total length, or to the end of what was captured.
    pub fn payload(&self) -> &[u8] {
        let start = self.header_len();
        let end = self.total_len().clamp(start, self.all().len().max(start)).min(self.all().len());
        &self.all()[start..end]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    fn put(&mut self, at: usize, value: u16) {
        put16(self.bytes.as_mut(), at, value);
    }

    /// Sets the total length.
    pub fn set_total_len(&mut self, len: u16) {
        self.put(2, len);
    }

    /// Sets the identification.
    pub fn set_id(&mut self, id: u16) {
        self.put(4, id);
    }

    /// Sets the word of flags and fragment offset.
    pub fn set_flags_and_offset(&mut self, word: u16) {
        self.put(6, word);
    }

    /// Sets the header checksum.
    pub fn set_checksum(&mut self, check: u16) {
        self.put(10, check);
    }

    /// Sets the source address.
    pub fn set_source(&mut self, address: Ipv4Addr) {
        self.bytes.as_mut()[12..16].copy_from_slice(&address.octets());
    }

    /// Sets the destination address.
    pub fn set_destination(&mut self, address: Ipv4Addr) {
        self.bytes.as_mut()[16..20].copy_from_slice(&address.octets());
    }

    /// Decrements the TTL and updates the checksum incrementally. A TTL of 0 stays.
    pub fn decrement_ttl(&mut self) {
        let check = checksum::after_ttl_decrement(self.checksum());
        let bytes = self.bytes.as_mut();
        bytes[8] = bytes[8].saturating_sub(1);
        self.set_checksum(check);
    }

    /// Computes the header checksum from scratch.
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let end = self.header_len();
        let check = checksum::internet(&self.all()[..end]);
        self.set_checksum(check);
    }
}

/// The fields of a header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Fields {
    /// Type of service.
    pub tos: u8,
    /// Length of the packet with this header.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// Time to live.
    pub ttl: u8,
    /// Number of the protocol inside.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Ipv4Fields {
    /// Appends the header, its checksum filled in.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header());
    }

    /// The header's bytes.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[0] = 0x45;
        header[1] = self.tos;
        put16(&mut header, 2, self.total_len);
        put16(&mut header, 4, self.id);
        put16(&mut header, 6, if self.dont_fragment { DONT_FRAGMENT } else { 0 });
        header[8] = self.ttl;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        let check = checksum::internet(&header);
        put16(&mut header, 10, check);
        header
    }
}

/// One option of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Option {
    /// Its kind.
    pub kind: u8,
    /// Where it starts, counted from the start of the options.
    pub at: usize,
    /// Its length, kind and length bytes included; 1 for END and NO_OPERATION.
    pub len: usize,
}

/// Walks options; stops at END or the end of the bytes. An option without a right length ends the walk with an error that
/// says where, counted from the start of the options.
pub fn walk_options(options: &[u8]) -> impl Iterator<Item = Result<Ipv4Option, usize>> + '_ {
    let mut at = 0;
    let mut over = false;
    std::iter::from_fn(move || {
        if over || at >= options.len() {
            return None;
        }
        let kind = options[at];
        match kind {
            option::END => {
                over = true;
                None
            }
            option::NO_OPERATION => {
                at += 1;
                Some(Ok(Ipv4Option { kind, at: at - 1, len: 1 }))
            }
            _ => match options.get(at + 1).map(|len| usize::from(*len)) {
                Some(len) if len >= 2 && at + len <= options.len() => {
                    at += len;
                    Some(Ok(Ipv4Option { kind, at: at - len, len }))
                }
                _ => {
                    over = true;
                    Some(Err(at))
                }
            },
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const FIELDS: Ipv4Fields = Ipv4Fields {
        tos: 0xb8,
        total_len: 28,
        id: 0x1234,
        dont_fragment: true,
        ttl: 64,
        protocol: 17,
        source: Ipv4Addr::new(203, 0, 113, 5),
        destination: Ipv4Addr::new(200, 200, 200, 1),
    };

    #[test]
    fn fields_survive() {
        let mut bytes = FIELDS.header().to_vec();
        bytes.extend_from_slice(&[0xaa; 12]);
        let view = Ipv4::new_checked(&bytes[..]).unwrap();
        assert!(view.checksum_is_right() && view.dont_fragment() && !view.is_fragment());
        assert_eq!((view.tos(), view.ttl(), view.protocol(), view.id()), (0xb8, 64, 17, 0x1234));
        assert_eq!((view.source(), view.destination()), (FIELDS.source, FIELDS.destination));
        assert_eq!(view.payload(), &[0xaa; 8], "padding is no payload");
        let other = pnet_packet::ipv4::Ipv4Packet::new(&bytes).unwrap();
        assert_eq!(pnet_packet::ipv4::checksum(&other), view.checksum());
    }

    #[test]
    fn ttl() {
        let mut bytes = FIELDS.header();
        let mut view = Ipv4::new_checked(&mut bytes[..]).unwrap();
        view.decrement_ttl();
        assert!(view.checksum_is_right());
        assert_eq!(view.ttl(), 63);
    }

    #[test]
    fn refused() {
        let bytes = FIELDS.header();
        assert!(Ipv4::new_checked(&bytes[..19]).is_err());
        for first in [0x44, 0x65, 0x46] {
            let mut other = bytes;
            other[0] = first;
            assert!(Ipv4::new_checked(&other[..]).is_err(), "{first:#x}");
        }
    }

    #[test]
    fn options_are_walked() {
        let options = [1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0];
        let found: Vec<_> = walk_options(&options[..8]).map(|option| option.unwrap().kind).collect();
        assert_eq!(found, [1, 7]);
        assert_eq!(walk_options(&[1, 7, 1]).last(), Some(Err(1)));
        assert_eq!(walk_options(&[148, 5, 0, 0]).last(), Some(Err(0)));
        assert_eq!(walk_options(&[148]).last(), Some(Err(0)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(view) = Ipv4::new_checked(&bytes[..]) {
                let _ = (view.payload(), view.checksum_is_right());
                let _ = walk_options(view.options()).count();
            }
        }
    }
}
