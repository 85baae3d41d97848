//! Link types: everything becomes Ethernet (pcap-linktype(7); numbers as in tcpdump.org's list).
//!
//! Captures without MAC addresses get made-up ones, the same for every frame, so that a director can be told from its
//! clients: frames that arrived have [`HERE`] as destination, frames that were sent have it as source.

use std::borrow::Cow;

/// The MAC of the host that captured, where the capture does not tell.
pub const HERE: [u8; 6] = [0x02, 0, 0, 0, 0xff, 0x01];

/// The MAC of everybody else, where the capture does not tell.
pub const THERE: [u8; 6] = [0x02, 0, 0, 0, 0xff, 0x02];

const BROADCAST: [u8; 6] = [0xff; 6];
const MULTICAST: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 1];

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

/// The frame as Ethernet; Ethernet itself is not copied.
///
/// # Errors
/// The link type is unknown, or the frame is too short for it.
pub fn to_ethernet(link_type: u16, frame: &[u8]) -> Result<Cow<'_, [u8]>, LinkError> {
    match link_type {
        1 => Ok(Cow::Borrowed(frame)),
        // Raw IP under its several numbers.
        12 | 14 | 101 | 228 | 229 => ip(frame).map(Cow::Owned),
        0 | 108 => loopback(frame).map(Cow::Owned),
        113 => cooked(frame).map(Cow::Owned),
        276 => cooked2(frame).map(Cow::Owned),
        other => Err(LinkError::Unknown(other)),
    }
}

/// How many bytes longer the Ethernet frame is than the original, for its length on the wire.
pub fn growth(link_type: u16) -> i64 {
    match link_type {
        12 | 14 | 101 | 228 | 229 => 14,
        0 | 108 => 10,
        113 => -2,
        276 => -6,
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

/// Who is at the two ends, by a cooked header's packet type.
fn ends(packet_type: u8, sender: [u8; 6]) -> ([u8; 6], [u8; 6]) {
    match packet_type {
        0 => (HERE, sender),
        1 => (BROADCAST, sender),
        2 => (MULTICAST, sender),
        3 => (THERE, sender),
        _ => (THERE, HERE),
    }
}

fn sender(address: &[u8], len: u16) -> [u8; 6] {
    match address.get(..6).and_then(|bytes| bytes.try_into().ok()) {
        Some(mac) if len == 6 && mac != [0; 6] => mac,
        _ => THERE,
    }
}

/// LINKTYPE_LINUX_SLL: packet type, ARPHRD, address length, address (8), protocol.
fn cooked(frame: &[u8]) -> Result<Vec<u8>, LinkError> {
    let (header, packet) = frame.split_at_checked(16).ok_or(LinkError::Short)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (destination, source) = ends(header[1], sender(&header[6..14], word(4)));
    by_protocol(destination, source, word(14), packet)
}

/// LINKTYPE_LINUX_SLL2: protocol, reserved, interface index (4), ARPHRD, packet type, address length, address (8).
fn cooked2(frame: &[u8]) -> Result<Vec<u8>, LinkError> {
    let (header, packet) = frame.split_at_checked(20).ok_or(LinkError::Short)?;
    let protocol = u16::from_be_bytes([header[0], header[1]]);
    let (destination, source) = ends(header[10], sender(&header[12..20], u16::from(header[11])));
    by_protocol(destination, source, protocol, packet)
}

fn by_protocol(destination: [u8; 6], source: [u8; 6], protocol: u16, packet: &[u8]) -> Result<Vec<u8>, LinkError> {
    match protocol {
        0x0800 | 0x86dd | 0x0806 | 0x8100 | 0x88a8 => Ok(ethernet(destination, source, protocol, packet)),
        _ => Err(LinkError::NotIp),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cooked_headers_become_ethernet() {
        let mut frame = vec![0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 0x08, 0x00];
        frame.extend_from_slice(&[0x45, 0, 0, 20]);
        let ethernet = to_ethernet(113, &frame).unwrap();
        assert_eq!(ethernet[..6], THERE);
        assert_eq!(ethernet[6..12], HERE);
        assert_eq!(ethernet[12..], [0x08, 0, 0x45, 0, 0, 20]);
        frame[1] = 0;
        assert_eq!(to_ethernet(113, &frame).unwrap()[..12], [2, 0, 0, 0, 0xff, 1, 2, 0, 0, 0, 0, 9]);
        let mut second = vec![0x86, 0xdd, 0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0];
        second.push(0x60);
        assert_eq!(to_ethernet(276, &second).unwrap()[6..], [2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60]);
    }

    #[test]
    fn raw_and_loopback() {
        assert_eq!(to_ethernet(101, &[0x60]).unwrap()[12..], [0x86, 0xdd, 0x60]);
        assert_eq!(to_ethernet(0, &[2, 0, 0, 0, 0x45]).unwrap()[12..], [0x08, 0, 0x45]);
        assert_eq!(to_ethernet(108, &[0, 0, 0, 30, 0x60]).unwrap()[12..], [0x86, 0xdd, 0x60]);
        assert_eq!(to_ethernet(0, &[2, 0]), Err(LinkError::Short));
        assert_eq!(to_ethernet(105, &[2, 0]), Err(LinkError::Unknown(105)));
    }
}
