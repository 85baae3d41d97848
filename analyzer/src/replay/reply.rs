//! Answers seen at the client, turned back into what the real server must have sent (design section 4).
//!
//! The director's own output shows how a request of each connection reaches its real server. An answer travels that way
//! backwards: from the real server's address, port and MAC to whoever the request came from, with the TTL that the director
//! takes off again. Checksums are updated incrementally (RFC 1624), so a checksum that is wrong in the capture stays wrong by
//! the same amount and comes out of the director as it was captured.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses and ports of a TCP, UDP or SCTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
}

impl Flow {
    /// The other direction.
    pub fn reversed(self) -> Flow {
        Flow { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

/// Where the headers of a frame lie.
#[derive(Clone, Copy, Debug)]
struct Layout {
    network: usize,
    transport: usize,
    v6: bool,
}

fn layout(frame: &[u8]) -> Option<Layout> {
    let mut network = 14;
    let mut ether_type = word(frame, 12)?;
    while matches!(ether_type, 0x8100 | 0x88a8) {
        ether_type = word(frame, network + 2)?;
        network += 4;
    }
    match ether_type {
        0x0800 => {
            let header = usize::from(frame.get(network)? & 0x0f) * 4;
            let later_fragment = word(frame, network + 6)? & 0x1fff != 0;
            (header >= 20 && !later_fragment).then_some(Layout { network, transport: network + header, v6: false })
        }
        0x86dd => Some(Layout { network, transport: network + 40, v6: true }),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The flow of a frame, when it is TCP, UDP or SCTP without IPv6 extension headers.
pub fn flow(frame: &[u8]) -> Option<Flow> {
    let Layout { network, transport, v6 } = layout(frame)?;
    let (protocol, source, destination): (u8, IpAddr, IpAddr) = if v6 {
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        };
        (*frame.get(network + 6)?, address(network + 8)?, address(network + 24)?)
    } else {
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        };
        (*frame.get(network + 9)?, address(network + 12)?, address(network + 16)?)
    };
    matches!(protocol, 6 | 17 | 132).then_some(())?;
    Some(Flow { protocol, source: (source, word(frame, transport)?), destination: (destination, word(frame, transport + 2)?) })
}

/// The first TCP option of that kind, whole.
pub fn tcp_option(frame: &[u8], wanted: u8) -> Option<&[u8]> {
    let Layout { transport, .. } = layout(frame)?;
    (flow(frame)?.protocol == 6).then_some(())?;
    let end = (transport + usize::from(frame.get(transport + 12)? >> 4) * 4).min(frame.len());
    let mut at = transport + 20;
    while at < end {
        match frame[at] {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*frame.get(at + 1)?);
                let option = frame.get(at..(at + len).min(end)).filter(|_| len >= 2)?;
                if kind == wanted {
                    return Some(option);
                }
                at += len;
            }
        }
    }
    None
}

/// How a connection's requests reach its real server.
#[derive(Clone, Debug)]
struct Path {
    flow: Flow,
    link: Vec<u8>,
}

/// What the director changes in an answer besides addresses, so that it can be undone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undo {
    /// Added to the TTL: 1 when the director takes one off.
    pub ttl: u8,
    /// Added to the MSS option of a SYN+ACK: what FULLNAT takes off for TOA (8 for an IPv4 client, 20 for IPv6).
    pub mss: bool,
}

/// Learns from forwarded requests, and turns answers back.
#[derive(Debug, Default)]
pub struct Replies {
    paths: HashMap<Flow, Path>,
}

impl Replies {
    /// Takes note of a request and of the frame that the director made of it.
    pub fn learn(&mut self, request: &[u8], emitted: &[u8]) {
        if let (Some(client), Some(server), Some(header)) = (flow(request), flow(emitted), layout(emitted))
            && client.protocol == server.protocol
            && client.source.0.is_ipv4() == server.source.0.is_ipv4()
        {
            self.paths.entry(client).or_insert_with(|| Path { flow: server, link: emitted[..header.network].to_vec() });
        }
    }

    /// The frame that the real server sent for this answer to appear at the client; none when its request was not seen.
    pub fn turn_back(&self, answer: &[u8], undo: Undo) -> Option<Vec<u8>> {
        let seen = flow(answer)?;
        let path = self.paths.get(&seen.reversed())?;
        let header = layout(answer)?;
        let mut frame = path.link.clone();
        frame[..6].copy_from_slice(&path.link[6..12]);
        frame[6..12].copy_from_slice(&path.link[..6]);
        let network = frame.len();
        let transport = network + (header.transport - header.network);
        frame.extend_from_slice(&answer[header.network..]);

        let mut changes = Changes::default();
        let (source, destination) = (path.flow.destination, path.flow.source);
        let at = if header.v6 { network + 8 } else { network + 12 };
        changes.address(&mut frame, at, source.0);
        changes.address(&mut frame, at + if header.v6 { 16 } else { 4 }, destination.0);
        let addresses = changes;
        if !header.v6 {
            let ttl = frame[network + 8];
            let old = word(&frame, network + 8)?;
            frame[network + 8] = ttl.saturating_add(undo.ttl);
            changes.word(old, word(&frame, network + 8)?);
            changes.apply(&mut frame, network + 10);
        } else {
            frame[network + 7] = frame[network + 7].saturating_add(undo.ttl);
        }
        let mut changes = addresses;
        changes.replace(&mut frame, transport, source.1);
        changes.replace(&mut frame, transport + 2, destination.1);
        match seen.protocol {
            6 if frame.len() >= transport + 20 => {
                if undo.mss && frame[transport + 13] & 0x12 == 0x12 {
                    let shrink = if header.v6 { 20 } else { 8 };
                    changes.mss(&mut frame, transport, shrink);
                }
                changes.apply(&mut frame, transport + 16);
            }
            17 if word(&frame, transport + 6).is_some_and(|checksum| checksum != 0) => {
                changes.apply(&mut frame, transport + 6);
            }
            _ => {}
        }
        Some(frame)
    }
}

/// A one's-complement sum of what changed.
#[derive(Clone, Copy, Debug, Default)]
struct Changes(u32);

impl Changes {
    fn word(&mut self, old: u16, new: u16) {
        self.0 += u32::from(!old) + u32::from(new);
        self.0 = (self.0 & 0xffff) + (self.0 >> 16);
    }

    fn replace(&mut self, frame: &mut [u8], at: usize, new: u16) {
        if let Some(old) = word(frame, at) {
            self.word(old, new);
            frame[at..at + 2].copy_from_slice(&new.to_be_bytes());
        }
    }

    fn address(&mut self, frame: &mut [u8], at: usize, new: IpAddr) {
        let mut octets = [0; 16];
        let octets = match new {
            IpAddr::V4(v4) => {
                octets[..4].copy_from_slice(&v4.octets());
                &octets[..4]
            }
            IpAddr::V6(v6) => {
                octets = v6.octets();
                &octets[..]
            }
        };
        for (index, pair) in octets.chunks_exact(2).enumerate() {
            self.replace(frame, at + 2 * index, u16::from_be_bytes([pair[0], pair[1]]));
        }
    }

    /// Adds to the first MSS option (RFC 9293 section 3.2) what FULLNAT will take off.
    fn mss(&mut self, frame: &mut [u8], transport: usize, shrink: u16) {
        let end = (transport + usize::from(frame[transport + 12] >> 4) * 4).min(frame.len());
        let mut at = transport + 20;
        while at < end {
            match frame[at] {
                0 => return,
                1 => at += 1,
                kind => {
                    let len = usize::from(frame.get(at + 1).copied().unwrap_or(0));
                    if len < 2 || at + len > end {
                        return;
                    }
                    if kind == 2 && len == 4 {
                        let old = u16::from_be_bytes([frame[at + 2], frame[at + 3]]);
                        let new = old.wrapping_add(shrink).to_be_bytes();
                        // The option may lie across two words of the sum.
                        let first = at + 2 - (at + 2 - transport) % 2;
                        let before: Vec<u16> = (first..at + 4).step_by(2).filter_map(|w| word(frame, w)).collect();
                        frame[at + 2..at + 4].copy_from_slice(&new);
                        let after = (first..at + 4).step_by(2).filter_map(|w| word(frame, w));
                        for (old, new) in before.into_iter().zip(after) {
                            self.word(old, new);
                        }
                        return;
                    }
                    at += len;
                }
            }
        }
    }

    fn apply(self, frame: &mut [u8], at: usize) {
        if let Some(old) = word(frame, at) {
            let mut sum = u32::from(!old) + self.0;
            sum = (sum & 0xffff) + (sum >> 16);
            sum = (sum & 0xffff) + (sum >> 16);
            let new = !(sum as u16);
            frame[at..at + 2].copy_from_slice(&new.to_be_bytes());
        }
    }
}
