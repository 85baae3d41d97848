//! Internet checksums (RFC 1071), their incremental update (RFC 1624), and CRC32c of SCTP (RFC 9260 appendix A).
//!
//! The rules of which checksum is updated how are reference/linux-ipvs.md sections 6.1 and 6.6a.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A one's-complement sum in progress. Numbers are added in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// An empty sum.
    pub const fn new() -> Sum {
        Sum(0)
    }

    /// What a checksum field stands for: the sum of everything else that it covers.
    pub const fn of_field(check: u16) -> Sum {
        // The field 0xffff stands for a sum of zero, which is the same as 0xffff in one's complement. The kernel starts
        // from the non-zero one, so that an updated checksum never becomes 0xffff.
        Sum(0xffff + !check as u64)
    }

    /// Adds a 16-bit word.
    #[inline]
    pub const fn word(self, value: u16) -> Sum {
        Sum(self.0 + value as u64)
    }

    /// Adds a 32-bit number as its two words.
    #[inline]
    pub const fn double(self, value: u32) -> Sum {
        Sum(self.0 + (value >> 16) as u64 + (value & 0xffff) as u64)
    }

    /// Adds another sum.
    #[inline]
    pub const fn plus(self, other: Sum) -> Sum {
        Sum(fold32(self.0) as u64 + fold32(other.0) as u64)
    }

    /// Adds bytes that start at an even offset of what is summed; an odd last byte is padded with zero on the right.
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        self.native(native_sum(bytes))
    }

    /// Adds a header of a few bytes, an even number that is known where this is called, so that no loop and no branch is left of it;
    /// and what follows it.
    #[inline(always)]
    pub fn header_and(self, header: &[u8], rest: &[u8]) -> Sum {
        let (doubles, last) = header.as_chunks::<4>();
        let sum: u64 = doubles.iter().map(|double| u64::from(u32::from_ne_bytes(*double))).sum();
        let last: u64 = last.as_chunks::<2>().0.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
        self.native(sum + last + native_sum(rest))
    }

    /// Adds a sum of words in the machine's own order: the order of its two bytes is put right once, at the end (RFC 1071
    /// section 2 (B)).
    #[inline]
    fn native(self, sum: u64) -> Sum {
        Sum(self.0 + u16::from_be(fold16(sum)) as u64)
    }

    /// Adds an address.
    #[inline]
    pub fn address(self, address: IpAddr) -> Sum {
        match address {
            IpAddr::V4(v4) => self.double(u32::from(v4)),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    /// Takes the place of a 16-bit word by another (RFC 1624 equation 3).
    #[inline]
    pub const fn replace_word(self, old: u16, new: u16) -> Sum {
        self.word(!old).word(new)
    }

    /// Takes the place of an address by another of its family.
    #[inline]
    pub fn replace_address(self, old: IpAddr, new: IpAddr) -> Sum {
        match old {
            IpAddr::V4(v4) => self.double(!u32::from(v4)).address(new),
            IpAddr::V6(v6) => {
                let mut octets = v6.octets();
                octets.iter_mut().for_each(|octet| *octet = !*octet);
                self.bytes(&octets).address(new)
            }
        }
    }

    /// The sum as 16 bits.
    #[inline]
    pub const fn folded(self) -> u16 {
        fold16(self.0)
    }

    /// The checksum field for this sum: its complement.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum field for UDP, where zero means none and 0xffff stands for it (RFC 768).
    #[inline]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            check => check,
        }
    }
}

/// The sum of bytes as words of the machine's own order, which can be added four at a time.
#[inline]
fn native_sum(bytes: &[u8]) -> u64 {
    let (words, mut rest) = bytes.as_chunks::<8>();
    let (mut low, mut high) = (0u64, 0u64);
    for word in words {
        let word = u64::from_ne_bytes(*word);
        low += word & 0xffff_ffff;
        high += word >> 32;
    }
    // Halves of what is left instead of a copy of it: a copy of unknown length is a call, and most packets are short.
    if let Some((word, others)) = rest.split_first_chunk::<4>() {
        low += u64::from(u32::from_ne_bytes(*word));
        rest = others;
    }
    if let Some((word, others)) = rest.split_first_chunk::<2>() {
        high += u64::from(u16::from_ne_bytes(*word));
        rest = others;
    }
    if let [last] = rest {
        high += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    low + high
}

const fn fold32(value: u64) -> u32 {
    let value = (value & 0xffff_ffff) + (value >> 32);
    ((value & 0xffff_ffff) + (value >> 32)) as u32
}

const fn fold16(value: u64) -> u16 {
    let value = fold32(value) as u64;
    let value = (value & 0xffff) + (value >> 16);
    ((value & 0xffff) + (value >> 16)) as u16
}

/// The checksum field over bytes whose checksum field is zero.
#[inline]
pub fn internet(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// Whether bytes that hold their checksum field sum up right.
#[inline]
pub fn is_right(sum: Sum) -> bool {
    sum.folded() == 0xffff
}

/// The pseudo header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1). `len` is the length of the
/// transport header and payload. Addresses of two families give a sum that no packet has.
#[inline]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Sum {
    Sum::new().address(source).address(destination).word(u16::from(protocol)).double(len as u32)
}

/// The pseudo header over IPv4.
#[inline]
pub fn pseudo_header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> Sum {
    pseudo_header(source.into(), destination.into(), protocol, len)
}

/// The pseudo header over IPv6.
#[inline]
pub fn pseudo_header_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: usize) -> Sum {
    pseudo_header(source.into(), destination.into(), protocol, len)
}

/// A checksum field after one of the 16-bit words that it covers has changed (RFC 1624). A wrong checksum stays wrong by
/// the same amount.
#[inline]
pub const fn update(check: u16, old: u16, new: u16) -> u16 {
    Sum::of_field(check).replace_word(old, new).checksum()
}

/// The IPv4 header checksum after the TTL was decremented, as the kernel computes it (reference/linux-ipvs.md section 6.1
/// step 4): it may become 0xffff, which a recomputation never gives.
#[inline]
pub const fn after_ttl_decrement(check: u16) -> u16 {
    let sum = check as u32 + 0x0100;
    (sum + (sum >= 0xffff) as u32) as u16
}

/// SCTP's checksum over a packet whose checksum field is zero, in the order in which its bytes stand in the field.
pub fn sctp(parts: &[&[u8]]) -> [u8; 4] {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn slowly(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: the header checksum 0xdd2f, where 0x5555 becomes 0x3285, becomes 0x0000 and not 0xffff.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn ttl_decrement_wraps() {
        assert_eq!(after_ttl_decrement(0x1234), 0x1334);
        assert_eq!(after_ttl_decrement(0xfeff), 0x0000);
        assert_eq!(after_ttl_decrement(0xff00), 0x0001);
    }

    #[test]
    fn udp_never_zero() {
        assert_eq!(Sum::new().word(0xffff).udp_checksum(), 0xffff);
    }

    #[test]
    fn crc32c_check_value() {
        assert_eq!(u32::from_le_bytes(sctp(&[b"1234", b"56789"])), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn fast_equals_slow(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(internet(&bytes), slowly(&bytes));
            for header in (0..=bytes.len().min(60)).step_by(2) {
                let (header, rest) = bytes.split_at(header);
                prop_assert_eq!(Sum::new().header_and(header, rest).checksum(), slowly(&bytes));
            }
            if !bytes.is_empty() {
                prop_assert_eq!(internet(&bytes), pnet_packet::util::checksum(&bytes, usize::MAX));
            }
        }

        #[test]
        fn update_equals_recomputation(mut bytes in proptest::collection::vec(any::<u8>(), 8..64), at in 0usize..4, new: u16) {
            bytes[0] = 0x45; // some word is never zero, as in every real header
            let check = internet(&bytes);
            let at = at * 2;
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let new = if at == 0 { new | 0x4500 } else { new };
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(check, old, new), internet(&bytes));
        }

        #[test]
        fn address_update_equals_words(old: u32, new: u32, check: u16) {
            let both = Sum::of_field(check).replace_address(IpAddr::V4(old.into()), IpAddr::V4(new.into())).checksum();
            let words = update(update(check, (old >> 16) as u16, (new >> 16) as u16), old as u16, new as u16);
            prop_assert_eq!(both, words);
        }
    }
}
