//! Captures in and out: every file that people may have, whole and broken.
#![allow(clippy::unwrap_used, missing_docs)]

use lvscheck::capture::{CaptureError, Reader, Record, Writer};
use lvscheck_engine::Nanos;
use proptest::prelude::*;
use std::io::{Cursor, Read, Write};

type Frames = Vec<(u64, u32, Vec<u8>, u32)>;

fn read_all(bytes: &[u8]) -> Result<(Frames, Option<String>), CaptureError> {
    let mut reader = Reader::new("test", Box::new(Cursor::new(bytes.to_vec())))?;
    let mut frames = Vec::new();
    let mut records: Vec<Record> = Vec::new();
    while let Some(window) = reader.next_window(&mut records, 7)? {
        for record in window.records {
            let bytes = window.bytes[record.start..record.start + record.len as usize].to_vec();
            frames.push((record.time.0, record.interface, bytes, record.wire_len));
        }
    }
    Ok((frames, reader.damage().map(ToString::to_string)))
}

/// A pcap by hand, in the byte order and precision that are asked for.
fn pcap(big_endian: bool, nanoseconds: bool, link_type: u32, frames: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut bytes = Vec::new();
    bytes.extend(word(if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }));
    bytes.extend(half(2));
    bytes.extend(half(4));
    bytes.extend([0; 8]);
    bytes.extend(word(65535));
    bytes.extend(word(link_type));
    for (seconds, fraction, frame) in frames {
        bytes.extend(word(*seconds));
        bytes.extend(word(*fraction));
        bytes.extend(word(frame.len() as u32));
        bytes.extend(word(frame.len() as u32 + 2));
        bytes.extend(*frame);
    }
    bytes
}

/// A pcapng block by hand.
fn block(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let size = (body.len() as u32).next_multiple_of(4) + 12;
    let mut bytes = Vec::new();
    bytes.extend(word(kind));
    bytes.extend(word(size));
    bytes.extend(body);
    bytes.resize(size as usize - 4, 0);
    bytes.extend(word(size));
    bytes
}

fn pcapng(big_endian: bool, resolution: u8, offset: i64, units: u64, frame: &[u8]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let long = |value: i64| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut section = Vec::new();
    section.extend(word(0x1a2b_3c4d));
    section.extend(half(1));
    section.extend(half(0));
    section.extend(long(-1));
    let mut interface = Vec::new();
    interface.extend(half(1));
    interface.extend(half(0));
    interface.extend(word(0));
    interface.extend(half(2));
    interface.extend(half(4));
    interface.extend(*b"eth7");
    interface.extend(half(9));
    interface.extend(half(1));
    interface.extend([resolution, 0, 0, 0]);
    interface.extend(half(14));
    interface.extend(half(8));
    interface.extend(long(offset));
    interface.extend([0; 4]);
    let mut packet = Vec::new();
    packet.extend(word(0));
    packet.extend(word((units >> 32) as u32));
    packet.extend(word(units as u32));
    packet.extend(word(frame.len() as u32));
    packet.extend(word(frame.len() as u32));
    packet.extend(frame);
    let mut bytes = block(big_endian, 0x0a0d_0d0a, &section);
    bytes.extend(block(big_endian, 1, &interface));
    bytes.extend(block(big_endian, 0x0bad, b"unknown"));
    bytes.extend(block(big_endian, 6, &packet));
    bytes
}

#[test]
fn pcap_in_both_byte_orders_and_precisions() {
    for big_endian in [false, true] {
        let micro = pcap(big_endian, false, 1, &[(5, 7, b"frame one"), (6, 8, b"two")]);
        let (frames, damage) = read_all(&micro).unwrap();
        assert_eq!(frames, [(5_000_007_000, 0, b"frame one".to_vec(), 11), (6_000_008_000, 0, b"two".to_vec(), 5)]);
        assert_eq!(damage, None);
        let nano = pcap(big_endian, true, 1, &[(5, 7, b"frame one")]);
        assert_eq!(read_all(&nano).unwrap().0[0].0, 5_000_000_007);
    }
}

#[test]
fn a_frame_check_sequence_is_cut() {
    // Upper bits of the link type: F set, two 16-bit words of FCS.
    let bytes = pcap(false, false, 0x2400_0001, &[(1, 0, b"0123456789abcd1234")]);
    // The record says two bytes more on the wire than captured, so two of the four were captured.
    assert_eq!(read_all(&bytes).unwrap().0[0].2, b"0123456789abcd12");
}

#[test]
fn pcapng_in_both_byte_orders_any_resolution_and_offset() {
    for big_endian in [false, true] {
        let bytes = pcapng(big_endian, 9, 0, 1_700_000_000_123_456_789, b"abc");
        assert_eq!(read_all(&bytes).unwrap().0, [(1_700_000_000_123_456_789, 0, b"abc".to_vec(), 3)]);
        let bytes = pcapng(big_endian, 0x80 | 20, 5, 3 << 19, b"abc");
        assert_eq!(read_all(&bytes).unwrap().0[0].0, 6_500_000_000);
        let bytes = pcapng(big_endian, 6, -2, 5_000_000, b"abc");
        assert_eq!(read_all(&bytes).unwrap().0[0].0, 3_000_000_000);
    }
}

#[test]
fn interface_names_are_kept() {
    let bytes = pcapng(true, 6, 0, 1, b"abc");
    let mut reader = Reader::new("test", Box::new(Cursor::new(bytes))).unwrap();
    let mut records = Vec::new();
    assert!(reader.next_window(&mut records, 9).unwrap().is_some());
    assert_eq!(reader.interfaces()[0].name.as_deref(), Some("eth7"));
}

#[test]
fn compressed_captures_are_found_by_their_first_bytes() {
    let plain = pcap(false, true, 1, &[(5, 7, b"frame one"), (6, 8, b"two")]);
    let expected = read_all(&plain).unwrap().0;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain[..40]).unwrap();
    let mut members = gzip.finish().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain[40..]).unwrap();
    members.extend(gzip.finish().unwrap());
    assert_eq!(read_all(&members).unwrap().0, expected);
    assert_eq!(read_all(&zstd::encode_all(&plain[..], 1).unwrap()).unwrap().0, expected);
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&plain).unwrap();
    assert_eq!(read_all(&lz4.finish().unwrap()).unwrap().0, expected);
}

#[test]
fn a_stream_that_breaks_gives_what_came_before() {
    let frame: Vec<u8> = (0..1500u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let frames: Vec<(u32, u32, &[u8])> = (0..200).map(|n| (n, 0, &frame[..])).collect();
    let plain = pcap(false, true, 1, &frames);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let whole = gzip.finish().unwrap();
    let (frames, damage) = read_all(&whole[..whole.len() - 12]).unwrap();
    assert!(!frames.is_empty());
    assert!(damage.is_some() || frames.len() == 200);
}

#[test]
fn broken_files_say_what_and_where() {
    let message = |bytes: &[u8]| read_all(bytes).unwrap_err().to_string();
    insta::assert_snapshot!(message(b""), @"test: is empty; expected a pcap or pcapng capture");
    insta::assert_snapshot!(message(b"hello, this is a text file"), @"test: is no capture: it looks like text; expected pcap or pcapng, plain or compressed by gzip, zstd or lz4");
    insta::assert_snapshot!(message(b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00"), @"test: is no capture: it looks like a program; expected pcap or pcapng, plain or compressed by gzip, zstd or lz4");
    let mut lying = pcap(false, false, 1, &[(5, 7, b"frame")]);
    lying[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    insta::assert_snapshot!(message(&lying), @"test: a record claims 4294967295 bytes at byte 24, before any frame could be read; capture it again, or repair it with pcapfix");
    let whole = pcap(false, false, 1, &[(5, 7, b"frame"), (5, 8, b"second")]);
    let (frames, damage) = read_all(&whole[..whole.len() - 3]).unwrap();
    assert_eq!(frames.len(), 1);
    insta::assert_snapshot!(damage.unwrap(), @"test: the last record is cut: 19 of 22 bytes are there at byte 45; the 1 frames before it are used, the rest is lost");
}

#[test]
fn a_file_appears_only_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcapng");
    std::fs::write(&path, b"old").unwrap();
    let mut writer = Writer::create(&path, &["eth0"]).unwrap();
    writer.write(Nanos(1), 0, b"frame", 5, Some("sent to 10.0.0.11")).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    drop(writer);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn written(frames: &Frames, name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let mut writer = Writer::create(&path, &["eth0", "eth1"]).unwrap();
    for (time, interface, bytes, wire_len) in frames {
        let comment = writer.keeps_comments().then_some("why");
        writer.write(Nanos(*time), *interface, bytes, *wire_len, comment).unwrap();
    }
    writer.finish().unwrap();
    let mut bytes = Vec::new();
    std::fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn some_frames() -> impl Strategy<Value = Frames> {
    let frame = (0..(u64::from(u32::MAX) * 1_000_000_000), 0..2u32, prop::collection::vec(any::<u8>(), 0..200), 0..100u32)
        .prop_map(|(time, interface, bytes, more)| {
            let wire_len = bytes.len() as u32 + more;
            (time, interface, bytes, wire_len)
        });
    prop::collection::vec(frame, 1..20)
}

proptest! {
    #[test]
    fn what_is_written_is_read(frames in some_frames()) {
        prop_assert_eq!(&read_all(&written(&frames, "a.pcapng")).unwrap().0, &frames);
        let one_link: Frames = frames.iter().map(|(time, _, bytes, wire)| (*time, 0, bytes.clone(), *wire)).collect();
        prop_assert_eq!(read_all(&written(&frames, "a.pcap")).unwrap().0, one_link);
    }

    #[test]
    fn a_cut_capture_gives_a_prefix(frames in some_frames(), at in any::<prop::sample::Index>(), pcapng in any::<bool>()) {
        let bytes = written(&frames, if pcapng { "a.pcapng" } else { "a.pcap" });
        let whole = read_all(&bytes).unwrap().0;
        if let Ok((prefix, _)) = read_all(&bytes[..at.index(bytes.len())]) {
            prop_assert_eq!(&whole[..prefix.len()], &prefix[..]);
        }
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..4) {
        let head: &[u8] = match kind {
            0 => &[0xd4, 0xc3, 0xb2, 0xa1],
            1 => &[0x0a, 0x0d, 0x0d, 0x0a, 0x1c, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a],
            2 => &[0xa1, 0xb2, 0x3c, 0x4d],
            _ => &[],
        };
        bytes.splice(0..0, head.iter().copied());
        let _ = read_all(&bytes);
    }
}
