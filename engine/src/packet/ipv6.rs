//! IPv6 and its extension headers (RFC 8200).

use super::{HeaderError, be16, be32, put16, require};
use std::net::Ipv6Addr;

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;

/// Next-header numbers of extension headers.
pub mod next_header {
    #![expect(missing_docs, reason = "the names are the headers'")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const NONE: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// A packet's header, over what was captured of the packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// Checks that the fixed header is whole and says version 6.
    ///
    /// # Errors
    /// Too short, or another version.
    pub fn new_checked(bytes: T) -> Result<Ipv6<T>, HeaderError> {
        let all = bytes.as_ref();
        require(all, "IPv6", HEADER_LEN)?;
        if all[0] >> 4 != 6 {
            return Err(HeaderError::Malformed { layer: "IPv6", field: "version" });
        }
        Ok(Ipv6 { bytes })
    }

    fn all(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Traffic class: DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        (be16(self.all(), 0) >> 4) as u8
    }

    /// Flow label, 20 bits.
    pub fn flow_label(&self) -> u32 {
        be32(self.all(), 0) & 0x000f_ffff
    }

    /// Payload length as the header says.
    pub fn payload_len(&self) -> usize {
        usize::from(be16(self.all(), 4))
    }

    /// Length of the packet as the header says.
    pub fn total_len(&self) -> usize {
        HEADER_LEN + self.payload_len()
    }

    /// What follows the fixed header.
    pub fn next_header(&self) -> u8 {
        self.all()[6]
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.all()[7]
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    fn address(&self, at: usize) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.all()[at..at + 16]);
        octets.into()
    }

    /// What follows the fixed header, up to the payload length or the end of what was captured.
    pub fn payload(&self) -> &[u8] {
        &self.all()[HEADER_LEN..self.total_len().min(self.all().len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Sets the payload length.
    pub fn set_payload_len(&mut self, len: u16) {
        put16(self.bytes.as_mut(), 4, len);
    }

    /// Sets what follows the fixed header.
    pub fn set_next_header(&mut self, number: u8) {
        self.bytes.as_mut()[6] = number;
    }

    /// Decrements the hop limit; 0 stays.
    pub fn decrement_hop_limit(&mut self) {
        let limit = self.hop_limit().saturating_sub(1);
        self.bytes.as_mut()[7] = limit;
    }

    /// Sets the source address.
    pub fn set_source(&mut self, address: Ipv6Addr) {
        self.bytes.as_mut()[8..24].copy_from_slice(&address.octets());
    }

    /// Sets the destination address.
    pub fn set_destination(&mut self, address: Ipv6Addr) {
        self.bytes.as_mut()[24..40].copy_from_slice(&address.octets());
    }
}

/// The fields of a fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Fields {
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label; the upper 12 bits are not used.
    pub flow_label: u32,
    /// Length of what follows.
    pub payload_len: u16,
    /// What follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Ipv6Fields {
    /// Appends the header.
    pub fn write(&self, out: &mut Vec<u8>) {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0x000f_ffff;
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&self.payload_len.to_be_bytes());
        out.extend_from_slice(&[self.next_header, self.hop_limit]);
        out.extend_from_slice(&self.source.octets());
        out.extend_from_slice(&self.destination.octets());
    }
}

/// A fragment header in a chain of extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Where it starts, from the start of the IPv6 header.
    pub at: usize,
    /// Where the number of this header stands: the next-header byte of what is before it.
    pub number_at: usize,
    /// What follows it.
    pub next_header: u8,
    /// Fragment offset in bytes.
    pub offset: usize,
    /// More fragments follow.
    pub more: bool,
    /// Identification.
    pub id: u32,
}

/// Where the chain of extension headers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Number of the upper-layer protocol.
    pub protocol: u8,
    /// Where that number stands, from the start of the IPv6 header.
    pub number_at: usize,
    /// Where the upper layer starts, from the start of the IPv6 header.
    pub transport_at: usize,
    /// The first fragment header. Behind one with an offset the walk ends: what follows is data.
    pub fragment: Option<FragmentHeader>,
}

/// Walks the extension headers of a packet that starts with a whole fixed header. None when an extension header is not
/// whole (or, of a fragment that is not the first, none is missing: its data is not walked).
pub fn walk(packet: &[u8]) -> Option<Chain> {
    let mut protocol = *packet.get(6)?;
    let mut number_at = 6;
    let mut at = HEADER_LEN;
    let mut fragment = None;
    // An extension header has at least 8 bytes, so that a packet of 64 KiB holds at most 8191 of them.
    loop {
        let len = match protocol {
            next_header::HOP_BY_HOP | next_header::ROUTING | next_header::DESTINATION_OPTIONS => {
                8 + usize::from(*packet.get(at + 1)?) * 8
            }
            next_header::AUTHENTICATION => 8 + usize::from(*packet.get(at + 1)?) * 4,
            next_header::FRAGMENT => {
                let header = packet.get(at..at + 8)?;
                let word = be16(header, 2);
                let found = FragmentHeader {
                    at,
                    number_at,
                    next_header: header[0],
                    offset: usize::from(word & 0xfff8),
                    more: word & 1 != 0,
                    id: be32(header, 4),
                };
                fragment.get_or_insert(found);
                if found.offset != 0 {
                    return Some(Chain { protocol: found.next_header, number_at: at, transport_at: at + 8, fragment });
                }
                8
            }
            _ => return Some(Chain { protocol, number_at, transport_at: at, fragment }),
        };
        protocol = *packet.get(at)?;
        number_at = at;
        at += len;
        if at > packet.len() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn packet(next_header: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let fields = Ipv6Fields {
            traffic_class: 0xb8,
            flow_label: 0x12345,
            payload_len: rest.len() as u16,
            next_header,
            hop_limit: 64,
            source: "2001:db8::5".parse().unwrap(),
            destination: "2001:db8:1::1".parse().unwrap(),
        };
        fields.write(&mut bytes);
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn fields_survive() {
        let mut bytes = packet(17, &[1; 8]);
        let mut view = Ipv6::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((view.traffic_class(), view.flow_label(), view.hop_limit()), (0xb8, 0x12345, 64));
        view.decrement_hop_limit();
        assert_eq!(view.hop_limit(), 63);
        assert_eq!(view.source(), "2001:db8::5".parse::<Ipv6Addr>().unwrap());
        assert_eq!(view.payload(), [1; 8]);
        let other = pnet_packet::ipv6::Ipv6Packet::new(&bytes).unwrap();
        assert_eq!((other.get_traffic_class(), other.get_flow_label()), (0xb8, 0x12345));
    }

    #[test]
    fn chain() {
        let mut rest = vec![60, 0, 1, 4, 0, 0, 0, 0]; // hop-by-hop, then destination options
        rest.extend_from_slice(&[44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // 16 bytes, then a fragment
        rest.extend_from_slice(&[6, 0, 0, 1, 0, 0, 0, 7]); // offset 0, more, then TCP
        let bytes = packet(0, &rest);
        let chain = walk(&bytes).unwrap();
        assert_eq!((chain.protocol, chain.transport_at), (6, 72));
        let fragment = chain.fragment.unwrap();
        assert_eq!((fragment.at, fragment.number_at, fragment.more, fragment.id), (64, 48, true, 7));
        assert!(walk(&bytes[..71]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = walk(&bytes);
            let _ = Ipv6::new_checked(&bytes[..]).map(|view| view.payload().len());
        }
    }
}
