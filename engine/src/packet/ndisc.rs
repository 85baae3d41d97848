//! Neighbour discovery for IPv6 (RFC 4861): solicitations, advertisements and redirects.

use super::{HeaderError, icmp, ipv6::Ipv6Fields, require};
use crate::config::MacAddr;
use std::net::Ipv6Addr;

/// Length of a solicitation or advertisement without options.
pub const LEN: usize = 24;
/// Flag of an advertisement: the sender is a router.
pub const ROUTER: u8 = 0x80;
/// Flag of an advertisement: it answers a solicitation.
pub const SOLICITED: u8 = 0x40;
/// Flag of an advertisement: it replaces what was known.
pub const OVERRIDE: u8 = 0x20;

/// A solicitation or an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourMessage {
    /// An advertisement, else a solicitation.
    pub advertisement: bool,
    /// Flags of an advertisement; 0 in a solicitation.
    pub flags: u8,
    /// The address that is asked for or told about.
    pub target: Ipv6Addr,
    /// The link-layer address option: the source's in a solicitation, the target's in an advertisement.
    pub link_address: Option<MacAddr>,
}

impl NeighbourMessage {
    /// Reads a message that starts with the ICMPv6 header.
    ///
    /// # Errors
    /// Too short, another type or code, or an option without length.
    pub fn parse(bytes: &[u8]) -> Result<NeighbourMessage, HeaderError> {
        require(bytes, "ND", LEN)?;
        let malformed = |field| HeaderError::Malformed { layer: "ND", field };
        let advertisement = match bytes[0] {
            icmp::v6::NEIGHBOUR_SOLICITATION => false,
            icmp::v6::NEIGHBOUR_ADVERTISEMENT => true,
            _ => return Err(malformed("type")),
        };
        if bytes[1] != 0 {
            return Err(malformed("code"));
        }
        let mut target = [0; 16];
        target.copy_from_slice(&bytes[8..24]);
        let mut link_address = None;
        let mut options = &bytes[LEN..];
        let wanted = if advertisement { 2 } else { 1 };
        while let [kind, units, ..] = *options {
            let len = usize::from(units) * 8;
            if len == 0 || len > options.len() {
                return Err(malformed("option length"));
            }
            if kind == wanted && units == 1 {
                let mut mac = [0; 6];
                mac.copy_from_slice(&options[2..8]);
                link_address = Some(MacAddr(mac));
            }
            options = &options[len..];
        }
        let flags = if advertisement { bytes[4] } else { 0 };
        Ok(NeighbourMessage { advertisement, flags, target: target.into(), link_address })
    }

    /// Appends the IPv6 header (hop limit 255, no flow label) and the message, checksum filled in.
    pub fn write(&self, out: &mut Vec<u8>, source: Ipv6Addr, destination: Ipv6Addr) {
        let len = LEN + if self.link_address.is_some() { 8 } else { 0 };
        let fields = Ipv6Fields {
            traffic_class: 0,
            flow_label: 0,
            payload_len: len as u16,
            next_header: 58,
            hop_limit: 255,
            source,
            destination,
        };
        fields.write(out);
        let start = out.len();
        let kind = if self.advertisement { icmp::v6::NEIGHBOUR_ADVERTISEMENT } else { icmp::v6::NEIGHBOUR_SOLICITATION };
        icmp::write(out, kind, 0, u32::from(self.flags) << 24, &self.target.octets());
        if let Some(mac) = self.link_address {
            out.extend_from_slice(&[if self.advertisement { 2 } else { 1 }, 1]);
            out.extend_from_slice(&mac.0);
        }
        icmp::fill_checksum_v6(&mut out[start..], source, destination);
    }
}

/// A redirect (RFC 4861 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect<'a> {
    /// The better next hop; the destination itself when that is on the link.
    pub target: Ipv6Addr,
    /// Where the packet wanted to go.
    pub destination: Ipv6Addr,
    /// The target's Ethernet address, if it is known.
    pub link_address: Option<MacAddr>,
    /// The packet, as far as it was captured.
    pub packet: &'a [u8],
    /// Bytes of it that the capture did not hold.
    pub missing: usize,
}

impl Redirect<'_> {
    /// Length of a redirect without options.
    const LEN: usize = 40;
    /// An option's header, in front of the packet that is quoted: whole units of 8 bytes.
    const QUOTE_HEADER_LEN: usize = 8;

    /// Appends the IPv6 header (hop limit 255, no flow label) and the message, checksum filled in; as much of the packet is
    /// quoted as the smallest MTU holds. Returns how many bytes at the end are missing because they were not captured.
    pub fn write(&self, out: &mut Vec<u8>, source: Ipv6Addr, to: Ipv6Addr) -> usize {
        let link_len = if self.link_address.is_some() { 8 } else { 0 };
        let room = 1280 - super::ipv6::HEADER_LEN - Redirect::LEN - link_len;
        let quote_len = room.min(self.packet.len() + self.missing + Redirect::QUOTE_HEADER_LEN) & !7;
        let wanted = quote_len - Redirect::QUOTE_HEADER_LEN;
        let held = &self.packet[..wanted.min(self.packet.len())];
        let fields = Ipv6Fields {
            traffic_class: 0,
            flow_label: 0,
            payload_len: (Redirect::LEN + link_len + quote_len) as u16,
            next_header: 58,
            hop_limit: 255,
            source,
            destination: to,
        };
        fields.write(out);
        let start = out.len();
        icmp::write(out, icmp::v6::REDIRECT, 0, 0, &self.target.octets());
        out.extend_from_slice(&self.destination.octets());
        if let Some(mac) = self.link_address {
            out.extend_from_slice(&[2, 1]);
            out.extend_from_slice(&mac.0);
        }
        out.extend_from_slice(&[4, (quote_len / 8) as u8, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(held);
        icmp::fill_checksum_v6(&mut out[start..], source, to);
        wanted - held.len()
    }
}

/// The solicited-node multicast address of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let octets = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(octets[13]), u16::from_be_bytes([octets[14], octets[15]]))
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let octets = group.octets();
    MacAddr([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trip() {
        let target: Ipv6Addr = "2001:db8::abcd:ef12:3456".parse().unwrap();
        let source: Ipv6Addr = "fe80::1".parse().unwrap();
        for advertisement in [false, true] {
            let message = NeighbourMessage {
                advertisement,
                flags: if advertisement { SOLICITED | OVERRIDE } else { 0 },
                target,
                link_address: Some(MacAddr([2, 0, 0, 0, 1, 0])),
            };
            let mut bytes = Vec::new();
            message.write(&mut bytes, source, solicited_node(target));
            assert_eq!(NeighbourMessage::parse(&bytes[40..]), Ok(message));
            let sum = crate::packet::checksum::pseudo_header_v6(source, solicited_node(target), 58, 32).bytes(&bytes[40..]);
            assert!(crate::packet::checksum::is_right(sum));
        }
    }

    #[test]
    fn redirect_quotes_whole_units_that_fit() {
        let (own, host): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse().unwrap(), "2001:db8::11".parse().unwrap());
        let target = "2001:db8::2".parse().unwrap();
        for (mac, len, quoted) in [(true, 80, 80), (true, 87, 80), (false, 1500, 1192), (true, 1500, 1184)] {
            let packet = vec![0x60; len];
            let link_address = mac.then_some(MacAddr([2, 0, 0, 0, 0, 2]));
            let redirect = Redirect { target, destination: target, link_address, packet: &packet, missing: 0 };
            let mut bytes = Vec::new();
            assert_eq!(redirect.write(&mut bytes, own, host), 0);
            let message = &bytes[40..];
            let options = if mac { 8 } else { 0 };
            assert_eq!(message.len(), 40 + options + 8 + quoted);
            assert_eq!(message[40 + options..][..2], [4, (quoted / 8 + 1) as u8]);
            let sum = crate::packet::checksum::pseudo_header_v6(own, host, 58, message.len()).bytes(message);
            assert!(crate::packet::checksum::is_right(sum));
        }
    }

    #[test]
    fn groups() {
        let group = solicited_node("2001:db8::abcd:ef12:3456".parse().unwrap());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac(group), MacAddr([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    }

    #[test]
    fn option_without_length() {
        let mut bytes = vec![135, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        assert!(NeighbourMessage::parse(&bytes).is_err());
    }
}
