//! Traffic and directors that the benchmarks share: TCP clients in turn, SYN first, to one service of four real servers.

use lvscheck_engine::config::{
    Address, AddressScope, Command, ForwardingMethod, Interface, InterfaceId, MacAddr, NeighbourEntry, Network, Protocol, Route,
    RouteKind, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings,
};
use lvscheck_engine::packet::ethernet::{self, ether_type};
use lvscheck_engine::packet::ipv4::Ipv4Fields;
use lvscheck_engine::packet::ipv6::Ipv6Fields;
use lvscheck_engine::packet::tcp::{CHECKSUM_AT, HEADER_LEN, TcpFields, flags};
use lvscheck_engine::packet::{FlowKey, checksum};
use lvscheck_engine::{Arrival, DirectorConfig, Nanos};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const FRONT: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const BACK: MacAddr = MacAddr([2, 0, 0, 0, 2, 0]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(200, 200, 200, 1);
/// Frames start here: when the first one arrives.
const START: Nanos = Nanos::from_secs(1_700_000_000);

/// A client's flow by its number.
pub fn flow(number: usize) -> FlowKey {
    let client = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (number / 50_000) as u32);
    FlowKey {
        protocol: 6,
        source: client.into(),
        destination: VIP.into(),
        source_port: 1024 + (number % 50_000) as u16,
        destination_port: 80,
    }
}

/// A TCP segment in IP, of so many bytes in all. A destination of IPv6 gives a packet of IPv6.
pub fn packet(flow: FlowKey, tcp_flags: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total_len = len as u16;
            Ipv4Fields { tos: 0, total_len, id: 7, dont_fragment: true, ttl: 64, protocol: 6, source, destination }
                .write(&mut bytes);
        }
        (source, destination) => {
            let (source, destination) = (v6(source), v6(destination));
            let payload_len = (len - 40) as u16;
            Ipv6Fields { traffic_class: 0, flow_label: 0, payload_len, next_header: 6, hop_limit: 64, source, destination }
                .write(&mut bytes);
        }
    }
    let start = bytes.len();
    let fields = TcpFields {
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        sequence: 1,
        acknowledgement: 1,
        flags: tcp_flags,
        window: 64_000,
    };
    bytes.extend_from_slice(&fields.header(0));
    bytes.extend((start + HEADER_LEN..len).map(|number| number as u8));
    let sum = checksum::pseudo_header(flow.source, flow.destination, 6, len - start).bytes(&bytes[start..]);
    bytes[start + CHECKSUM_AT..start + CHECKSUM_AT + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    bytes
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Frames of clients that take turns: each sends a SYN, then segments with data, of so many bytes without FCS.
pub fn frames(flows: usize, packets: usize, len: usize) -> Vec<Vec<u8>> {
    (0..packets)
        .map(|number| {
            let tcp_flags = if number < flows { flags::SYN } else { flags::PSH | flags::ACK };
            let mut frame = Vec::with_capacity(len);
            ethernet::write(&mut frame, FRONT, ROUTER, &[], ether_type::IPV4);
            frame.extend_from_slice(&packet(flow(number % flows), tcp_flags, len - ethernet::HEADER_LEN));
            frame
        })
        .collect()
}

/// The frames as they arrive, a microsecond apart.
pub fn arrivals<'a>(frames: &'a [Vec<u8>]) -> Vec<Arrival<'a>> {
    let arrival = |(number, frame): (usize, &'a Vec<u8>)| Arrival {
        time: START + Nanos(1000 * number as u64),
        interface: InterfaceId(0),
        frame,
        wire_len: frame.len() as u32,
    };
    frames.iter().enumerate().map(arrival).collect()
}

/// The commands for one service with four real servers.
pub fn service(scheduler: SchedulerKind, method: ForwardingMethod) -> Vec<Command> {
    let service = ServiceKey::Address { protocol: Protocol::TCP, address: VIP.into(), port: 80 };
    let settings = ServiceSettings { scheduler, ..ServiceSettings::default() };
    let mut commands = vec![Command::AddService { service: service.clone(), settings }];
    commands.extend((0..4).map(|number| Command::AddServer {
        service: service.clone(),
        server: ServerKey { address: server(number), port: 80 },
        settings: ServerSettings { method, weight: 1, upper_threshold: 0, lower_threshold: 0 },
    }));
    commands
}

/// The real server of that number.
pub fn server(number: u8) -> IpAddr {
    [10, 0, 0, 11 + number].into()
}

/// A director with a client side and a server side, all of whose neighbours are known.
pub fn director(method: ForwardingMethod) -> DirectorConfig {
    let mut config = DirectorConfig {
        interfaces: vec![
            interface("eth0", FRONT, &[(Ipv4Addr::new(192, 0, 2, 1), 24), (VIP, 32)]),
            interface("eth1", BACK, &[(Ipv4Addr::new(10, 0, 0, 1), 24)]),
        ],
        commands: service(SchedulerKind::Rr, method),
        ..DirectorConfig::default()
    };
    let router: IpAddr = [192, 0, 2, 254].into();
    config.routes.push(Route {
        destination: Network::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        gateway: Some(router),
        interface: Some(InterfaceId(0)),
        source: None,
        mtu: None,
        metric: 0,
        kind: RouteKind::Unicast,
    });
    let neighbour = |address, mac, interface| NeighbourEntry { address, mac, interface, permanent: true };
    config.neighbours.push(neighbour(router, ROUTER, InterfaceId(0)));
    config.neighbours.extend((0..4).map(|number| neighbour(server(number), MacAddr([2, 0, 0, 0, 0xa, number]), InterfaceId(1))));
    config.sysctls.set("net.ipv4.ip_forward", "1").expect("the kernel has this setting");
    config
}

fn interface(name: &str, mac: MacAddr, addresses: &[(Ipv4Addr, u8)]) -> Interface {
    let addresses = addresses
        .iter()
        .map(|(address, prefix_len)| Address {
            address: IpAddr::V4(*address),
            prefix_len: *prefix_len,
            scope: AddressScope::Global,
            secondary: false,
            sapool: false,
        })
        .collect();
    Interface { name: name.to_owned(), mac, mtu: 1500, addresses, vlan: None, loopback: false, up: true }
}
