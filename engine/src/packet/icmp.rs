//! ICMP for IPv4 (RFC 792, RFC 1191) and IPv6 (RFC 4443): headers, errors, echo.

use super::{HeaderError, be16, be32, checksum, put16, require};
use std::net::Ipv6Addr;

/// Length of the header: type, code, checksum and four bytes that depend on the type.
pub const HEADER_LEN: usize = 8;

/// ICMP types for IPv4.
pub mod v4 {
    #![expect(missing_docs, reason = "the names are the messages'")]
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
    /// Codes of UNREACHABLE.
    pub const NET_UNREACHABLE: u8 = 0;
    pub const HOST_UNREACHABLE: u8 = 1;
    pub const PROTOCOL_UNREACHABLE: u8 = 2;
    pub const PORT_UNREACHABLE: u8 = 3;
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    pub const PROHIBITED: u8 = 13;

    /// Whether it is an error about another packet.
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// ICMPv6 types.
pub mod v6 {
    #![expect(missing_docs, reason = "the names are the messages'")]
    pub const UNREACHABLE: u8 = 1;
    pub const PACKET_TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    /// Codes of UNREACHABLE.
    pub const NO_ROUTE: u8 = 0;
    pub const PROHIBITED: u8 = 1;
    pub const BEYOND_SCOPE: u8 = 2;
    pub const ADDRESS_UNREACHABLE: u8 = 3;
    pub const PORT_UNREACHABLE: u8 = 4;

    /// Whether it is an error about another packet.
    pub const fn is_error(kind: u8) -> bool {
        kind & 0x80 == 0
    }
}

/// A message's header, of either family.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Icmp<T> {
    /// Checks that the header is whole.
    ///
    /// # Errors
    /// Fewer than 8 bytes.
    pub fn new_checked(bytes: T) -> Result<Icmp<T>, HeaderError> {
        require(bytes.as_ref(), "ICMP", HEADER_LEN)?;
        Ok(Icmp { bytes })
    }

    fn all(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Type.
    pub fn kind(&self) -> u8 {
        self.all()[0]
    }

    /// Code.
    pub fn code(&self) -> u8 {
        self.all()[1]
    }

    /// Checksum.
    pub fn checksum(&self) -> u16 {
        be16(self.all(), 2)
    }

    /// The four bytes behind the checksum: id and sequence, MTU, gateway, pointer.
    pub fn rest(&self) -> u32 {
        be32(self.all(), 4)
    }

    /// What follows the header: the quoted packet of an error, the data of an echo.
    pub fn payload(&self) -> &[u8] {
        &self.all()[HEADER_LEN..]
    }

    /// Whether the checksum of a message for IPv4 is right.
    pub fn checksum_is_right(&self) -> bool {
        checksum::is_right(checksum::Sum::new().bytes(self.all()))
    }
}

/// Computes and stores the checksum of a message for IPv4. Fewer than 8 bytes stay.
pub fn fill_checksum(message: &mut [u8]) {
    if message.len() >= HEADER_LEN {
        put16(message, 2, 0);
        let check = checksum::internet(message);
        put16(message, 2, check);
    }
}

/// Computes and stores the checksum of a message for IPv6. Fewer than 8 bytes stay.
pub fn fill_checksum_v6(message: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    if message.len() >= HEADER_LEN {
        put16(message, 2, 0);
        let sum = checksum::pseudo_header_v6(source, destination, 58, message.len());
        put16(message, 2, sum.bytes(message).checksum());
    }
}

/// Appends a message with checksum 0.
pub fn write(out: &mut Vec<u8>, kind: u8, code: u8, rest: u32, payload: &[u8]) {
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&rest.to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        write(&mut bytes, v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED, 1400, &[0x45; 28]);
        fill_checksum(&mut bytes);
        let view = Icmp::new_checked(&bytes[..]).unwrap();
        assert!(view.checksum_is_right());
        assert_eq!((view.kind(), view.code(), view.rest(), view.payload().len()), (3, 4, 1400, 28));
        let other = pnet_packet::icmp::IcmpPacket::new(&bytes).unwrap();
        assert_eq!(pnet_packet::icmp::checksum(&other), view.checksum());
    }

    #[test]
    fn v6_checksum() {
        let (source, destination) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let mut bytes = Vec::new();
        write(&mut bytes, v6::PACKET_TOO_BIG, 0, 1280, &[0x60; 48]);
        fill_checksum_v6(&mut bytes, source, destination);
        let other = pnet_packet::icmpv6::Icmpv6Packet::new(&bytes).unwrap();
        assert_eq!(pnet_packet::icmpv6::checksum(&other, &source, &destination), be16(&bytes, 2));
    }
}
