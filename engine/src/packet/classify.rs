//! What a packet is: its addresses, its transport header, its flow. Stateless and allocation-free.

use super::{HeaderError, Ipv4, Ipv6, ipv6, ports};
use crate::config::Family;
use std::net::IpAddr;

/// A fragment of a longer datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Offset in bytes.
    pub offset: usize,
    /// More follow.
    pub more: bool,
    /// Identification; IPv4's has 16 bits.
    pub id: u32,
}

/// What the headers of an IP packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Upper-layer protocol behind all extension headers.
    pub protocol: u8,
    /// Where the upper layer starts in the packet.
    pub transport_at: usize,
    /// Length of the packet as its header says.
    pub total_len: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Don't fragment; always true for IPv6.
    pub dont_fragment: bool,
    /// What fragment it is, if one. An IPv6 fragment header in a packet that is whole (atomic fragment) counts.
    pub fragment: Option<Fragment>,
}

impl Headers {
    /// Reads the headers of a packet, of which the end may be missing.
    ///
    /// # Errors
    /// The IP header or an extension header is not whole or malformed.
    pub fn of(packet: &[u8]) -> Result<Headers, HeaderError> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Headers::of_v4(packet),
            Some(6) => Headers::of_v6(packet),
            Some(_) => Err(HeaderError::Malformed { layer: "IP", field: "version" }),
            None => Err(HeaderError::Truncated { layer: "IP", required: 20, found: 0 }),
        }
    }

    fn of_v4(packet: &[u8]) -> Result<Headers, HeaderError> {
        let header = Ipv4::new_checked(packet)?;
        Ok(Headers {
            source: header.source().into(),
            destination: header.destination().into(),
            protocol: header.protocol(),
            transport_at: header.header_len(),
            total_len: header.total_len(),
            ttl: header.ttl(),
            tos: header.tos(),
            dont_fragment: header.dont_fragment(),
            fragment: header.is_fragment().then(|| Fragment {
                offset: header.fragment_offset(),
                more: header.more_fragments(),
                id: u32::from(header.id()),
            }),
        })
    }

    fn of_v6(packet: &[u8]) -> Result<Headers, HeaderError> {
        let header = Ipv6::new_checked(packet)?;
        let chain = ipv6::walk(packet).ok_or(HeaderError::Malformed { layer: "IPv6", field: "extension header" })?;
        Ok(Headers {
            source: header.source().into(),
            destination: header.destination().into(),
            protocol: chain.protocol,
            transport_at: chain.transport_at,
            total_len: header.total_len(),
            ttl: header.hop_limit(),
            tos: header.traffic_class(),
            dont_fragment: true,
            fragment: chain.fragment.map(|found| Fragment { offset: found.offset, more: found.more, id: found.id }),
        })
    }

    /// The fixed header alone of an IPv6 packet whose extension headers can't be read.
    pub fn without_transport(packet: &[u8]) -> Option<Headers> {
        let mut fixed = [0; ipv6::HEADER_LEN];
        fixed.copy_from_slice(packet.get(..ipv6::HEADER_LEN)?);
        let total_len = Ipv6::new_checked(&fixed).ok()?.total_len();
        fixed[6] = ipv6::next_header::NONE;
        let headers = Headers::of_v6(&fixed).ok()?;
        Some(Headers { total_len, transport_at: total_len, ..headers })
    }

    /// Address family.
    pub fn family(&self) -> Family {
        Family::from(self.source)
    }

    /// Whether it is a fragment other than the first, which has no transport header.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    /// The transport header and what follows, of the packet that these headers were read from: up to the total length or
    /// to the end of what was captured.
    pub fn transport<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        let end = self.total_len.min(packet.len());
        packet.get(self.transport_at..end).unwrap_or(&[])
    }

    /// The flow, of the packet that these headers were read from. Ports are 0 in what has none, and in later fragments.
    pub fn flow(&self, packet: &[u8]) -> FlowKey {
        let has_ports = matches!(self.protocol, 6 | 17 | 132) && !self.is_later_fragment();
        let (source_port, destination_port) = if has_ports { ports(self.transport(packet)).unwrap_or((0, 0)) } else { (0, 0) };
        FlowKey { protocol: self.protocol, source: self.source, destination: self.destination, source_port, destination_port }
    }
}

/// What identifies a flow in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Transport protocol.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
}

impl FlowKey {
    /// The same flow seen from the other end.
    pub const fn reversed(self) -> FlowKey {
        FlowKey {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::{ipv4::Ipv4Fields, udp};
    use proptest::prelude::*;

    #[test]
    fn udp_packet() {
        let mut packet = Vec::new();
        let fields = Ipv4Fields {
            tos: 0,
            total_len: 28,
            id: 1,
            dont_fragment: false,
            ttl: 64,
            protocol: 17,
            source: [203, 0, 113, 5].into(),
            destination: [200, 200, 200, 1].into(),
        };
        fields.write(&mut packet);
        packet.extend_from_slice(&udp::header(40000, 53, 8));
        packet.extend_from_slice(&[0; 18]); // Ethernet padding
        let headers = Headers::of(&packet).unwrap();
        assert_eq!(headers.transport(&packet).len(), 8);
        let flow = headers.flow(&packet);
        assert_eq!((flow.source_port, flow.destination_port), (40000, 53));
        assert_eq!(flow.reversed().reversed(), flow);
        assert_eq!(headers.fragment, None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..160), version in 0u8..4) {
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x46, 0x60, 0x00][usize::from(version)];
            }
            if let Ok(headers) = Headers::of(&bytes) {
                let _ = (headers.transport(&bytes).len(), headers.flow(&bytes));
            }
        }
    }
}
