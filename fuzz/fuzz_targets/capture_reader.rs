//! Capture files: no bytes make the readers panic, hang, or take memory out of proportion; both ways of reading agree, whatever
//! a window's size; and what was read is the same once written and read again.
#![no_main]

use lvscheck::capture::{Merge, OwnedWindow, Reader, link, pcap_head, pcap_record};

/// Frames of what compresses well are looked at up to here: enough to pass the buffers' ends, little enough for many runs.
const ENOUGH: usize = 12 << 20;

/// Time, bytes and length on the wire.
type Frame = (u64, Vec<u8>, u32);

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (most, bytes) = input;
    let all = read(bytes, usize::MAX);
    let few = read(bytes, usize::from(most));
    assert!(all == few, "the size of a window changes what is read");
    let Some(frames) = all else { return };

    let mut written = pcap_head().to_vec();
    for (time, bytes, wire_len) in &frames {
        pcap_record(&mut written, lvscheck_engine::Nanos(*time), bytes, *wire_len);
    }
    let again = read(&written, usize::MAX).unwrap_or_default();
    let last = u64::from(u32::MAX) * 1_000_000_000;
    let expected = frames.into_iter().map(|(time, bytes, wire_len)| (time.min(last + time % 1_000_000_000), bytes, wire_len));
    assert!(again.into_iter().eq(expected), "what was written is not what is read");
});

/// Every frame that a capture gives; nothing if it is none.
fn read(bytes: &[u8], most: usize) -> Option<Vec<Frame>> {
    let mut reader = Reader::from_bytes("fuzz", bytes.to_vec()).ok()?;
    let mut merge = Merge::new(vec![Reader::from_bytes("fuzz", bytes.to_vec()).ok()?]);
    let mut found = Vec::new();
    let mut own = link::OwnAddresses::default();
    let mut window = OwnedWindow::default();
    let mut size = 0;
    while reader.next_owned(&mut window, most).ok()? {
        assert!(window.records.len() <= most.max(1));
        assert!(window.bytes.capacity() < 64 << 20);
        for record in &window.records {
            let frame = record.of(&window.bytes);
            let link_type = reader.interfaces()[record.interface as usize].link_type;
            assert_eq!(frame.len(), record.len as usize);
            assert!(record.wire_len >= record.len);
            own.observe(record.interface, link_type, frame);
            if let Ok(ethernet) = own.to_ethernet(record.interface, link_type, frame) {
                assert_eq!(ethernet.len() as i64, frame.len() as i64 + link::growth(link_type));
            }
            let (_, merged) = merge.next_frame().ok()??;
            assert_eq!((merged.time, merged.bytes), (record.time, frame));
            found.push((record.time.0, frame.to_vec(), record.wire_len));
            size += frame.len() + 32;
            if size > ENOUGH {
                return Some(found);
            }
        }
    }
    Some(found)
}
