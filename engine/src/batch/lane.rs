//! Which packets may take the parallel way, and what they say: the stateless part of batch.
//!
//! A packet is in lane when every decision about it except the connection's is the same for all packets like it: Ethernet
//! without tags to one of our addresses, IP without options, extension headers or fragments, right header checksum, TTL to
//! spare, whole in the capture, TCP or UDP, and from the addresses of a service or a real server. Anything else, however
//! harmless, is left to the serial director: here only what is plain is decided, never what is right.

use crate::config::{Family, InterfaceId, MacAddr, Protocol};
use crate::director::Arrival;
use crate::time::Nanos;
use crate::track::{ClientHash, OtherHash, SHARDS};
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
    facts: Vec<Facts>,
}

/// What tracking needs of an end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Its part of fingerprints.
    pub hash: OtherHash,
    /// TCP, else UDP.
    pub tcp: bool,
    /// Of its addresses.
    pub family: Family,
    /// A real server: packets from it are answers.
    pub answers: bool,
    /// Packets to it must say that they are not to be fragmented.
    pub dont_fragment: bool,
}

impl Ends {
    /// Services first, each with whether its packets must say that they are not to be fragmented, then real servers. What does
    /// not fit into 65,535 places stays out of lane, and so does a real server that has the address of a service.
    pub fn new(services: impl IntoIterator<Item = (End, bool)>, servers: impl IntoIterator<Item = End>) -> Ends {
        let mut ends = Ends::default();
        services.into_iter().for_each(|(end, dont_fragment)| ends.add(end, false, dont_fragment));
        ends.services = ends.list.len();
        servers.into_iter().for_each(|end| ends.add(end, true, false));
        ends
    }

    fn add(&mut self, end: End, answers: bool, dont_fragment: bool) {
        if let Ok(place) = u16::try_from(self.list.len())
            && !self.places.contains_key(&end)
        {
            let (address, port, protocol) = end;
            let hash = OtherHash::of(address, port, protocol);
            let (tcp, family) = (protocol == Protocol::TCP.0, Family::from(address));
            self.places.insert(end, place);
            self.list.push(end);
            self.facts.push(Facts { hash, tcp, family, answers, dont_fragment });
        }
    }

    /// What tracking needs of the end at a place.
    #[inline]
    pub fn facts(&self, place: u16) -> Option<&Facts> {
        self.facts.get(usize::from(place))
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
    /// The longest frame that it takes: with padding.
    pub longest_frame: usize,
    /// Frames that arrive here may be in lane.
    pub open: bool,
}

/// What a part of a window holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    /// Packets in lane, by shard and within a shard in order; or all in order (see [`Rules::by_shard`]).
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
    v4: Known<u32>,
    v6: Known<u128>,
}

impl Scratch {
    /// Forgets what depends on the director.
    pub fn forget(&mut self) {
        (self.v4, self.v6) = Default::default();
    }
}

/// What was found out last about addresses of a family, and need not be asked again.
#[derive(Clone, Debug, Default)]
struct Known<A> {
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
trait Address: Copy + PartialEq {
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

    /// Reads the frames of a part.
    #[inline(never)]
    pub fn fill<'a, G: Fn(IpAddr, InterfaceId) -> bool, W: Fn(IpAddr, InterfaceId) -> Option<u32>>(
        &mut self,
        scratch: &mut Scratch,
        frames: impl Iterator<Item = Option<Arrival<'a>>>,
        rules: &Rules<'_, G, W>,
    ) {
        let Scratch { unsorted, v4, v6 } = scratch;
        self.others.clear();
        unsorted.clear();
        self.clients.clear();
        let mut bytes = 0;
        let mut counts = [0; SHARDS];
        let mut latest = Nanos(0);
        for (number, arrival) in frames.enumerate() {
            let item = match arrival {
                // What steps back in time is not in lane.
                Some(arrival) if arrival.time >= latest => {
                    latest = arrival.time;
                    rules.item(&arrival, v4, v6, &mut self.clients)
                }
                _ => None,
            };
            match item {
                Some(item) => {
                    counts[usize::from(item.shard)] += 1;
                    bytes += u64::from(item.len);
                    unsorted.push(Item { number: number as u32, ..item });
                }
                None => self.others.push(number as u32),
            }
        }
        self.bytes = bytes;
        if rules.by_shard {
            self.sort(unsorted, counts);
        } else {
            self.ends.clear();
            std::mem::swap(&mut self.items, unsorted);
        }
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

/// The place among those that are remembered of an address that is folded into a word.
#[inline]
pub(super) fn kept_at(address: u64) -> usize {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SOURCES
}

/// What decides whether a packet is in lane.
pub(super) struct Rules<'a, G, W> {
    /// Interfaces by number.
    pub ports: &'a [Port],
    /// Services and servers.
    pub ends: &'a Ends,
    /// Packets are put in order of shard.
    pub by_shard: bool,
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
    #[inline(always)]
    fn item(
        &self,
        arrival: &Arrival<'_>,
        v4: &mut Known<u32>,
        v6: &mut Known<u128>,
        clients: &mut Vec<Ipv6Addr>,
    ) -> Option<Item> {
        let frame = arrival.frame;
        let port = self.ports.get(usize::from(arrival.interface.0)).filter(|port| port.open)?;
        let header = frame.first_chunk::<54>()?; // Ethernet, IPv4 and TCP, or Ethernet and IPv6.
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
                (self.place(v4, arrival, (source, destination), ports, len, dont_fragment, client)?.with(flags), len)
            }
            [0x86, 0xdd, first] if first >> 4 == 6 => {
                let payload = usize::from(u16::from_be_bytes([header[18], header[19]]));
                if header[21] < 2 {
                    return None;
                }
                let (ports, flags) = self.transport(frame.get(54..)?.get(..payload)?, header[20], payload)?;
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

    /// Ports and TCP flags from a transport header with what follows it, which has that length in all.
    #[inline(always)]
    fn transport(&self, header: &[u8], protocol: u8, length: usize) -> Option<(Ports, u8)> {
        let flags = match Protocol(protocol) {
            Protocol::TCP => {
                let header = header.first_chunk::<20>()?;
                let words = usize::from(header[12] >> 4);
                if words < 5 || words * 4 > length {
                    return None;
                }
                header[13]
            }
            Protocol::UDP => {
                let header = header.first_chunk::<8>()?;
                if usize::from(u16::from_be_bytes([header[4], header[5]])) != length || length < 8 {
                    return None;
                }
                // Without a checksum, translation has rules of its own.
                if self.ends.has_servers() && header[6] == 0 && header[7] == 0 {
                    return None;
                }
                0
            }
            _ => return None,
        };
        let &[source_high, source_low, high, low] = header.first_chunk::<4>()?;
        let source = u16::from_be_bytes([source_high, source_low]);
        Some((Ports { source, destination: u16::from_be_bytes([high, low]), protocol }, flags))
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
        // Client ports that IPVS treats apart.
        if matches!(port, 0 | 20) {
            return None;
        }
        if facts.answers && (self.way_back)(client.ip(), arrival.interface).is_none_or(|mtu| len > mtu as usize) {
            return None;
        }
        if !known.is_good(source, arrival.interface) {
            if !(self.source_is_good)(source.ip(), arrival.interface) {
                return None;
            }
            known.keep(source, arrival.interface);
        }
        let shard = client.hash(port).shard();
        let (client, len) = (store(client), u16::try_from(len).ok()?);
        Some(Item { time: arrival.time, client, number: 0, port, end, len, flags: 0, shard })
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

impl Item {
    #[inline]
    fn with(self, flags: u8) -> Item {
        Item { flags, ..self }
    }
}

/// Whether the checksum of the IPv4 header without options is right (RFC 1071: the sum of its words, carries added, is all ones,
/// in whichever order the bytes of a word are read).
#[inline(always)]
fn checksum_is_right(header: &[u8; 54]) -> bool {
    let word = |at: usize| u64::from(u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let sum = word(14) + word(18) + word(22) + word(26) + word(30);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    // What is left is a multiple of all ones exactly if the words' sum is; no header sums up to 0.
    matches!(sum, 0xffff | 0x1_fffe)
}
