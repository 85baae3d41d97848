//! The bytes of one generated frame: what a real client sends, with right checksums.
//!
//! A frame is a function of the seed, the flow and the place within the flow. TCP clients send SYN with an MSS option, ACK,
//! data, FIN; SCTP clients INIT, COOKIE-ECHO, DATA, SHUTDOWN; UDP clients datagrams. The handshake is the client's half: what
//! a server would have answered only shows in the acknowledgement numbers.

use super::mix::{Mix, scramble};
use super::order::Place;
use lvscheck_engine::config::{Family, MacAddr, Network, Protocol};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const ETHERNET: usize = 14;
/// The shortest Ethernet frame without FCS; shorter ones are padded with zeros.
const SHORTEST: usize = 60;
/// The longest frame without FCS that is generated: a jumbo frame.
pub(super) const LONGEST: u32 = 9_014;
/// Ports that clients use, 1024 to 65535: none of them has a meaning for IPVS (port 20 has).
pub(super) const CLIENT_PORTS: u64 = 64_512;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// All that frames are made of.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub seed: u64,
    /// Sizes on the wire, with FCS.
    pub sizes: Mix<u32>,
    pub families: Mix<FamilyName>,
    pub protocols: Mix<ProtocolName>,
    pub services: Vec<SocketAddr>,
    pub clients: Vec<Network>,
    pub director_mac: MacAddr,
    /// The router in front of the director; none: clients are on the link, each with its own address.
    pub router_mac: Option<MacAddr>,
    /// Connections stay open: no FIN, no SHUTDOWN.
    pub leave_open: bool,
    pub payload: Payload,
}

/// `tcp`, `udp`, `sctp` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolName(pub Protocol);

impl std::str::FromStr for ProtocolName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<ProtocolName, &'static str> {
        match text {
            "tcp" => Ok(ProtocolName(Protocol::TCP)),
            "udp" => Ok(ProtocolName(Protocol::UDP)),
            "sctp" => Ok(ProtocolName(Protocol::SCTP)),
            _ => Err("a protocol is tcp, udp or sctp"),
        }
    }
}

/// `ipv4`, `ipv6` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyName(pub Family);

impl std::str::FromStr for FamilyName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<FamilyName, &'static str> {
        match text {
            "ipv4" => Ok(FamilyName(Family::Ipv4)),
            "ipv6" => Ok(FamilyName(Family::Ipv6)),
            _ => Err("a family is ipv4 or ipv6"),
        }
    }
}

/// Payload bytes with the sums of all their beginnings, so that a checksum over them costs one look-up.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    bytes: Vec<u8>,
    /// Sum of the 16-bit words before each even offset.
    sums: Vec<u32>,
}

impl Payload {
    pub fn new(seed: u64) -> Payload {
        let bytes: Vec<u8> = (0..u64::from(LONGEST).div_ceil(8)).flat_map(|word| scramble(seed ^ word).to_be_bytes()).collect();
        let mut sums = vec![0];
        let mut sum = 0;
        for word in bytes.as_chunks::<2>().0 {
            sum += u32::from(u16::from_be_bytes(*word));
            sums.push(sum);
        }
        Payload { bytes, sums }
    }

    /// The first bytes and their sum as 16-bit words. Lengths beyond the longest frame are cut.
    fn first(&self, len: usize) -> (&[u8], u64) {
        let bytes = &self.bytes[..len.min(self.bytes.len())];
        let odd = if bytes.len() % 2 == 1 { u64::from(bytes[bytes.len() - 1]) << 8 } else { 0 };
        (bytes, u64::from(self.sums[bytes.len() / 2]) + odd)
    }
}

/// A header being built; the longest (Ethernet, IPv6, SCTP with INIT) takes 86 bytes.
struct Header {
    bytes: [u8; 96],
    len: usize,
}

impl Header {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
    }

    fn set<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        self.bytes[offset..offset + N].copy_from_slice(&bytes);
    }

    /// The sum of the 16-bit words from an offset to the end, whose distance is even.
    fn sum_from(&self, offset: usize) -> u64 {
        self.bytes[offset..self.len].as_chunks::<2>().0.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum()
    }
}

/// Folds a sum of 16-bit words into the Internet checksum (RFC 1071).
fn finish(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Who talks to whom in a flow.
struct Flow {
    hash: u64,
    protocol: Protocol,
    client: IpAddr,
    client_port: u16,
    service: SocketAddr,
}

impl Recipe {
    /// Who a flow is. Each has a client address and port of its own within its family, so no two flows are the same.
    fn flow(&self, number: u64) -> Flow {
        let hash = scramble(self.seed ^ scramble(number));
        let family = self.families.pick(hash).0;
        let protocol = self.protocols.pick(scramble(hash ^ 1)).0;
        let services = || self.services.iter().filter(|service| Family::from(service.ip()) == family);
        let choice = match services().count() {
            0 | 1 => 0,
            several => (scramble(hash ^ 2) % several as u64) as usize,
        };
        let service = services().nth(choice).or(self.services.first()).copied();
        let service = service.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)); // A plan has at least one.
        let networks = || self.clients.iter().filter(|network| Family::from(network.address) == family);
        let hosts: u64 = networks().map(|network| hosts_of(*network)).sum();
        let host = number % hosts.max(1);
        let turn = number / hosts.max(1);
        let client_port = (1024 + (scramble(self.seed ^ !host) % CLIENT_PORTS + turn) % CLIENT_PORTS) as u16;
        let mut left = host;
        let mut client = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for network in networks() {
            let hosts = hosts_of(*network);
            if left < hosts {
                client = host_of(*network, left);
                break;
            }
            left -= hosts;
        }
        Flow { hash, protocol, client, client_port, service }
    }

    /// Appends the frame of one place to `out`.
    pub fn frame(&self, place: Place, out: &mut Vec<u8>) {
        let flow = self.flow(place.flow);
        let size = self.size_of(&flow, place.step);
        let mut header = Header { bytes: [0; 96], len: 0 };
        header.put(self.director_mac.0);
        header.put(self.router_mac.map_or_else(|| on_link_mac(flow.client), |mac| mac.0));
        let ip_len = match flow.client {
            IpAddr::V4(_) => 20,
            IpAddr::V6(_) => 40,
        };
        header.put(if ip_len == 20 { [0x08, 0x00] } else { [0x86, 0xdd] });
        header.len += ip_len;
        let room = size.saturating_sub(ETHERNET + ip_len);
        let wanted = match flow.protocol {
            Protocol::TCP => self.tcp(&flow, place, room, &mut header),
            Protocol::UDP => self.udp(&flow, room, &mut header),
            _ => self.sctp(&flow, place, room, &mut header),
        };
        let (payload, payload_sum) = self.payload.first(wanted);
        let transport = ETHERNET + ip_len;
        let transport_len = header.len - transport + payload.len();
        let pseudo = ip(&mut header, &flow, place, transport_len, self.router_mac.is_some());
        match flow.protocol {
            Protocol::TCP => {
                let checksum = finish(pseudo + header.sum_from(transport) + payload_sum);
                header.set(transport + 16, checksum.to_be_bytes());
            }
            Protocol::UDP => {
                let length = (transport_len as u16).to_be_bytes();
                header.set(transport + 4, length);
                let checksum = finish(pseudo + header.sum_from(transport) + payload_sum);
                header.set(transport + 6, if checksum == 0 { [0xff; 2] } else { checksum.to_be_bytes() });
            }
            _ => {
                let sum = crc32c::crc32c_append(crc32c::crc32c(&header.bytes[transport..header.len]), payload);
                header.set(transport + 8, sum.to_le_bytes());
            }
        }
        out.extend_from_slice(&header.bytes[..header.len]);
        out.extend_from_slice(payload);
        let len = header.len + payload.len();
        if len < SHORTEST {
            out.extend_from_slice(&[0; SHORTEST][len..]);
        }
    }

    /// The size without FCS that a packet is to have.
    fn size_of(&self, flow: &Flow, step: u64) -> usize {
        self.sizes.pick(scramble(flow.hash ^ (step << 8) ^ 3)).saturating_sub(4) as usize
    }

    /// Whether this place closes the connection, by the last packet of a flow that has at least one more than opens it.
    fn closes(&self, place: Place, opening: u64) -> bool {
        !self.leave_open && place.step + 1 == place.of && place.step >= opening
    }

    fn tcp(&self, flow: &Flow, place: Place, room: usize, header: &mut Header) -> usize {
        header.put(flow.client_port.to_be_bytes());
        header.put(flow.service.port().to_be_bytes());
        let first = scramble(flow.hash ^ 4) as u32;
        let theirs = scramble(flow.hash ^ 5) as u32;
        let wanted = room.saturating_sub(20);
        if place.step == 0 {
            header.put(first.to_be_bytes());
            header.put([0; 4]);
            header.put([0x60, SYN, 0xfa, 0xf0, 0, 0, 0, 0, 2, 4, 0x05, 0xb4]);
            return 0;
        }
        let flags = match (self.closes(place, 2), wanted) {
            (true, 0) => FIN | ACK,
            (true, _) => FIN | PSH | ACK,
            (false, 0) => ACK,
            (false, _) => PSH | ACK,
        };
        header.put(first.wrapping_add(1).wrapping_add(self.sent_before(flow, place.step)).to_be_bytes());
        header.put(theirs.wrapping_add(1).to_be_bytes());
        header.put([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        wanted
    }

    /// How many bytes of payload a TCP flow sent in the data packets before one, modulo 2^32.
    fn sent_before(&self, flow: &Flow, step: u64) -> u32 {
        let headers = ETHERNET + if flow.client.is_ipv4() { 20 } else { 40 } + 20;
        let carried = |step| self.size_of(flow, step).saturating_sub(headers) as u32;
        if self.sizes.values().nth(1).is_none() {
            return carried(step).wrapping_mul((step - 1) as u32);
        }
        (1..step).fold(0, |sent: u32, earlier| sent.wrapping_add(carried(earlier)))
    }

    fn udp(&self, flow: &Flow, room: usize, header: &mut Header) -> usize {
        header.put(flow.client_port.to_be_bytes());
        header.put(flow.service.port().to_be_bytes());
        header.put([0; 4]);
        room.saturating_sub(8)
    }

    /// Chunks are whole words, so a frame may be up to three bytes shorter than asked for.
    fn sctp(&self, flow: &Flow, place: Place, room: usize, header: &mut Header) -> usize {
        header.put(flow.client_port.to_be_bytes());
        header.put(flow.service.port().to_be_bytes());
        let tag = if place.step == 0 { 0 } else { scramble(flow.hash ^ 6) as u32 | 1 };
        header.put(tag.to_be_bytes());
        header.put([0; 4]);
        let first = scramble(flow.hash ^ 7) as u32;
        if place.step == 0 {
            header.put([1, 0, 0, 20]);
            header.put((scramble(flow.hash ^ 8) as u32 | 1).to_be_bytes());
            header.put([0, 1, 0xa0, 0, 0, 10, 0xff, 0xff]);
            header.put(first.to_be_bytes());
            0
        } else if place.step == 1 {
            let cookie = (room.saturating_sub(16) & !3).max(16);
            header.put([10, 0]);
            header.put(((cookie + 4) as u16).to_be_bytes());
            cookie
        } else if self.closes(place, 2) {
            header.put([7, 0, 0, 8]);
            header.put((scramble(flow.hash ^ 9) as u32).to_be_bytes());
            0
        } else {
            let data = (room.saturating_sub(28) & !3).max(4);
            let number = (place.step - 2) as u32;
            header.put([0, 3]);
            header.put(((data + 16) as u16).to_be_bytes());
            header.put(first.wrapping_add(number).to_be_bytes());
            header.put([0, 0]);
            header.put((number as u16).to_be_bytes());
            header.put([0; 4]);
            data
        }
    }
}

/// Fills the IP header in; returns the sum of the transport's pseudo header.
fn ip(header: &mut Header, flow: &Flow, place: Place, transport_len: usize, routed: bool) -> u64 {
    let lifetime = 64 - u8::from(routed);
    let addresses = match (flow.client, flow.service.ip()) {
        (IpAddr::V4(client), IpAddr::V4(service)) => {
            let identification = (scramble(flow.hash ^ 10)).wrapping_add(place.step) as u16;
            header.set(ETHERNET, [0x45, 0]);
            header.set(ETHERNET + 2, ((20 + transport_len) as u16).to_be_bytes());
            header.set(ETHERNET + 4, identification.to_be_bytes());
            header.set(ETHERNET + 6, [0x40, 0, lifetime, flow.protocol.0]);
            header.set(ETHERNET + 12, client.octets());
            header.set(ETHERNET + 16, service.octets());
            let words = header.bytes[ETHERNET..ETHERNET + 20].as_chunks::<2>().0;
            let sum = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
            header.set(ETHERNET + 10, finish(sum).to_be_bytes());
            ETHERNET + 12..ETHERNET + 20
        }
        (client, service) => {
            let octets = |address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let label = scramble(flow.hash ^ 11) as u32 & 0xf_ffff;
            header.set(ETHERNET, (6 << 28 | label).to_be_bytes());
            header.set(ETHERNET + 4, (transport_len as u16).to_be_bytes());
            header.set(ETHERNET + 6, [flow.protocol.0, lifetime]);
            header.set(ETHERNET + 8, octets(client));
            header.set(ETHERNET + 24, octets(service));
            ETHERNET + 8..ETHERNET + 40
        }
    };
    let words = header.bytes[addresses].as_chunks::<2>().0;
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + u64::from(flow.protocol.0) + transport_len as u64
}

/// How many clients a network holds: all but its first and last address; at most 2^32.
pub(super) fn hosts_of(network: Network) -> u64 {
    let bits = match network.address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    } - u32::from(network.prefix_len);
    match bits {
        0 => 1,
        1 => 2,
        2..=32 => (1 << bits) - 2,
        _ => 1 << 32,
    }
}

fn host_of(network: Network, number: u64) -> IpAddr {
    let number = if hosts_of(network) > 2 { number + 1 } else { number };
    match network.address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address).wrapping_add(number as u32)).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address).wrapping_add(u128::from(number))).into()),
    }
}

/// The Ethernet address of a client on the link: locally administered, with the last four bytes of its IP address.
pub(super) fn on_link_mac(client: IpAddr) -> [u8; 6] {
    let low = match client {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => u128::from(address) as u32,
    };
    let [a, b, c, d] = low.to_be_bytes();
    [0x02, 0xc1, a, b, c, d]
}
