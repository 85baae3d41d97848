//! Views of headers over byte slices, builders of headers, and checksums. Stateless, allocation-free, shared by every
//! director.
//!
//! # Panic contract
//! A view is made by `new_checked`, which fails when the fixed part of the header is not there. Behind it no getter and no
//! setter panics, as long as the bytes behind the view keep their length. Lengths that a header claims are never trusted:
//! what a getter such as `payload` returns is cut to the bytes that exist.
//!
//! All numbers are returned in host order.

pub mod arp;
pub mod checksum;
pub mod classify;
pub mod ethernet;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod ndisc;
pub mod sctp;
pub mod tcp;
pub mod udp;

pub use classify::{FlowKey, Headers};
pub use ethernet::Ethernet;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use tcp::Tcp;
pub use udp::Udp;

/// A header that is not whole, or that can't be what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than the header needs.
    #[error("{layer} header needs {required} bytes, {found} are there")]
    Truncated {
        /// Which header.
        layer: &'static str,
        /// How many bytes it needs.
        required: usize,
        /// How many there are.
        found: usize,
    },
    /// A field holds what it must not.
    #[error("{layer} header: {field} is wrong")]
    Malformed {
        /// Which header.
        layer: &'static str,
        /// Which field.
        field: &'static str,
    },
}

/// Fails when there are fewer than `required` bytes.
pub(crate) fn require(bytes: &[u8], layer: &'static str, required: usize) -> Result<(), HeaderError> {
    if bytes.len() < required {
        return Err(HeaderError::Truncated { layer, required, found: bytes.len() });
    }
    Ok(())
}

/// The 16-bit number at that offset. The caller has checked the length.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The 32-bit number at that offset. The caller has checked the length.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Stores a 16-bit number. The caller has checked the length.
#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Source and destination port: the first four bytes of TCP, UDP and SCTP, host order. None when they are not there.
#[inline]
pub fn ports(transport: &[u8]) -> Option<(u16, u16)> {
    (transport.len() >= 4).then(|| (be16(transport, 0), be16(transport, 2)))
}
