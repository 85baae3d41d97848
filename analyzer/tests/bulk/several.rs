//! Several captures that are merged.

use super::one_by_one::with_link_type;
use super::*;

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
