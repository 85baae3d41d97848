//! ARP for IPv4 over Ethernet (RFC 826).

use super::{HeaderError, be16, be32, require};
use crate::config::MacAddr;
use std::net::Ipv4Addr;

/// Length of a message for IPv4 over Ethernet.
pub const LEN: usize = 28;
/// Operation: request.
pub const REQUEST: u16 = 1;
/// Operation: reply.
pub const REPLY: u16 = 2;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`] or [`REPLY`].
    pub operation: u16,
    /// Who says so: Ethernet address.
    pub sender_mac: MacAddr,
    /// Who says so: IP address.
    pub sender: Ipv4Addr,
    /// Whom it is for: Ethernet address.
    pub target_mac: MacAddr,
    /// Whom it is for: IP address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads a message. Hardware types 1 (Ethernet) and 6 (IEEE 802) are the same to Linux.
    ///
    /// # Errors
    /// Too short, or not IPv4 over Ethernet.
    pub fn parse(bytes: &[u8]) -> Result<Arp, HeaderError> {
        require(bytes, "ARP", LEN)?;
        let malformed = |field| Err(HeaderError::Malformed { layer: "ARP", field });
        if !matches!(be16(bytes, 0), 1 | 6) {
            return malformed("hardware type");
        }
        if be16(bytes, 2) != 0x0800 {
            return malformed("protocol type");
        }
        if (bytes[4], bytes[5]) != (6, 4) {
            return malformed("address length");
        }
        let mac = |at: usize| {
            let mut mac = [0; 6];
            mac.copy_from_slice(&bytes[at..at + 6]);
            MacAddr(mac)
        };
        Ok(Arp {
            operation: be16(bytes, 6),
            sender_mac: mac(8),
            sender: be32(bytes, 14).into(),
            target_mac: mac(18),
            target: be32(bytes, 24).into(),
        })
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
        out.extend_from_slice(&self.operation.to_be_bytes());
        out.extend_from_slice(&self.sender_mac.0);
        out.extend_from_slice(&self.sender.octets());
        out.extend_from_slice(&self.target_mac.0);
        out.extend_from_slice(&self.target.octets());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trip() {
        let message = Arp {
            operation: REPLY,
            sender_mac: MacAddr([2, 0, 0, 0, 1, 0]),
            sender: Ipv4Addr::new(200, 200, 200, 1),
            target_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            target: Ipv4Addr::new(200, 200, 200, 2),
        };
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        assert_eq!(bytes.len(), LEN);
        assert_eq!(Arp::parse(&bytes), Ok(message));
        bytes[1] = 6;
        assert_eq!(Arp::parse(&bytes), Ok(message));
        for (at, value) in [(1, 7), (2, 0x86), (4, 8), (5, 16)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert!(Arp::parse(&other).is_err(), "{at}");
        }
        assert!(Arp::parse(&bytes[..27]).is_err());
    }
}
