//! Which packets may take the parallel way, and what they say: the stateless part of batch.
//!
//! A packet is in lane when every decision about it except the connection's is the same for all packets like it: Ethernet
//! without tags to one of our addresses, IP without options, extension headers or fragments, right header checksum, TTL to
//! spare, whole in the capture, TCP or UDP, and from the addresses of a service or a real server. Anything else, however
//! harmless, is left to the serial director: here only what is plain is decided, never what is right.

use crate::config::{Family, InterfaceId, MacAddr, Protocol};
use crate::director::Arrival;
use crate::time::Nanos;
use crate::track::{SHARDS, shard_of, shard_of_v4};
use foldhash::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

const ETHERNET: usize = 14;
/// TCP flag bits.
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;

/// An address and port with its protocol: a service, or a real server as the source of answers.
pub(super) type End = (IpAddr, u16, u8);

/// A packet in lane, as small as can be: there is one for each packet of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Item {
    /// When.
    pub time: Nanos,
    /// The client: its IPv4 address, or the place of its IPv6 address in [`Lane::clients`].
    pub client: u32,
    /// The frame's number in its part.
    pub number: u32,
    /// The client's port, host order.
    pub port: u16,
    /// The place of the service or real server in [`Ends`].
    pub end: u16,
    /// Length of the IP packet.
    pub len: u16,
    /// TCP flags, 0 for UDP.
    pub flags: u8,
    /// The shard of the connection table.
    pub shard: u8,
}

/// The addresses whose packets are in lane: services, then real servers whose answers are translated.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    places: HashMap<End, u16>,
    /// All of them in order of place.
    pub list: Vec<End>,
    /// How many of them are services.
    pub services: usize,
    /// By place: packets must say that they are not to be fragmented.
    pub dont_fragment: Vec<bool>,
}

impl Ends {
    /// Services first, then real servers. What does not fit into 65,535 places stays out of lane, and so does a real server
    /// that has the address of a service.
    pub fn new(services: impl IntoIterator<Item = End>, servers: impl IntoIterator<Item = End>) -> Ends {
        let mut ends = Ends::default();
        services.into_iter().for_each(|end| ends.add(end));
        ends.services = ends.list.len();
        servers.into_iter().for_each(|end| ends.add(end));
        ends
    }

    fn add(&mut self, end: End) {
        if let Ok(place) = u16::try_from(self.list.len())
            && !self.places.contains_key(&end)
        {
            self.places.insert(end, place);
            self.list.push(end);
        }
    }

    /// The place of an end.
    pub fn place(&self, end: &End) -> Option<u16> {
        self.places.get(end).copied()
    }

    /// Whether answers of real servers are in lane at all.
    pub fn has_servers(&self) -> bool {
        self.list.len() > self.services
    }
}

/// An interface as far as packets in lane need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its MTU.
    pub mtu: u32,
    /// Frames that arrive here may be in lane.
    pub open: bool,
}

/// What a part of a window holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    /// Packets in lane, by shard and within a shard in order.
    pub items: Vec<Item>,
    /// Where each shard's items end.
    pub ends: Vec<u32>,
    /// Numbers of the frames that are not in lane, in order.
    pub others: Vec<u32>,
    /// IPv6 clients.
    pub clients: Vec<Ipv6Addr>,
    /// Bytes of all IP packets in lane.
    pub bytes: u64,
    /// How many items the lanes before this one have.
    pub base: usize,
}

/// What one thread needs to fill lanes, whichever they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// Packets in lane in order.
    unsorted: Vec<Item>,
    /// Sources that were found good last, and where they came in, by a hash of the address.
    good_sources: GoodSources,
}

/// Sources that were found good last.
#[derive(Clone, Debug, Default)]
struct GoodSources {
    /// IPv4 addresses below, interfaces above; what is compared for every packet should be small.
    v4: Vec<u64>,
    v6: Vec<(u128, InterfaceId)>,
}

impl GoodSources {
    #[inline]
    fn knows(&self, source: Address, on: InterfaceId) -> bool {
        let at = kept_at(source.bits);
        if source.v4 { self.v4.get(at) == Some(&word_of(source, on)) } else { self.v6.get(at) == Some(&(source.bits, on)) }
    }

    fn keep(&mut self, source: Address, on: InterfaceId) {
        let at = kept_at(source.bits);
        if source.v4 {
            self.v4.resize(SOURCES, u64::MAX);
            self.v4[at] = word_of(source, on);
        } else {
            self.v6.resize(SOURCES, (0, InterfaceId(u16::MAX)));
            self.v6[at] = (source.bits, on);
        }
    }
}

fn word_of(source: Address, on: InterfaceId) -> u64 {
    u64::from(on.0) << 32 | source.bits as u64
}

/// An IP address as a number: what is compared for every packet should be compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    bits: u128,
    v4: bool,
}

impl Address {
    fn v4(bytes: [u8; 4]) -> Address {
        Address { bits: u32::from_be_bytes(bytes).into(), v4: true }
    }

    fn v6(bytes: [u8; 16]) -> Address {
        Address { bits: u128::from_be_bytes(bytes), v4: false }
    }

    fn ip(self) -> IpAddr {
        if self.v4 { Ipv4Addr::from(self.bits as u32).into() } else { Ipv6Addr::from(self.bits).into() }
    }
}

/// How many good sources are remembered.
const SOURCES: usize = 1024;

impl Lane {
    /// Where the items of a shard stand.
    pub fn shard(&self, shard: usize) -> Range<usize> {
        let from = if shard == 0 { 0 } else { self.ends.get(shard - 1).copied().unwrap_or(0) };
        from as usize..self.ends.get(shard).copied().unwrap_or(0) as usize
    }

    /// How many frames the part has, in lane or not.
    pub fn frames(&self) -> usize {
        self.items.len() + self.others.len()
    }

    /// The client of an item.
    pub fn client(&self, item: &Item, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(item.client)),
            Family::Ipv6 => IpAddr::V6(self.clients.get(item.client as usize).copied().unwrap_or(Ipv6Addr::UNSPECIFIED)),
        }
    }

    /// Reads the frames of a part. `source_is_good` says whether a packet from that address may come in by that interface: it
    /// is asked seldom, its answers are kept. `way_back` tells the MTU of the way of an answer to its client, if there is one.
    #[inline(never)]
    pub fn fill<'a>(
        &mut self,
        scratch: &mut Scratch,
        frames: impl Iterator<Item = Option<Arrival<'a>>>,
        ports: &[Port],
        ends: &Ends,
        source_is_good: impl Fn(IpAddr, InterfaceId) -> bool,
        way_back: impl Fn(IpAddr, InterfaceId) -> Option<u32>,
    ) {
        let Scratch { unsorted, good_sources } = scratch;
        self.others.clear();
        unsorted.clear();
        self.clients.clear();
        let mut bytes = 0;
        let mut counts = [0; SHARDS];
        let mut latest = Nanos(0);
        let mut last = None;
        for (number, arrival) in frames.enumerate() {
            let item = arrival.and_then(|arrival| {
                // What steps back in time is not in lane.
                if arrival.time < latest {
                    return None;
                }
                latest = arrival.time;
                let plain = Plain::read(&arrival, ports, ends.has_servers())?;
                let place = plain.place(ends, &mut last)?;
                if !plain.dont_fragment && ends.dont_fragment.get(usize::from(place)) == Some(&true) {
                    return None;
                }
                let request = usize::from(place) < ends.services;
                let back = |mtu: u32| u32::from(plain.len) <= mtu;
                if !request && !way_back(plain.destination.ip(), arrival.interface).is_some_and(back) {
                    return None;
                }
                let (client, port) = if request { (plain.source, plain.ports.0) } else { (plain.destination, plain.ports.1) };
                if !good_sources.knows(plain.source, arrival.interface) {
                    if !source_is_good(plain.source.ip(), arrival.interface) {
                        return None;
                    }
                    good_sources.keep(plain.source, arrival.interface);
                }
                let shard = if client.v4 { shard_of_v4(client.bits as u32, port) } else { shard_of(client.ip(), port) };
                let client = if client.v4 {
                    client.bits as u32
                } else {
                    self.clients.push(Ipv6Addr::from(client.bits));
                    self.clients.len() as u32 - 1
                };
                let (time, number) = (arrival.time, number as u32);
                Some(Item { time, client, number, port, end: place, len: plain.len, flags: plain.flags, shard })
            });
            match item {
                Some(item) => {
                    counts[usize::from(item.shard)] += 1;
                    bytes += u64::from(item.len);
                    unsorted.push(item);
                }
                None => self.others.push(number as u32),
            }
        }
        self.bytes = bytes;
        self.sort(unsorted, counts);
    }

    /// Puts the items in order of shard, of which there are so many each.
    fn sort(&mut self, unsorted: &[Item], mut counts: [u32; SHARDS]) {
        let mut at = 0;
        for count in &mut counts {
            // Each entry is first where its shard begins, and has moved to where it ends when all items are placed.
            at += std::mem::replace(count, at);
        }
        self.items.resize(unsorted.len(), Item::default());
        let items = &mut self.items[..];
        for item in unsorted {
            let place = &mut counts[usize::from(item.shard)];
            if let Some(room) = items.get_mut(*place as usize) {
                *room = *item;
            }
            *place += 1;
        }
        self.ends.clear();
        self.ends.extend_from_slice(&counts);
    }
}

/// The place of an address among those that are remembered.
#[inline]
pub(super) fn kept_at(address: u128) -> usize {
    let word = (address >> 64) as u64 ^ address as u64;
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SOURCES
}

/// The headers of a packet that may be in lane.
struct Plain {
    source: Address,
    destination: Address,
    protocol: u8,
    ports: (u16, u16),
    len: u16,
    flags: u8,
    dont_fragment: bool,
}

impl Plain {
    #[inline]
    fn read(arrival: &Arrival<'_>, ports: &[Port], answers: bool) -> Option<Plain> {
        let frame = arrival.frame;
        let port = ports.get(usize::from(arrival.interface.0)).filter(|port| port.open)?;
        let header = frame.first_chunk::<54>()?; // Ethernet, IPv4 and TCP, or Ethernet and IPv6.
        if header[..6] != port.mac.0 || arrival.wire_len as usize != frame.len() {
            return None;
        }
        let (source, destination, protocol, len, at) = match [header[12], header[13], header[14]] {
            [0x08, 0x00, 0x45] => {
                let len = u16::from_be_bytes([header[16], header[17]]);
                // No fragment, no reserved bit; TTL to spare.
                if header[20] & 0xbf != 0 || header[21] != 0 || header[22] < 2 || !checksum_is_right(header) {
                    return None;
                }
                let source = Address::v4([header[26], header[27], header[28], header[29]]);
                let destination = Address::v4([header[30], header[31], header[32], header[33]]);
                (source, destination, header[23], usize::from(len), ETHERNET + 20)
            }
            [0x86, 0xdd, first] if first >> 4 == 6 => {
                let len = 40 + usize::from(u16::from_be_bytes([header[18], header[19]]));
                if header[21] < 2 {
                    return None;
                }
                let source: [u8; 16] = *frame.get(22..38)?.first_chunk()?;
                let destination: [u8; 16] = *frame.get(38..54)?.first_chunk()?;
                (Address::v6(source), Address::v6(destination), header[20], len, ETHERNET + 40)
            }
            _ => return None,
        };
        let end = ETHERNET + len;
        if end > frame.len() || len > port.mtu as usize || frame.len() > ETHERNET + port.mtu.max(46) as usize {
            return None;
        }
        let len = u16::try_from(len).ok()?;
        let dont_fragment = header[20] & 0x40 != 0;
        // Of IPv4, all of the transport header that counts is in what was read already.
        let transport = if at == ETHERNET + 20 { &header[at..] } else { frame.get(at..end)? };
        let length = (end - ETHERNET).checked_sub(at - ETHERNET)?;
        let flags = match Protocol(protocol) {
            Protocol::TCP => {
                let header = transport.first_chunk::<20>()?;
                let words = usize::from(header[12] >> 4);
                if words < 5 || words * 4 > length {
                    return None;
                }
                header[13]
            }
            Protocol::UDP => {
                let header = transport.first_chunk::<8>()?;
                if usize::from(u16::from_be_bytes([header[4], header[5]])) != length || length < 8 {
                    return None;
                }
                // Without a checksum, translation has rules of its own.
                if answers && header[6] == 0 && header[7] == 0 {
                    return None;
                }
                0
            }
            _ => return None,
        };
        let &[source_high, source_low, high, low] = transport.first_chunk::<4>()?;
        let ports = (u16::from_be_bytes([source_high, source_low]), u16::from_be_bytes([high, low]));
        Some(Plain { source, destination, protocol, ports, len, flags, dont_fragment })
    }

    /// The place of the service that it goes to, or of the real server that it comes from. Client ports that IPVS treats
    /// apart (0 and 20) have none.
    #[inline]
    fn place(&self, ends: &Ends, last: &mut Option<(Address, u16, u8, u16)>) -> Option<u16> {
        let to = (self.destination, self.ports.1, self.protocol);
        if let Some((address, port, protocol, place)) = *last
            && (address, port, protocol) == to
        {
            return (!matches!(self.ports.0, 0 | 20)).then_some(place);
        }
        let end = (self.destination.ip(), self.ports.1, self.protocol);
        if let Some(place) = ends.places.get(&end).copied().filter(|place| usize::from(*place) < ends.services) {
            *last = Some((to.0, to.1, to.2, place));
            return (!matches!(self.ports.0, 0 | 20)).then_some(place);
        }
        if !ends.has_servers() {
            return None;
        }
        let from = (self.source.ip(), self.ports.0, self.protocol);
        let place = ends.places.get(&from).filter(|place| usize::from(**place) >= ends.services)?;
        (!matches!(self.ports.1, 0 | 20)).then_some(*place)
    }
}

/// Whether the checksum of the IPv4 header without options is right (RFC 1071: the sum of its words, carries added, is all ones).
#[inline]
fn checksum_is_right(header: &[u8; 54]) -> bool {
    let word = |at: usize| u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let sum = word(14) + word(18) + word(22) + word(26) + word(30);
    let sum = (sum >> 16) + (sum & 0xffff);
    // What is left is a multiple of all ones exactly if the words' sum is; no header sums up to 0.
    sum % 0xffff == 0
}
