//! Link types: everything becomes Ethernet (pcap-linktype(7); numbers as in tcpdump.org's list).
//!
//! Captures without MAC addresses get made-up ones, the same for every frame, so that a director can be told from its
//! clients: frames that arrived have [`HERE`] as destination, frames that were sent have it as source. A Linux cooked header
//! holds the sender's address, which is the capturing host's own in frames that it sent; [`OwnAddresses`] remembers it, so
//! that frames that arrived get it too.

use std::borrow::Cow;
use std::collections::HashMap;

/// The MAC of the host that captured, where the capture does not tell.
pub const HERE: [u8; 6] = [0x02, 0, 0, 0, 0xff, 0x01];

/// The MAC of everybody else, where the capture does not tell.
pub const THERE: [u8; 6] = [0x02, 0, 0, 0, 0xff, 0x02];

/// LINKTYPE_ETHERNET.
pub const ETHERNET: u16 = 1;
/// LINKTYPE_LINUX_SLL, as `tcpdump -i any` wrote it before libpcap 1.10.
pub const COOKED: u16 = 113;
/// LINKTYPE_LINUX_SLL2.
pub const COOKED2: u16 = 276;

const BROADCAST: [u8; 6] = [0xff; 6];

/// The most interfaces whose addresses are remembered, more than hosts have.
const MAX_OWN: usize = 4096;

/// Why a frame can't be made Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody here reads this link type.
    #[error("link type {0} is not read; Ethernet, raw IP, Linux cooked v1 and v2, and null/loopback are")]
    Unknown(u16),
    /// The frame ends within its link header.
    #[error("shorter than its link header")]
    Short,
    /// A cooked frame of a device without Ethernet addresses, or of another protocol.
    #[error("neither IP nor ARP")]
    NotIp,
}

/// Which way a frame of a cooked capture went, by its packet type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the capturing host.
    Here,
    /// To all hosts of the link.
    Broadcast,
    /// To a group.
    Multicast,
    /// Between other hosts.
    Elsewhere,
    /// From the capturing host.
    Sent,
}

/// What a Linux cooked header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cooked {
    /// Which way it went.
    pub direction: Direction,
    /// The sender's MAC address, if its device has one.
    pub sender: Option<[u8; 6]>,
    /// The capturing host's number of the device (SLL2 only).
    pub device: Option<u32>,
    ether_type: u16,
    len: usize,
}

/// The capturing host's own MAC addresses, as the frames that it sent tell them.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses {
    /// By the capture's interface and the device's number. None: there are several (SLL does not tell devices apart).
    by_device: HashMap<(u32, Option<u32>), Option<[u8; 6]>>,
}

impl OwnAddresses {
    /// Learns from a frame. Other link types than cooked tell nothing.
    pub fn observe(&mut self, interface: u32, link_type: u16, frame: &[u8]) {
        let Some(Cooked { direction: Direction::Sent, sender: Some(sender), device, .. }) = Cooked::of(link_type, frame) else {
            return;
        };
        if self.by_device.len() < MAX_OWN || self.by_device.contains_key(&(interface, device)) {
            let known = self.by_device.entry((interface, device)).or_insert(Some(sender));
            if *known != Some(sender) {
                *known = None;
            }
        }
    }

    /// The frame as Ethernet, as [`to_ethernet`], but with the address of the device that it arrived on where that is known.
    ///
    /// # Errors
    /// As [`to_ethernet`].
    pub fn to_ethernet<'a>(&self, interface: u32, link_type: u16, frame: &'a [u8]) -> Result<Cow<'a, [u8]>, LinkError> {
        let mut ethernet = to_ethernet(link_type, frame)?;
        if let Some(Cooked { direction: Direction::Here, device, .. }) = Cooked::of(link_type, frame)
            && let Some(Some(own)) = self.by_device.get(&(interface, device))
        {
            ethernet.to_mut()[..6].copy_from_slice(own);
        }
        Ok(ethernet)
    }
}

/// Frames of a capture as Ethernet, whatever its interfaces' link types are.
#[derive(Clone, Debug, Default)]
pub struct AsEthernet {
    link_types: Vec<u16>,
    own: OwnAddresses,
}

impl AsEthernet {
    /// For interfaces of these link types, by number.
    pub fn new(link_types: Vec<u16>) -> AsEthernet {
        AsEthernet { link_types, own: OwnAddresses::default() }
    }

    /// Whether all frames are Ethernet anyway.
    pub fn is_nothing_to_do(&self) -> bool {
        self.link_types.iter().all(|link_type| *link_type == ETHERNET)
    }

    /// The link type of an interface; Ethernet of one that is not described.
    fn link_type(&self, interface: u32) -> u16 {
        self.link_types.get(interface as usize).copied().unwrap_or(ETHERNET)
    }

    /// Learns from a frame. All of a capture are to be seen before the first is converted.
    pub fn observe(&mut self, interface: u32, frame: &[u8]) {
        self.own.observe(interface, self.link_type(interface), frame);
    }

    /// The frame as Ethernet, and its length on the wire as such.
    ///
    /// # Errors
    /// As [`to_ethernet`].
    pub fn convert<'a>(&self, interface: u32, frame: &'a [u8], wire_len: u32) -> Result<(Cow<'a, [u8]>, u32), LinkError> {
        let link_type = self.link_type(interface);
        let ethernet = self.own.to_ethernet(interface, link_type, frame)?;
        let wire_len = (i64::from(wire_len) + growth(link_type)).clamp(0, i64::from(u32::MAX)) as u32;
        Ok((ethernet, wire_len))
    }
}

/// The frame as Ethernet; Ethernet itself is not copied.
///
/// # Errors
/// The link type is unknown, or the frame is too short for it.
pub fn to_ethernet(link_type: u16, frame: &[u8]) -> Result<Cow<'_, [u8]>, LinkError> {
    match link_type {
        ETHERNET => Ok(Cow::Borrowed(frame)),
        // Raw IP under its several numbers.
        12 | 14 | 101 | 228 | 229 => ip(frame).map(Cow::Owned),
        0 | 108 => loopback(frame).map(Cow::Owned),
        COOKED | COOKED2 => {
            let cooked = Cooked::of(link_type, frame).ok_or(LinkError::Short)?;
            cooked.ethernet(&frame[cooked.len..]).map(Cow::Owned)
        }
        other => Err(LinkError::Unknown(other)),
    }
}

/// Whether both MAC addresses of a frame are made up, as if it had arrived: its link type tells no direction.
pub fn is_made_up(frame: &[u8]) -> bool {
    frame.starts_with(&HERE) && frame.get(6..12) == Some(&THERE[..])
}

/// How many bytes longer the Ethernet frame is than the original, for its length on the wire.
pub fn growth(link_type: u16) -> i64 {
    match link_type {
        12 | 14 | 101 | 228 | 229 => 14,
        0 | 108 => 10,
        COOKED => -2,
        COOKED2 => -6,
        _ => 0,
    }
}

fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend_from_slice(&destination);
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&ether_type.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn ip(packet: &[u8]) -> Result<Vec<u8>, LinkError> {
    let ether_type = match packet.first().ok_or(LinkError::Short)? >> 4 {
        4 => 0x0800,
        6 => 0x86dd,
        _ => return Err(LinkError::NotIp),
    };
    Ok(ethernet(HERE, THERE, ether_type, packet))
}

/// A four-byte address family in the byte order of the capturing host, which is not known: both are tried.
fn loopback(frame: &[u8]) -> Result<Vec<u8>, LinkError> {
    let (family, packet) = frame.split_at_checked(4).ok_or(LinkError::Short)?;
    let family = match *family {
        [low, 0, 0, 0] | [0, 0, 0, low] => low,
        _ => return Err(LinkError::NotIp),
    };
    match family {
        // 2 everywhere; 24, 28 and 30 are IPv6 on the BSDs and macOS, 10 on Linux.
        2 | 10 | 24 | 28 | 30 => ip(packet),
        _ => Err(LinkError::NotIp),
    }
}

impl Cooked {
    /// Reads a cooked header. None for another link type, or if it is cut.
    ///
    /// LINKTYPE_LINUX_SLL: packet type, ARPHRD, address length, address (8), protocol.
    /// LINKTYPE_LINUX_SLL2: protocol, reserved, device number (4), ARPHRD, packet type, address length, address (8).
    pub fn of(link_type: u16, frame: &[u8]) -> Option<Cooked> {
        let (packet_type, address_len, address, ether_type, device, len) = match link_type {
            COOKED => {
                let [_, kind, _, _, long, short, address @ .., a, b] = frame.first_chunk::<16>()?;
                (*kind, u16::from_be_bytes([*long, *short]), address, [*a, *b], None, 16)
            }
            COOKED2 => {
                let [a, b, _, _, d0, d1, d2, d3, _, _, kind, address_len, address @ ..] = frame.first_chunk::<20>()?;
                let device = u32::from_be_bytes([*d0, *d1, *d2, *d3]);
                (*kind, u16::from(*address_len), address, [*a, *b], Some(device), 20)
            }
            _ => return None,
        };
        let direction = match packet_type {
            0 => Direction::Here,
            1 => Direction::Broadcast,
            2 => Direction::Multicast,
            3 => Direction::Elsewhere,
            _ => Direction::Sent,
        };
        let sender = address.first_chunk::<6>().copied().filter(|mac| address_len == 6 && *mac != [0; 6]);
        Some(Cooked { direction, sender, device, ether_type: u16::from_be_bytes(ether_type), len })
    }

    fn ethernet(&self, packet: &[u8]) -> Result<Vec<u8>, LinkError> {
        if !matches!(self.ether_type, 0x0800 | 0x86dd | 0x0806 | 0x8100 | 0x88a8) {
            return Err(LinkError::NotIp);
        }
        let (destination, nameless) = match self.direction {
            Direction::Here => (HERE, THERE),
            Direction::Broadcast => (BROADCAST, THERE),
            Direction::Multicast => (group(self.ether_type, packet), THERE),
            Direction::Elsewhere => (THERE, THERE),
            Direction::Sent => (THERE, HERE),
        };
        Ok(ethernet(destination, self.sender.unwrap_or(nameless), self.ether_type, packet))
    }
}

/// The MAC of the group that an IP packet goes to (RFC 1112 section 6.4, RFC 2464 section 7); broadcast if it can't be told.
fn group(ether_type: u16, packet: &[u8]) -> [u8; 6] {
    match (ether_type, packet.get(16..20), packet.get(36..40)) {
        (0x0800, Some([_, a, b, c]), _) => [0x01, 0, 0x5e, a & 0x7f, *b, *c],
        (0x86dd, _, Some([a, b, c, d])) => [0x33, 0x33, *a, *b, *c, *d],
        _ => BROADCAST,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn cooked(packet_type: u8, packet: &[u8]) -> Vec<u8> {
        [&[0, packet_type, 0, 1, 0, 6][..], &SENDER, &[0, 0, 0x08, 0x00], packet].concat()
    }

    fn cooked2(packet_type: u8, device: u8, packet: &[u8]) -> Vec<u8> {
        [&[0x86, 0xdd, 0, 0, 0, 0, 0, device, 0, 1, packet_type, 6][..], &SENDER, &[0, 0], packet].concat()
    }

    #[test]
    fn cooked_headers_become_ethernet() {
        let sent = cooked(4, &[0x45, 0, 0, 20]);
        assert_eq!(*to_ethernet(COOKED, &sent).unwrap(), [&THERE[..], &SENDER, &[0x08, 0, 0x45, 0, 0, 20]].concat());
        let arrived = cooked(0, &[0x45]);
        assert_eq!(*to_ethernet(COOKED, &arrived).unwrap(), [&HERE[..], &SENDER, &[0x08, 0, 0x45]].concat());
        let second = cooked2(0, 3, &[0x60]);
        assert_eq!(*to_ethernet(COOKED2, &second).unwrap(), [&HERE[..], &SENDER, &[0x86, 0xdd, 0x60]].concat());
        assert_eq!(to_ethernet(COOKED2, &second[..19]), Err(LinkError::Short));
        assert_eq!(to_ethernet(COOKED, &sent[..15]), Err(LinkError::Short));
        // A device without an address: loopback.
        let mut nameless = cooked(4, &[0x45]);
        nameless[6..12].fill(0);
        assert_eq!(to_ethernet(COOKED, &nameless).unwrap()[..12], [THERE, HERE].concat());
        nameless[14..16].copy_from_slice(&[0, 4]);
        assert_eq!(to_ethernet(COOKED, &nameless), Err(LinkError::NotIp));
    }

    #[test]
    fn groups_get_their_own_address() {
        let mut packet = [0x45; 20];
        packet[16..].copy_from_slice(&[224, 129, 0, 18]);
        assert_eq!(to_ethernet(COOKED, &cooked(2, &packet)).unwrap()[..6], [0x01, 0, 0x5e, 1, 0, 18]);
        let mut packet = [0x60; 40];
        packet[36..].copy_from_slice(&[0xff, 1, 2, 3]);
        assert_eq!(to_ethernet(COOKED2, &cooked2(2, 3, &packet)).unwrap()[..6], [0x33, 0x33, 0xff, 1, 2, 3]);
        assert_eq!(to_ethernet(COOKED, &cooked(2, &packet[..19])).unwrap()[..6], BROADCAST);
    }

    #[test]
    fn own_addresses_are_learned_by_device() {
        let (sent, arrived) = (cooked2(4, 3, &[0x60]), cooked2(0, 3, &[0x60]));
        let mut own = OwnAddresses::default();
        assert_eq!(own.to_ethernet(0, COOKED2, &arrived).unwrap()[..6], HERE);
        own.observe(0, COOKED2, &arrived);
        own.observe(0, COOKED2, &sent);
        assert_eq!(own.to_ethernet(0, COOKED2, &arrived).unwrap()[..6], SENDER);
        // Another device, another capture.
        assert_eq!(own.to_ethernet(0, COOKED2, &cooked2(0, 4, &[0x60])).unwrap()[..6], HERE);
        assert_eq!(own.to_ethernet(1, COOKED2, &arrived).unwrap()[..6], HERE);
        // SLL names no device: two addresses are one too many.
        let mut other = cooked(4, &[0x45]);
        own.observe(0, COOKED, &other);
        assert_eq!(own.to_ethernet(0, COOKED, &cooked(0, &[0x45])).unwrap()[..6], SENDER);
        other[11] = 10;
        own.observe(0, COOKED, &other);
        assert_eq!(own.to_ethernet(0, COOKED, &cooked(0, &[0x45])).unwrap()[..6], HERE);
    }

    #[test]
    fn raw_and_loopback() {
        assert_eq!(to_ethernet(101, &[0x60]).unwrap()[12..], [0x86, 0xdd, 0x60]);
        assert_eq!(to_ethernet(228, &[0x45]).unwrap()[12..], [0x08, 0, 0x45]);
        assert_eq!(to_ethernet(101, &[0x10]), Err(LinkError::NotIp));
        assert_eq!(to_ethernet(101, &[]), Err(LinkError::Short));
        assert_eq!(to_ethernet(0, &[2, 0, 0, 0, 0x45]).unwrap()[12..], [0x08, 0, 0x45]);
        assert_eq!(to_ethernet(108, &[0, 0, 0, 30, 0x60]).unwrap()[12..], [0x86, 0xdd, 0x60]);
        assert_eq!(to_ethernet(0, &[2, 0]), Err(LinkError::Short));
        assert_eq!(to_ethernet(105, &[2, 0]), Err(LinkError::Unknown(105)));
    }

    #[test]
    fn ethernet_is_not_copied() {
        let frame = [1, 2, 3];
        assert!(matches!(to_ethernet(ETHERNET, &frame), Ok(Cow::Borrowed(same)) if std::ptr::eq(same, &frame[..])));
    }
}
