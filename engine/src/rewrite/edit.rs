//! Rewriting without writing: what a method changes in the headers of a plain IPv4 packet, as words that are combined with its
//! first bytes by exclusive or. So a frame can be compared with an expected one, or put together where it is to be, without being
//! made somewhere first. It is what [`super::hop_of_right`] and [`super::nat::translate_right`] do, for packets without options of
//! which the first [`EDITED`] bytes are there.

use super::nat::End;
use crate::packet::checksum::{self, Sum};
use std::net::Ipv4Addr;

/// So many bytes are edited: an IPv4 header without options and a TCP header without options.
pub const EDITED: usize = 40;

const WORDS: usize = EDITED / 8;

/// The first bytes of a packet.
pub type First = [u8; EDITED];

/// Changes to the first bytes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// To be combined with those bytes, each taken as a little-endian number.
    words: [u64; WORDS],
}

/// The end of a packet that gets another address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeV4 {
    /// Which end.
    pub end: End,
    /// Its new address.
    pub address: Ipv4Addr,
    /// Its new port, host order.
    pub port: u16,
}

/// A translation of TCP and UDP packets that had the same address and port before, worked out once for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// To be combined with the second and the third word, in which addresses and ports stand.
    words: [u64; 2],
    /// What the change adds to a sum over the address, and to one over address and port.
    address: u16,
    both: u16,
}

impl Translation {
    /// Of packets that had that address and port (host order) at that end.
    pub fn of(old: (Ipv4Addr, u16), change: ChangeV4) -> Translation {
        let ((old, old_port), new, new_port) = ((u32::from(old.0), old.1), u32::from(change.address), change.port);
        let address = Sum::new().double(!old).double(new);
        let both = address.replace_word(old_port, new_port).folded();
        let (changed, changed_port) = (u64::from((old ^ new).swap_bytes()), u64::from((old_port ^ new_port).swap_bytes()));
        let words = match change.end {
            End::Source => [changed << 32, changed_port << 32],
            End::Destination => [0, changed | changed_port << 48],
        };
        Translation { words, address: address.folded(), both }
    }
}

#[inline(always)]
fn words(bytes: &First) -> [u64; WORDS] {
    // Written out, as below: of loops the compiler makes vectors that wait for each other.
    let word = |at: usize| {
        let chunk = bytes[8 * at..].first_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(chunk)
    };
    [word(0), word(1), word(2), word(3), word(4)]
}

/// The two bytes at an even place of the words, in network order.
#[inline(always)]
fn double(words: &[u64; WORDS], at: usize) -> u16 {
    ((words[at / 8] >> (8 * (at % 8))) as u16).swap_bytes()
}

impl Edit {
    /// One hop less (reference/linux-ipvs.md section 6.1).
    #[inline(always)]
    pub fn hop(packet: &First) -> Edit {
        let words = words(packet);
        let ttl = words[1] as u8;
        let check = double(&words, 10);
        let mut edit = Edit::default();
        edit.change(10, check, checksum::after_ttl_decrement(check));
        edit.words[1] ^= u64::from(ttl ^ ttl.saturating_sub(1));
        edit
    }

    /// One hop less, and an end of TCP (`udp` false) or UDP gets another address and port (section 6.6a).
    #[inline(always)]
    pub fn translate(packet: &First, udp: bool, translation: &Translation) -> Edit {
        let words = words(packet);
        let mut edit = Edit::hop(packet);
        let hopped = double(&words, 10) ^ double(&edit.words, 10);
        let check = Sum::of_field(hopped).word(translation.address).checksum();
        // Computed from scratch a checksum is never all ones.
        edit.change(10, hopped, if check == 0xffff { 0 } else { check });
        edit.words[1] ^= translation.words[0];
        edit.words[2] ^= translation.words[1];
        let check_at = 20 + if udp { crate::packet::udp::CHECKSUM_AT } else { crate::packet::tcp::CHECKSUM_AT };
        let check = double(&words, check_at);
        let sum = Sum::of_field(check).word(translation.both);
        edit.change(check_at, check, if udp { sum.udp_checksum() } else { sum.checksum() });
        edit
    }

    /// The two bytes at an even place change.
    #[inline(always)]
    fn change(&mut self, at: usize, old: u16, new: u16) {
        self.words[at / 8] ^= u64::from((old ^ new).swap_bytes()) << (8 * (at % 8));
    }

    /// The bytes as they are afterwards.
    #[inline(always)]
    pub fn apply(&self, packet: &First) -> First {
        let mut bytes = *packet;
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (at, (word, edit)) in words(packet).into_iter().zip(self.words).enumerate() {
            chunks[at] = (word ^ edit).to_le_bytes();
        }
        bytes
    }

    /// Whether that is what they are afterwards.
    #[inline(always)]
    pub fn gives(&self, packet: &First, expected: &First) -> bool {
        let (before, after) = (words(packet), words(expected));
        let differs = |at: usize| before[at] ^ after[at] ^ self.words[at];
        differs(0) | differs(1) | differs(2) | differs(3) | differs(4) == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::ipv4;
    use crate::rewrite::nat::{Change, translate_right};
    use crate::rewrite::{hop, hop_of_right};
    use proptest::prelude::*;

    /// A packet with a right IP checksum, of TCP or UDP.
    fn packet(mut bytes: First, udp: bool) -> First {
        bytes[0] = 0x45;
        (bytes[2], bytes[3]) = (0, EDITED as u8);
        bytes[8] = bytes[8].max(2);
        bytes[9] = if udp { 17 } else { 6 };
        ipv4::Ipv4::new_checked(&mut bytes[..]).unwrap().fill_checksum();
        bytes
    }

    fn bytes() -> impl Strategy<Value = First> {
        prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0), 1 => Just(0xff)], EDITED)
            .prop_map(|bytes| bytes.try_into().unwrap())
    }

    proptest! {
        #[test]
        fn a_hop_is_the_same_as_in_place(bytes in bytes(), all_ones: bool) {
            let mut before = packet(bytes, false);
            if all_ones && before[10..12] == [0, 0] {
                before[10..12].fill(0xff);
            }
            let mut in_place = before;
            hop_of_right(&mut in_place);
            let edit = Edit::hop(&before);
            prop_assert_eq!(edit.apply(&before), in_place);
            prop_assert!(edit.gives(&before, &in_place));
            hop(&mut before);
            prop_assert_eq!(before, in_place);
        }

        #[test]
        fn a_translation_is_the_same_as_in_place(
            bytes in bytes(), udp: bool, source: bool, address: [u8; 4], port: u16, at in 0..EDITED, flip in 1..=255u8,
        ) {
            let before = packet(bytes, udp);
            let end = if source { End::Source } else { End::Destination };
            let mut in_place = before;
            hop_of_right(&mut in_place);
            translate_right(&mut in_place, Change { end, address: address.into(), port: Some(port) });
            let (address_at, port_at) = if source { (12, 20) } else { (16, 22) };
            let old: [u8; 4] = before[address_at..address_at + 4].try_into().unwrap();
            let old = (old.into(), u16::from_be_bytes([before[port_at], before[port_at + 1]]));
            let translation = Translation::of(old, ChangeV4 { end, address: address.into(), port });
            let edit = Edit::translate(&before, udp, &translation);
            prop_assert_eq!(edit.apply(&before), in_place);
            prop_assert!(edit.gives(&before, &in_place));
            in_place[at] ^= flip;
            prop_assert!(!edit.gives(&before, &in_place));
        }
    }
}
