//! Which packets may take the parallel way, and what they say: the stateless part of batch.
//!
//! A packet is in lane when every decision about it except the connection's is the same for all packets like it: Ethernet
//! without tags to one of our addresses, IP without options, extension headers or fragments, right header checksum, TTL to
//! spare, whole in the capture, TCP or UDP, and from the addresses of a service or a real server. Anything else, however
//! harmless, is left to the serial director: here only what is plain is decided, never what is right.

use crate::config::{Family, InterfaceId, MacAddr, Protocol};
use crate::director::Arrival;
use crate::time::Nanos;
use crate::track::{ClientHash, Fingerprint, OtherHash, SHARDS};
use foldhash::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// What its connection is found by.
    pub fingerprint: Fingerprint,
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
    /// It comes from a real server.
    pub answers: bool,
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
    /// Packets in lane in order; none if they are kept by shard (see [`Rules::by_shard`]).
    pub items: Vec<Item>,
    /// Those of each shard, in order.
    shards: Vec<Vec<Item>>,
    /// How many items the shards before each one have.
    before: Vec<usize>,
    /// How many packets are in lane.
    pub len: usize,
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
    v4: Known<u32>,
    v6: Known<u128>,
    alike: Option<Alike>,
}

impl Scratch {
    /// Forgets what depends on the director.
    pub fn forget(&mut self) {
        (self.v4, self.v6, self.alike) = Default::default();
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
    /// The items of a shard, and how many those before it have.
    pub fn shard(&self, shard: usize) -> (&[Item], usize) {
        (self.shards.get(shard).map_or(&[], |items| items), self.before.get(shard).copied().unwrap_or(0))
    }

    /// How many frames the part has, in lane or not.
    pub fn frames(&self) -> usize {
        self.len + self.others.len()
    }

    /// All items, in the order of shards.
    pub fn all(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().chain(self.shards.iter().flatten())
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
        let Scratch { v4, v6, alike } = scratch;
        self.others.clear();
        self.clients.clear();
        self.items.clear();
        self.shards.resize_with(SHARDS, Vec::new);
        self.shards.iter_mut().for_each(Vec::clear);
        let mut bytes = 0;
        let mut latest = Nanos(0);
        for (number, arrival) in frames.enumerate() {
            let item = match arrival {
                // What steps back in time is not in lane.
                Some(arrival) if arrival.time >= latest => {
                    latest = arrival.time;
                    match alike {
                        Some(alike) if alike.fits(&arrival) => rules.item_alike(number as u32, &arrival, alike, v4),
                        _ => rules.item(&arrival, v4, v6, alike, &mut self.clients).map(|item| item.numbered(number as u32)),
                    }
                }
                _ => None,
            };
            match item {
                Some(item) => {
                    bytes += u64::from(item.len);
                    let items = self.shards.get_mut(usize::from(item.shard)).filter(|_| rules.by_shard);
                    items.unwrap_or(&mut self.items).push(item);
                }
                None => self.others.push(number as u32),
            }
        }
        self.bytes = bytes;
        self.before.clear();
        self.len = self.items.len();
        for items in &self.shards {
            self.before.push(self.len);
            self.len += items.len();
        }
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
    #[inline(never)]
    fn item(
        &self,
        arrival: &Arrival<'_>,
        v4: &mut Known<u32>,
        v6: &mut Known<u128>,
        alike: &mut Option<Alike>,
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
                let item = self.place(v4, arrival, (source, destination), ports, len, dont_fragment, client)?.with(flags);
                *alike = self.ends.facts(item.end).and_then(|end| Alike::to(arrival, header, port, item.end, end));
                (item, len)
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

    /// Reads a frame that is like one that was in lane: what [`Rules::item`] gives, for less.
    #[inline(always)]
    fn item_alike(&self, number: u32, arrival: &Arrival<'_>, alike: &Alike, v4: &mut Known<u32>) -> Option<Item> {
        let frame = arrival.frame;
        let header = frame.first_chunk::<54>()?;
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
        let (time, shard) = (arrival.time, hash.shard());
        Some(Item { time, client: source, fingerprint, number, port, end: alike.end, len, flags, shard, answers: false })
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
        let (shard, fingerprint) = (hash.shard(), hash.with(facts.hash));
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

impl Item {
    #[inline]
    fn with(self, flags: u8) -> Item {
        Item { flags, ..self }
    }

    fn numbered(self, number: u32) -> Item {
        Item { number, ..self }
    }
}

/// Client ports that IPVS treats apart.
#[inline]
fn is_apart(port: u16) -> bool {
    matches!(port, 0 | 20)
}

/// What packets of IPv4 to one service have in common: most packets are like the one before, and need not be read anew.
#[derive(Clone, Debug)]
struct Alike {
    interface: InterfaceId,
    /// What [`Alike::words`] gives.
    words: [u64; 4],
    longest_frame: usize,
    mtu: u32,
    /// The place of the service in [`Ends`], and what is known of it.
    end: u16,
    facts: Facts,
}

impl Alike {
    /// Like a packet in lane to a service; none if it comes from a server.
    fn to(arrival: &Arrival<'_>, header: &[u8; 54], port: &Port, end: u16, facts: &Facts) -> Option<Alike> {
        let &Port { longest_frame, mtu, .. } = port;
        let (interface, words) = (arrival.interface, Alike::words(header));
        (!facts.answers).then_some(Alike { interface, words, longest_frame, mtu, end, facts: *facts })
    }

    /// What is the same in all of them: the Ethernet address that they go to, the type; that they are IPv4 without options and
    /// no fragments; the protocol, the address and the port that they go to.
    #[inline(always)]
    fn words(header: &[u8; 54]) -> [u64; 4] {
        const PLACES: [(usize, [u8; 8]); 4] = [
            (0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
            (12, [0xff, 0xff, 0xff, 0, 0, 0, 0, 0]),
            // DF may be set or not.
            (20, [0xbf, 0xff, 0, 0xff, 0, 0, 0, 0]),
            (30, [0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff]),
        ];
        let word = |place: usize| {
            let (at, mask) = PLACES[place];
            let word = header[at..].first_chunk().copied().unwrap_or_default();
            u64::from_ne_bytes(word) & u64::from_ne_bytes(mask)
        };
        [word(0), word(1), word(2), word(3)]
    }

    #[inline(always)]
    fn fits(&self, arrival: &Arrival<'_>) -> bool {
        let Some(header) = arrival.frame.first_chunk() else { return false };
        // Written out: of a comparison of arrays the compiler makes one of memory, which waits until all of it is written.
        let ([one, two, three, four], own) = (Alike::words(header), self.words);
        let differences = one ^ own[0] | two ^ own[1] | three ^ own[2] | four ^ own[3];
        self.interface == arrival.interface && differences == 0
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
