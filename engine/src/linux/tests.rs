//! Whole directors on small configurations, and on frames that no one should send.

#![allow(clippy::unwrap_used)]

use super::Director;
use crate::config::{
    Address, AddressScope, Command, DirectorConfig, ForwardingMethod, Interface, InterfaceId, MacAddr, MarkRule, NeighbourEntry,
    Persistence, PersistenceEngine, Protocol, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings, Tunnel,
    TunnelChecksum, TunnelKind,
};
use crate::director::Arrival;
use crate::draws::Draws;
use crate::output::Output;
use crate::packet::arp::{self, Arp};
use crate::packet::ethernet::{self, ether_type};
use crate::packet::ipv4::Ipv4Fields;
use crate::packet::ipv6::Ipv6Fields;
use crate::packet::tcp::{TcpFields, flags};
use crate::packet::{Ethernet, Headers, Tcp, checksum, icmp, put16, udp};
use crate::time::Nanos;
use crate::verdict::{LocalAnswer, Refusal, Verdict};
use proptest::prelude::*;
use std::net::IpAddr;

const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const INSIDE: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 2, 11]);
const CIP: &str = "200.200.200.2";
const VIP: &str = "200.200.200.1";
const RIP: &str = "10.0.0.11";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn interface(name: &str, mac: MacAddr, addresses: &[(&str, u8)]) -> Interface {
    let address = |(text, prefix_len): &(&str, u8)| Address {
        address: ip(text),
        prefix_len: *prefix_len,
        scope: AddressScope::Global,
        secondary: false,
        sapool: false,
    };
    Interface {
        name: name.into(),
        mac,
        mtu: 1500,
        addresses: addresses.iter().map(address).collect(),
        vlan: None,
        loopback: false,
        up: true,
    }
}

/// One service for TCP, UDP and SCTP each, over both families, with one real server known to the neighbour table.
fn director(method: ForwardingMethod) -> Director {
    let mut config = DirectorConfig {
        interfaces: vec![
            interface("eth0", DIRECTOR, &[(VIP, 24), ("2001:db8:200::1", 64), ("fe80::1", 64)]),
            interface("eth1", INSIDE, &[("10.0.0.1", 24), ("2001:db8:10::1", 64), ("fe80::2", 64)]),
        ],
        ..DirectorConfig::default()
    };
    for (address, mac, on) in [(CIP, CLIENT, 0), (RIP, SERVER, 1), ("2001:db8:200::2", CLIENT, 0), ("2001:db8:10::11", SERVER, 1)]
    {
        config.neighbours.push(NeighbourEntry { address: ip(address), mac, interface: InterfaceId(on), permanent: true });
    }
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        for (vip, rip) in [(VIP, RIP), ("2001:db8:200::1", "2001:db8:10::11")] {
            let service = ServiceKey::Address { protocol, address: ip(vip), port: 80 };
            let settings = ServiceSettings { scheduler: SchedulerKind::Rr, ..ServiceSettings::default() };
            config.commands.push(Command::AddService { service: service.clone(), settings });
            let server = ServerKey { address: ip(rip), port: if method == ForwardingMethod::Nat { 8080 } else { 80 } };
            let settings = ServerSettings { method, weight: 1, upper_threshold: 0, lower_threshold: 0 };
            config.commands.push(Command::AddServer { service, server, settings });
        }
    }
    Director::new(&config, Draws::default()).unwrap()
}

fn segment(source: &str, destination: &str, ports: (u16, u16), bits: u8, ttl: u8) -> Vec<u8> {
    let mut header = TcpFields { source_port: ports.0, destination_port: ports.1, flags: bits, ..Default::default() }.header(0);
    let sum = checksum::pseudo_header(ip(source), ip(destination), 6, 20).bytes(&header);
    put16(&mut header, 16, sum.checksum());
    let mut packet = Vec::new();
    match (ip(source), ip(destination)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let fields = Ipv4Fields { tos: 0, total_len: 40, id: 7, dont_fragment: true, ttl, protocol: 6, source, destination };
            fields.write(&mut packet);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let fields = Ipv6Fields {
                traffic_class: 0,
                flow_label: 5,
                payload_len: 20,
                next_header: 6,
                hop_limit: ttl,
                source,
                destination,
            };
            fields.write(&mut packet);
        }
        _ => unreachable!("one family"),
    }
    packet.extend_from_slice(&header);
    packet
}

fn frame(to: MacAddr, from: MacAddr, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 6 { ether_type::IPV6 } else { ether_type::IPV4 };
    let mut bytes = Vec::new();
    ethernet::write(&mut bytes, to, from, &[], kind);
    bytes.extend_from_slice(packet);
    bytes
}

fn receive(director: &mut Director, out: &mut Output, on: u16, bytes: &[u8]) -> Verdict {
    out.clear();
    let arrival = Arrival { time: Nanos(1), interface: InterfaceId(on), frame: bytes, wire_len: bytes.len() as u32 };
    director.receive(arrival, out)
}

#[test]
fn nat_there_and_back() {
    let mut director = director(ForwardingMethod::Nat);
    let mut out = Output::default();
    for (cip, vip, rip) in [(CIP, VIP, RIP), ("2001:db8:200::2", "2001:db8:200::1", "2001:db8:10::11")] {
        let verdict =
            receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &segment(cip, vip, (40000, 80), flags::SYN, 64)));
        assert!(matches!(verdict, Verdict::Forwarded(forwarded) if forwarded.new));
        let sent = out.frames().next().unwrap();
        assert_eq!(sent.interface, InterfaceId(1));
        assert_eq!(sent.bytes, frame(SERVER, INSIDE, &segment(cip, rip, (40000, 8080), flags::SYN, 63)));
        let answer = segment(rip, cip, (8080, 40000), flags::SYN | flags::ACK, 64);
        let verdict = receive(&mut director, &mut out, 1, &frame(INSIDE, SERVER, &answer));
        assert!(matches!(verdict, Verdict::Returned(_)));
        let expected = segment(vip, cip, (80, 40000), flags::SYN | flags::ACK, 63);
        assert_eq!(out.frames().next().unwrap().bytes, frame(CLIENT, DIRECTOR, &expected));
    }
}

#[test]
fn ttl_runs_out_at_the_vip() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    let packet = segment(CIP, VIP, (40000, 80), flags::SYN, 1);
    let verdict = receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &packet));
    assert_eq!(verdict, Verdict::Refused(Refusal::TtlExceeded));
    let sent = out.frames().next().unwrap();
    let payload = Ethernet::new_checked(sent.bytes).unwrap().payload();
    let headers = Headers::of(payload).unwrap();
    assert_eq!((headers.source, headers.destination, headers.tos), (ip(VIP), ip(CIP), 0xc0));
    let message = icmp::Icmp::new_checked(headers.transport(payload)).unwrap();
    assert_eq!((message.kind(), message.code(), message.payload()), (11, 0, &packet[..]));
    assert_eq!(sent.drawn.len(), 1, "the identification is drawn");
    assert_eq!(director.connections(Nanos(1)).len(), 1, "the connection was made all the same");
}

#[test]
fn no_connection_no_service() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    let packet = segment(CIP, VIP, (40000, 80), flags::ACK, 64);
    assert_eq!(receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &packet)), Verdict::Local(LocalAnswer::Reset));
    let payload = Ethernet::new_checked(out.frames().next().unwrap().bytes).unwrap().payload();
    let view = Tcp::new_checked(&payload[20..]).unwrap();
    assert_eq!((view.flags(), view.window(), view.header_len()), (flags::RST, 0, 20));
}

#[test]
fn cut_frame_is_rewritten_and_marked() {
    let mut director = director(ForwardingMethod::Nat);
    let mut out = Output::default();
    let mut packet = segment(CIP, VIP, (40000, 80), flags::SYN, 64);
    put16(&mut packet, 2, 1040);
    crate::packet::Ipv4::new_checked(&mut packet[..]).unwrap().fill_checksum();
    let bytes = frame(DIRECTOR, CLIENT, &packet);
    let arrival = Arrival { time: Nanos(1), interface: InterfaceId(0), frame: &bytes, wire_len: 1054 };
    assert!(matches!(director.receive(arrival, &mut out), Verdict::Forwarded(_)));
    let sent = out.frames().next().unwrap();
    assert_eq!((sent.cut, sent.bytes.len()), (1000, bytes.len()));
}

#[test]
fn cut_packet_is_fragmented_as_if_it_were_whole() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    let change = Command::SetMtu { interface: InterfaceId(1), mtu: 600 };
    director.carry_out(&change, Nanos(0), &mut out).unwrap();
    let mut packet = segment(CIP, VIP, (40000, 80), flags::SYN, 64);
    put16(&mut packet, 2, 1440);
    put16(&mut packet, 6, 0);
    crate::packet::Ipv4::new_checked(&mut packet[..]).unwrap().fill_checksum();
    packet.resize(700, 0xaa);
    let bytes = frame(DIRECTOR, CLIENT, &packet);
    let arrival = Arrival { time: Nanos(1), interface: InterfaceId(0), frame: &bytes, wire_len: 1454 };
    director.receive(arrival, &mut out);
    let pieces: Vec<(usize, u32)> = out.frames().map(|sent| (sent.bytes.len() - 14, sent.cut)).collect();
    assert_eq!(pieces, [(596, 0), (124, 472), (20, 268)]);
}

fn methods() -> impl Strategy<Value = ForwardingMethod> {
    let tunnel = |kind| ForwardingMethod::Tunnel(Tunnel { kind, checksum: TunnelChecksum::Checksum });
    prop_oneof![
        Just(ForwardingMethod::Dr),
        Just(ForwardingMethod::Nat),
        Just(tunnel(TunnelKind::Ipip)),
        Just(tunnel(TunnelKind::Gue { port: 6080 })),
        Just(tunnel(TunnelKind::Gre)),
    ]
}

/// A frame that is almost right: the start of every path through the director, then bytes changed and the end cut.
fn strange_frame() -> impl Strategy<Value = (u16, Vec<u8>, u32, u64)> {
    let start = (0usize..7, any::<u8>(), any::<u8>()).prop_map(|(kind, bits, ttl)| {
        let six = ("2001:db8:200::2", "2001:db8:200::1", "2001:db8:10::11");
        let quoting = |quoted: Vec<u8>, from: &str, to: &str| {
            let mut message = Vec::new();
            icmp::write(&mut message, 3, 4, 1200, &quoted);
            icmp::fill_checksum(&mut message);
            let (IpAddr::V4(source), IpAddr::V4(destination)) = (ip(from), ip(to)) else { unreachable!("IPv4") };
            let total_len = 20 + message.len() as u16;
            let fields = Ipv4Fields { tos: 0, total_len, id: 1, dont_fragment: false, ttl, protocol: 1, source, destination };
            let mut packet = fields.header().to_vec();
            packet.extend_from_slice(&message);
            packet
        };
        match kind {
            0 => (0, frame(DIRECTOR, CLIENT, &segment(CIP, VIP, (40000, 80), bits, ttl))),
            1 => (1, frame(INSIDE, SERVER, &segment(RIP, CIP, (8080, 40000), bits, ttl))),
            2 => (0, frame(DIRECTOR, CLIENT, &segment(six.0, six.1, (40000, 80), bits, ttl))),
            3 => (1, frame(INSIDE, SERVER, &segment(six.2, six.0, (8080, 40000), bits, ttl))),
            4 => (0, frame(DIRECTOR, CLIENT, &quoting(segment(VIP, CIP, (80, 40000), 16, 60), CIP, VIP))),
            5 => (1, frame(INSIDE, SERVER, &quoting(segment(CIP, RIP, (40000, 8080), 16, 60), RIP, CIP))),
            _ => {
                let mut inner = segment("10.0.0.1", RIP, (0, 0), 0, 60);
                inner.truncate(20);
                inner[9] = 4;
                inner.extend_from_slice(&segment(CIP, VIP, (40000, 80), 16, 60));
                (1, frame(INSIDE, SERVER, &quoting(inner, RIP, "10.0.0.1")))
            }
        }
    });
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (start, changes, any::<bool>(), any::<prop::sample::Index>(), any::<bool>(), 0u64..5_000_000_000).prop_map(
        |((on, mut bytes), changes, mend, end, cut, pause)| {
            for (at, value) in changes {
                let at = at.index(bytes.len() - 12) + 12;
                bytes[at] = value;
            }
            if mend && let Ok(mut view) = crate::packet::Ipv4::new_checked(&mut bytes[14..]) {
                view.fill_checksum();
            }
            let wire_len = bytes.len() as u32;
            if cut {
                bytes.truncate(end.index(bytes.len()) + 1);
            }
            (on, bytes, wire_len, pause)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn strange_frames_do_not_panic_and_what_leaves_parses(
        method in methods(),
        frames in proptest::collection::vec(strange_frame(), 1..40),
    ) {
        let mut director = director(method);
        let mut out = Output::default();
        let mut time = Nanos(0);
        for (on, bytes, wire_len, pause) in frames {
            time = time + Nanos(pause);
            out.clear();
            director.receive(Arrival { time, interface: InterfaceId(on), frame: &bytes, wire_len }, &mut out);
            for sent in out.frames() {
                let view = Ethernet::new_checked(sent.bytes).unwrap();
                if view.ether_type() != ether_type::ARP {
                    let headers = Headers::of(view.payload());
                    // Extension headers that nobody can read are routed on as they came.
                    let routed = Headers::without_transport(view.payload()).is_some();
                    prop_assert!(headers.is_ok() || sent.cut != 0 || routed, "{:?} {:02x?}", headers, sent.bytes);
                    if let Ok(headers) = headers {
                        prop_assert_eq!(headers.total_len, view.payload().len() + sent.cut as usize);
                    }
                }
                for field in sent.drawn {
                    prop_assert!(usize::from(field.offset) + usize::from(field.len) <= sent.bytes.len() + sent.cut as usize);
                }
            }
        }
    }
}

/// RFC 4861 section 8.2: a host whose packet turns back on its link is told of the destination there.
#[test]
fn ipv6_packets_that_turn_back_cause_redirects() {
    let mut director = director(ForwardingMethod::Nat);
    let mut out = Output::default();
    let packet = segment("2001:db8:10::11", "2001:db8:10::12", (8080, 40000), flags::ACK, 64);
    let redirects = |director: &mut Director, out: &mut Output| {
        receive(director, out, 1, &frame(INSIDE, SERVER, &packet));
        out.frames()
            .filter(|sent| sent.bytes.get(54) == Some(&icmp::v6::REDIRECT))
            .map(|sent| sent.bytes.to_vec())
            .collect::<Vec<_>>()
    };
    let told = redirects(&mut director, &mut out);
    let [told] = &told[..] else { panic!("one redirect") };
    assert_eq!(told[..12], [&SERVER.0[..], &INSIDE.0].concat());
    let payload = &told[14..];
    let headers = Headers::of(payload).unwrap();
    assert_eq!((headers.source, headers.destination, headers.ttl), (ip("fe80::2"), ip("2001:db8:10::11"), 255));
    assert_eq!(
        payload[payload.len() - packet.len() + 4..],
        packet[..packet.len() - 4],
        "whole units of the packet before its hop"
    );
    let more = (0..9).map(|_| redirects(&mut director, &mut out).len()).sum::<usize>();
    assert_eq!(more, 5, "six in a burst");
}

/// Section 7.4: a datagram that a SIP server sends first leaves as the service's, if it says which call it is about.
#[test]
fn a_sip_server_calls_first() {
    let mut director = director(ForwardingMethod::Nat);
    let mut out = Output::default();
    let service = ServiceKey::Address { protocol: Protocol::UDP, address: ip(VIP), port: 5060 };
    let settings = ServiceSettings {
        scheduler: SchedulerKind::Rr,
        persistence: Some(Persistence { timeout: 300, prefix_len: 32 }),
        persistence_engine: Some(PersistenceEngine::Sip),
        ..ServiceSettings::default()
    };
    let server = ServerKey { address: ip(RIP), port: 5060 };
    let of_server = ServerSettings { method: ForwardingMethod::Nat, weight: 1, upper_threshold: 0, lower_threshold: 0 };
    director.carry_out(&Command::AddService { service: service.clone(), settings }, Nanos(0), &mut out).unwrap();
    director.carry_out(&Command::AddServer { service, server, settings: of_server }, Nanos(0), &mut out).unwrap();
    let mut source_of = |message: &[u8]| {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (ip(RIP), ip(CIP)) else { unreachable!("IPv4") };
        let length = 8 + message.len() as u16;
        let fields =
            Ipv4Fields { tos: 0, total_len: 20 + length, id: 7, dont_fragment: true, ttl: 64, protocol: 17, source, destination };
        let mut packet = fields.header().to_vec();
        packet.extend_from_slice(&udp::header(5060, 5060, length));
        packet.extend_from_slice(message);
        receive(&mut director, &mut out, 1, &frame(INSIDE, SERVER, &packet));
        Headers::of(&out.frames().next().unwrap().bytes[14..]).unwrap().source
    };
    assert_eq!(source_of(b"OPTIONS sip:x SIP/2.0\r\n\r\n"), ip(RIP), "routed as any other");
    assert_eq!(source_of(b"OPTIONS sip:x SIP/2.0\r\nCall-ID: a\r\n\r\n"), ip(VIP));
    assert_eq!(source_of(b"OPTIONS sip:x SIP/2.0\r\n\r\n"), ip(VIP), "the connection is known now");
}

fn ipv6(next_header: u8, message: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ip("2001:db8:200::2"), ip("2001:db8:200::1")) else {
        unreachable!("IPv6")
    };
    let payload_len = message.len() as u16;
    let fields = Ipv6Fields { traffic_class: 0, flow_label: 0, payload_len, next_header, hop_limit: 64, source, destination };
    let mut packet = Vec::new();
    fields.write(&mut packet);
    packet.extend_from_slice(message);
    if next_header == 58 {
        icmp::fill_checksum_v6(&mut packet[40..], source, destination);
    }
    packet
}

#[test]
fn the_stack_answers_ipv6() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    let mut answer_to = |next_header, message: &[u8]| {
        let verdict = receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &ipv6(next_header, message)));
        let answer = out.frames().next().map(|sent| (sent.bytes[54], sent.bytes[55]));
        (verdict, answer)
    };
    let echo = answer_to(58, &[icmp::v6::ECHO, 7, 0, 0, 0, 1, 0, 2]);
    assert_eq!(echo, (Verdict::Local(LocalAnswer::EchoReply), Some((icmp::v6::ECHO_REPLY, 7))), "the code goes back");
    let refused = Verdict::Refused(Refusal::PortUnreachable);
    assert_eq!(answer_to(41, &[0x60; 40]), (refused, Some((1, 4))), "IP in IP is known, but there is no tunnel");
    assert_eq!(answer_to(4, &[0x45; 20]), (refused, Some((1, 4))));
    assert_eq!(answer_to(4, &[0x45; 19]).1, None);
    assert_eq!(answer_to(47, &[0, 0, 0x86, 0xdd]), (refused, Some((1, 4))));
    assert_eq!(answer_to(47, &[0, 7, 0x86, 0xdd]).1, None, "a version that nobody knows");
    assert_eq!(answer_to(50, &[0; 8]), (Verdict::Refused(Refusal::ProtocolUnreachable), Some((4, 1))));
}

#[test]
fn extension_headers_that_the_host_reads() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    let mut answer_to = |next_header, message: &[u8]| {
        receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &ipv6(next_header, message)));
        out.frames().next().map(|sent| (sent.bytes[54], sent.bytes[55], sent.bytes[61]))
    };
    assert_eq!(answer_to(51, &[]), Some((4, 1, 6)), "AH, of which nothing is there");
    assert_eq!(answer_to(43, &[6, 2, 2, 1, 0, 0, 0, 0]), None, "a routing header that is not whole");
    assert_eq!(answer_to(43, &[59, 0, 0, 1, 0, 0, 0, 0]), Some((4, 0, 42)), "a source route");
    assert_eq!(answer_to(43, &[59, 0, 2, 1, 0, 0, 0, 0]), None, "of a mobile node");
    assert_eq!(answer_to(43, &[50, 0, 0, 0, 0, 0, 0, 0]), Some((4, 1, 40)), "a source route at its end");
    assert_eq!(answer_to(60, &[59, 0, 0x9e, 4, 0, 0, 0, 0]), Some((4, 2, 42)), "an option that wants its sender told");
    assert_eq!(answer_to(60, &[50, 0, 1, 4, 0, 0, 0, 0]), Some((4, 1, 40)), "what stands behind it");
    assert_eq!(answer_to(0, &[50, 0, 1, 4, 0, 0, 0, 1]), None, "padding that is not zero");
}

#[test]
fn arp_ignore_2_wants_a_subnet_that_holds_both() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    let link = director.host.links.get_mut(InterfaceId(0)).unwrap();
    link.settings.arp_ignore = 2;
    let second =
        Address { address: ip("200.200.200.5"), prefix_len: 32, scope: AddressScope::Global, secondary: false, sapool: false };
    link.interface.addresses.push(second);
    director.host.routes.add_address(InterfaceId(0), &second);
    let mut answers = |sender: &str, target: &str| {
        let (IpAddr::V4(sender), IpAddr::V4(target)) = (ip(sender), ip(target)) else { unreachable!("IPv4") };
        let message = Arp { operation: arp::REQUEST, sender_mac: CLIENT, sender, target_mac: MacAddr::ZERO, target };
        let mut bytes = Vec::new();
        ethernet::write(&mut bytes, MacAddr::BROADCAST, CLIENT, &[], ether_type::ARP);
        message.write(&mut bytes);
        receive(&mut director, &mut out, 0, &bytes);
        out.frames().count() == 1
    };
    assert!(answers(CIP, VIP));
    assert!(answers(CIP, "200.200.200.5"), "the other address's subnet");
    assert!(answers("0.0.0.0", VIP), "a probe");
    assert!(!answers("192.0.2.7", VIP));
    assert!(!answers(CIP, "10.0.0.1"), "of another link");
}

/// The last rule that fits sets the mark; cache_bypass takes an IPv6 packet to the director itself along, to be dropped.
#[test]
fn marks_and_bypass_over_ipv6() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    for mark in [1, 2] {
        director.marks.push(MarkRule { mark, destination: None, protocol: Some(Protocol::TCP), ports: vec![9] });
    }
    director.host.sysctls.vs.cache_bypass = true;
    let service = ServiceKey::Mark { mark: 2, family: crate::config::Family::Ipv6 };
    let settings = ServiceSettings { scheduler: SchedulerKind::Rr, ..ServiceSettings::default() };
    director.carry_out(&Command::AddService { service, settings }, Nanos(0), &mut out).unwrap();
    for (port, bits) in [(40000, flags::SYN), (40000, flags::ACK)] {
        let packet = segment("2001:db8:200::2", "2001:db8:200::1", (port, 9), bits, 64);
        receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &packet));
        assert_eq!(out.frames().count(), 0);
    }
    assert_eq!(director.connections(Nanos(1)).len(), 1);
}

#[test]
fn a_joined_datagram_has_its_first_fragments_mark() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    director.marks.push(MarkRule { mark: 3, destination: None, protocol: Some(Protocol::UDP), ports: vec![9] });
    let service = ServiceKey::Mark { mark: 3, family: crate::config::Family::Ipv4 };
    let settings = ServiceSettings { scheduler: SchedulerKind::Rr, ..ServiceSettings::default() };
    let server = ServerKey { address: ip(RIP), port: 9 };
    let of_server = ServerSettings { method: ForwardingMethod::Dr, weight: 1, upper_threshold: 0, lower_threshold: 0 };
    director.carry_out(&Command::AddService { service: service.clone(), settings }, Nanos(0), &mut out).unwrap();
    director.carry_out(&Command::AddServer { service, server, settings: of_server }, Nanos(0), &mut out).unwrap();
    let mut datagram = udp::header(40000, 9, 24).to_vec();
    datagram.extend_from_slice(&[7; 16]);
    let mut sent = 0;
    for (offset, flags) in [(0, 0x2000), (16, 0)] {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (ip(CIP), ip(VIP)) else { unreachable!("IPv4") };
        let data = &datagram[offset..(offset + 16).min(24)];
        let total_len = 20 + data.len() as u16;
        let fields = Ipv4Fields { tos: 0, total_len, id: 5, dont_fragment: false, ttl: 64, protocol: 17, source, destination };
        let mut packet = fields.header().to_vec();
        put16(&mut packet, 6, flags | (offset / 8) as u16);
        crate::packet::Ipv4::new_checked(&mut packet[..]).unwrap().fill_checksum();
        packet.extend_from_slice(data);
        receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &packet));
        sent += out.frames().filter(|sent| sent.interface == InterfaceId(1)).count();
    }
    assert_eq!(sent, 2, "both fragments go to the server");
}

/// A routed packet's options record the address that it leaves from, an answer adds one entry more.
#[test]
fn options_record_the_way() {
    let mut director = director(ForwardingMethod::Nat);
    let mut out = Output::default();
    let mut options_of = |on: u16, source: &str, destination: &str| {
        let plain = segment(source, destination, (40000, 9), flags::ACK, 64);
        let mut packet = plain[..20].to_vec();
        packet[0] = 0x48;
        put16(&mut packet, 2, 52);
        packet.extend_from_slice(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        crate::packet::Ipv4::new_checked(&mut packet[..]).unwrap().fill_checksum();
        packet.extend_from_slice(&plain[20..]);
        let (to, from) = if on == 0 { (DIRECTOR, CLIENT) } else { (INSIDE, SERVER) };
        receive(&mut director, &mut out, on, &frame(to, from, &packet));
        let sent = out.frames().next().unwrap().bytes.to_vec();
        assert!(crate::packet::Ipv4::new_checked(&sent[14..]).unwrap().checksum_is_right());
        sent[34..46].to_vec()
    };
    assert_eq!(options_of(1, RIP, CIP), [7, 11, 8, 200, 200, 200, 1, 0, 0, 0, 0, 0], "not 10.0.0.1, where it came in");
    assert_eq!(options_of(0, CIP, VIP), [7, 11, 12, 200, 200, 200, 1, 200, 200, 200, 1, 0]);
}

/// Telling a sender that its packet's next hop does not answer may ask for that very next hop: what else waited is gone then.
#[test]
fn a_dead_server_that_is_its_own_client() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    director.host.neighbours.remove(InterfaceId(1), ip(RIP));
    for (on, source, to) in [(1, RIP, INSIDE), (0, CIP, DIRECTOR)] {
        let packet = segment(source, VIP, (40000, 80), flags::SYN, 64);
        receive(&mut director, &mut out, on, &frame(to, CLIENT, &packet));
    }
    out.clear();
    director.advance(Nanos::from_millis(3500), &mut out);
    let kinds: Vec<u16> = out.frames().map(|sent| Ethernet::new_checked(sent.bytes).unwrap().ether_type()).collect();
    assert_eq!(kinds, [ether_type::ARP; 3], "two questions more, and a new one for the error");
}

#[test]
fn what_a_subnets_broadcast_address_caused_is_told_to_the_subnet() {
    let mut director = director(ForwardingMethod::Dr);
    let mut out = Output::default();
    let packet = segment("200.200.200.255", VIP, (40000, 80), flags::SYN, 1);
    let verdict = receive(&mut director, &mut out, 0, &frame(DIRECTOR, CLIENT, &packet));
    assert_eq!(verdict, Verdict::Refused(Refusal::TtlExceeded));
    let sent = out.frames().next().unwrap();
    let view = Ethernet::new_checked(sent.bytes).unwrap();
    assert_eq!((view.destination(), sent.interface), (MacAddr::BROADCAST, InterfaceId(0)));
    let headers = Headers::of(view.payload()).unwrap();
    assert_eq!((headers.source, headers.destination), (ip(VIP), ip("200.200.200.255")));
}
