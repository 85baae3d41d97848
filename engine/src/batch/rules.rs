//! Which packets may take the parallel way, and what they say: the stateless part of batch.
//!
//! A packet is in lane when every decision about it except the connection's is the same for all packets like it: Ethernet
//! without tags to one of our addresses, IP without options, extension headers or fragments, right header checksum, TTL to
//! spare, whole in the capture, TCP or UDP, and from the addresses of a service or a real server. Anything else, however
//! harmless, is left to the serial director: here only what is plain is decided, never what is right.

use super::alike::Alike;
use super::lane::{Ends, Header, Item, Port};
use crate::config::{InterfaceId, Protocol};
use crate::director::Arrival;
use crate::track::ClientHash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;
/// TCP flag bits.
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;

/// What decides whether a packet is in lane.
pub(super) struct Rules<'a, G, W> {
    /// Interfaces by number.
    pub ports: &'a [Port],
    /// Services and servers.
    pub ends: &'a Ends,
    /// Among how many shards packets are shared out, a power of two: with one all are in order.
    pub shards: usize,
    /// Whether a packet from that address may come in by that interface. It is asked seldom, its answers are kept.
    pub source_is_good: G,
    /// The MTU of the way of an answer that came in by that interface to its client, if there is one.
    pub way_back: W,
}

/// Ports and protocol of a packet.
#[derive(Clone, Copy)]
struct Ports {
    source: u16,
    destination: u16,
    protocol: u8,
}

impl Ports {
    /// Port and protocol of its destination in one number.
    #[inline]
    fn end(self) -> u32 {
        u32::from(self.destination) << 8 | u32::from(self.protocol)
    }
}

impl<G: Fn(IpAddr, InterfaceId) -> bool, W: Fn(IpAddr, InterfaceId) -> Option<u32>> Rules<'_, G, W> {
    /// Reads a frame; none if it is not in lane. The item's number is the caller's.
    #[inline(never)]
    pub fn item(
        &self,
        arrival: &Arrival<'_>,
        v4: &mut Known<u32>,
        v6: &mut Known<u128>,
        alike: &mut Option<Alike>,
        clients: &mut Vec<Ipv6Addr>,
    ) -> Option<Item> {
        let frame = arrival.frame;
        let port = self.ports.get(usize::from(arrival.interface.0)).filter(|port| port.open)?;
        let (header, behind) = frame.split_first_chunk()?;
        let header: &Header = header;
        if header[..6] != port.mac.0 || arrival.wire_len as usize != frame.len() || frame.len() > port.longest_frame {
            return None;
        }
        let (item, len) = match [header[12], header[13], header[14]] {
            [0x08, 0x00, 0x45] => {
                let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
                // No fragment, no reserved bit; TTL to spare.
                if header[20] & 0xbf != 0 || header[21] != 0 || header[22] < 2 || !checksum_is_right(header) {
                    return None;
                }
                // All of the transport header that counts was read already.
                let (ports, flags) = self.transport(&header[34..], header[23], len.checked_sub(20)?)?;
                let source = u32::from_be_bytes([header[26], header[27], header[28], header[29]]);
                let destination = u32::from_be_bytes([header[30], header[31], header[32], header[33]]);
                let dont_fragment = header[20] & 0x40 != 0;
                let client = |client| client;
                let item = self.place(v4, arrival, (source, destination), ports, len, dont_fragment, client)?.with(flags);
                if let Some(end) = self.ends.facts(item.end).filter(|end| !end.answers) {
                    *alike = Some(Alike::to(arrival, header, port, item.end, end));
                }
                (item, len)
            }
            [0x86, 0xdd, first] if first >> 4 == 6 => {
                let payload = usize::from(u16::from_be_bytes([header[18], header[19]]));
                if header[21] < 2 {
                    return None;
                }
                let (ports, flags) = self.transport(behind.get(..payload)?, header[20], payload)?;
                let source = u128::from_be_bytes(*header[22..].first_chunk()?);
                let destination = u128::from_be_bytes(*header[38..].first_chunk()?);
                let client = |client: u128| {
                    clients.push(client.into());
                    clients.len() as u32 - 1
                };
                let len = 40 + payload;
                (self.place(v6, arrival, (source, destination), ports, len, true, client)?.with(flags), len)
            }
            _ => return None,
        };
        (ETHERNET + len <= frame.len() && len <= port.mtu as usize).then_some(item)
    }

    /// Reads a frame that is like one that was in lane: what [`Rules::item`] gives, for less.
    #[inline(always)]
    pub fn item_alike(&self, number: u32, arrival: &Arrival<'_>, alike: &Alike, v4: &mut Known<u32>) -> Option<Item> {
        let frame = arrival.frame;
        let header: &Header = frame.first_chunk()?;
        let len = u16::from_be_bytes([header[16], header[17]]);
        let transport = usize::from(len).checked_sub(20)?;
        let whole = arrival.wire_len as usize == frame.len() && ETHERNET + usize::from(len) <= frame.len();
        if !whole || frame.len() > alike.longest_frame || u32::from(len) > alike.mtu || header[22] < 2 {
            return None;
        }
        let dont_fragment = header[20] & 0x40 != 0;
        if !checksum_is_right(header) || alike.facts.dont_fragment && !dont_fragment {
            return None;
        }
        let flags = if alike.facts.tcp {
            self.tcp(header[34..].first_chunk()?, transport)?
        } else {
            self.udp(header[34..].first_chunk()?, transport)?
        };
        let source = u32::from_be_bytes([header[26], header[27], header[28], header[29]]);
        let port = u16::from_be_bytes([header[34], header[35]]);
        if is_apart(port) || !self.comes_well(v4, source, arrival.interface) {
            return None;
        }
        let hash = ClientHash::of_v4(source, port);
        let fingerprint = hash.with(alike.facts.hash);
        let (time, shard) = (arrival.time, self.shard(hash));
        Some(Item { time, client: source, fingerprint, number, port, end: alike.end, len, flags, shard, answers: false })
    }

    #[inline(always)]
    fn shard(&self, hash: ClientHash) -> u8 {
        hash.shard() & (self.shards - 1) as u8
    }

    /// Ports and TCP flags from a transport header with what follows it, which has that length in all.
    #[inline(always)]
    fn transport(&self, header: &[u8], protocol: u8, length: usize) -> Option<(Ports, u8)> {
        let flags = match Protocol(protocol) {
            Protocol::TCP => self.tcp(header.first_chunk()?, length)?,
            Protocol::UDP => self.udp(header.first_chunk()?, length)?,
            _ => return None,
        };
        let &[source_high, source_low, high, low] = header.first_chunk::<4>()?;
        let source = u16::from_be_bytes([source_high, source_low]);
        Some((Ports { source, destination: u16::from_be_bytes([high, low]), protocol }, flags))
    }

    /// The flags of a TCP header that with what follows it has that length.
    #[inline(always)]
    fn tcp(&self, header: &[u8; 20], length: usize) -> Option<u8> {
        let words = usize::from(header[12] >> 4);
        (words >= 5 && words * 4 <= length).then_some(header[13])
    }

    /// The same for UDP, which has no flags.
    #[inline(always)]
    fn udp(&self, header: &[u8; 8], length: usize) -> Option<u8> {
        let is_whole = usize::from(u16::from_be_bytes([header[4], header[5]])) == length && length >= 8;
        // Without a checksum, translation has rules of its own.
        let has_checksum = !self.ends.has_servers() || header[6] != 0 || header[7] != 0;
        (is_whole && has_checksum).then_some(0)
    }

    /// Whether packets from an address may come in there.
    #[inline(always)]
    fn comes_well<A: Address>(&self, known: &mut Known<A>, source: A, on: InterfaceId) -> bool {
        if known.is_good(source, on) {
            return true;
        }
        let is_good = (self.source_is_good)(source.ip(), on);
        if is_good {
            known.keep(source, on);
        }
        is_good
    }

    /// Finds the end that a packet goes to or comes from, and whether its addresses are good.
    #[expect(clippy::too_many_arguments, reason = "once a packet; a struct would be built for nothing")]
    #[inline(always)]
    fn place<A: Address>(
        &self,
        known: &mut Known<A>,
        arrival: &Arrival<'_>,
        (source, destination): (A, A),
        ports: Ports,
        len: usize,
        dont_fragment: bool,
        store: impl FnOnce(A) -> u32,
    ) -> Option<Item> {
        let end = match known.service {
            Some((address, end, place)) if end == ports.end() && address == destination => place,
            _ => self.end(known, source, destination, ports)?,
        };
        let facts = self.ends.facts(end)?;
        if facts.dont_fragment && !dont_fragment {
            return None;
        }
        let (client, port) = if facts.answers { (destination, ports.destination) } else { (source, ports.source) };
        if is_apart(port) {
            return None;
        }
        if facts.answers && (self.way_back)(client.ip(), arrival.interface).is_none_or(|mtu| len > mtu as usize) {
            return None;
        }
        if !self.comes_well(known, source, arrival.interface) {
            return None;
        }
        let hash = client.hash(port);
        let (shard, fingerprint) = (self.shard(hash), hash.with(facts.hash));
        let (client, len) = (store(client), u16::try_from(len).ok()?);
        Some(Item { time: arrival.time, client, fingerprint, number: 0, port, end, len, flags: 0, shard, answers: facts.answers })
    }

    /// The place of the service that it goes to, or of the real server that it comes from.
    #[inline(never)]
    fn end<A: Address>(&self, known: &mut Known<A>, source: A, destination: A, ports: Ports) -> Option<u16> {
        let ends = self.ends;
        let place = |address: A, port| ends.place(&(address.ip(), port, ports.protocol));
        if let Some(place) = place(destination, ports.destination).filter(|place| usize::from(*place) < ends.services) {
            known.service = Some((destination, ports.end(), place));
            return Some(place);
        }
        if !ends.has_servers() {
            return None;
        }
        place(source, ports.source).filter(|place| usize::from(*place) >= ends.services)
    }
}

/// Client ports that IPVS treats apart.
#[inline]
fn is_apart(port: u16) -> bool {
    matches!(port, 0 | 20)
}

/// Whether the checksum of the IPv4 header without options is right (RFC 1071: the sum of its words, carries added, is all ones,
/// in whichever order the bytes of a word are read).
#[inline(always)]
fn checksum_is_right(header: &Header) -> bool {
    let word = |at: usize| u64::from(u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let sum = word(14) + word(18) + word(22) + word(26) + word(30);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    // What is left is a multiple of all ones exactly if the words' sum is; no header sums up to 0.
    matches!(sum, 0xffff | 0x1_fffe)
}

/// What was found out last about addresses of a family, and need not be asked again.
#[derive(Clone, Debug, Default)]
pub(super) struct Known<A> {
    /// The service that a packet went to: its address, what [`Ports::end`] gives, and its place.
    service: Option<(A, u32, u16)>,
    /// Sources that were found good, and where they came in, by [`Address::kept_at`].
    sources: Vec<Option<(A, InterfaceId)>>,
}

impl<A: Address> Known<A> {
    #[inline]
    fn is_good(&self, source: A, on: InterfaceId) -> bool {
        self.sources.get(source.kept_at()).is_some_and(|known| *known == Some((source, on)))
    }

    #[cold]
    fn keep(&mut self, source: A, on: InterfaceId) {
        self.sources.resize(SOURCES, None);
        self.sources[source.kept_at()] = Some((source, on));
    }
}

/// An IP address as a number: what is compared for every packet should be compared at once.
pub(super) trait Address: Copy + PartialEq {
    fn ip(self) -> IpAddr;
    fn hash(self, port: u16) -> ClientHash;
    /// Its place among those that are remembered.
    fn kept_at(self) -> usize;
}

impl Address for u32 {
    #[inline]
    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
    #[inline]
    fn hash(self, port: u16) -> ClientHash {
        ClientHash::of_v4(self, port)
    }
    #[inline]
    fn kept_at(self) -> usize {
        kept_at(self.into())
    }
}

impl Address for u128 {
    #[inline]
    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
    #[inline]
    fn hash(self, port: u16) -> ClientHash {
        ClientHash::of_v6(self, port)
    }
    #[inline]
    fn kept_at(self) -> usize {
        kept_at((self >> 64) as u64 ^ self as u64)
    }
}

/// How many good sources are remembered.
const SOURCES: usize = 1024;

/// The place among those that are remembered of an address that is folded into a word.
#[inline]
pub(super) fn kept_at(address: u64) -> usize {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SOURCES
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::lane::{Lane, Scratch};
    use super::*;
    use crate::config::MacAddr;
    use crate::packet::{Ipv4, tcp, udp};
    use crate::time::Nanos;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
    const VIP: [u8; 4] = [200, 200, 200, 1];

    /// What a lane makes of frames at these places.
    fn lane(frames: &[(u16, &[u8])], has_servers: bool) -> Lane {
        let port = Port { mac: MAC, mtu: 200, longest_frame: 214, open: true };
        let service = |protocol, dont_fragment| ((VIP.into(), 80, protocol), dont_fragment);
        let server = ([10, 0, 0, 11].into(), 80, 6);
        let ends = Ends::new([service(6, false), service(17, true)], Some(server).filter(|_| has_servers));
        let source_is_good = |source: IpAddr, _: InterfaceId| source != IpAddr::from([198, 51, 100, 66]);
        let rules = Rules { ports: &[port, port], ends: &ends, shards: 1, source_is_good, way_back: |_, _| Some(1500) };
        let arrivals = frames.iter().map(|(interface, frame)| {
            let (time, interface) = (Nanos(1), InterfaceId(*interface));
            Some(Arrival { time, interface, frame, wire_len: frame.len() as u32 })
        });
        let mut lane = Lane::default();
        lane.fill(&mut Scratch::default(), arrivals, &rules);
        lane
    }

    /// A plain packet of a client.
    fn frame(is_udp: bool, client: u8, port: u16, payload: usize) -> Vec<u8> {
        let length = if is_udp { udp::HEADER_LEN } else { tcp::HEADER_LEN } + payload;
        let mut frame = [&MAC.0[..], &[2, 0, 0, 0, 0, 0xfe, 8, 0, 0x45, 0]].concat();
        frame.extend((20 + length as u16).to_be_bytes());
        frame.extend([0, 7, 0x40, 0, 64, if is_udp { 17 } else { 6 }, 0, 0, 198, 51, 100, client]);
        frame.extend(VIP);
        frame.extend(port.to_be_bytes());
        frame.extend(80u16.to_be_bytes());
        if is_udp {
            frame.extend((length as u16).to_be_bytes());
            frame.extend([1, 2]);
        } else {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 1, 3, 4, 0, 0]);
        }
        frame.resize((ETHERNET + 20 + length).max(60), 0);
        Ipv4::new_checked(&mut frame[ETHERNET..]).unwrap().fill_checksum();
        frame
    }

    proptest! {
        #[test]
        fn a_packet_after_one_like_it_is_read_as_one_alone(
            is_udp: bool, was_udp: bool, has_servers: bool, other_interface: bool,
            client in 60..70u8, port in prop_oneof![Just(0), Just(20), any::<u16>()], payload in 0..170usize,
            change in prop::option::of((0..60usize, any::<u8>())), sums_up: bool,
        ) {
            let before = frame(was_udp, 1, 1025, 12);
            let mut one = frame(is_udp, client, port, payload);
            if let Some((at, byte)) = change {
                one[at] = byte;
                if sums_up && let Ok(mut view) = Ipv4::new_checked(&mut one[ETHERNET..]) {
                    view.fill_checksum();
                }
            }
            let interface = u16::from(other_interface);
            let alone = lane(&[(interface, &one)], has_servers);
            let after = lane(&[(0, &before), (interface, &one)], has_servers);
            prop_assert_eq!(lane(&[(0, &before)], has_servers).len, 1);
            prop_assert_eq!(after.all().nth(1).map(|item| Item { number: 0, ..*item }), alone.all().next().copied());
        }
    }
}
