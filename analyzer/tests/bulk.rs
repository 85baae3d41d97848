//! The fast way of a replay gives what the careful way gives: the same frames, verdicts and counters.
#![allow(clippy::unwrap_used, reason = "a test")]

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
        assert!(!replayed(folder.path(), true, Some("changed.pcap"), None).outcome.conforms());
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

/// The two ways agree on a capture, with a golden that conforms and one that does not; the first takes one packet after the other.
fn agree_one_by_one(folder: &Path, capture: &str) {
    let fast = replayed_from(folder, capture, true, None, Some("fast.pcap")).outcome;
    let careful = replayed_from(folder, capture, false, None, Some("careful.pcap")).outcome;
    assert!(went_one_by_one(&fast));
    same(&fast, &careful);
    let bytes = |name: &str| std::fs::read::<PathBuf>(folder.join(name)).unwrap();
    assert!(bytes("fast.pcap") == bytes("careful.pcap"));
    let golden = replayed_from(folder, capture, true, Some("careful.pcap"), None).outcome;
    assert!(golden.conforms() && golden.handled.is_some());
    assert_eq!(golden.golden.map(|golden| golden.equal), Some(careful.emitted.frames));
    let mut changed = bytes("careful.pcap");
    let at = end_of_record(&changed, changed.len() / 2) - 1;
    changed[at] ^= 0x40;
    std::fs::write(folder.join("changed.pcap"), changed).unwrap();
    let differs = replayed_from(folder, capture, true, Some("changed.pcap"), None).outcome;
    assert!(!differs.conforms() && differs.handled.is_none(), "the careful way tells what differs");
}

#[test]
fn a_pcapng_that_says_why_frames_leave_takes_one_packet_after_the_other() {
    for mode in [Method::Dr, Method::Nat, Method::Fullnat] {
        let folder = tempfile::tempdir().unwrap();
        both_ways(folder.path(), mode, false);
        let replayed = |bulk: bool, golden: Option<&str>, write: &str| {
            let outcome = replayed_from(folder.path(), "both.pcap", bulk, golden, Some(write)).outcome;
            (outcome, std::fs::read(folder.path().join(write)).unwrap())
        };
        let (fast, fast_bytes) = replayed(true, None, "fast.pcapng");
        let (careful, careful_bytes) = replayed(false, None, "careful.pcapng");
        assert!(went_one_by_one(&fast), "{mode:?}");
        same(&fast, &careful);
        assert!(fast_bytes == careful_bytes, "{mode:?}");
        let comment = b" sent to a real server (10.0.0.11:80 for TCP 200.200.200.1:80, new)";
        assert!(fast_bytes.windows(comment.len()).any(|bytes| bytes == comment), "{mode:?}");
    }
}

/// The frames of a capture shared among others as `which` says, with the time as `when` says, each as plain pcap.
fn shared(folder: &Path, capture: &str, into: &[&str], which: impl Fn(&[u8], u64) -> usize, when: impl Fn(Nanos, u64) -> Nanos) {
    let mut reader = Reader::open(&folder.join(capture)).unwrap();
    let mut writers: Vec<Writer> = into.iter().map(|name| Writer::create(&folder.join(name), &["span"]).unwrap()).collect();
    let mut records = Vec::new();
    while let Some(window) = reader.next_window(&mut records, usize::MAX).unwrap() {
        for frame in window.frames() {
            let writer = &mut writers[which(frame.bytes, frame.number)];
            writer.write(when(frame.time, frame.number), 0, frame.bytes, frame.wire_len, None).unwrap();
        }
    }
    writers.into_iter().for_each(|writer| writer.finish().unwrap());
}

#[test]
fn several_captures_are_merged_window_by_window() {
    const CAPTURES: [&str; 3] = ["client.pcap", "network.pcapng", "other.pcap"];
    for (mode, servers_side, in_parallel) in [(Method::Dr, false, true), (Method::Nat, true, true), (Method::Nat, false, false)] {
        let folder = tempfile::tempdir().unwrap();
        both_ways(folder.path(), mode, servers_side);
        // Four frames of a moment, so that captures have frames of the same time.
        let director = [2, 0, 0, 0, 1, 0];
        let which =
            |frame: &[u8], number: u64| if frame[..6] == director { 2 * usize::from(number.is_multiple_of(7)) } else { 1 };
        let start = 1_600_000_000_000_000_000;
        shared(folder.path(), "both.pcap", &CAPTURES, which, |_, number| Nanos(start + number / 4 * 10_000));
        for write in ["pcap", "pcapng"] {
            let [fast, careful] = [true, false].map(|bulk| {
                let name = format!("{bulk}.{write}");
                let outcome = replayed_all(folder.path(), &CAPTURES, bulk, None, Some(&name)).outcome;
                (outcome, std::fs::read(folder.path().join(&name)).unwrap())
            });
            let handled = fast.0.handled.map(|handled| handled.parallel > 0);
            assert_eq!(handled, Some(in_parallel && write == "pcap"), "{mode:?}");
            same(&fast.0, &careful.0);
            assert!(fast.1 == careful.1, "{mode:?}");
            assert!(fast.0.roles.of_others > 10_000 && fast.0.verdicts.of_services() > 30_000, "{:?}", fast.0.roles);
        }
        let golden = replayed_all(folder.path(), &CAPTURES, true, Some("false.pcap"), None).outcome;
        assert!(golden.conforms() && golden.handled.is_some(), "{mode:?}");
    }
}

/// A file's stem and a pcapng's interface say on which of the director's links frames arrived.
#[test]
fn several_captures_tell_links_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Nat);
    // The director's own MAC address tells nothing about a frame to all.
    let (first, second) = ("director-eth1.pcap", "any.pcapng");
    let is_arp = |frame: &[u8], _| usize::from(frame[12..14] != [8, 6]);
    shared(folder.path(), "traffic.pcap", &[first, second], is_arp, |time, _| time);
    for write in ["pcap", "pcapng"] {
        let [fast, careful] = [true, false].map(|bulk| {
            let name = format!("{bulk}.{write}");
            let outcome = replayed_all(folder.path(), &[first, second], bulk, None, Some(&name)).outcome;
            (outcome, std::fs::read(folder.path().join(&name)).unwrap())
        });
        same(&fast.0, &careful.0);
        assert!(fast.1 == careful.1);
    }
}

/// Sorted by time as a whole, which takes all of it: the frames of a capture whose clock steps back stand between others.
#[test]
fn several_captures_one_of_which_steps_back_take_the_careful_way() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    let back = |time: Nanos, number: u64| if number == 30_001 { Nanos(time.0 - 1_000_000) } else { time };
    shared(folder.path(), "traffic.pcap", &["odd.pcap", "even.pcap"], |_, number| usize::from(number.is_multiple_of(2)), back);
    let [fast, careful] = [true, false].map(|bulk| {
        let name = format!("{bulk}.pcapng");
        let outcome = replayed_all(folder.path(), &["odd.pcap", "even.pcap"], bulk, None, Some(&name)).outcome;
        assert!(outcome.handled.is_none());
        (outcome, std::fs::read(folder.path().join(&name)).unwrap())
    });
    assert!(fast.1 == careful.1);
    assert_eq!(fast.0.services, careful.0.services);
}

/// Interfaces are numbered one capture after the other: one more in the first capture moves those of the second.
#[test]
fn several_captures_one_of_which_describes_an_interface_late_take_the_careful_way() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Nat);
    let which = |_: &[u8], number: u64| if number.is_multiple_of(3) { 2 } else { usize::from(number > 30_000) };
    let parts = ["early.pcapng", "late.pcapng", "other.pcap"];
    shared(folder.path(), "traffic.pcap", &parts, which, |time, _| time);
    // A file of two sections, each with its own interface.
    let bytes = |name: &str| std::fs::read::<PathBuf>(folder.path().join(name)).unwrap();
    std::fs::write(folder.path().join("both.pcapng"), [bytes(parts[0]), bytes(parts[1])].concat()).unwrap();
    let [fast, careful] = [true, false].map(|bulk| {
        let name = format!("{bulk}.pcapng");
        let outcome = replayed_all(folder.path(), &["both.pcapng", "other.pcap"], bulk, None, Some(&name)).outcome;
        assert!(outcome.handled.is_none());
        (outcome, std::fs::read(folder.path().join(&name)).unwrap())
    });
    assert!(fast.1 == careful.1);
    assert_eq!(fast.0.services, careful.0.services);
}

#[test]
fn several_captures_of_other_link_types_and_without_a_director_are_the_same_both_ways() {
    const COOKED: u8 = 113;
    let folder = tempfile::tempdir().unwrap();
    both_ways(folder.path(), Method::Nat, false);
    shared(
        folder.path(),
        "both.pcap",
        &["odd.pcap", "even.pcap"],
        |_, number| usize::from(number.is_multiple_of(2)),
        |time, _| time,
    );
    let path = |name: &str| folder.path().join(name);
    let cooked = with_link_type(&std::fs::read(path("even.pcap")).unwrap(), COOKED, |frame| {
        let kind = 4 * u8::from(frame[6..12] == [2, 0, 0, 0, 1, 0]);
        [&[0, kind, 0, 1, 0, 6][..], &frame[6..12], &[0, 0], &frame[12..]].concat()
    });
    // The end of the last record is missing.
    std::fs::write(path("cooked.pcap"), &cooked[..cooked.len() - 7]).unwrap();
    let odd = std::fs::read(path("odd.pcap")).unwrap();
    std::fs::write(path("odd.pcap.zst"), zstd::encode_all(&odd[..odd.len() - 9], 1).unwrap()).unwrap();
    for captures in [["cooked.pcap", "odd.pcap"], ["odd.pcap.zst", "even.pcap"]] {
        let [fast, careful] = [true, false].map(|bulk| {
            let write = path(&format!("{bulk}.pcapng"));
            let services = ServiceArguments { services: vec!["200.200.200.1:80".to_owned()], ..ServiceArguments::default() };
            let captures = captures.map(path).to_vec();
            let request =
                Request { captures, services, write: Some(write.clone()), mode: Some(Mode::Nat), bulk, ..Request::default() };
            (replay::run(&request).unwrap().outcome, std::fs::read(write).unwrap())
        });
        same(&fast.0, &careful.0);
        assert_eq!(fast.0.input.warnings.len(), 1);
        assert!(fast.1 == careful.1 && fast.1.len() > 1 << 20);
    }
}

#[test]
fn a_pcapng_has_the_draws_of_the_golden() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Fullnat);
    replayed(folder.path(), false, None, Some("golden.pcap"));
    let golden = std::fs::read(folder.path().join("golden.pcap")).unwrap();
    std::fs::write(folder.path().join("other.pcap"), with_other_draws(&golden)).unwrap();
    let fast = replayed(folder.path(), true, Some("other.pcap"), Some("fast.pcapng")).outcome;
    let careful = replayed(folder.path(), false, Some("other.pcap"), Some("careful.pcapng")).outcome;
    same(&fast, &careful);
    assert!(fast.conforms());
    let bytes = |name: &str| std::fs::read::<PathBuf>(folder.path().join(name)).unwrap();
    assert!(bytes("fast.pcapng") == bytes("careful.pcapng"));
}

#[test]
fn a_clock_that_steps_back_takes_one_packet_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Nat);
    let mut capture = std::fs::read(folder.path().join("traffic.pcap")).unwrap();
    // The second of a record in the middle, and of the first one.
    let middle = end_of_record(&capture, capture.len() / 2);
    for (at, step) in [(middle, -3), (24, 1)] {
        let seconds = i32::from_le_bytes(capture[at..at + 4].try_into().unwrap()) + step;
        capture[at..at + 4].copy_from_slice(&seconds.to_le_bytes());
    }
    std::fs::write(folder.path().join("back.pcap"), capture).unwrap();
    agree_one_by_one(folder.path(), "back.pcap");
}

#[test]
fn answers_of_a_service_by_mark_take_one_packet_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    both_ways(folder.path(), Method::Dr, false);
    let script = folder.path().join("director/setup.sh");
    let text = std::fs::read_to_string(&script).unwrap();
    let mark = "nft add table ip m\nnft add chain ip m p '{ type filter hook prerouting priority mangle ; }'\n\
                nft add rule ip m p ip daddr 200.200.200.1 udp dport 80 meta mark set 7\nipvsadm -A -f 7 -s rr\n\
                ipvsadm -a -f 7 -r 10.0.0.11 -g -w 1\n";
    std::fs::write(&script, text + mark).unwrap();
    agree_one_by_one(folder.path(), "both.pcap");
}

/// A plain capture with another link type, which `change` makes of each Ethernet frame.
fn with_link_type(capture: &[u8], link_type: u8, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut changed = capture[..24].to_vec();
    changed[20] = link_type;
    let mut at = 24;
    while at < capture.len() {
        let end = end_of_record(&capture[at - 24..], 24) + at - 24;
        let frame = change(&capture[at + 16..end]);
        changed.extend_from_slice(&capture[at..at + 8]);
        changed.extend([frame.len() as u32; 2].into_iter().flat_map(u32::to_le_bytes));
        changed.extend(frame);
        at = end;
    }
    changed
}

#[test]
fn other_link_types_take_one_packet_after_the_other() {
    const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 1, 0];
    const COOKED: u8 = 113;
    const RAW: u8 = 101;
    for mode in [Method::Dr, Method::Nat] {
        let folder = tempfile::tempdir().unwrap();
        both_ways(folder.path(), mode, false);
        let capture = std::fs::read(folder.path().join("both.pcap")).unwrap();
        let raw = with_link_type(&capture, RAW, |frame| frame[14..].to_vec());
        let cooked = with_link_type(&capture, COOKED, |frame| {
            let kind = match (frame[..6] == DIRECTOR, frame[6..12] == DIRECTOR) {
                (_, true) => 4,
                (true, _) => 0,
                _ => 3,
            };
            [&[0, kind, 0, 1, 0, 6][..], &frame[6..12], &[0, 0], &frame[12..]].concat()
        });
        std::fs::write(folder.path().join("raw.pcap"), raw).unwrap();
        std::fs::write(folder.path().join("cooked.pcap"), cooked).unwrap();
        agree_one_by_one(folder.path(), "cooked.pcap");
        // Raw IP tells no addresses: only a director that is inferred has those that are made up.
        for name in ["raw.pcap", "cooked.pcap"] {
            let [fast, careful] = [true, false].map(|bulk| {
                let captures = vec![folder.path().join(name)];
                let vip = vec!["200.200.200.1:80".to_owned()];
                let services = ServiceArguments { services: vip, ..ServiceArguments::default() };
                let write = folder.path().join(format!("{bulk}.pcap"));
                let request = Request {
                    captures,
                    services,
                    write: Some(write.clone()),
                    mode: Some(mode_of(mode)),
                    bulk,
                    ..Request::default()
                };
                let outcome = replay::run(&request).unwrap().outcome;
                assert_eq!(outcome.handled.is_some(), bulk, "{name}");
                (outcome, std::fs::read(write).unwrap())
            });
            assert!(fast.1 == careful.1 && fast.1.len() > 1 << 20, "{name}");
            let (fast, careful) = (fast.0, careful.0);
            assert_eq!(fast.director.assumed, careful.director.assumed, "{name}");
            assert_eq!((fast.services, fast.roles, fast.demands), (careful.services, careful.roles, careful.demands), "{name}");
            assert_eq!(fast.replies, careful.replies, "{name}");
        }
    }
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
fn a_golden_of_any_format_is_compared_on_the_fast_way() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Dr);
    let path = |name: &str| folder.path().join(name);
    replayed(folder.path(), true, None, Some("golden.pcap"));
    let mut changed = std::fs::read(path("golden.pcap")).unwrap();
    let at = end_of_record(&changed, changed.len() / 2) - 1;
    changed[at] ^= 0x40;
    let pack = |name: &str, bytes: &[u8]| std::fs::write(path(name), zstd::encode_all(bytes, 3).unwrap()).unwrap();
    pack("golden.pcap.zst", &std::fs::read(path("golden.pcap")).unwrap());
    pack("changed.pcap.zst", &changed);
    let golden = |name: &str| {
        let outcome = replayed(folder.path(), true, Some(name), None).outcome;
        (outcome.handled.is_some(), outcome.conforms(), outcome.golden.unwrap().equal)
    };
    let plain = golden("golden.pcap");
    assert!(plain.0 && plain.1 && plain.2 > 0);
    assert_eq!(golden("golden.pcap.zst"), plain);
    let (fast, conforms, equal) = golden("changed.pcap.zst");
    assert_eq!((fast, conforms, equal), (false, false, plain.2 - 1));
}

/// Both ways compare a capture with a golden, but for some fields: they agree, and the first takes one packet after the other.
fn conforms_one_by_one(folder: &Path, capture: &str, golden: &str, ignore: &[&str]) -> Outcome {
    let [fast, careful] = [true, false].map(|bulk| compared(folder, capture, golden, ignore, bulk));
    assert!(fast.conforms() && went_one_by_one(&fast), "{golden}");
    same(&fast, &careful);
    fast
}

fn compared(folder: &Path, capture: &str, golden: &str, ignore: &[&str], bulk: bool) -> Outcome {
    let request = Request {
        captures: vec![folder.join(capture)],
        config: Some(folder.join("director")),
        golden: Some(Source::File(folder.join(golden))),
        ignore: ignore.iter().map(ToString::to_string).collect(),
        bulk,
        ..Request::default()
    };
    replay::run(&request).unwrap().outcome
}

#[test]
fn a_golden_that_names_interfaces_is_compared_one_packet_after_the_other() {
    for mode in [Method::Dr, Method::Nat] {
        let folder = tempfile::tempdir().unwrap();
        both_ways(folder.path(), mode, false);
        replayed_from(folder.path(), "both.pcap", true, None, Some("golden.pcapng"));
        let mut golden = std::fs::read(folder.path().join("golden.pcapng")).unwrap();
        conforms_one_by_one(folder.path(), "both.pcap", "golden.pcapng", &[]);
        std::fs::write(folder.path().join("golden.pcapng.zst"), zstd::encode_all(&golden[..], 1).unwrap()).unwrap();
        conforms_one_by_one(folder.path(), "both.pcap", "golden.pcapng.zst", &[]);
        // A packet block, of which the interface is another one.
        let mut at = 0;
        let size = |at: usize| u32::from_le_bytes(golden[at + 4..at + 8].try_into().unwrap()) as usize;
        while at < golden.len() / 2 {
            at += size(at);
        }
        golden[at + 8] ^= 1;
        std::fs::write(folder.path().join("moved.pcapng"), golden).unwrap();
        let moved = compared(folder.path(), "both.pcap", "moved.pcapng", &[], true);
        assert!(!moved.conforms() && moved.handled.is_none(), "{mode:?}: the careful way tells what differs");
        conforms_one_by_one(folder.path(), "both.pcap", "moved.pcapng", &["frame.interface_name"]);
    }
}

#[test]
fn a_golden_may_differ_in_ignored_fields_one_packet_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    both_ways(folder.path(), Method::Nat, false);
    replayed_from(folder.path(), "both.pcap", true, None, Some("golden.pcap"));
    let golden = std::fs::read(folder.path().join("golden.pcap")).unwrap();
    conforms_one_by_one(folder.path(), "both.pcap", "golden.pcap", &["ip.ttl"]);
    // The TTL of every hundredth packet, with its checksum.
    let (mut changed, mut at, mut count) = (golden.clone(), 24, 0);
    while at < golden.len() {
        let len = u32::from_le_bytes(golden[at + 8..at + 12].try_into().unwrap()) as usize;
        let frame = &mut changed[at + 16..at + 16 + len];
        count += 1;
        if frame[12..14] == [8, 0] && count % 100 == 0 {
            let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let check = update(word(24), word(22), word(22) ^ 0x1000);
            frame[22] ^= 0x10;
            frame[24..26].copy_from_slice(&check.to_be_bytes());
        }
        at += 16 + len;
    }
    std::fs::write(folder.path().join("changed.pcap"), &changed).unwrap();
    let outcome = conforms_one_by_one(folder.path(), "both.pcap", "changed.pcap", &["ip.ttl"]);
    assert!(outcome.replies.is_some_and(|replies| replies.equal > 1_000));
    let differs = compared(folder.path(), "both.pcap", "changed.pcap", &["ip.id"], true);
    assert!(!differs.conforms() && differs.handled.is_none(), "the careful way tells what differs");
}

#[test]
fn draws_of_a_golden_that_names_interfaces_are_learned() {
    let folder = tempfile::tempdir().unwrap();
    traffic(folder.path(), Method::Fullnat);
    replayed(folder.path(), true, None, Some("golden.pcap"));
    let golden = with_other_draws(&std::fs::read(folder.path().join("golden.pcap")).unwrap());
    std::fs::write(folder.path().join("other.pcap"), &golden).unwrap();
    replayed(folder.path(), true, Some("other.pcap"), Some("other.pcapng"));
    let outcome = conforms_one_by_one(folder.path(), "traffic.pcap", "other.pcapng", &[]);
    assert!(outcome.golden.is_some_and(|golden| golden.learned["TCP sequence offset"] > 1_000));
    // One of many segments of a connection has another offset.
    let (mut start, mut end) = (0, end_of_record(&golden, golden.len() / 2));
    let mut segment = Vec::new();
    while segment.is_empty() || segment == golden[start..end] {
        (start, end) = (end, end_of_record(&golden, end));
        segment = with_other_draws(&[&golden[..24], &golden[start..end]].concat()).split_off(24);
    }
    let changed = [&golden[..start], &segment, &golden[end..]].concat();
    std::fs::write(folder.path().join("changed.pcap"), changed).unwrap();
    let differs = compared(folder.path(), "traffic.pcap", "changed.pcap", &["ip.ttl"], true);
    assert!(!differs.conforms() && differs.handled.is_none());
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
