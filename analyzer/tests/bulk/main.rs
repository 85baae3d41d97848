//! Large captures are replayed window by window: that gives what the careful way gives, the same frames, verdicts and counters.
//! Here the fast way, which works on all packets of a window at once.
#![allow(clippy::unwrap_used, reason = "a test")]

mod differences;
mod goldens;
mod one_by_one;
mod several;

use lvscheck::capture::{Reader, Writer};
use lvscheck::command::args::Mode;
use lvscheck::generate::{GenerateArgs, Method, run};
use lvscheck::replay::{self, Outcome, Replayed, Request, ServiceArguments, Source};
use lvscheck_engine::Nanos;
use lvscheck_engine::packet::checksum::update;
use std::path::{Path, PathBuf};

fn replayed(folder: &Path, bulk: bool, golden: Option<&str>, write: Option<&str>) -> Replayed {
    replayed_from(folder, "traffic.pcap", bulk, golden, write)
}

fn replayed_from(folder: &Path, capture: &str, bulk: bool, golden: Option<&str>, write: Option<&str>) -> Replayed {
    replayed_all(folder, &[capture], bulk, golden, write)
}

fn replayed_all(folder: &Path, captures: &[&str], bulk: bool, golden: Option<&str>, write: Option<&str>) -> Replayed {
    let path = |name: &str| folder.join(name);
    let request = Request {
        captures: captures.iter().map(|name| path(name)).collect(),
        config: Some(path("director")),
        golden: golden.map(|name| Source::File(path(name))),
        write: write.map(path),
        bulk,
        ..Request::default()
    };
    replay::run(&request).unwrap()
}

/// Generated traffic with an odd frame now and then: ARP for the VIP, a wrong checksum, TTL 1, a SYN again.
fn traffic(folder: &Path, mode: Method) {
    let plain = folder.join("plain.pcap");
    let mut args = GenerateArgs::new(&plain);
    (args.flows, args.packets_per_flow, args.concurrent) = (9_000, Some(8), Some(3_000));
    args.protocol = "tcp:3,udp".parse().unwrap();
    args.director = Some(folder.join("director"));
    args.mode = mode;
    run(&args).unwrap();
    let mut reader = Reader::open(&plain).unwrap();
    let mut records = Vec::new();
    let mut writer = Writer::create(&folder.join("traffic.pcap"), &["eth0"]).unwrap();
    let mut count = 0;
    while let Some(window) = reader.next_window(&mut records, usize::MAX).unwrap() {
        for frame in window.frames() {
            let mut bytes = frame.bytes.to_vec();
            count += 1;
            match count % 40_009 {
                5_000 => bytes[24] ^= 1,
                10_000 => bytes[22] = 1,
                20_000 => {
                    bytes = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 0xfe, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xfe]].concat();
                    bytes.extend_from_slice(&[192, 0, 2, 254, 0, 0, 0, 0, 0, 0, 200, 200, 200, 1]);
                }
                _ => {}
            }
            writer.write(frame.time, 0, &bytes, bytes.len() as u32, None).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// Where the record ends that holds that byte of a pcap file. A frame's last byte is its own: no draw, no time, no padding.
fn end_of_record(capture: &[u8], byte: usize) -> usize {
    let mut end = 24;
    while end <= byte {
        let len = u32::from_le_bytes(capture[end + 8..end + 12].try_into().unwrap());
        end += 16 + len as usize;
    }
    end
}

#[test]
fn fast_and_careful_replays_agree() {
    for mode in [Method::Dr, Method::Nat, Method::Tunnel] {
        let folder = tempfile::tempdir().unwrap();
        traffic(folder.path(), mode);
        let fast = replayed(folder.path(), true, None, Some("fast.pcap")).outcome;
        let careful = replayed(folder.path(), false, None, Some("careful.pcap")).outcome;
        assert!(fast.connections.is_empty() && !careful.connections.is_empty(), "each took its own way");
        let bytes = |name: &str| std::fs::read::<PathBuf>(folder.path().join(name)).unwrap();
        assert!(bytes("fast.pcap") == bytes("careful.pcap"));
        assert_eq!(fast.verdicts.rows().collect::<Vec<_>>(), careful.verdicts.rows().collect::<Vec<_>>());
        assert_eq!(fast.services, careful.services);
        assert_eq!(fast.demands, careful.demands);
        assert_eq!((fast.emitted.frames, fast.emitted.link), (careful.emitted.frames, careful.emitted.link));
        let golden = replayed(folder.path(), true, Some("careful.pcap"), None).outcome;
        assert!(golden.conforms());
        let mut changed = bytes("careful.pcap");
        let at = end_of_record(&changed, changed.len() / 2) - 1;
        changed[at] ^= 0x40;
        std::fs::write(folder.path().join("changed.pcap"), changed).unwrap();
        let [fast, careful] = [true, false].map(|bulk| replayed(folder.path(), bulk, Some("changed.pcap"), None).outcome);
        assert!(!fast.conforms() && went_one_by_one(&fast));
        same(&fast, &careful);
    }
}

/// The traffic as a capture beside the director shows it: with the answers, frames between others, ARP that claims the VIP and
/// requests too long for a tunnel. `servers_side`: a real server's frames are there, too.
fn both_ways(folder: &Path, mode: Method, servers_side: bool) {
    traffic(folder, mode);
    let mut reader = Reader::open(&folder.join("traffic.pcap")).unwrap();
    let mut records = Vec::new();
    let mut writer = Writer::create(&folder.join("both.pcap"), &["eth0"]).unwrap();
    let (server, other) = ([2, 0, 0, 0, 0x0a, 0x0b], [2, 0, 0, 0, 0x77, 1]);
    let mut count = 0;
    let turned = |frame: &[u8]| {
        let (ip, transport) = frame[14..].split_at(20);
        let (link, ip) = ([&frame[6..12], &frame[..6], &frame[12..14]], [&ip[..12], &ip[16..20], &ip[12..16]]);
        let mut answer = [&link.concat()[..], &ip.concat(), &transport[2..4], &transport[..2], &transport[4..]].concat();
        if frame[14 + 9] == 6 && answer[47] & 2 != 0 {
            // A SYN is answered by SYN and ACK.
            let word = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
            let check = update(word(50), word(46), word(46) | 0x10);
            answer[47] |= 0x10;
            answer[50..52].copy_from_slice(&check.to_be_bytes());
        }
        answer
    };
    while let Some(window) = reader.next_window(&mut records, usize::MAX).unwrap() {
        for frame in window.frames() {
            let mut write = |bytes: &[u8]| writer.write(frame.time, 0, bytes, bytes.len() as u32, None).unwrap();
            count += 1;
            if servers_side && count == 1 {
                let mut from_server = frame.bytes.to_vec();
                from_server[6..12].copy_from_slice(&server);
                from_server[26..30].copy_from_slice(&[10, 0, 0, 11]);
                write(&from_server);
            }
            let mut bytes = frame.bytes.to_vec();
            if count % 3_001 == 0 && bytes.len() >= 42 {
                // Longer than a tunnel has room for, and may not be fragmented; or may be.
                let room = 1_500 - (bytes.len() - 14);
                bytes.extend(vec![0; room]);
                bytes[16..18].copy_from_slice(&1_500_u16.to_be_bytes());
                bytes[20] = if count % 2 == 0 { 0x40 } else { 0 };
                let sum = lvscheck_engine::packet::checksum::internet(&[&bytes[14..24], &[0, 0], &bytes[26..34]].concat());
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            write(&bytes);
            // The checksum of what was made longer is wrong, which FULLNAT would not leave so.
            if bytes[12..14] != [8, 0] || bytes.len() > 1_500 {
                continue;
            }
            let mut answer = turned(&bytes);
            match count % 5 {
                0 => continue,
                1 => answer[6..12].copy_from_slice(&server),
                2 => answer[26..30].copy_from_slice(&[172, 16, 0, 9]),
                3 => {
                    answer = bytes;
                    answer[..6].copy_from_slice(&other);
                }
                _ => {}
            }
            write(&answer);
            if count % 10_007 == 0 {
                let from = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &other, &[200, 200, 200, 1], &other, &[10, 0, 0, 9]].concat();
                write(&[&other[..], &other, &[8, 6], &from].concat());
            }
        }
    }
    writer.finish().unwrap();
}

#[test]
fn frames_that_are_no_input_stand_aside() {
    for (mode, servers_side, in_parallel) in [
        (Method::Dr, false, true),
        (Method::Tunnel, true, true),
        (Method::Nat, true, true),
        // Answers must be sent through the director once more.
        (Method::Nat, false, false),
        (Method::Fullnat, false, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        both_ways(folder.path(), mode, servers_side);
        let [fast, careful] = [true, false].map(|bulk| {
            let name = format!("{bulk}.pcap");
            let outcome = replayed_from(folder.path(), "both.pcap", bulk, None, Some(&name)).outcome;
            (outcome, std::fs::read(folder.path().join(&name)).unwrap())
        });
        assert_eq!(fast.0.handled.map(|handled| handled.parallel > 0), Some(in_parallel), "{mode:?}");
        assert!(fast.1 == careful.1, "{mode:?}");
        assert_eq!(fast.0.roles, careful.0.roles, "{mode:?}");
        assert!(fast.0.roles.of_others > 10_000 && fast.0.roles.past_director > 10_000, "{:?}", fast.0.roles);
        assert_eq!(fast.0.replies, careful.0.replies, "{mode:?}");
        assert_eq!(fast.0.verdicts.rows().collect::<Vec<_>>(), careful.0.verdicts.rows().collect::<Vec<_>>(), "{mode:?}");
        assert_eq!(fast.0.services, careful.0.services, "{mode:?}");
        assert_eq!(fast.0.demands, careful.0.demands, "{mode:?}");
        let broken: Vec<&str> = fast.0.demands.iter().map(|demand| demand.id).collect();
        let expected: &[&str] = match mode {
            Method::Dr => &["dr-arp-vip"],
            Method::Tunnel => &["dr-arp-vip", "tunnel-mtu"],
            _ => &[],
        };
        assert_eq!(broken, expected, "{mode:?}");
        let about = |outcome: &Outcome| {
            let input = &outcome.input;
            (input.frames, input.bytes, input.wire_bytes, input.first, input.last)
        };
        assert_eq!(about(&fast.0), about(&careful.0), "{mode:?}");
    }
}

/// Both ways found the same, but for how: the first by windows, the second with the whole capture in memory.
fn same(fast: &Outcome, careful: &Outcome) {
    assert!(fast.handled.is_some() && careful.handled.is_none(), "each took its own way");
    assert_eq!(fast.verdicts.rows().collect::<Vec<_>>(), careful.verdicts.rows().collect::<Vec<_>>());
    assert_eq!((&fast.roles, &fast.services, &fast.demands), (&careful.roles, &careful.services, &careful.demands));
    assert_eq!(fast.client_addresses, careful.client_addresses);
    assert!(careful.translations.starts_with(&fast.translations));
    assert_eq!(fast.director.assumed, careful.director.assumed);
    let about = |outcome: &Outcome| {
        let (input, emitted) = (&outcome.input, &outcome.emitted);
        let read = (input.files.clone(), input.frames, input.bytes, input.wire_bytes, input.first, input.last);
        (read, input.warnings.clone(), (emitted.frames, emitted.bytes, emitted.link, emitted.icmp_errors))
    };
    assert_eq!(about(fast), about(careful));
    assert_eq!((&fast.replies, &fast.golden), (&careful.replies, &careful.golden));
}

/// Whether all packets went one after the other, window by window.
fn went_one_by_one(outcome: &Outcome) -> bool {
    outcome.handled.is_some_and(|handled| (handled.parallel, handled.serial) == (0, outcome.input.frames))
}

/// The mode of a director that serves by a method.
fn mode_of(method: Method) -> Mode {
    match method {
        Method::Dr => Mode::Dr,
        Method::Nat => Mode::Nat,
        Method::Fullnat => Mode::Fullnat,
        Method::Tunnel => Mode::Tunnel,
    }
}

/// A golden of FULLNAT as another run of a real director would give it: each connection's TCP sequence numbers are off by a draw
/// of its own.
fn with_other_draws(golden: &[u8]) -> Vec<u8> {
    let mut other = golden.to_vec();
    let mut at = 24;
    while at < other.len() {
        let len = u32::from_le_bytes(other[at + 8..at + 12].try_into().unwrap()) as usize;
        let frame = &mut other[at + 16..at + 16 + len];
        // Of what goes to a real server, not of the RST for a client.
        if frame[12..14] == [8, 0] && frame[23] == 6 && frame[34..36] != 80_u16.to_be_bytes() {
            let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let sequence = u32::from(word(frame, 38)) << 16 | u32::from(word(frame, 40));
            let drawn = u32::from(word(frame, 34)).wrapping_mul(0x9e37_79b1);
            let words = sequence.wrapping_add(drawn).to_be_bytes();
            for (at, new) in [(38, [words[0], words[1]]), (40, [words[2], words[3]])] {
                let check = update(word(frame, 50), word(frame, at), u16::from_be_bytes(new));
                frame[50..52].copy_from_slice(&check.to_be_bytes());
                frame[at..at + 2].copy_from_slice(&new);
            }
        }
        at += 16 + len;
    }
    other
}

#[test]
fn fullnat_is_the_same_both_ways_and_draws_are_learned() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    let replayed = |bulk: bool, golden: Option<&str>, write: Option<&str>| {
        let request = Request {
            captures: vec![folder.path().join("traffic.pcap")],
            mode: Some(Mode::Fullnat),
            golden: golden.map(|name| Source::File(folder.path().join(name))),
            write: write.map(|name| folder.path().join(name)),
            bulk,
            ..Request::default()
        };
        let outcome = replay::run(&request).unwrap().outcome;
        assert_eq!(outcome.handled.is_some(), bulk, "it took its way");
        outcome
    };
    let bytes = |name: &str| std::fs::read::<PathBuf>(folder.path().join(name)).unwrap();
    let fast = replayed(true, None, Some("fast.pcap"));
    assert!(fast.handled.is_some_and(|handled| handled.parallel > 0));
    let careful = replayed(false, None, Some("careful.pcap"));
    assert!(bytes("fast.pcap") == bytes("careful.pcap"));
    assert_eq!(fast.verdicts.rows().collect::<Vec<_>>(), careful.verdicts.rows().collect::<Vec<_>>());
    assert_eq!((fast.services, fast.client_addresses), (careful.services, careful.client_addresses));
    assert!(fast.translations.len() >= 1000 && careful.translations.starts_with(&fast.translations));

    std::fs::write(folder.path().join("other.pcap"), with_other_draws(&bytes("careful.pcap"))).unwrap();
    let careful = replayed(false, Some("other.pcap"), Some("careful.pcap")).golden.unwrap();
    let fast = replayed(true, Some("other.pcap"), Some("fast.pcap")).golden.unwrap();
    assert!(fast.conforms() && careful.conforms());
    assert_eq!((fast.equal, &fast.learned), (careful.equal, &careful.learned));
    assert!(fast.learned["TCP sequence offset"] > 1000);
    assert!(bytes("fast.pcap") == bytes("other.pcap") && bytes("careful.pcap") == bytes("other.pcap"));
}

/// The same frames in another container.
fn convert(folder: &Path, to: &str) {
    let mut reader = Reader::open(&folder.join("traffic.pcap")).unwrap();
    let mut writer = Writer::create(&folder.join(to), &["eth0"]).unwrap();
    let mut records = Vec::new();
    while let Some(window) = reader.next_window(&mut records, usize::MAX).unwrap() {
        for frame in window.frames() {
            writer.write(frame.time, 0, frame.bytes, frame.wire_len, None).unwrap();
        }
    }
    writer.finish().unwrap();
}

#[test]
fn every_format_takes_the_fast_way() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    let expected = replayed(folder.path(), true, None, Some("plain-out.pcap")).outcome;
    convert(folder.path(), "traffic.pcapng");
    let packed = std::fs::File::create(folder.path().join("traffic.pcap.zst")).unwrap();
    let plain = std::fs::File::open(folder.path().join("traffic.pcap")).unwrap();
    zstd::stream::copy_encode(plain, packed, 3).unwrap();
    for capture in ["traffic.pcapng", "traffic.pcap.zst"] {
        let outcome = replayed_from(folder.path(), capture, true, Some("plain-out.pcap"), None).outcome;
        assert!(outcome.conforms(), "{capture}");
        assert!(outcome.handled.is_some(), "{capture} is large, however well it is compressed");
        assert_eq!(outcome.services, expected.services, "{capture}");
        assert_eq!((outcome.input.frames, outcome.input.last), (expected.input.frames, expected.input.last), "{capture}");
    }
}

#[test]
fn a_director_that_is_inferred_is_the_same_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    let told = ServiceArguments { services: vec!["200.200.200.1:80".to_owned()], ..ServiceArguments::default() };
    for (mode, services) in [
        (Mode::Dr, ServiceArguments::default()),
        (Mode::Dr, told.clone()),
        (Mode::Nat, ServiceArguments::default()),
        (Mode::Nat, told),
    ] {
        let [fast, careful] = [true, false].map(|bulk| {
            let name = format!("{bulk}.pcap");
            let request = Request {
                captures: vec![folder.path().join("traffic.pcap")],
                mode: Some(mode),
                services: services.clone(),
                write: Some(folder.path().join(&name)),
                bulk,
                ..Request::default()
            };
            let outcome = replay::run(&request).unwrap().outcome;
            assert_eq!(outcome.handled.is_some(), bulk, "{mode:?} took its way");
            (outcome, std::fs::read(folder.path().join(&name)).unwrap())
        });
        assert!(fast.1 == careful.1, "{mode:?}");
        assert_eq!(fast.0.director.assumed, careful.0.director.assumed);
        assert_eq!(fast.0.director.interfaces, careful.0.director.interfaces);
        assert_eq!(fast.0.services, careful.0.services);
        assert_eq!(fast.0.verdicts.rows().collect::<Vec<_>>(), careful.0.verdicts.rows().collect::<Vec<_>>());
    }
}
