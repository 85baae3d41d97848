//! Ethernet with its stack of VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use super::{HeaderError, be16, require};
use crate::config::MacAddr;
use arrayvec::ArrayVec;

/// Length of the header without tags.
pub const HEADER_LEN: usize = 14;
/// How many tags are taken off; deeper ones are left as an unknown EtherType.
pub const MAX_TAGS: usize = 4;

/// EtherTypes.
pub mod ether_type {
    #![expect(missing_docs, reason = "the names are the protocols'")]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    pub const PROVIDER_VLAN: u16 = 0x88a8;
}

/// A VLAN tag: its EtherType and its control word (3 bits priority, 1 bit drop eligible, 12 bits VLAN ID).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub protocol: u16,
    /// Priority, drop eligibility, VLAN ID.
    pub control: u16,
}

impl Tag {
    /// The VLAN ID; 0 in a priority tag.
    pub const fn id(self) -> u16 {
        self.control & 0x0fff
    }
}

/// A frame's link header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ethernet<'a> {
    frame: &'a [u8],
    tags: ArrayVec<Tag, MAX_TAGS>,
    ether_type: u16,
    payload_at: usize,
}

impl<'a> Ethernet<'a> {
    /// Reads the header and the tags behind it.
    ///
    /// # Errors
    /// Fewer bytes than the header and its tags need.
    pub fn new_checked(frame: &'a [u8]) -> Result<Ethernet<'a>, HeaderError> {
        require(frame, "Ethernet", HEADER_LEN)?;
        let mut tags = ArrayVec::new();
        let mut payload_at = HEADER_LEN;
        let mut kind = be16(frame, 12);
        while matches!(kind, ether_type::VLAN | ether_type::PROVIDER_VLAN) && !tags.is_full() {
            require(frame, "VLAN", payload_at + 4)?;
            tags.push(Tag { protocol: kind, control: be16(frame, payload_at) });
            kind = be16(frame, payload_at + 2);
            payload_at += 4;
        }
        Ok(Ethernet { frame, tags, ether_type: kind, payload_at })
    }

    /// Destination address.
    pub fn destination(&self) -> MacAddr {
        self.address(0)
    }

    /// Source address.
    pub fn source(&self) -> MacAddr {
        self.address(6)
    }

    fn address(&self, at: usize) -> MacAddr {
        let mut mac = [0; 6];
        mac.copy_from_slice(&self.frame[at..at + 6]);
        MacAddr(mac)
    }

    /// The tags, outermost first.
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// EtherType behind the tags.
    pub fn ether_type(&self) -> u16 {
        self.ether_type
    }

    /// Where the payload starts.
    pub fn payload_at(&self) -> usize {
        self.payload_at
    }

    /// What the frame carries, padding included.
    pub fn payload(&self) -> &'a [u8] {
        &self.frame[self.payload_at..]
    }
}

/// Appends a header.
pub fn write(out: &mut Vec<u8>, destination: MacAddr, source: MacAddr, tags: &[Tag], ether_type: u16) {
    out.extend_from_slice(&destination.0);
    out.extend_from_slice(&source.0);
    for tag in tags {
        out.extend_from_slice(&tag.protocol.to_be_bytes());
        out.extend_from_slice(&tag.control.to_be_bytes());
    }
    out.extend_from_slice(&ether_type.to_be_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn double_tagged() {
        let tags =
            [Tag { protocol: ether_type::PROVIDER_VLAN, control: 10 }, Tag { protocol: ether_type::VLAN, control: 0xa064 }];
        let mut frame = Vec::new();
        write(&mut frame, MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 1]), &tags, ether_type::IPV4);
        frame.push(0x45);
        let view = Ethernet::new_checked(&frame).unwrap();
        assert_eq!(view.tags(), tags);
        assert_eq!(view.tags()[1].id(), 100);
        assert_eq!((view.ether_type(), view.payload()), (ether_type::IPV4, &[0x45][..]));
        assert_eq!((view.destination(), view.source()), (MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 1])));
        assert!(Ethernet::new_checked(&frame[..20]).is_err());
        assert!(Ethernet::new_checked(&frame[..13]).is_err());
    }

    #[test]
    fn deeper_tags_stay() {
        let tags = [Tag { protocol: ether_type::VLAN, control: 1 }; 6];
        let mut frame = Vec::new();
        write(&mut frame, MacAddr::ZERO, MacAddr::ZERO, &tags, ether_type::IPV4);
        let view = Ethernet::new_checked(&frame).unwrap();
        assert_eq!((view.tags().len(), view.ether_type()), (4, ether_type::VLAN));
    }
}
