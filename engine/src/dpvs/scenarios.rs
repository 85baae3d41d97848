//! Whole frames through a director: what the reference says of its behaviour, without a recording at hand.

#![allow(clippy::unwrap_used)]

use super::director::Director;
use super::state::flag;
use super::wire::{Origin, Packet, ipv4_header, ipv6_header, tcp};
use crate::config::*;
use crate::director::Arrival;
use crate::draws::Draws;
use crate::output::Output;
use crate::profile::Profile;
use crate::time::Nanos;
use crate::verdict::{DropReason, LocalAnswer, Refusal, Verdict};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0b]);

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn service(protocol: Protocol, at: &str) -> ServiceKey {
    ServiceKey::Address { protocol, address: end(at).ip(), port: end(at).port() }
}

fn add_server(service: &ServiceKey, at: &str, method: ForwardingMethod) -> Command {
    let server = ServerKey { address: end(at).ip(), port: end(at).port() };
    let settings = ServerSettings { method, weight: 1, upper_threshold: 0, lower_threshold: 0 };
    Command::AddServer { service: service.clone(), server, settings }
}

fn add_local(service: &ServiceKey, address: &str) -> Command {
    Command::AddLocalAddress { service: service.clone(), address: address.parse().unwrap(), interface: InterfaceId(0) }
}

/// A director with the addresses of the recordings and these commands.
fn config(commands: Vec<Command>) -> DirectorConfig {
    let address = |text: &str, prefix_len| Address {
        address: text.parse().unwrap(),
        prefix_len,
        scope: AddressScope::Global,
        secondary: false,
        sapool: false,
    };
    let neighbour =
        |text: &str, mac| NeighbourEntry { address: text.parse().unwrap(), mac, interface: InterfaceId(0), permanent: true };
    DirectorConfig {
        profile: Profile::DPVS_1_10,
        interfaces: vec![Interface {
            name: "dpdk0".into(),
            mac: OWN,
            mtu: 1500,
            addresses: vec![
                address("200.200.200.1", 24),
                address("10.0.0.1", 24),
                address("2001:db8:c::1", 64),
                address("2001:db8:a::1", 64),
            ],
            vlan: None,
            loopback: false,
            up: true,
        }],
        neighbours: vec![
            neighbour("200.200.200.2", CLIENT),
            neighbour("10.0.0.11", SERVER),
            neighbour("2001:db8:c::2", CLIENT),
            neighbour("2001:db8:a::11", SERVER),
        ],
        commands,
        ..DirectorConfig::default()
    }
}

/// FULLNAT over TCP with one real server and one local address.
fn fullnat() -> Vec<Command> {
    let service = service(Protocol::TCP, "200.200.200.1:80");
    vec![
        Command::AddService { service: service.clone(), settings: ServiceSettings::default() },
        add_server(&service, "10.0.0.11:8080", ForwardingMethod::FullNat),
        add_local(&service, "10.0.0.100"),
    ]
}

/// A director and what it sends.
struct Bench {
    director: Director,
    out: Output,
    time: Nanos,
}

impl Bench {
    fn new(config: &DirectorConfig) -> Bench {
        let director = Director::new(config, Draws::default()).unwrap();
        Bench { director, out: Output::default(), time: Nanos::from_secs(1000) }
    }

    /// Sends a frame, a tenth of a second after the last one.
    fn send(&mut self, from: MacAddr, packet: &Packet) -> Verdict {
        let ether_type = if packet.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&OWN.0[..], &from.0, &ether_type, &packet.bytes].concat();
        self.time = self.time + Nanos::from_millis(100);
        self.out.clear();
        let arrival = Arrival { time: self.time, interface: InterfaceId(0), frame: &frame, wire_len: frame.len() as u32 };
        self.director.receive(arrival, &mut self.out)
    }

    fn wait(&mut self, seconds: u64) {
        self.time = self.time + Nanos::from_secs(seconds);
        self.out.clear();
        self.director.advance(self.time, &mut self.out);
    }

    fn sent(&self) -> Vec<Packet> {
        let parse = |bytes: &[u8]| Packet::parse(&bytes[14..], 0, origin()).unwrap();
        self.out.frames().map(|frame| parse(frame.bytes)).collect()
    }
}

fn origin() -> Origin {
    Origin { time: Nanos(0), interface: InterfaceId(0), source_mac: CLIENT, destination_mac: OWN }
}

fn segment(from: &str, to: &str, flags: u8, numbers: (u32, u32), options: &[u8], payload: &[u8]) -> Packet {
    let (from, to) = (end(from), end(to));
    let length = tcp::HEADER + options.len() + payload.len();
    let mut bytes = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4_header(Protocol::TCP, source, destination, 20 + length, 0, true, 64).to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6_header(Protocol::TCP, source, destination, length, 0, 64),
        _ => unreachable!("both ends have one family"),
    };
    let transport = bytes.len();
    bytes.extend([0; tcp::HEADER]);
    bytes.extend(options);
    bytes.extend(payload);
    let mut packet = Packet::build(bytes, Protocol::TCP, transport, origin());
    packet.set_ends(from, to);
    packet.put(transport + tcp::SEQUENCE, &numbers.0.to_be_bytes());
    packet.put(transport + tcp::ACKNOWLEDGEMENT, &numbers.1.to_be_bytes());
    packet.put(transport + tcp::DATA_OFFSET, &[((tcp::HEADER + options.len()) / 4 * 16) as u8, flags, 0, 100]);
    packet.finish();
    packet
}

const VIP: &str = "200.200.200.1:80";
const CIP: &str = "200.200.200.2:40000";
const RIP: &str = "10.0.0.11:8080";
const LIP: &str = "10.0.0.100:1025";

fn establish(bench: &mut Bench) {
    bench.send(CLIENT, &segment(CIP, VIP, flag::SYN, (1000, 0), &[], &[]));
    bench.send(SERVER, &segment(RIP, LIP, flag::SYN | flag::ACK, (5000, 1001), &[], &[]));
    bench.send(CLIENT, &segment(CIP, VIP, flag::ACK, (1001, 5001), &[], &[]));
}

#[test]
fn no_local_address_is_named() {
    let mut commands = fullnat();
    commands.pop();
    let mut bench = Bench::new(&config(commands));
    let verdict = bench.send(CLIENT, &segment(CIP, VIP, flag::SYN, (1, 0), &[], &[]));
    assert_eq!(verdict, Verdict::Dropped(DropReason::NoLocalAddress));
    assert!(bench.out.is_empty());
}

#[test]
fn exhausted_ports_are_named_and_counted() {
    let mut description = config(fullnat());
    description.dpvs.pool_hash_size = 1;
    let mut bench = Bench::new(&description);
    let service = bench.director.services()[0].number;
    let mut refused = 0;
    // One address has 64511 ports in its only pool.
    for client in 0..64_512_u32 {
        let from = format!("200.200.{}.2:{}", client >> 15, 1 + client % 32768);
        bench.time = Nanos::from_secs(1000);
        let verdict = bench.send(CLIENT, &segment(&from, VIP, flag::SYN, (1, 0), &[], &[]));
        refused += u32::from(verdict == Verdict::Dropped(DropReason::NoLocalPort));
    }
    let view = bench.director.services().into_iter().find(|view| view.number == service).unwrap();
    let local = &view.local_addresses[0];
    assert_eq!((refused, local.exhausted, local.ports_in_use, local.ports), (1, 1, 64_511, 64_511));
}

#[test]
fn forged_and_pruned_toa_are_counted() {
    let mut bench = Bench::new(&config(fullnat()));
    establish(&mut bench);
    let forged = [254, 8, 0x12, 0x34, 1, 2, 3, 4];
    bench.send(CLIENT, &segment(CIP, VIP, flag::ACK, (1001, 5001), &forged, b"x"));
    bench.send(CLIENT, &segment(CIP, VIP, flag::ACK, (1002, 5001), &[1; 40], b"x"));
    bench.send(CLIENT, &segment(CIP, VIP, flag::ACK, (1003, 5001), &[], &[0; 1455]));
    let (_, counts) = bench.director.client_addresses()[0];
    assert_eq!((counts.toa, counts.toa_after_pruning, counts.forged), (3, 1, 1));
    assert_eq!((counts.longer_than_mtu, counts.no_option_room), (1, 0));
}

#[test]
fn fast_path_keeps_the_first_mac() {
    let mut bench = Bench::new(&config(fullnat()));
    establish(&mut bench);
    let other = MacAddr([2, 0, 0, 0, 9, 9]);
    bench.send(other, &segment(CIP, VIP, flag::ACK, (1001, 5001), &[], b"x"));
    bench.send(other, &segment(RIP, LIP, flag::ACK, (5001, 1002), &[], b"y"));
    let frame = bench.out.frames().next().unwrap().bytes.to_vec();
    assert_eq!(frame[..6], CLIENT.0);
}

#[test]
fn a_port_comes_back_after_all_others() {
    let mut bench = Bench::new(&config(fullnat()));
    let syn = |port: u16| segment(&format!("200.200.200.2:{port}"), VIP, flag::SYN, (1, 0), &[], &[]);
    bench.send(CLIENT, &syn(40000));
    assert_eq!(bench.sent()[0].ends().0, end(LIP));
    bench.wait(31);
    bench.send(CLIENT, &syn(40000));
    assert_eq!(bench.sent()[0].ends().0.port(), 1026);
    assert_eq!(bench.director.connections(bench.time).len(), 1);
}

#[test]
fn a_syn_on_an_old_connection_goes_through_it() {
    let mut bench = Bench::new(&config(fullnat()));
    establish(&mut bench);
    bench.send(CLIENT, &segment(CIP, VIP, flag::RST, (1001, 0), &[], &[]));
    bench.send(CLIENT, &segment(CIP, VIP, flag::SYN, (777_000, 0), &[], &[]));
    let packet = &bench.sent()[0];
    assert_eq!(packet.ends(), (end(LIP), end(RIP)));
    assert_eq!(packet.u32(packet.transport + tcp::SEQUENCE), 777_000);
}

#[test]
fn expire_quiescent_ends_connections_of_a_dead_server() {
    let mut commands = fullnat();
    let Command::AddService { settings, .. } = &mut commands[0] else { unreachable!("the first command adds the service") };
    settings.dpvs.expire_quiescent = true;
    let mut description = config(commands);
    description.changes = vec![ScheduledCommand {
        after: Nanos::from_millis(250),
        command: Command::DeleteServer {
            service: service(Protocol::TCP, VIP),
            server: ServerKey { address: end(RIP).ip(), port: 8080 },
        },
    }];
    let mut bench = Bench::new(&description);
    establish(&mut bench);
    let data = segment(CIP, VIP, flag::ACK, (1001, 5001), &[], b"x");
    assert_eq!(bench.send(CLIENT, &data), Verdict::Dropped(DropReason::ServerRemoved));
    assert_eq!(bench.send(CLIENT, &data), Verdict::Refused(Refusal::NoConnectionReset));
}

#[test]
fn white_list_refuses_silently_even_within_a_connection() {
    let mut description = config(fullnat());
    description.changes = vec![ScheduledCommand {
        after: Nanos::from_millis(250),
        command: Command::AddToList {
            list: AddressList::White,
            service: service(Protocol::TCP, VIP),
            client: IpAddr::from([9, 9, 9, 9]),
        },
    }];
    let mut bench = Bench::new(&description);
    establish(&mut bench);
    let data = segment(CIP, VIP, flag::ACK, (1001, 5001), &[], b"x");
    assert_eq!(bench.send(CLIENT, &data), Verdict::Dropped(DropReason::AccessList));
    assert!(matches!(bench.send(SERVER, &segment(RIP, LIP, flag::ACK, (5001, 1001), &[], b"y")), Verdict::Returned(_)));
}

#[test]
fn persistence_keeps_the_server() {
    let mut commands = fullnat();
    commands.push(add_server(&service(Protocol::TCP, VIP), "10.0.0.12:8080", ForwardingMethod::FullNat));
    let Command::AddService { settings, .. } = &mut commands[0] else { unreachable!("the first command adds the service") };
    settings.persistence = Some(Persistence { timeout: 50, prefix_len: 24 });
    let mut bench = Bench::new(&config(commands));
    for port in 0..4 {
        bench.send(CLIENT, &segment(&format!("200.200.200.2:{}", 40000 + port), VIP, flag::SYN, (1, 0), &[], &[]));
    }
    let servers = &bench.director.services()[0].servers;
    let counts: Vec<(u32, u32)> = servers.iter().map(|server| (server.inactive, server.persistent)).collect();
    assert_eq!(counts, [(4, 1), (0, 0)]);
}

#[test]
fn syn_proxy_opens_the_window_and_counts_from_the_cookie() {
    let mut commands = fullnat();
    let Command::AddService { settings, .. } = &mut commands[0] else { unreachable!("the first command adds the service") };
    settings.dpvs.syn_proxy = true;
    let mut bench = Bench::new(&config(commands));
    let verdict = bench.send(CLIENT, &segment(CIP, VIP, flag::SYN, (1000, 0), &[2, 4, 5, 0xb4], &[]));
    assert_eq!(verdict, Verdict::Local(LocalAnswer::SynCookie));
    let answer = &bench.sent()[0];
    let cookie = answer.u32(answer.transport + tcp::SEQUENCE);
    let acknowledgement = segment(CIP, VIP, flag::ACK, (1001, cookie.wrapping_add(1)), &[], &[]);
    assert!(matches!(bench.send(CLIENT, &acknowledgement), Verdict::Forwarded(_)));
    assert_eq!(bench.sent()[0].tcp_flags(), flag::SYN);
    bench.send(SERVER, &segment(RIP, LIP, flag::SYN | flag::ACK, (5000, 1001), &[], &[]));
    let sent = bench.sent();
    let update = &sent[0];
    assert_eq!((update.ends(), update.tcp_flags()), ((end(VIP), end(CIP)), flag::ACK));
    assert_eq!(update.u32(update.transport + tcp::SEQUENCE), cookie.wrapping_add(1));
    let forwarded = &sent[1];
    assert_eq!(forwarded.u32(forwarded.transport + tcp::ACKNOWLEDGEMENT), 5001);
    assert_eq!(forwarded.tcp_options().first(), Some(&254));
}

#[test]
fn a_scheduler_that_dpvs_lacks_is_an_error() {
    let mut commands = fullnat();
    let Command::AddService { settings, .. } = &mut commands[0] else { unreachable!("the first command adds the service") };
    settings.scheduler = SchedulerKind::Sh;
    let error = Director::new(&config(commands), Draws::default()).unwrap_err();
    assert_eq!(error.command, Some(0));
    assert!(error.message.contains("no scheduler sh"));
}

/// Services of every method and family, with every setting that changes packets.
fn everything() -> DirectorConfig {
    let mut commands = fullnat();
    let mut add = |protocol, at: &str, server: &str, method, local: Option<&str>, change: fn(&mut ServiceSettings)| {
        let key = service(protocol, at);
        let mut settings = ServiceSettings::default();
        change(&mut settings);
        commands.push(Command::AddService { service: key.clone(), settings });
        commands.push(add_server(&key, server, method));
        commands.extend(local.map(|local| add_local(&key, local)));
    };
    let tunnel = ForwardingMethod::Tunnel(Tunnel::default());
    let full = ForwardingMethod::FullNat;
    let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
    add(tcp, "200.200.200.1:81", "10.0.0.11:81", ForwardingMethod::Dr, None, |_| {});
    add(tcp, "200.200.200.1:82", "10.0.0.11:82", tunnel, None, |_| {});
    add(tcp, "200.200.200.1:83", "10.0.0.11:8083", ForwardingMethod::Nat, None, |_| {});
    add(tcp, "200.200.200.1:84", RIP, full, Some("10.0.0.100"), |it| it.dpvs.syn_proxy = true);
    add(tcp, "200.200.200.1:85", RIP, full, Some("10.0.0.100"), |it| it.dpvs.proxy_protocol = ProxyProtocol::V1);
    add(udp, "200.200.200.1:80", RIP, full, Some("10.0.0.100"), |_| {});
    add(udp, "200.200.200.1:85", RIP, full, Some("10.0.0.100"), |it| it.dpvs.proxy_protocol = ProxyProtocol::V2);
    add(tcp, "[2001:db8:c::1]:80", "[2001:db8:a::11]:80", full, Some("2001:db8:a::100"), |_| {});
    add(udp, "[2001:db8:c::1]:80", "[2001:db8:a::11]:80", full, Some("2001:db8:a::100"), |_| {});
    add(tcp, "[2001:db8:c::1]:84", RIP, full, Some("10.0.0.100"), |_| {});
    add(udp, "[2001:db8:c::1]:84", RIP, full, Some("10.0.0.100"), |_| {});
    add(tcp, "[2001:db8:c::1]:82", "10.0.0.11:82", tunnel, None, |_| {});
    config(commands)
}

/// Bytes that look like a packet between the addresses of [`everything`].
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let ends = prop_oneof![
        Just(("200.200.200.2", "200.200.200.1")),
        Just(("10.0.0.11", "10.0.0.100")),
        Just(("2001:db8:c::2", "2001:db8:c::1")),
        Just(("2001:db8:a::11", "2001:db8:a::100"))
    ];
    let ports = (prop_oneof![Just(40000_u16), Just(8080), Just(80)], prop_oneof![80_u16..86, Just(1025_u16), Just(1026)]);
    let protocol = prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), Just(132), Just(47), Just(4), any::<u8>()];
    (ends, ports, protocol, proptest::collection::vec(any::<u8>(), 0..90), any::<Option<(u8, u8)>>(), 0_u8..32).prop_map(
        |((from, to), (source, destination), protocol, rest, spoiled, flags)| {
            let mut body = [&source.to_be_bytes()[..], &destination.to_be_bytes(), &rest].concat();
            if let (6, Some(byte)) = (protocol, body.get_mut(13)) {
                *byte = flags;
            }
            let protocol = Protocol(protocol);
            let mut bytes = match (from.parse::<IpAddr>().unwrap(), to.parse::<IpAddr>().unwrap()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    ipv4_header(protocol, from, to, 20 + body.len(), 0, rest.len() % 2 == 0, 64).to_vec()
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_header(protocol, from, to, body.len(), 0, 64),
                _ => unreachable!("both ends have one family"),
            };
            bytes.extend(body);
            if let Some((at, value)) = spoiled {
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            super::wire::finish_ipv4_header(if bytes[0] >> 4 == 4 { &mut bytes } else { &mut [] });
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No frame panics, whole or cut, in any state of the connections that the frames before it made; and every IPv4
    /// packet that leaves has a right header and is no longer than its length says.
    #[test]
    fn no_frame_panics(
        packets in proptest::collection::vec((plausible(), any::<bool>(), 0_u32..40, 0_u64..9000), 1..40),
        slow in any::<bool>(), option in any::<bool>(), ttl in any::<bool>(), forwarding in any::<bool>(),
    ) {
        let mut description = everything();
        description.dpvs.fast_xmit_close = slow;
        description.dpvs.xmit_ttl = ttl;
        description.dpvs.forwarding = forwarding;
        description.dpvs.uoa_mode = if option { UoaMode::Ipo } else { UoaMode::Opp };
        let mut director = Director::new(&description, Draws::default()).unwrap();
        director.note_doubts();
        let (mut out, mut time) = (Output::default(), Nanos::from_secs(1));
        for (bytes, server, cut, wait) in packets {
            let from = if server { SERVER } else { CLIENT };
            let kind = if bytes.first().is_some_and(|byte| byte >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
            let frame = [&OWN.0[..], &from.0, &kind, &bytes].concat();
            time = time + Nanos::from_millis(wait);
            let held = frame.len().saturating_sub(cut as usize);
            let arrival = Arrival { time, interface: InterfaceId(0), frame: &frame[..held], wire_len: frame.len() as u32 };
            director.receive(arrival, &mut out);
        }
        director.advance(time + Nanos::from_secs(400), &mut out);
        for frame in out.frames().filter(|frame| frame.bytes[12..14] == [8, 0]) {
            let packet = Packet::parse(&frame.bytes[14..], frame.cut, origin()).unwrap();
            prop_assert_eq!(packet.length(), frame.bytes.len() - 14 + frame.cut as usize);
            prop_assert!(packet.protocol != Protocol::TCP || packet.tcp_header_len() <= 60);
        }
        prop_assert!(director.connections(time).is_empty());
    }

    /// Any bytes at all.
    #[test]
    fn no_bytes_panic(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..10), kind in 0_usize..3) {
        let mut director = Director::new(&everything(), Draws::default()).unwrap();
        let mut out = Output::default();
        for mut frame in frames {
            for (slot, byte) in frame.iter_mut().zip(OWN.0) {
                *slot = byte;
            }
            let ether_type = [[8, 0], [0x86, 0xdd], [8, 6]][kind];
            for (slot, byte) in frame.iter_mut().skip(12).zip(ether_type) {
                *slot = byte;
            }
            let arrival = Arrival { time: Nanos(1), interface: InterfaceId(0), frame: &frame, wire_len: frame.len() as u32 };
            director.receive(arrival, &mut out);
        }
    }
}
