//! What a frame says about flows: whether it opens one, and how sure that is.

use lvscheck_engine::config::Protocol;
use lvscheck_engine::packet::{Ethernet, Headers, Tcp, ethernet::ether_type, tcp};

/// Why something is taken for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evidence {
    Syn,
    SynAck,
    Datagram,
    Init,
    Midstream,
}

/// An IP packet in an Ethernet frame, with its headers.
pub(super) fn read(frame: &[u8]) -> Option<(Ethernet<'_>, &[u8], Headers)> {
    let ethernet = Ethernet::new_checked(frame).ok()?;
    if !matches!(ethernet.ether_type(), ether_type::IPV4 | ether_type::IPV6) {
        return None;
    }
    let packet = ethernet.payload();
    let headers = Headers::of(packet).ok()?;
    Some((ethernet, packet, headers))
}

/// Whether a packet opens a flow. A SYN's MSS option tells the MTU of its sender's link.
pub(super) fn opening(headers: &Headers, packet: &[u8], mss_mtu: &mut usize) -> Option<Evidence> {
    let transport = headers.transport(packet);
    let evidence = match Protocol(headers.protocol) {
        Protocol::TCP => {
            let segment = Tcp::new_checked(transport).ok()?;
            if !segment.has(tcp::flags::SYN) {
                return None;
            }
            let overhead = if headers.source.is_ipv4() { 40 } else { 60 };
            if let Some(mss) = maximum_segment_size(segment.options()) {
                *mss_mtu = (*mss_mtu).max(usize::from(mss) + overhead);
            }
            if segment.has(tcp::flags::ACK) { Evidence::SynAck } else { Evidence::Syn }
        }
        Protocol::UDP if transport.len() >= 8 => Evidence::Datagram,
        // The first chunk's type follows the common header of 12 bytes; 1 is INIT (RFC 9260 section 3.2).
        Protocol::SCTP if transport.get(12) == Some(&1) => Evidence::Init,
        _ => return None,
    };
    Some(evidence)
}

/// The value of the MSS option (RFC 9293 section 3.7.1).
fn maximum_segment_size(mut options: &[u8]) -> Option<u16> {
    loop {
        match *options {
            [1, ref rest @ ..] => options = rest,
            [2, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
            [0, ..] | [] => return None,
            [_, length, ..] => options = options.get(usize::from(length).max(2)..)?,
            [_] => return None,
        }
    }
}
