//! The fast way of a replay gives what the careful way gives: the same frames, verdicts and counters.
#![allow(clippy::unwrap_used, reason = "a test")]

use lvscheck::capture::{BulkReader, BulkWindow, Writer};
use lvscheck::generate::{GenerateArgs, Method, run};
use lvscheck::replay::{self, Replayed, Request, Source};
use std::path::{Path, PathBuf};

fn replayed(folder: &Path, bulk: bool, golden: Option<&str>, write: Option<&str>) -> Replayed {
    let path = |name: &str| folder.join(name);
    let request = Request {
        captures: vec![path("traffic.pcap")],
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
    let mut reader = BulkReader::open(&plain).unwrap().unwrap();
    let mut window = BulkWindow::default();
    let mut writer = Writer::create(&folder.join("traffic.pcap"), &["eth0"]).unwrap();
    let mut count = 0;
    while reader.next_window(&mut window, 1 << 20).unwrap() {
        for (part, number) in (0..window.parts()).flat_map(|part| (0..window.part_len(part)).map(move |number| (part, number))) {
            let (record, frame) = window.frame(part, number).unwrap();
            let mut bytes = frame.to_vec();
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
            writer.write(record.time, 0, &bytes, bytes.len() as u32, None).unwrap();
        }
    }
    writer.finish().unwrap();
}

#[test]
fn fast_and_careful_replays_agree() {
    for mode in [Method::Dr, Method::Nat] {
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
        let at = changed.len() / 2;
        changed[at] ^= 0x40;
        std::fs::write(folder.path().join("changed.pcap"), changed).unwrap();
        assert!(!replayed(folder.path(), true, Some("changed.pcap"), None).outcome.conforms());
    }
}
