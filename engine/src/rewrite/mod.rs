//! What each forwarding method does to a packet: pure functions over its bytes, one file a method. Which real server, which
//! source address, whether the TTL allows it and whether the link is wide enough was decided before.
//!
//! Every function works on an IP packet in place, so that a caller who has just copied the packet behind a new link header
//! needs no second copy. A packet of which the end was not captured is rewritten as far as it goes.

pub mod dr;
pub mod edit;
pub mod ftp;
pub mod icmp;
pub mod local;
pub mod nat;
pub mod sip;
pub mod tunnel;

use crate::packet::{Ipv4, Ipv6, checksum, ipv4};

/// One hop: the TTL or hop limit less one, and the IPv4 header checksum computed from scratch (reference/linux-ipvs.md
/// section 6.1). Bytes that are no IP packet stay.
pub fn hop(packet: &mut [u8]) {
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            if let Ok(mut view) = Ipv4::new_checked(packet) {
                view.decrement_ttl();
                view.fill_checksum();
            }
        }
        Some(6) => {
            if let Ok(mut view) = Ipv6::new_checked(packet) {
                view.decrement_hop_limit();
            }
        }
        _ => {}
    }
}

/// What [`hop`] does to a packet whose checksum is right, without summing up its header (RFC 1624).
#[inline]
pub fn hop_of_right(packet: &mut [u8]) {
    if let Some(header) = packet.first_chunk_mut::<{ ipv4::HEADER_LEN }>()
        && header[0] >> 4 == 4
    {
        header[8] = header[8].saturating_sub(1);
        let check = checksum::after_ttl_decrement(u16::from_be_bytes([header[10], header[11]]));
        [header[10], header[11]] = check.to_be_bytes();
    } else if let Ok(mut view) = Ipv6::new_checked(packet) {
        view.decrement_hop_limit();
    }
}
