//! The director's tables as plain data, for whoever prints them (`ipvsadm -Ln`, `--stats`, `-Lcn`).

use crate::config::{Protocol, ServerKey, ServerSettings, ServiceKey, ServiceSettings};
use crate::time::Nanos;
use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

/// Packets and bytes; bytes are IP total lengths, as IPVS counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets towards real servers.
    pub in_packets: u64,
    /// Packets from real servers.
    pub out_packets: u64,
    /// Bytes towards real servers.
    pub in_bytes: u64,
    /// Bytes from real servers.
    pub out_bytes: u64,
}

impl Counters {
    /// What was counted beyond an earlier reading.
    pub(crate) fn since(&self, earlier: &Counters) -> Counters {
        Counters {
            connections: self.connections.saturating_sub(earlier.connections),
            in_packets: self.in_packets.saturating_sub(earlier.in_packets),
            out_packets: self.out_packets.saturating_sub(earlier.out_packets),
            in_bytes: self.in_bytes.saturating_sub(earlier.in_bytes),
            out_bytes: self.out_bytes.saturating_sub(earlier.out_bytes),
        }
    }
}

/// A service with its real servers, in list order (the newest real server first).
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// Its number, as verdicts name it.
    pub number: u32,
    /// What identifies it.
    pub key: ServiceKey,
    /// Its settings.
    pub settings: ServiceSettings,
    /// What passed.
    pub counters: Counters,
    /// Its real servers.
    pub servers: Vec<ServerView>,
    /// DPVS: its local addresses, each with the ports in use and the connections it serves.
    pub local_addresses: Vec<LocalAddressView>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerView {
    /// Its number, as verdicts name it.
    pub number: u32,
    /// What identifies it.
    pub key: ServerKey,
    /// Its settings.
    pub settings: ServerSettings,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// What passed.
    pub counters: Counters,
}

/// Sorts what is listed as ipvsadm does: merged from halves, by an order in which IPv4 addresses, and IPv6 addresses word by
/// word, come by their difference in 32 bits, which is less than nothing when they are more than half of all addresses apart
/// (172.16.0.11 is listed before 10.0.0.1). With three far addresses that order goes round in a circle, which the standard
/// library's sorting may refuse.
pub(crate) fn sort<T: Clone>(items: &mut [T], compare: &impl Fn(&T, &T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let (left, right) = items.split_at_mut(items.len() / 2);
    sort(left, compare);
    sort(right, compare);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let from_right = compare(a, b) == Ordering::Greater;
        merged.extend(if from_right { right.next() } else { left.next() }.cloned());
    }
    merged.extend(left.chain(right).cloned());
    items.clone_from_slice(&merged);
}

/// Which of two addresses ipvsadm lists first; IPv4 comes before IPv6.
pub(crate) fn compare_addresses(a: IpAddr, b: IpAddr) -> Ordering {
    let by_difference = |a: u32, b: u32| (a.wrapping_sub(b) as i32).cmp(&0);
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => by_difference(a.into(), b.into()),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let words = |address: std::net::Ipv6Addr| [96, 64, 32, 0].map(|shift| (u128::from(address) >> shift) as u32);
            let differ = words(a).into_iter().zip(words(b)).find(|(a, b)| a != b);
            differ.map_or(Ordering::Equal, |(a, b)| by_difference(a, b))
        }
        (a, b) => a.is_ipv6().cmp(&b.is_ipv6()),
    }
}

/// A local address of a DPVS service.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalAddressView {
    /// The address.
    pub address: IpAddr,
    /// Connections that use it.
    pub connections: u64,
    /// Ports in use in its fullest pool.
    pub ports_in_use: u32,
    /// Ports that a pool holds in all.
    pub ports: u32,
    /// Connections that found no port.
    pub exhausted: u64,
}

/// A line of `ipvsadm -Lcn`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionView {
    /// Its protocol; [`Protocol::ANY`] for templates of mark services.
    pub protocol: Protocol,
    /// Client address (masked in a template) and port.
    pub client: SocketAddr,
    /// Virtual address and port; the mark as an address in templates of mark services.
    pub service: SocketAddr,
    /// Real server and port.
    pub destination: SocketAddr,
    /// FULLNAT: the local address and port.
    pub local: Option<SocketAddr>,
    /// Its state under the name that /proc shows.
    pub state: &'static str,
    /// How long it would live from now without another packet.
    pub expires: Nanos,
    /// The persistence engine's data, such as a Call-ID.
    pub persistence_data: Option<Vec<u8>>,
}

/// DPVS: how often the clients' addresses reached the real servers of a service, and how often they could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientAddressCounts {
    /// Segments that carry TOA.
    pub toa: u64,
    /// Of them, those whose other options had to give way.
    pub toa_after_pruning: u64,
    /// Segments that should carry TOA and left without, for want of option room.
    pub no_option_room: u64,
    /// Segments that should carry TOA and left without, because they would have become longer than the MTU.
    pub longer_than_mtu: u64,
    /// Segments of clients that held a TOA option of the client's own making.
    pub forged: u64,
    /// Datagrams that carry UOA.
    pub uoa: u64,
    /// UOA that went ahead in a datagram of its own, because the datagram had no room.
    pub uoa_ahead: u64,
    /// PROXY headers that were put in front of payload.
    pub proxy_headers: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn far_addresses_are_listed_by_their_difference() {
        let sorted = |texts: &[&str]| {
            let mut addresses: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            sort(&mut addresses, &|a, b| compare_addresses(*a, *b));
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(sorted(&["10.0.0.1", "172.16.0.11", "10.0.0.0"]), ["172.16.0.11", "10.0.0.0", "10.0.0.1"]);
        assert_eq!(sorted(&["2001:db8::2", "192.0.2.1", "2001:db8::1"]), ["192.0.2.1", "2001:db8::1", "2001:db8::2"]);
        // In a circle: each comes before the next.
        assert_eq!(sorted(&["0.0.0.1", "85.0.0.1", "170.0.0.1", "255.0.0.1"]), ["170.0.0.1", "255.0.0.1", "0.0.0.1", "85.0.0.1"]);
    }
}
