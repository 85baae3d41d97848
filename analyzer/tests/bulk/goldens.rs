//! Goldens of other forms than plain pcap, and fields of them that may differ.

use super::*;

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
    assert_eq!((fast, conforms, equal), (true, false, plain.2 - 1));
}

/// Both ways compare a capture with a golden, but for some fields: they agree, and the first takes one packet after the other.
fn conforms_one_by_one(folder: &Path, capture: &str, golden: &str, ignore: &[&str]) -> Outcome {
    let [fast, careful] = [true, false].map(|bulk| compared(folder, capture, golden, ignore, bulk));
    assert!(fast.conforms() && went_one_by_one(&fast), "{golden}");
    same(&fast, &careful);
    fast
}

/// The same where the golden differs.
fn differs_one_by_one(folder: &Path, capture: &str, golden: &str, ignore: &[&str]) {
    let [fast, careful] = [true, false].map(|bulk| compared(folder, capture, golden, ignore, bulk));
    assert!(!fast.conforms() && went_one_by_one(&fast), "{golden}");
    same(&fast, &careful);
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
        differs_one_by_one(folder.path(), "both.pcap", "moved.pcapng", &[]);
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
    differs_one_by_one(folder.path(), "both.pcap", "changed.pcap", &["ip.id"]);
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
    differs_one_by_one(folder.path(), "traffic.pcap", "changed.pcap", &["ip.ttl"]);
}
