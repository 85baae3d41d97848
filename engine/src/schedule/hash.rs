//! Hashes of addresses that dh, sh and mh share. None of them has a secret: every boot chooses alike.

use std::net::IpAddr;

/// The kernel's hash_32 multiplier.
const GOLDEN_RATIO_32: u32 = 0x61C8_8647;

/// An address as one word: an IPv4 address in host order; the exclusive or of an IPv6 address's four words.
pub fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// The upper 8 bits of the product: a bucket of 256.
pub fn hash_8(value: u32) -> u8 {
    (value.wrapping_mul(GOLDEN_RATIO_32) >> 24) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_reference() {
        let of = |address: [u8; 4], port: u32| hash_8(port.wrapping_add(fold(address.into())));
        assert_eq!(of([203, 0, 113, 5], 0), 185);
        assert_eq!(of([203, 0, 113, 6], 0), 26);
        assert_eq!(of([198, 51, 100, 7], 0), 171);
        assert_eq!(of([10, 1, 2, 3], 0), 2);
        assert_eq!(of([203, 0, 113, 5], 40000), 93);
        assert_eq!(of([203, 0, 113, 6], 40000), 190);
        assert_eq!(of([198, 51, 100, 7], 40000), 79);
        let v6 = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
        assert_eq!(fold(v6.into()), 0x2001_0dbd);
        assert_eq!(hash_8(fold(v6.into())), 198);
    }
}
