//! Captures whose packets must be taken one after the other.

use super::*;

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
    let [differs, careful] = [true, false].map(|bulk| replayed_from(folder, capture, bulk, Some("changed.pcap"), None).outcome);
    assert!(!differs.conforms() && went_one_by_one(&differs));
    same(&differs, &careful);
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
pub fn with_link_type(capture: &[u8], link_type: u8, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
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
