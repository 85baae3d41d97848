//! The packets of a window that take the parallel way, in the form in which they are followed; rules.rs says which they are.

use super::alike::Alike;
use super::rules::{Known, Rules};
use crate::config::{Family, InterfaceId, MacAddr, Protocol};
use crate::director::Arrival;
use crate::time::Nanos;
use crate::track::{Fingerprint, OtherHash, SHARDS};
use foldhash::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// An address and port with its protocol: a service, or a real server as the source of answers.
pub(super) type End = (IpAddr, u16, u8);

/// How every frame in lane begins: Ethernet, IPv4 and TCP, or Ethernet and IPv6. None is shorter.
pub(super) type Header = [u8; 54];

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
    /// It is the real server of several services: a client's port may reach it in two ways, so that answers look alike.
    pub shared: bool,
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
        if let Some(facts) = self.places.get(&end).and_then(|place| self.facts.get_mut(usize::from(*place))) {
            // A real server of another service, too.
            facts.shared = facts.answers;
        } else if let Ok(place) = u16::try_from(self.list.len()) {
            let (address, port, protocol) = end;
            let hash = OtherHash::of(address, port, protocol);
            let (tcp, family) = (protocol == Protocol::TCP.0, Family::from(address));
            self.places.insert(end, place);
            self.list.push(end);
            self.facts.push(Facts { hash, tcp, family, answers, shared: false, dont_fragment });
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
    /// Packets in lane by shard (see [`Rules::shards`]), those of each in order.
    shards: [Vec<Item>; SHARDS],
    /// The shard of each frame's packet, in the order of the frames.
    order: Vec<u8>,
    /// How many items the shards before each one have.
    before: [usize; SHARDS],
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

impl Lane {
    /// The items of a shard, and how many those before it have.
    pub fn shard(&self, shard: usize) -> (&[Item], usize) {
        (&self.shards[shard % SHARDS], self.before[shard % SHARDS])
    }

    /// Of frames that are all in lane: the places of their packets among those of all lanes, as shards have them.
    pub fn places(&self, numbers: &Range<usize>) -> Places<'_> {
        let place = |shard| {
            let (items, before) = self.shard(shard);
            self.base + before + items.partition_point(|item| (item.number as usize) < numbers.start)
        };
        Places { shards: self.order.get(numbers.clone()).unwrap_or_default().iter(), next: std::array::from_fn(place) }
    }

    /// How many frames the part has, in lane or not.
    pub fn frames(&self) -> usize {
        self.len + self.others.len()
    }

    /// All items, in the order of shards.
    pub fn all(&self) -> impl Iterator<Item = &Item> {
        self.shards.iter().flatten()
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
        frames: impl ExactSizeIterator<Item = Option<Arrival<'a>>>,
        rules: &Rules<'_, G, W>,
    ) {
        self.others.clear();
        self.clients.clear();
        self.shards.iter_mut().for_each(Vec::clear);
        self.order.resize(frames.len(), 0);
        self.bytes = 0;
        let mut latest = Nanos(0);
        for (number, arrival) in (0..).zip(frames) {
            // What steps back in time is not in lane.
            let Some(arrival) = arrival.filter(|arrival| arrival.time >= latest) else {
                self.others.push(number);
                continue;
            };
            latest = arrival.time;
            match &scratch.alike {
                Some(alike) if alike.fits(&arrival) => match rules.item_alike(number, &arrival, alike, &mut scratch.v4) {
                    Some(item) => self.add(item),
                    None => self.others.push(number),
                },
                // A copy: what is given to a function must lie in memory, and seldom one is called.
                _ => self.read(number, &Arrival { ..arrival }, scratch, rules),
            }
        }
        self.len = 0;
        for (items, before) in self.shards.iter().zip(&mut self.before) {
            *before = self.len;
            self.len += items.len();
        }
    }

    /// Reads a frame that is not like one before.
    #[inline(never)]
    fn read<G: Fn(IpAddr, InterfaceId) -> bool, W: Fn(IpAddr, InterfaceId) -> Option<u32>>(
        &mut self,
        number: u32,
        arrival: &Arrival<'_>,
        scratch: &mut Scratch,
        rules: &Rules<'_, G, W>,
    ) {
        let Scratch { v4, v6, alike } = scratch;
        match rules.item(arrival, v4, v6, alike, &mut self.clients) {
            Some(item) => self.add(Item { number, ..item }),
            None => self.others.push(number),
        }
    }

    #[inline(always)]
    fn add(&mut self, item: Item) {
        self.bytes += u64::from(item.len);
        if let Some(shard) = self.order.get_mut(item.number as usize) {
            *shard = item.shard;
        }
        self.shards[usize::from(item.shard) % SHARDS].push(item);
    }
}

/// See [`Lane::places`].
#[derive(Debug)]
pub(super) struct Places<'a> {
    shards: std::slice::Iter<'a, u8>,
    /// The place of the next packet of each shard.
    next: [usize; SHARDS],
}

impl Iterator for Places<'_> {
    type Item = usize;
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let next = self.next.get_mut(usize::from(*self.shards.next()?))?;
        *next += 1;
        Some(*next - 1)
    }
}

impl Item {
    /// With those TCP flags.
    #[inline]
    pub fn with(self, flags: u8) -> Item {
        Item { flags, ..self }
    }
}
