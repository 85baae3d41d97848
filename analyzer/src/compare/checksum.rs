//! The Internet checksum, updated in place (RFC 1624, equation 3).

/// Writes `new` at `offset` of a frame and updates the checksums at the given offsets, which cover it. Whatever lies outside
/// the frame is left alone. 16-bit words are taken at even offsets of the frame: an Ethernet header has an even length and
/// so have all that stand before a checksummed header.
pub fn replace(frame: &mut [u8], offset: usize, new: &[u8], checksums: &[usize]) {
    let Some(end) = offset.checked_add(new.len()) else { return };
    if end > frame.len() || new.is_empty() || frame[offset..end] == *new {
        return;
    }
    let words = (offset & !1)..end;
    let before = sum(&frame[words.clone()]);
    frame[offset..end].copy_from_slice(new);
    let after = sum(&frame[words]);
    for &at in checksums {
        if at + 2 <= frame.len() {
            let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
            frame[at..at + 2].copy_from_slice(&updated(old, before, after).to_be_bytes());
        }
    }
}

/// A checksum after the words with sum `before` became such with sum `after`.
fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    let total = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    !fold(total)
}

/// The ones' complement sum of 16-bit big-endian words, the last padded with zero.
fn sum(bytes: &[u8]) -> u16 {
    let total = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    fold(total)
}

fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(bytes: &[u8]) -> u16 {
        !sum(bytes)
    }

    proptest! {
        #[test]
        fn an_updated_checksum_is_the_one_from_scratch(
            mut bytes in prop::collection::vec(any::<u8>(), 4..80),
            at in 2..80usize,
            new in prop::collection::vec(any::<u8>(), 1..5),
        ) {
            bytes[0] = 0;
            bytes[1] = 0;
            let first = whole(&bytes);
            bytes[..2].copy_from_slice(&first.to_be_bytes());
            replace(&mut bytes, at, &new, &[0]);
            let found = u16::from_be_bytes([bytes[0], bytes[1]]);
            bytes[0] = 0;
            bytes[1] = 0;
            let expected = whole(&bytes);
            // Ones' complement has two zeros.
            prop_assert!(found == expected || found ^ expected == 0xffff && (found == 0 || expected == 0));
        }
    }
}
