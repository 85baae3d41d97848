//! Random directors, with odd settings, and random traffic for them, with odd packets.

use super::*;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn vip(v6: bool, number: u8) -> IpAddr {
    if v6 { ip(&format!("2001:db8:200::{}", number + 1)) } else { IpAddr::from([200, 200, 200, number + 1]) }
}

pub(super) fn client(v6: bool, number: u8) -> IpAddr {
    if v6 { ip(&format!("2001:db8:c::{}", number + 1)) } else { IpAddr::from([203, 0, 113, number + 1]) }
}

pub(super) fn server(v6: bool, number: u8) -> IpAddr {
    if v6 { ip(&format!("fd00:10::{}", number + 0x11)) } else { IpAddr::from([10, 0, 0, number + 11]) }
}

pub(super) fn service_key(number: u8) -> ServiceKey {
    let (v6, protocol) = (number % 4 == 3, if number % 2 == 1 { Protocol::UDP } else { Protocol::TCP });
    ServiceKey::Address { protocol, address: vip(v6, number % 3), port: [80, 53, 443][usize::from(number) % 3] }
}

/// Services differ by number; more than these would repeat keys.
pub(super) const SERVICES: u8 = 6;

#[derive(Clone, Debug)]
pub(super) struct ServerPlan {
    pub(super) method: u8,
    pub(super) weight: u32,
    pub(super) upper: u32,
    pub(super) port: u16,
    pub(super) neighbour: u8,
}

#[derive(Clone, Debug)]
pub(super) struct ServicePlan {
    pub(super) scheduler: SchedulerKind,
    pub(super) flags: SchedulerFlags,
    pub(super) persistence: Option<u32>,
    pub(super) one_packet: bool,
    pub(super) servers: Vec<ServerPlan>,
}

pub(super) fn schedulers() -> impl Strategy<Value = SchedulerKind> {
    let kinds: Vec<SchedulerKind> =
        SchedulerKind::NAMES.iter().map(|(_, kind)| *kind).filter(|kind| *kind != SchedulerKind::Conhash).collect();
    prop::sample::select(kinds)
}

pub(super) fn servers(plain: bool) -> impl Strategy<Value = Vec<ServerPlan>> {
    let odd = u32::from(!plain);
    let method = prop_oneof![4 => Just(0u8), 4 => Just(1), odd => Just(2)];
    let one = (
        prop_oneof![8 => 1u32..4, odd => Just(0)],
        prop_oneof![9 => Just(0u32), odd => 1u32..4],
        prop_oneof![3 => Just(8080u16), 1 => Just(80), 1 => Just(53)],
        prop_oneof![9 => Just(0u8), odd => 1u8..3],
        any::<bool>(),
    );
    (method, prop::collection::vec(one, 1..4), prop_oneof![9 => Just(false), odd => Just(true)]).prop_map(
        |(method, servers, mixed)| {
            servers
                .into_iter()
                .map(|(weight, upper, port, neighbour, other)| ServerPlan {
                    method: if mixed && other { (method + 1) % 3 } else { method },
                    weight,
                    upper,
                    port,
                    neighbour,
                })
                .collect()
        },
    )
}

pub(super) fn services(plain: bool) -> impl Strategy<Value = Vec<ServicePlan>> {
    let odd = u32::from(!plain);
    let one = (
        schedulers(),
        (any::<bool>(), any::<bool>()),
        prop_oneof![9 => Just(None), odd => (2u32..400).prop_map(Some)],
        prop_oneof![9 => Just(false), odd => Just(true)],
        servers(plain),
    );
    prop::collection::vec(
        one.prop_map(|(scheduler, (fallback, port), persistence, one_packet, servers)| ServicePlan {
            scheduler,
            flags: SchedulerFlags { fallback, port, third: false },
            persistence,
            one_packet,
            servers,
        }),
        1..=usize::from(SERVICES),
    )
}

pub(super) fn settings_of(service: &ServicePlan) -> ServiceSettings {
    ServiceSettings {
        scheduler: service.scheduler,
        flags: service.flags,
        persistence: service.persistence.map(|timeout| Persistence { timeout, prefix_len: 24 }),
        one_packet: service.one_packet,
        ..ServiceSettings::default()
    }
}

pub(super) fn interface(name: &str, mac: MacAddr, addresses: Vec<(IpAddr, u8)>) -> Interface {
    let addresses = addresses
        .into_iter()
        .map(|(address, prefix_len)| Address {
            address,
            prefix_len,
            scope: AddressScope::Global,
            secondary: false,
            sapool: false,
        })
        .collect();
    Interface { name: name.to_owned(), mac, mtu: 1500, addresses, vlan: None, loopback: false, up: true }
}

/// What may be odd about a director besides its services.
#[derive(Clone, Debug)]
pub(super) struct Oddities {
    pub(super) timeouts: Option<(u32, u32, u32)>,
    pub(super) sysctls: Vec<(&'static str, &'static str)>,
    pub(super) vlan: bool,
    pub(super) mark: bool,
    pub(super) changes: Vec<(u64, u8, u8)>,
    pub(super) router_known: bool,
}

pub(super) fn oddities(plain: bool) -> impl Strategy<Value = Oddities> {
    let odd = u32::from(!plain);
    let sysctl = prop::sample::select(vec![
        ("net.ipv4.vs.conn_reuse_mode", "0"),
        ("net.ipv4.vs.conn_reuse_mode", "3"),
        ("net.ipv4.vs.sloppy_tcp", "1"),
        ("net.ipv4.vs.expire_nodest_conn", "1"),
        ("net.ipv4.vs.secure_tcp", "3"),
        ("net.ipv4.vs.nat_icmp_send", "1"),
        ("net.ipv4.vs.drop_packet", "3"),
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.all.accept_local", "1"),
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.ip_forward_use_pmtu", "1"),
    ]);
    (
        prop::option::of((1u32..5, 1u32..5, 1u32..5)),
        prop::collection::vec(sysctl, if plain { 0..1 } else { 0..3 }),
        prop_oneof![6 => Just(false), 1 => Just(true)],
        prop_oneof![9 => Just(false), odd => Just(true)],
        prop::collection::vec((0u64..6_000_000_000, 0u8..8, 0u8..SERVICES), if plain { 0..2 } else { 0..4 }),
        prop_oneof![9 => Just(true), odd => Just(false)],
    )
        .prop_map(|(timeouts, sysctls, vlan, mark, changes, router_known)| Oddities {
            timeouts,
            sysctls,
            vlan,
            mark,
            changes,
            router_known,
        })
}

pub(super) fn director(services: &[ServicePlan], odd: &Oddities) -> DirectorConfig {
    let mut front: Vec<(IpAddr, u8)> = vec![(ip("192.0.2.1"), 24), (ip("2001:db8:1::1"), 64)];
    for number in 0..3 {
        front.push((vip(false, number), 32));
        front.push((vip(true, number), 128));
    }
    let back = vec![(ip("10.0.0.1"), 24), (ip("fd00:10::1"), 64)];
    let mut config = DirectorConfig {
        interfaces: vec![
            interface("eth0", FRONT, front),
            interface("eth1", BACK, if odd.vlan { Vec::new() } else { back.clone() }),
        ],
        ..DirectorConfig::default()
    };
    let mut servers_on = InterfaceId(1);
    if odd.vlan {
        let tag = VlanTag { parent: InterfaceId(1), id: 100, protocol: VlanProtocol::Dot1Q };
        config.interfaces.push(Interface { vlan: Some(tag), ..interface("eth1.100", BACK, back) });
        servers_on = InterfaceId(2);
    }
    for (network, gateway) in [("0.0.0.0", "192.0.2.254"), ("::", "2001:db8:1::fe")] {
        config.routes.push(Route {
            destination: Network::new(ip(network), 0),
            gateway: Some(ip(gateway)),
            interface: Some(InterfaceId(0)),
            source: None,
            mtu: None,
            metric: 0,
            kind: RouteKind::Unicast,
        });
        if odd.router_known {
            let entry = NeighbourEntry { address: ip(gateway), mac: ROUTER, interface: InterfaceId(0), permanent: true };
            config.neighbours.push(entry);
        }
    }
    let mut set = |command| config.commands.push(command);
    for (name, value) in &odd.sysctls {
        set(Command::Sysctl { name: (*name).to_owned(), value: (*value).to_owned() });
    }
    if let Some((tcp, tcp_fin, udp)) = odd.timeouts {
        set(Command::SetTimeouts(TimeoutSettings { tcp: Some(tcp), tcp_fin: Some(tcp_fin), udp: Some(udp) }));
    }
    for (number, service) in services.iter().enumerate() {
        let key = service_key(number as u8);
        set(Command::AddService { service: key.clone(), settings: settings_of(service) });
        for (place, plan) in service.servers.iter().enumerate() {
            set(Command::AddServer {
                service: key.clone(),
                server: server_key(&key, place as u8, plan),
                settings: server_settings(plan, plan.weight),
            });
        }
    }
    if odd.mark {
        config.marks.push(MarkRule { mark: 7, destination: None, protocol: Some(Protocol::UDP), ports: vec![53] });
    }
    for number in 0..4u8 {
        for v6 in [false, true] {
            let state =
                services.iter().flat_map(|service| service.servers.get(usize::from(number))).map(|plan| plan.neighbour).max();
            if state != Some(2) {
                config.neighbours.push(NeighbourEntry {
                    address: server(v6, number),
                    mac: MacAddr([2, 0, 0, 0, 0x0a, number]),
                    interface: servers_on,
                    permanent: state != Some(1),
                });
            }
        }
    }
    let mut changes: Vec<ScheduledCommand> = Vec::new();
    for (after, what, which) in &odd.changes {
        let key = service_key(*which);
        let Some(plan) = services.get(usize::from(*which)).and_then(|service| service.servers.first()) else { continue };
        let server = server_key(&key, 0, plan);
        let command = match what {
            0 => Command::DeleteServer { service: key, server },
            1 => Command::EditServer { service: key, server, settings: server_settings(plan, 0) },
            2 => Command::EditServer { service: key, server, settings: server_settings(plan, 5) },
            3 => Command::AddServer { service: key, server, settings: server_settings(plan, 2) },
            4 => Command::DeleteService { service: key },
            5 => Command::SetTimeouts(TimeoutSettings { tcp: Some(2), tcp_fin: Some(1), udp: Some(1) }),
            6 => Command::DeleteNeighbour { address: server.address, interface: servers_on },
            _ => Command::SetMtu { interface: InterfaceId(1), mtu: 600 },
        };
        changes.push(ScheduledCommand { after: Nanos(*after), command });
    }
    changes.sort_by_key(|change| change.after);
    config.changes = changes;
    config
}

pub(super) fn server_key(service: &ServiceKey, place: u8, plan: &ServerPlan) -> ServerKey {
    let ServiceKey::Address { address, port, .. } = service else { unreachable!("every service here has an address") };
    let port = if plan.method == 1 { plan.port } else { *port };
    ServerKey { address: server(address.is_ipv6(), place), port }
}

pub(super) fn server_settings(plan: &ServerPlan, weight: u32) -> ServerSettings {
    let method = match plan.method {
        0 => ForwardingMethod::Dr,
        1 => ForwardingMethod::Nat,
        _ => ForwardingMethod::Tunnel(Tunnel::default()),
    };
    ServerSettings { method, weight, upper_threshold: plan.upper, lower_threshold: 0 }
}

/// One frame of the traffic.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) gap: u64,
    pub(super) back_in_time: bool,
    pub(super) service: u8,
    pub(super) client: u8,
    pub(super) port: u16,
    pub(super) flags: u8,
    pub(super) payload: u16,
    pub(super) from_server: Option<(u8, u16)>,
    pub(super) oddity: u8,
}

pub(super) fn packets(plain: bool, count: usize) -> impl Strategy<Value = Vec<Packet>> {
    let odd = u32::from(!plain);
    let seldom = prop::sample::select(vec![0x11u8, 0x04, 0x14, 0x12, 0x00]);
    let flags = prop_oneof![2 => Just(0x02u8), 8 + 30 * u32::from(plain) => Just(0x10), 3 => seldom];
    let one = (
        prop_oneof![8 => 0u64..2_000_000, 2 => Just(0), 1 => 0u64..900_000_000, odd => 0u64..70_000_000_000],
        prop_oneof![49 => Just(false), odd => Just(true)],
        0u8..SERVICES,
        (0u8..3, prop_oneof![20 => 1025u16..1031, 1 => prop::sample::select(vec![0u16, 20])]),
        flags,
        prop_oneof![8 => 0u16..40, 1 => 0u16..1461, odd => 1441u16..1600],
        prop_oneof![3 + 12 * u32::from(plain) => Just(None), 1 => (0u8..3, prop::sample::select(vec![8080u16, 80, 53])).prop_map(Some)],
        prop_oneof![19 => Just(0u8), odd => 1u8..16],
    );
    prop::collection::vec(
        one.prop_map(|(gap, back_in_time, service, (client, port), flags, payload, from_server, oddity)| Packet {
            gap,
            back_in_time,
            service,
            client,
            port,
            flags,
            payload,
            from_server,
            oddity,
        }),
        1..count,
    )
}

/// The frame of a packet, where it arrives, and its length on the wire.
pub(super) fn frame(packet: &Packet) -> (InterfaceId, Vec<u8>, u32) {
    let ServiceKey::Address { protocol, address, port } = service_key(packet.service) else { unreachable!("as above") };
    let v6 = address.is_ipv6();
    let (source, destination, ports, mac, on) = match packet.from_server {
        Some((number, port)) => {
            let ends = (server(v6, number), client(v6, packet.client));
            (ends.0, ends.1, (port, packet.port), BACK, InterfaceId(1))
        }
        None => (client(v6, packet.client), address, (packet.port, port), FRONT, InterfaceId(0)),
    };
    let mut segment = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    if protocol == Protocol::TCP {
        segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, packet.flags, 1, 0, 0, 0, 0, 0]);
    } else {
        segment.extend_from_slice(&(packet.payload + 8).to_be_bytes());
        segment.extend_from_slice(&[0, 0]);
    }
    segment.extend((0..packet.payload).map(|byte| byte as u8));
    let sum = checksum::pseudo_header(source, destination, protocol.0, segment.len()).bytes(&segment);
    let at = if protocol == Protocol::TCP { 16 } else { 6 };
    if !(packet.oddity == 1 && protocol == Protocol::UDP) {
        segment[at..at + 2].copy_from_slice(&sum.udp_checksum().to_be_bytes());
    }
    let mut bytes = [&mac.0[..], &ROUTER.0[..]].concat();
    let fragment = match packet.oddity {
        2 => 0x2000u16,
        3 => 185,
        4 => 0x8000,
        _ => 0x4000,
    };
    let ttl = if packet.oddity == 5 { 1 } else { 64 };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend_from_slice(&[0x08, 0x00]);
            let options = if packet.oddity == 6 { &[1u8, 1, 1, 0][..] } else { &[] };
            let len = 20 + options.len() + segment.len();
            let mut header = vec![0x45 + (options.len() / 4) as u8, 0];
            header.extend_from_slice(&(len as u16).to_be_bytes());
            header.extend_from_slice(&[0, 7]);
            header.extend_from_slice(&fragment.to_be_bytes());
            header.extend_from_slice(&[ttl, protocol.0, 0, 0]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            header.extend_from_slice(options);
            let sum = checksum::Sum::new().bytes(&header).checksum();
            header[10..12].copy_from_slice(&sum.wrapping_add(u16::from(packet.oddity == 7)).to_be_bytes());
            bytes.extend_from_slice(&header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend_from_slice(&(segment.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[protocol.0, ttl]);
            bytes.extend_from_slice(&source.octets());
            bytes.extend_from_slice(&destination.octets());
        }
        _ => unreachable!("both ends are of one family"),
    }
    bytes.extend_from_slice(&segment);
    match packet.oddity {
        8 => bytes[5] ^= 1,
        9 => bytes[0] = 1,
        10 => bytes.truncate(bytes.len() - (bytes.len() / 3)),
        11 => bytes = arp_request(packet),
        12 => bytes[12] = 0x88,
        13 => {
            bytes.splice(12..12, [0x81, 0, 0, 100]);
        }
        14 => bytes.extend_from_slice(&[0xee; 30]),
        _ => {}
    }
    let mut wire = bytes.len() as u32;
    if packet.oddity == 15 && bytes.len() > 60 {
        wire = bytes.len() as u32;
        bytes.truncate(60);
    }
    if bytes.len() < 60 && packet.oddity == 0 && packet.payload.is_multiple_of(2) {
        bytes.resize(60, 0);
        wire = 60;
    }
    (on, bytes, wire)
}

/// A client's or a server's ARP request for the director.
pub(super) fn arp_request(packet: &Packet) -> Vec<u8> {
    let mac = [2, 0, 0, 0, 0x0a, packet.client];
    let mut bytes = [&[0xff; 6][..], &mac[..], &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1 + packet.flags % 2]].concat();
    bytes.extend_from_slice(&mac);
    bytes.extend_from_slice(&[10, 0, 0, packet.client + 11]);
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&[10, 0, 0, 1]);
    bytes
}
