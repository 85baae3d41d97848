//! Reassembly of datagrams (reference/linux-ipvs.md section 6.9, reference/linux-findings.md section 4; RFC 791, RFC 5722).

use crate::config::{InterfaceId, TimerWheel};
use crate::packet::{Ipv4, Ipv6, ipv4, ipv6};
use crate::time::Nanos;
use foldhash::HashMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Which datagram a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatagramKey {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol; 0 for IPv6, where it takes no part.
    pub protocol: u8,
    /// Identification.
    pub id: u32,
    /// Which reassembly asks: fragments of different places of the stack never meet.
    pub place: u8,
}

/// A whole datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The packet, as if it had never been cut.
    pub packet: Vec<u8>,
    /// Length of the longest fragment, IP header included: output cuts it to this again.
    pub longest: usize,
    /// The longest fragment had "don't fragment" set, so that the datagram has.
    pub dont_fragment: bool,
    /// Lengths of the fragments' data, in the datagram's order.
    pub parts: Vec<usize>,
}

/// What became of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reassembly {
    /// The others are missing.
    Waits,
    /// It was the last one.
    Whole(Whole),
    /// It overlaps others: the datagram is given up.
    Overlap,
    /// It can't be a fragment, or there is no room for it.
    Refused,
}

/// A datagram whose time is over.
#[derive(Clone, Debug)]
pub struct Expired {
    /// When.
    pub time: Nanos,
    /// Where its first fragment arrived.
    pub arrival: InterfaceId,
    /// The fragment with offset 0 as a packet; none if it never came.
    pub first: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Datagram {
    /// Offset, data; sorted and disjoint.
    parts: Vec<(usize, Vec<u8>)>,
    received: usize,
    end: Option<usize>,
    /// Header of the fragment with offset 0: for IPv6 without the fragment header.
    header: Option<Vec<u8>>,
    first: Option<Vec<u8>>,
    longest: usize,
    longest_dont_fragment: usize,
    ecn: u8,
    expires: Nanos,
    arrival: InterfaceId,
}

/// All datagrams in parts. Memory is bounded as the kernel's is (net.ipv4.ipfrag_high_thresh).
#[derive(Clone, Debug, Default)]
pub struct Fragments {
    datagrams: HashMap<DatagramKey, Datagram>,
    /// Of those that fire at once, the lower number does first.
    timers: BTreeSet<(Nanos, u64, DatagramKey)>,
    order: u64,
    /// When timers fire; none: in time.
    pub wheel: Option<TimerWheel>,
    bytes: usize,
}

/// net.ipv4.ipfrag_high_thresh: 4 MiB.
const MAX_BYTES: usize = 4 << 20;
/// What the kernel counts for a fragment at least.
const OVERHEAD: usize = 512;

/// One fragment, taken apart.
struct Part {
    offset: usize,
    more: bool,
    data: Vec<u8>,
    header: Option<Vec<u8>>,
    packet_len: usize,
    dont_fragment: bool,
    ecn: u8,
    packet: Vec<u8>,
}

impl Fragments {
    /// Takes an IPv4 fragment in. `packet` is cut to its total length, with a checked header.
    pub fn add_v4(&mut self, now: Nanos, lifetime: Nanos, place: u8, arrival: InterfaceId, packet: &[u8]) -> Reassembly {
        let Ok(view) = Ipv4::new_checked(packet) else { return Reassembly::Refused };
        let key = DatagramKey {
            source: view.source().into(),
            destination: view.destination().into(),
            protocol: view.protocol(),
            id: u32::from(view.id()),
            place,
        };
        let offset = view.fragment_offset();
        let part = Part {
            offset,
            more: view.more_fragments(),
            data: view.payload().to_vec(),
            header: (offset == 0).then(|| packet[..view.header_len()].to_vec()),
            packet_len: packet.len(),
            dont_fragment: view.dont_fragment(),
            ecn: 1 << (view.tos() & 3),
            packet: packet.to_vec(),
        };
        let room = 65535 - view.header_len();
        match self.add(now, lifetime, arrival, key, part, room) {
            Ok(Some(datagram)) => finish_v4(datagram).map_or(Reassembly::Refused, Reassembly::Whole),
            Ok(None) => Reassembly::Waits,
            Err(refused) => refused,
        }
    }

    /// Takes an IPv6 fragment in, which [`ipv6::walk`] found to be one.
    pub fn add_v6(
        &mut self,
        now: Nanos,
        lifetime: Nanos,
        place: u8,
        arrival: InterfaceId,
        packet: &[u8],
        found: ipv6::FragmentHeader,
    ) -> Reassembly {
        let Ok(view) = Ipv6::new_checked(packet) else { return Reassembly::Refused };
        let key = DatagramKey {
            source: view.source().into(),
            destination: view.destination().into(),
            protocol: 0,
            id: found.id,
            place,
        };
        let Some(data) = packet.get(found.at + 8..) else { return Reassembly::Refused };
        let header = (found.offset == 0).then(|| {
            let mut header = packet[..found.at].to_vec();
            header[found.number_at] = found.next_header;
            header
        });
        let part = Part {
            offset: found.offset,
            more: found.more,
            data: data.to_vec(),
            header,
            packet_len: packet.len(),
            dont_fragment: false,
            ecn: 1 << (view.traffic_class() & 3),
            packet: packet.to_vec(),
        };
        match self.add(now, lifetime, arrival, key, part, 65535) {
            Ok(Some(datagram)) => finish_v6(datagram).map_or(Reassembly::Refused, Reassembly::Whole),
            Ok(None) => Reassembly::Waits,
            Err(refused) => refused,
        }
    }

    fn add(
        &mut self,
        now: Nanos,
        lifetime: Nanos,
        arrival: InterfaceId,
        key: DatagramKey,
        part: Part,
        room: usize,
    ) -> Result<Option<Datagram>, Reassembly> {
        if !self.datagrams.contains_key(&key) {
            if self.bytes >= MAX_BYTES {
                return Err(Reassembly::Refused);
            }
            self.order += 1;
            // A wheel carries out what was put into it last first.
            let (expires, order) = match self.wheel {
                None => (now + lifetime, self.order),
                Some(wheel) => (wheel.fires(now + lifetime, lifetime), u64::MAX - self.order),
            };
            self.timers.insert((expires, order, key));
            self.bytes += OVERHEAD;
            self.datagrams.insert(
                key,
                Datagram {
                    parts: Vec::new(),
                    received: 0,
                    end: None,
                    header: None,
                    first: None,
                    longest: 0,
                    longest_dont_fragment: 0,
                    ecn: 0,
                    expires,
                    arrival,
                },
            );
        }
        // The entry was just made if it was missing.
        let Some(datagram) = self.datagrams.get_mut(&key) else { return Err(Reassembly::Refused) };
        let before = datagram.received;
        match datagram.insert(part, room) {
            Ok(()) => {
                self.bytes += (datagram.received - before) + OVERHEAD;
                let whole = datagram.end == Some(datagram.received) && datagram.header.is_some();
                Ok(if whole { self.take(&key) } else { None })
            }
            Err(Insert::Duplicate) => Err(Reassembly::Waits),
            Err(Insert::Overlap) => {
                self.take(&key);
                Err(Reassembly::Overlap)
            }
            Err(Insert::Malformed) => {
                self.take(&key);
                Err(Reassembly::Refused)
            }
        }
    }

    fn take(&mut self, key: &DatagramKey) -> Option<Datagram> {
        let datagram = self.datagrams.remove(key)?;
        self.bytes = self.bytes.saturating_sub(datagram.received + (datagram.parts.len() + 1) * OVERHEAD);
        let timer = self.timers.iter().find(|(time, _, other)| *time == datagram.expires && other == key).copied();
        if let Some(timer) = timer {
            self.timers.remove(&timer);
        }
        Some(datagram)
    }

    /// When the next datagram's time is over.
    pub fn next_timer(&self) -> Option<Nanos> {
        self.timers.first().map(|(time, _, _)| *time)
    }

    /// Gives up the first datagram whose time is over at `now`.
    pub fn fire(&mut self, now: Nanos) -> Option<Expired> {
        let (time, _, key) = *self.timers.first().filter(|(time, _, _)| *time <= now)?;
        let datagram = self.take(&key)?;
        Some(Expired { time, arrival: datagram.arrival, first: datagram.first })
    }
}

enum Insert {
    Duplicate,
    Overlap,
    Malformed,
}

impl Datagram {
    fn insert(&mut self, mut part: Part, room: usize) -> Result<(), Insert> {
        if part.more {
            // All but the last fragment hold a multiple of 8 bytes; the rest is not counted.
            part.data.truncate(part.data.len() & !7);
            let end = part.offset + part.data.len();
            if self.end.is_some_and(|known| end > known) {
                return Err(Insert::Malformed);
            }
        } else {
            let end = part.offset + part.data.len();
            let reached = self.parts.last().map_or(0, |(offset, data)| offset + data.len());
            if self.end.is_some_and(|known| known != end) || end < reached {
                return Err(Insert::Malformed);
            }
            self.end = Some(end);
        }
        let (start, end) = (part.offset, part.offset + part.data.len());
        if start == end || end > room {
            return Err(Insert::Malformed);
        }
        let at = self.parts.partition_point(|(offset, _)| *offset < start);
        let inside = |(offset, data): &(usize, Vec<u8>)| start >= *offset && end <= offset + data.len();
        if self.parts.get(at).is_some_and(inside) || at > 0 && self.parts.get(at - 1).is_some_and(inside) {
            return Err(Insert::Duplicate);
        }
        let clear_before = at == 0 || self.parts.get(at - 1).is_none_or(|(offset, data)| offset + data.len() <= start);
        if !clear_before || self.parts.get(at).is_some_and(|(offset, _)| *offset < end) {
            return Err(Insert::Overlap);
        }
        self.received += part.data.len();
        self.longest = self.longest.max(part.packet_len);
        if part.dont_fragment {
            self.longest_dont_fragment = self.longest_dont_fragment.max(part.packet_len);
        }
        self.ecn |= part.ecn;
        if part.header.is_some() {
            self.header = part.header;
            self.first = Some(part.packet);
        }
        self.parts.insert(at, (start, part.data));
        Ok(())
    }

    fn part_lengths(&self) -> Vec<usize> {
        self.parts.iter().map(|(_, data)| data.len()).collect()
    }

    fn body(&self) -> impl Iterator<Item = u8> + '_ {
        self.parts.iter().flat_map(|(_, data)| data.iter().copied())
    }
}

/// The ECN bits of a datagram from those of its fragments (RFC 3168 section 5.3); none: they can't go together.
fn joined_ecn(seen: u8) -> Option<u8> {
    const NOT_CAPABLE: u8 = 1;
    const CONGESTION: u8 = 1 << 3;
    match (seen & CONGESTION != 0, seen & NOT_CAPABLE != 0, seen == CONGESTION) {
        (true, true, _) => None,
        (true, false, false) => Some(3),
        _ => Some(0),
    }
}

fn finish_v4(datagram: Datagram) -> Option<Whole> {
    let mut packet = datagram.header.clone()?;
    packet[1] |= joined_ecn(datagram.ecn)?;
    packet.extend(datagram.body());
    let dont_fragment = datagram.longest_dont_fragment != 0 && datagram.longest_dont_fragment == datagram.longest;
    let len = u16::try_from(packet.len()).ok()?;
    let mut view = Ipv4::new_checked(&mut packet[..]).ok()?;
    view.set_total_len(len);
    view.set_flags_and_offset(if dont_fragment { ipv4::DONT_FRAGMENT } else { 0 });
    view.fill_checksum();
    Some(Whole { packet, longest: datagram.longest, dont_fragment, parts: datagram.part_lengths() })
}

fn finish_v6(datagram: Datagram) -> Option<Whole> {
    let mut packet = datagram.header.clone()?;
    let ecn = joined_ecn(datagram.ecn)?;
    packet[1] |= ecn << 4;
    packet.extend(datagram.body());
    let len = u16::try_from(packet.len() - ipv6::HEADER_LEN).ok()?;
    Ipv6::new_checked(&mut packet[..]).ok()?.set_payload_len(len);
    Some(Whole { packet, longest: datagram.longest, dont_fragment: false, parts: datagram.part_lengths() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fragment::{cut_v4, cut_v6, cuts_v4, cuts_v6};
    use super::*;
    use crate::packet::ipv4::Ipv4Fields;
    use proptest::prelude::*;

    fn packet(body: usize, dont_fragment: bool) -> Vec<u8> {
        let fields = Ipv4Fields {
            tos: 0,
            total_len: (20 + body) as u16,
            id: 77,
            dont_fragment,
            ttl: 64,
            protocol: 17,
            source: [203, 0, 113, 5].into(),
            destination: [200, 200, 200, 1].into(),
        };
        let mut bytes = fields.header().to_vec();
        bytes.extend((0..body).map(|byte| byte as u8));
        bytes
    }

    fn pieces(packet: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        cut_v4(packet, &cuts_v4(packet, limit, &[]), false, |piece| all.push(piece.to_vec()));
        all
    }

    fn add(table: &mut Fragments, piece: &[u8]) -> Reassembly {
        table.add_v4(Nanos(0), Nanos::from_secs(30), 0, InterfaceId(0), piece)
    }

    #[test]
    fn overlap_gives_up() {
        let all = pieces(&packet(3000, false), 1500);
        let mut table = Fragments::default();
        assert_eq!(add(&mut table, &all[0]), Reassembly::Waits);
        assert_eq!(add(&mut table, &all[0]), Reassembly::Waits, "a duplicate is no overlap");
        let shifted = pieces(&packet(3000, false), 1000);
        assert_eq!(add(&mut table, &shifted[1]), Reassembly::Overlap);
        assert!(table.next_timer().is_none() && table.bytes == 0);
    }

    #[test]
    fn time_over() {
        let all = pieces(&packet(3000, false), 1500);
        let mut table = Fragments::default();
        add(&mut table, &all[0]);
        assert!(table.fire(Nanos::from_secs(29)).is_none());
        let expired = table.fire(Nanos::from_secs(31)).unwrap();
        assert_eq!((expired.time, expired.first), (Nanos::from_secs(30), Some(all[0].clone())));
    }

    proptest! {
        #[test]
        fn cut_and_joined(body in 1usize..9000, limit in 68usize..1600, order: u64, dont_fragment: bool) {
            let whole = packet(body, dont_fragment);
            let mut all = Vec::new();
            cut_v4(&whole, &cuts_v4(&whole, limit, &[]), dont_fragment, |piece| all.push(piece.to_vec()));
            prop_assert!(all.iter().all(|piece| piece.len() <= limit));
            let longest = all.iter().map(Vec::len).max().unwrap();
            if all.len() > 1 {
                let len = all.len();
                let parts = all.iter().map(|piece| piece.len() - 20).collect();
                for index in 0..len {
                    all.swap(index, (order as usize).wrapping_add(index * 7) % len);
                }
                let mut table = Fragments::default();
                let mut last = Reassembly::Waits;
                for piece in &all {
                    prop_assert_eq!(&last, &Reassembly::Waits);
                    last = add(&mut table, piece);
                }
                prop_assert_eq!(last, Reassembly::Whole(Whole { packet: whole, longest, dont_fragment, parts }));
                prop_assert_eq!(table.bytes, 0);
            }
        }

        #[test]
        fn v6_cut_and_joined(body in 1usize..9000, limit in 1280usize..1600) {
            let mut whole = Vec::new();
            let fields = ipv6::Ipv6Fields { traffic_class: 0, flow_label: 5, payload_len: body as u16 + 8, next_header: 0,
                hop_limit: 64, source: "2001:db8::5".parse().unwrap(), destination: "2001:db8::1".parse().unwrap() };
            fields.write(&mut whole);
            whole.extend_from_slice(&[17, 0, 1, 4, 0, 0, 0, 0]);
            whole.extend((0..body).map(|byte| byte as u8));
            let mut all = Vec::new();
            cut_v6(&whole, &cuts_v6(&whole, limit, &[]), 9, |piece| all.push(piece.to_vec()));
            prop_assert!(all.iter().all(|piece| piece.len() <= limit));
            let mut table = Fragments::default();
            let mut last = Reassembly::Waits;
            for piece in all.iter().rev() {
                let found = ipv6::walk(piece).unwrap().fragment.unwrap();
                last = table.add_v6(Nanos(0), Nanos::from_secs(60), 0, InterfaceId(0), piece, found);
            }
            let Reassembly::Whole(joined) = last else { panic!("not whole") };
            prop_assert_eq!(joined.packet, whole);
        }

        #[test]
        fn strange_fragments_do_not_panic(pieces in proptest::collection::vec((0u16..40, any::<bool>(), 0usize..64), 1..40)) {
            let mut table = Fragments::default();
            for (offset, more, len) in pieces {
                let mut piece = packet(len, false);
                Ipv4::new_checked(&mut piece[..]).unwrap()
                    .set_flags_and_offset(offset | if more { ipv4::MORE_FRAGMENTS } else { 0 });
                add(&mut table, &piece);
            }
        }
    }
}
