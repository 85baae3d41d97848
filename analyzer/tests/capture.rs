//! Captures in and out: every file that people may have, whole and broken.
#![allow(clippy::unwrap_used, missing_docs)]

use lvscheck::capture::{CaptureError, Container, OwnedWindow, Reader, Record, Writer};
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
    assert!(damage.unwrap().contains("the gzip stream is cut"));
    // Every frame is there, only the checksum at the end is not.
    let (frames, damage) = read_all(&whole[..whole.len() - 1]).unwrap();
    assert_eq!(frames.len(), 200);
    insta::assert_snapshot!(damage.unwrap(), @"test: the gzip stream is cut at byte 303224; the 200 frames before it are used, the rest is lost");
    let error = read_all(&whole[..12]).unwrap_err();
    assert!(error.is_not_a_capture());
    insta::assert_snapshot!(error, @"test: the gzip stream is cut at byte 0, before any frame could be read; capture it again, or repair it with pcapfix");
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
    insta::assert_snapshot!(damage.unwrap(), @"test: the last record is cut: 19 of 22 bytes are there at byte 45; the frame before it is used, the rest is lost");
}

/// A section header block.
fn section(big_endian: bool) -> Vec<u8> {
    let mut body = if big_endian { vec![0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0] } else { vec![0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0] };
    body.extend([0xff; 8]);
    block(big_endian, 0x0a0d_0d0a, &body)
}

/// An interface description block of Ethernet with a snap length and options, each padded to four bytes.
fn interface(big_endian: bool, snap_len: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut body = [half(1), half(0)].concat();
    body.extend(word(snap_len));
    for (code, value) in options {
        body.extend([half(*code), half(value.len() as u16)].concat());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    block(big_endian, 1, &body)
}

#[test]
fn sections_interfaces_and_every_packet_block() {
    let half = |value: u16| value.to_le_bytes();
    let word = |value: u32| value.to_le_bytes();
    let mut bytes = section(false);
    bytes.extend(interface(false, 6, &[(2, b"eth0"), (9, &[9])]));
    bytes.extend(interface(false, 0, &[(2, b"eth1"), (9, &[0x89]), (13, &[32])]));
    // Obsolete packet block of interface 1: 2.5 s in units of 1/512 s, with a frame check sequence of 32 bits.
    let obsolete = [&half(1)[..], &half(0), &word(0), &word(1280), &word(8), &word(8), b"datafcs!"].concat();
    bytes.extend(block(false, 2, &obsolete));
    // Simple packet block of 9 bytes, of which the interface keeps 6.
    bytes.extend(block(false, 3, &[&word(9)[..], b"simple"].concat()));
    // Name resolution, a custom block and an unknown one.
    for kind in [4, 0xbad, 0x8000_0001] {
        bytes.extend(block(false, kind, b"to be skipped"));
    }
    // A section of the other byte order counts its interfaces from 0 again.
    bytes.extend(pcapng(true, 6, 1, 3_000_000, b"enhanced"));
    let mut reader = Reader::from_bytes("test", bytes.clone()).unwrap();
    let mut names = Vec::new();
    let mut records = Vec::new();
    while reader.next_window(&mut records, 1).unwrap().is_some() {}
    names.extend(reader.interfaces().iter().map(|interface| interface.name.clone().unwrap()));
    assert_eq!(names, ["eth0", "eth1", "eth7"]);
    let (frames, damage) = read_all(&bytes).unwrap();
    assert_eq!(damage, None);
    let expected: Frames = vec![
        (2_500_000_000, 1, b"data".to_vec(), 4),
        // A simple packet has no time: the last one's.
        (2_500_000_000, 0, b"simple".to_vec(), 9),
        (4_000_000_000, 2, b"enhanced".to_vec(), 8),
    ];
    assert_eq!(frames, expected);
}

#[test]
fn kuznetzovs_pcap() {
    let mut bytes = pcap(false, false, 1, &[]);
    bytes[..4].copy_from_slice(&0xa1b2_cd34u32.to_le_bytes());
    for number in 0..2u32 {
        bytes.extend([number.to_le_bytes(), 7u32.to_le_bytes(), 3u32.to_le_bytes(), 3u32.to_le_bytes()].concat());
        // Interface, protocol, packet type, padding.
        bytes.extend([9; 8]);
        bytes.extend(b"abc");
    }
    let expected: Frames = vec![(7_000, 0, b"abc".to_vec(), 3), (1_000_007_000, 0, b"abc".to_vec(), 3)];
    assert_eq!(read_all(&bytes).unwrap().0, expected);
}

#[test]
fn an_error_of_the_disk_is_no_fault_of_the_capture() {
    struct Bad;
    impl Read for Bad {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is ill"))
        }
    }
    let bytes = pcap(false, false, 1, &[(5, 7, b"frame"), (5, 8, b"second")]);
    let input = Cursor::new(bytes[..50].to_vec()).chain(Bad);
    let mut reader = Reader::new("test", Box::new(input)).unwrap();
    let mut records = Vec::new();
    assert_eq!(reader.next_window(&mut records, 9).unwrap().unwrap().records.len(), 1);
    let error = reader.next_window(&mut records, 9).unwrap_err();
    assert!(!error.is_not_a_capture());
    insta::assert_snapshot!(error, @"test: the disk is ill");
}

#[test]
fn what_compresses_well_takes_no_memory() {
    // 512 MiB of blocks that hold no frame.
    struct Skipped(usize, Vec<u8>);
    impl Read for Skipped {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let from = self.0 % self.1.len();
            let read = buffer.len().min(self.1.len() - from).min((512 << 20) - self.0);
            buffer[..read].copy_from_slice(&self.1[from..from + read]);
            self.0 += read;
            Ok(read)
        }
    }
    let input = Cursor::new(section(false)).chain(Skipped(0, block(false, 0xbad, &[0; 65_524])));
    let mut reader = Reader::new("test", Box::new(input)).unwrap();
    let mut window = OwnedWindow::default();
    assert!(!reader.next_owned(&mut window, 9).unwrap());
    assert_eq!(reader.damage(), None);
    assert!(window.bytes.capacity() < 32 << 20, "{}", window.bytes.capacity());
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

#[cfg(unix)]
#[test]
fn links_stay_and_devices_are_not_replaced() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("out.pcap"), folder.path().join("link.pcap"));
    std::fs::write(&path, b"old").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    symlink(&path, &link).unwrap();
    Writer::create(&link, &[]).unwrap().finish().unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(&path).unwrap().len(), 24);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let null = std::path::Path::new("/dev/null");
    Writer::create(null, &[]).unwrap().finish().unwrap();
    assert!(null.metadata().unwrap().file_type().is_char_device());
    assert!(matches!(Writer::create(folder.path(), &[]), Err(CaptureError::Folder(_))));
}

#[test]
fn the_form_can_be_told_and_interfaces_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capture");
    let mut writer = Writer::create_as(&path, Container::PcapNg, &["eth0"]).unwrap();
    let error = writer.write(Nanos(1), 1, b"frame", 5, None).unwrap_err().to_string();
    assert!(error.ends_with("a frame for interface 1, but only 1 were named"), "{error}");
    // A comment longer than an option holds, with a letter across the end.
    let comment = format!("{}\u{e9}tc.", "a".repeat(65_531));
    writer.write(Nanos(1), 0, b"frame", 5, Some(&comment)).unwrap();
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    assert_eq!(read_all(&bytes).unwrap().0, [(1, 0, b"frame".to_vec(), 5)]);
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
    fn windows_of_any_size_hold_the_same(frames in some_frames(), most in 0usize..9) {
        let bytes = written(&frames, "a.pcapng");
        let (mut borrowed, mut owned) = (Reader::from_bytes("a", bytes.clone()).unwrap(), Reader::from_bytes("a", bytes).unwrap());
        let (mut found, mut records, mut window) = (Frames::new(), Vec::new(), OwnedWindow::default());
        while let Some(other) = borrowed.next_window(&mut records, most).unwrap() {
            prop_assert!(owned.next_owned(&mut window, most).unwrap());
            prop_assert_eq!(window.first_number, other.first_number);
            prop_assert_eq!(window.records.len(), other.records.len());
            for (frame, record) in other.frames().zip(&window.records) {
                prop_assert_eq!(frame.number, found.len() as u64 + 1);
                prop_assert_eq!(frame.bytes, record.of(&window.bytes));
                found.push((frame.time.0, frame.interface, frame.bytes.to_vec(), frame.wire_len));
            }
        }
        prop_assert!(!owned.next_owned(&mut window, most).unwrap());
        prop_assert_eq!(found, frames);
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
