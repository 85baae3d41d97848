//! A real server on the director itself: the packet goes to the local stack, its TTL and, under DR and tunnel, all of it
//! untouched; under NAT the destination is translated (reference/linux-ipvs.md section 6.5).

use super::nat::{self, Change, End};
use crate::config::ForwardingMethod;
use crate::packet::Headers;
use std::net::IpAddr;

/// Turns a client's packet into the one that the director's own stack receives. False: the transport header that NAT
/// needs is not there, so that the packet is dropped.
pub fn request(packet: &mut [u8], headers: &Headers, method: ForwardingMethod, server: IpAddr, port: u16, cut: bool) -> bool {
    match method {
        ForwardingMethod::Nat => {
            nat::translate(packet, headers, Change { end: End::Destination, address: server, port: Some(port) }, cut)
        }
        _ => true,
    }
}
