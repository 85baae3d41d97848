//! Goldens with one change each: what users try first.

#![allow(clippy::unwrap_used)]

use super::observe::{Flow, ObservedServer, Observer, Roles};
use super::report::{Styles, render};
use super::*;
use lvscheck_engine::draws::Draw;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A frame with its own memory.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    time: Nanos,
    interface: &'static str,
    bytes: Vec<u8>,
    drawn: Vec<DrawnField>,
    late: bool,
}

fn owned(milliseconds: u64, interface: &'static str, bytes: Vec<u8>) -> Owned {
    Owned { time: Nanos::from_millis(milliseconds), interface, bytes, drawn: Vec::new(), late: false }
}

fn frames(owned: &[Owned]) -> Vec<Frame<'_>> {
    owned
        .iter()
        .zip(1..)
        .map(|(owned, number)| Frame {
            number,
            time: owned.time,
            interface: Some(owned.interface),
            bytes: &owned.bytes,
            wire_len: owned.bytes.len() as u32,
            drawn: &owned.drawn,
            late: owned.late,
        })
        .collect()
}

fn checksum(words: &[&[u8]]) -> [u8; 2] {
    let mut total = 0u32;
    for bytes in words {
        total += bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum::<u32>();
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    (!(total as u16)).to_be_bytes()
}

fn ethernet(destination: u8, kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 2, destination, 2, 0, 0, 0, 1, 1];
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

fn ipv4(id: u16, protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 63, protocol, 0, 0];
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet.extend(source);
    packet.extend(destination);
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// A segment from 198.51.100.1 to 200.200.200.1:80 in its packet.
fn tcp(id: u16, port: u16, sequence: u32, flags: u8, payload: &[u8], destination: [u8; 4]) -> Vec<u8> {
    let source = [198, 51, 100, 1];
    let mut segment = port.to_be_bytes().to_vec();
    segment.extend(80u16.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 9, 0x60, flags, 4, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
    segment.extend(payload);
    let sum = checksum(&[&source, &destination, &[0, 6], &(segment.len() as u16).to_be_bytes(), &segment]);
    segment[16..18].copy_from_slice(&sum);
    ipv4(id, 6, source, destination, &segment)
}

const VIP: [u8; 4] = [200, 200, 200, 1];

/// Four connections of six segments, one after the other in turn, under DR to the real servers 12 and 13 by turns, with an ARP
/// request before.
fn dr() -> Vec<Owned> {
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 1, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 12];
    let mut sent = vec![owned(0, "eth1", ethernet(0xff, 0x0806, &arp))];
    for (number, (step, connection)) in (0..6u16).flat_map(|step| (0..4u16).map(move |connection| (step, connection))).enumerate()
    {
        let (flags, payload): (u8, &[u8]) = match step {
            0 => (0x02, b""),
            2 | 3 => (0x18, b"GET / HTTP/1.1"),
            5 => (0x11, b""),
            _ => (0x10, b""),
        };
        let id = connection * 100 + step;
        let packet = tcp(id, 40000 + connection, 1000 + u32::from(step) * 20, flags, payload, VIP);
        sent.push(owned(number as u64 * 10, "eth1", ethernet(12 + (connection % 2) as u8, 0x0800, &packet)));
    }
    sent
}

/// The same in GUE tunnels with checksum; the source port is drawn, with that value.
fn gue(source_port: u16) -> Vec<Owned> {
    let mut sent = dr();
    sent.remove(0);
    for owned in &mut sent {
        let packet = owned.bytes[14..].to_vec();
        let inner_port = u16::from_be_bytes([packet[20], packet[21]]);
        let own_port = source_port + inner_port % 10;
        let server = [10, 0, 0, owned.bytes[5]];
        let mut datagram = own_port.to_be_bytes().to_vec();
        datagram.extend(6080u16.to_be_bytes());
        datagram.extend((12 + packet.len() as u16).to_be_bytes());
        datagram.extend([0, 0, 0, 4, 0, 0]);
        datagram.extend(&packet);
        let sum = checksum(&[&[10, 0, 0, 1], &server, &[0, 17], &(datagram.len() as u16).to_be_bytes(), &datagram]);
        datagram[6..8].copy_from_slice(&sum);
        owned.bytes = ethernet(owned.bytes[5], 0x0800, &ipv4(0, 17, [10, 0, 0, 1], server, &datagram));
        let draw = Draw::GueSourcePort {
            source: IpAddr::from([198, 51, 100, 1]),
            destination: IpAddr::from(VIP),
            ports: (inner_port, 80),
            protocol: 6,
            flow_label: 0,
        };
        owned.drawn = vec![DrawnField::value(draw, 34, 2).summed_at(40)];
    }
    sent
}

fn judged(golden: &[Owned], actual: &[Owned], options: &Options) -> Comparison {
    compare(&frames(golden), &frames(actual), options, &())
}

fn text(golden: &[Owned], actual: &[Owned]) -> String {
    render(&judged(golden, actual, &Options::default()), 10, &Styles::default())
}

#[test]
fn equal_captures_conform() {
    let comparison = judged(&dr(), &dr(), &Options::default());
    assert!(comparison.conforms());
    assert_eq!((comparison.expected, comparison.actual, comparison.equal), (25, 25, 25));
    assert!(judged(&[], &[], &Options::default()).conforms());
}

#[test]
fn a_changed_field_is_named_with_its_bytes() {
    let mut golden = dr();
    golden[11].bytes[22] = 64;
    insta::assert_snapshot!(text(&golden, &dr()));
}

#[test]
fn a_checksum_that_follows_is_told_so() {
    let mut golden = dr();
    let packet = golden[11].bytes.split_off(14);
    let shorter = ipv4(555, 6, [198, 51, 100, 1], VIP, &packet[20..]);
    golden[11].bytes.extend(shorter);
    insta::assert_snapshot!(text(&golden, &dr()));
}

#[test]
fn a_missing_and_an_unexpected_frame_are_one_finding_each() {
    let mut golden = dr();
    let removed = golden.remove(7);
    insta::assert_snapshot!(text(&golden, &dr()), @r"unexpected: frame 8: unexpected: TCP 198.51.100.1:40002 -> 200.200.200.1:80 [.], 58 bytes
");
    golden.insert(7, removed.clone());
    golden.insert(20, Owned { bytes: ethernet(12, 0x0800, &tcp(999, 41000, 1, 2, b"", VIP)), ..removed });
    insta::assert_snapshot!(text(&golden, &dr()), @r"missing: golden 21: missing: TCP 198.51.100.1:41000 -> 200.200.200.1:80 [S], 58 bytes
");
}

#[test]
fn a_repeated_frame_is_told_from_others() {
    let mut golden = dr();
    golden.insert(5, golden[4].clone());
    insta::assert_snapshot!(text(&golden, &dr()), @"duplicated: golden 6: repeats golden 5: expected twice, got once\n");
    insta::assert_snapshot!(text(&dr(), &golden), @"duplicated: frame 6: repeats frame 5: expected once, got twice\n");
}

#[test]
fn a_moved_frame_is_the_only_finding() {
    let mut golden = dr();
    let moved = golden.remove(5);
    golden.insert(15, moved);
    insta::assert_snapshot!(text(&golden, &dr()), @"moved: frame 6 (golden 16): out of order: expected right after frame 16, came after frame 5\n");
}

#[test]
fn another_interface_is_told() {
    let mut golden = dr();
    golden[3].interface = "eth0";
    insta::assert_snapshot!(text(&golden, &dr()), @"interface: frame 4 (golden 4): left by eth1, expected eth0\n");
}

#[test]
fn a_changed_type_does_not_list_what_follows_from_it() {
    let mut golden = dr();
    golden[9].bytes[23] = 4;
    golden[0].bytes[18] = 5;
    insta::assert_snapshot!(text(&golden, &dr()));
}

/// Says what an operator knows.
struct Known;

impl Context for Known {
    fn connection(&self, _actual: usize) -> Option<Flow> {
        None
    }

    fn owner(&self, mac: [u8; 6]) -> Option<String> {
        Some(format!("10.0.0.{}", mac[5]))
    }
}

#[test]
fn a_connection_that_went_elsewhere_is_one_finding() {
    let mut golden = dr();
    for owned in golden.iter_mut().skip(1).step_by(4) {
        owned.bytes[5] = 13;
    }
    let actual = dr();
    let comparison = compare(&frames(&golden), &frames(&actual), &Options::default(), &Known);
    insta::assert_snapshot!(render(&comparison, 10, &Styles::default()), @"real-server: TCP connection 198.51.100.1:40000 -> 200.200.200.1:80 went to 10.0.0.12 (02:00:00:00:02:0c), expected 10.0.0.13 (02:00:00:00:02:0d): 6 frames from frame 2 (golden 2) on\n");
    assert_eq!(comparison.equal, 19);
}

#[test]
fn a_translated_connection_that_went_elsewhere_takes_its_answers_with_it() {
    let one = |server: u8| {
        let request = |id, flags| ethernet(server, 0x0800, &tcp(id, 40000, u32::from(id), flags, b"", [10, 0, 0, server]));
        vec![owned(0, "eth1", request(1, 2)), owned(1, "eth1", request(2, 16))]
    };
    let mut golden = one(12);
    let mut answer = tcp(7, 40000, 5, 0x12, b"", VIP);
    // The answer: source and destination, and the ports, change sides.
    for part in [12..16, 20..22] {
        for at in part.clone() {
            answer.swap(at, at + part.len());
        }
    }
    golden.insert(1, owned(1, "eth0", ethernet(1, 0x0800, &answer)));
    let comparison = judged(&golden, &one(13), &Options::default());
    insta::assert_snapshot!(render(&comparison, 9, &Styles::default()), @"real-server: TCP connection of 198.51.100.1:40000 went to 10.0.0.13:80, expected 10.0.0.12:80: 3 frames from frame 1 (golden 1) on\n");
}

#[test]
fn drawn_ports_are_learned_and_their_checksums_follow() {
    let comparison = judged(&gue(45480), &gue(33330), &Options::default());
    assert_eq!(render(&comparison, 9, &Styles::default()), "");
    assert!(comparison.conforms());
    assert_eq!(comparison.learned_words(), "4 GUE source port");
    // A wrong checksum is no draw.
    let mut golden = gue(45480);
    golden[2].bytes[41] ^= 1;
    let comparison = judged(&golden, &gue(33330), &Options::default());
    assert_eq!(comparison.total(), 1);
    assert_eq!(comparison.findings[0].fields[0].field, "udp.checksum");
    // A changed port with its old checksum is told as the port's change.
    let mut golden = gue(45480);
    golden[2].bytes[35] ^= 4;
    insta::assert_snapshot!(text(&golden, &gue(33330)));
    // Nor are other values of a flow's port, even with the right checksum, nor ports that no director draws.
    let mut golden = gue(45480);
    golden[2].bytes = gue(45500)[2].bytes.clone();
    insta::assert_snapshot!(text(&golden, &gue(33330)), @"draw: frame 3 (golden 3): udp.srcport: 45502 here, but 45482 to agree with golden 7: a GUE source port is drawn once\n");
    let comparison = judged(&gue(1000), &gue(33330), &Options::default());
    assert_eq!(comparison.counts.get(&FindingKind::Draw), Some(&24));
}

#[test]
fn frames_of_timers_have_no_fixed_order() {
    let mut actual = dr();
    actual[10].late = true;
    let mut golden = dr();
    let late = golden.remove(10);
    golden.insert(13, late);
    assert_eq!(text(&golden, &actual), "");
    golden[13].time = Nanos::from_millis(4500);
    insta::assert_snapshot!(text(&golden, &actual), @"moved: frame 11 (golden 14): out of order: expected right after frame 14, came after frame 10\n");
    let mut golden = dr();
    golden[10].time = Nanos::from_millis(4500);
    insta::assert_snapshot!(text(&golden, &actual), @"time: frame 11 (golden 11): 4.4 s too early for the timer that sends it\n");
}

#[test]
fn ignored_fields_may_differ_and_checksums_are_compared_as_if_they_were_equal() {
    let actual = gue(45480);
    let mut golden = actual.clone();
    let ignoring = |names: &[&str]| Options { ignore: Ignore::new(names).unwrap(), ..Options::default() };
    for owned in &mut golden {
        // Another inner TTL, with its checksum: the outer UDP checksum stays.
        owned.bytes[54] -= 3;
        let sum = u16::from_be_bytes([owned.bytes[56], owned.bytes[57]]) + 0x300;
        owned.bytes[56..58].copy_from_slice(&sum.to_be_bytes());
    }
    assert_eq!(judged(&golden, &actual, &Options::default()).total(), 24);
    assert_eq!(judged(&golden, &actual, &ignoring(&["ip.ttl"])).total(), 0);
    assert_eq!(judged(&golden, &actual, &ignoring(&["ip.ttl#2"])).total(), 0);
    assert_eq!(judged(&golden, &actual, &ignoring(&["ip.ttl#1"])).total(), 24);
    // A wrong checksum is still found.
    golden[3].bytes[57] ^= 4;
    let comparison = judged(&golden, &actual, &ignoring(&["ip.ttl"]));
    assert_eq!(comparison.total(), 1);
    assert_eq!(comparison.findings[0].expected, Some(4));
    assert_eq!(comparison.findings[0].fields[0].field, "inner ip.checksum");
}

#[test]
fn padding_and_cut_captures_agree() {
    let actual = dr();
    let mut golden = dr();
    golden[0].bytes.resize(60, 0);
    assert_eq!(text(&golden, &actual), "");
    let mut cut = frames(&golden);
    for frame in &mut cut {
        frame.bytes = &frame.bytes[..frame.bytes.len().min(40)];
    }
    assert!(compare(&cut, &frames(&actual), &Options::default(), &()).conforms());
    cut[5].wire_len += 1;
    let comparison = compare(&cut, &frames(&actual), &Options::default(), &());
    assert_eq!(comparison.findings[0].fields[0].words(), "frame.len: expected 59, got 58");
}

struct Web;

impl Roles for Web {
    fn is_service(&self, protocol: u8, destination: SocketAddr) -> bool {
        protocol == 6 && destination == SocketAddr::from((VIP, 80))
    }

    fn is_server(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if address.octets()[..3] == [10, 0, 0])
    }
}

fn observed(golden: &[Owned]) -> BTreeMap<Flow, Vec<(Nanos, ObservedServer)>> {
    let mut observer = Observer::new(&Web);
    frames(golden).iter().for_each(|frame| observer.see(frame.time, frame.bytes));
    observer.finish()
}

#[test]
fn real_servers_are_read_off_the_golden() {
    let flow = |port: u16, service| Flow { protocol: 6, client: SocketAddr::from(([198, 51, 100, 1], port)), service };
    let vip = Some(SocketAddr::from((VIP, 80)));
    let direct = dr();
    let found = observed(&direct);
    assert_eq!(found.len(), 4);
    assert_eq!(found[&flow(40001, vip)], [(Nanos::from_millis(10), ObservedServer::Mac([2, 0, 0, 0, 2, 13]))]);
    let tunnelled = gue(40000);
    let found = observed(&tunnelled);
    assert_eq!(found[&flow(40002, vip)][0].1, ObservedServer::Tunnel(IpAddr::from([10, 0, 0, 12])));
    let translated = [owned(0, "eth1", ethernet(12, 0x0800, &tcp(1, 40000, 1, 2, b"", [10, 0, 0, 12])))];
    let found = observed(&translated);
    assert_eq!(found[&flow(40000, None)][0].1, ObservedServer::Address(SocketAddr::from(([10, 0, 0, 12], 80))));
}

/// A change to a golden.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Drop,
    Repeat,
    Move(usize),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), 1..=255u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        Just(Change::Drop),
        Just(Change::Repeat),
        any::<usize>().prop_map(Change::Move),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn one_change_is_one_finding_that_points_at_it(
        tunnel in any::<bool>(),
        at in any::<usize>(),
        change in changes(),
        swapped in any::<bool>(),
    ) {
        let actual = if tunnel { gue(45480) } else { dr() };
        let at = at % actual.len();
        let mut golden = if tunnel { gue(51230) } else { dr() };
        let number = at as u64 + 1;
        let (kinds, expected, emitted): (&[FindingKind], Option<u64>, Option<u64>) = match change {
            Change::Flip(offset, bits) => {
                let offset = offset % golden[at].bytes.len();
                golden[at].bytes[offset] ^= bits;
                (&[FindingKind::Field], Some(number), Some(number))
            }
            Change::Drop => {
                golden.remove(at);
                (&[FindingKind::Unexpected], None, Some(number))
            }
            Change::Repeat => {
                golden.insert(at, golden[at].clone());
                (&[FindingKind::Duplicated], Some(number + 1), None)
            }
            Change::Move(to) => {
                let to = to % actual.len();
                let moved = golden.remove(at);
                golden.insert(to, moved);
                if to == at {
                    prop_assert!(judged(&golden, &actual, &Options::default()).conforms());
                    return Ok(());
                }
                // Of two neighbours that changed places either may be the one that moved.
                let far = to.abs_diff(at) > 1;
                (&[FindingKind::Moved], far.then_some(to as u64 + 1), far.then_some(number))
            }
        };
        let comparison = judged(&golden, &actual, &Options::default());
        prop_assert_eq!(comparison.total(), 1, "{}", render(&comparison, 9, &Styles::default()));
        let finding = &comparison.findings[0];
        prop_assert!(kinds.contains(&finding.kind), "{finding:?}");
        if kinds != [FindingKind::Moved] || expected.is_some() {
            prop_assert_eq!((finding.expected, finding.actual), (expected, emitted), "{}", finding.message);
        }
        // The other way round it is refused just as well.
        if swapped {
            for owned in &mut golden {
                owned.drawn.clear();
            }
            let mut actual = actual;
            for owned in &mut actual {
                owned.drawn.clear();
            }
            if !tunnel {
                prop_assert_eq!(judged(&actual, &golden, &Options::default()).total(), 1);
            }
        }
    }

    #[test]
    fn no_content_panics(
        golden in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..12),
        actual in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..12),
        flips in prop::collection::vec((0..25usize, 0..80usize, any::<u8>(), any::<bool>()), 0..40),
        offset in 0..100u16,
        len in 0..12u8,
    ) {
        let field = DrawnField { bits: 20, ..DrawnField::value(Draw::Ipv4Id(1), usize::from(offset), len) }.summed_at(97);
        let own = |bytes: Vec<Vec<u8>>| -> Vec<Owned> {
            bytes.into_iter().map(|bytes| Owned { drawn: vec![field], ..owned(0, "eth0", bytes) }).collect()
        };
        let (golden, actual) = (own(golden), own(actual));
        let options = Options { ignore: Ignore::new(["ip.ttl", "tcp.options", "data"]).unwrap(), ..Options::default() };
        for options in [Options::default(), options] {
            let comparison = judged(&golden, &actual, &options);
            render(&comparison, 9, &Styles::colored());
            let mut broken = gue(45480);
            for (frame, at, value, shorten) in &flips {
                if let Some(owned) = broken.get_mut(*frame) {
                    if *shorten {
                        owned.bytes.truncate(*at);
                    } else if let Some(byte) = owned.bytes.get_mut(*at) {
                        *byte = *value;
                    }
                }
            }
            let comparison = judged(&broken, &gue(45480), &options);
            render(&comparison, 9, &Styles::colored());
            judged(&gue(45480), &broken, &options);
        }
    }
}
