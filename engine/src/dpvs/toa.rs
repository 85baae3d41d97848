//! TOA, the TCP option that carries the client's address to the real server (reference/dpvs-fullnat.md section 7).

use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};

/// Option kind of TOA.
pub(super) const KIND: u8 = 254;
/// The longest option area of a TCP header, in bytes.
pub(super) const MAXIMUM_OPTIONS: usize = 40;

const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;
const TIMESTAMP: u8 = 8;
const TIMESTAMP_LENGTH: u8 = 10;

/// The bytes that carry a client's address: kind, length, port, address. TOA and UOA share this layout.
pub(super) fn address_option(kind: u8, client: SocketAddr) -> ArrayVec<u8, 20> {
    let mut option = ArrayVec::new();
    let mut put = |bytes: &[u8]| option.extend(bytes.iter().copied());
    match client.ip() {
        IpAddr::V4(address) => {
            put(&[kind, 8]);
            put(&client.port().to_be_bytes());
            put(&address.octets());
        }
        IpAddr::V6(address) => {
            put(&[kind, 20]);
            put(&client.port().to_be_bytes());
            put(&address.octets());
        }
    }
    option
}

/// One option of a header: where it begins and how long it is.
struct OptionSpan {
    kind: u8,
    start: usize,
    length: usize,
}

/// The options of a header up to the first end-of-list or malformed one.
fn spans(options: &[u8]) -> impl Iterator<Item = OptionSpan> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let kind = *options.get(at)?;
        let length = match kind {
            END_OF_LIST => return None,
            NO_OPERATION => 1,
            _ => usize::from(*options.get(at + 1)?),
        };
        if (kind != NO_OPERATION && length < 2) || at + length > options.len() {
            return None;
        }
        let span = OptionSpan { kind, start: at, length };
        at += length;
        Some(span)
    })
}

/// Whether a client sent a TOA of its own among these options.
pub(crate) fn is_forged(options: &[u8]) -> bool {
    spans(options).any(|span| span.kind == KIND)
}

/// Makes room for TOA: what the options of a packet that is no SYN become when `wanted` bytes are to be freed. None when
/// nothing is done. The result is padded to whole words and is never longer than the input.
pub(super) fn prune(options: &[u8], wanted: usize) -> Option<ArrayVec<u8, MAXIMUM_OPTIONS>> {
    if options.len() < wanted || options.len() > MAXIMUM_OPTIONS {
        return None;
    }
    let kept = || spans(options).filter(|span| span.kind != NO_OPERATION && span.kind != KIND);
    let mut freed = options.len() - kept().map(|span| span.length).sum::<usize>();
    let mut timestamp_kept = false;
    let mut pruned = ArrayVec::new();
    for span in kept() {
        let protected = span.kind == TIMESTAMP && span.length <= usize::from(TIMESTAMP_LENGTH) && !timestamp_kept;
        timestamp_kept |= protected;
        if freed < wanted && !protected {
            freed += span.length;
        } else {
            pruned.extend(options.iter().skip(span.start).take(span.length).copied());
        }
    }
    let length = options.len() - freed / 4 * 4;
    while pruned.len() < length {
        pruned.push(END_OF_LIST);
    }
    Some(pruned)
}

/// Overwrites the first timestamp option of a SYN by NOPs, so that real servers never use timestamps. Says whether there
/// was one.
pub(crate) fn erase_timestamp(options: &mut [u8]) -> bool {
    let found = spans(options).find(|span| span.kind == TIMESTAMP && span.length == usize::from(TIMESTAMP_LENGTH));
    let Some(span) = found else { return false };
    if let Some(bytes) = options.get_mut(span.start..span.start + span.length) {
        bytes.fill(NO_OPERATION);
    }
    true
}

/// Where the value of the first option of that kind and length begins.
pub(super) fn value_of(options: &[u8], kind: u8, length: usize) -> Option<usize> {
    spans(options).find(|span| span.kind == kind && span.length == length).map(|span| span.start + 2)
}

/// Where the edges of every SACK block (RFC 2018) begin: 4 bytes each.
pub(super) fn sack_edges(options: &[u8]) -> ArrayVec<usize, 10> {
    const SACK: u8 = 5;
    spans(options)
        .filter(|span| span.kind == SACK && span.length > 2 && (span.length - 2).is_multiple_of(8))
        .flat_map(|span| (span.start + 2..span.start + span.length).step_by(4))
        .take(10)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn layout() {
        let client = "200.200.200.2:40000".parse().unwrap();
        assert_eq!(address_option(KIND, client).as_slice(), bytes("fe089c40c8c8c802"));
        let client = "[2001:db8:c::2]:40000".parse().unwrap();
        assert_eq!(address_option(KIND, client).as_slice(), bytes("fe149c4020010db8000c00000000000000000002"));
    }

    /// recordings/dpvs-1.10/fnat-tcp-options, fnat-mtu and fnat6-mtu.
    #[test]
    fn pruning_as_recorded() {
        let cases = [
            (8, "0101080a00000005000000060101051a000000010000000200000003000000040000000500000006", "080a00000005000000060000"),
            (8, "010105220000000100000002000000030000000400000005000000060000000700000008", ""),
            (8, "01010101010101010101010101010101010101010101010101010101010101010101010101010101", ""),
            (8, "0101080a00000005000000061e1c2007444444444444444444444444444444444444444444444444", "080a00000005000000060000"),
            (
                8,
                "fe081234010203040101080a00000005000000060101051200000001000000020000000300000004",
                "080a0000000500000006051200000001000000020000000300000004",
            ),
            (8, "00fa2755555555555555555555555555555555555555555555555555555555555555555555555555", ""),
            (
                8,
                "0101080a00000005000000060101010101010101010101010101010101010101fa08555555555555",
                "080a0000000500000006fa085555555555550000",
            ),
            (8, "080a0000000100000002fa0001010101010101010101010101010101010101010101010101010101", "080a00000001000000020000"),
            (8, "0101080a0000000100000002", "080a00000001000000020000"),
            (20, "0101080a00000005000000060101050a0000000100000002", "080a00000005000000060000"),
        ];
        for (wanted, options, expected) in cases {
            assert_eq!(prune(&bytes(options), wanted).unwrap().as_slice(), bytes(expected), "{options}");
        }
        assert_eq!(prune(&bytes("01010101"), 8), None);
    }

    #[test]
    fn timestamp_becomes_no_operations() {
        let mut options = bytes("020405b40402080a000003e80000000001030307");
        assert!(erase_timestamp(&mut options));
        assert_eq!(options, bytes("020405b404020101010101010101010101030307"));
        assert!(!erase_timestamp(&mut options));
    }

    #[test]
    fn sack_edges_are_found() {
        assert_eq!(sack_edges(&bytes("0101050ab237fd27b237fd31")).as_slice(), [4, 8]);
        assert!(sack_edges(&bytes("0509b237fd27b237fd")).is_empty());
    }

    proptest! {
        /// Whatever the options: the result is whole words, not longer, still parses, and room for TOA is either made or
        /// not, but never more than 40 bytes result.
        #[test]
        fn pruning_keeps_options_parseable(words in proptest::collection::vec(any::<[u8; 4]>(), 0..=10), wide in any::<bool>()) {
            let options = words.concat();
            let wanted = if wide { 20 } else { 8 };
            if let Some(pruned) = prune(&options, wanted) {
                prop_assert!(pruned.len() <= options.len() && pruned.len() % 4 == 0);
                let parsed: usize = spans(&pruned).map(|span| span.length).sum();
                prop_assert!(pruned[parsed..].iter().all(|byte| *byte == END_OF_LIST));
                prop_assert!(spans(&pruned).all(|span| span.kind != KIND && span.kind != NO_OPERATION));
                if options.len() - pruned.len() >= wanted {
                    prop_assert!(pruned.len() + wanted <= MAXIMUM_OPTIONS);
                }
            }
            let mut copy = options.clone();
            erase_timestamp(&mut copy);
            prop_assert_eq!(copy.len(), options.len());
        }
    }
}
