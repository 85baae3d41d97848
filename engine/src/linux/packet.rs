//! A packet on its way through the director.

use crate::config::InterfaceId;
use crate::output::DrawnField;
use crate::packet::{FlowKey, HeaderError, Headers};
use crate::time::Nanos;
use std::net::IpAddr;

/// An IP packet with what the director knows of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The bytes from the IP header on, without padding; the end may be missing.
    pub bytes: Vec<u8>,
    /// What the headers say.
    pub headers: Headers,
    /// Bytes that the capture did not hold.
    pub cut: u32,
    /// Where it arrived; none: the director made it.
    pub arrival: Option<InterfaceId>,
    /// The frame was sent to the director's own Ethernet address.
    pub to_us: bool,
    /// Its destination was local when it was routed: then errors about it come from that destination.
    pub local: bool,
    /// Length of the longest fragment that it was put together from; 0: it was whole.
    pub longest: usize,
    /// It was put together from fragments of which the longest had "don't fragment".
    pub longest_dont_fragment: bool,
    /// Lengths of the data of the IPv6 fragments that it was put together from, in order.
    pub parts: Vec<usize>,
    /// Options were filled in on arrival: the header's checksum is made anew when the packet leaves, not before.
    pub options_changed: bool,
    /// Where the options got the director's address on arrival; of a routed packet it becomes that of the way out.
    pub recorded: [Option<u16>; 2],
    /// Firewall mark.
    pub mark: u32,
    /// When it arrived or was made.
    pub time: Nanos,
    /// Random fields, offsets from the IP header.
    pub drawn: Vec<DrawnField>,
}

impl Packet {
    /// A packet that arrived. What stands behind unreadable IPv6 extension headers is taken as nothing: it is routed by its
    /// addresses all the same.
    pub fn arrived(bytes: Vec<u8>, cut: u32, on: InterfaceId, to_us: bool, time: Nanos) -> Result<Packet, HeaderError> {
        let headers = Headers::of(&bytes).or_else(|error| Headers::without_transport(&bytes).ok_or(error))?;
        Ok(Packet { arrival: Some(on), to_us, cut, ..Packet::with(bytes, headers, time) })
    }

    /// A packet that the director makes.
    pub fn made(bytes: Vec<u8>, time: Nanos) -> Result<Packet, HeaderError> {
        let headers = Headers::of(&bytes)?;
        Ok(Packet::with(bytes, headers, time))
    }

    fn with(bytes: Vec<u8>, headers: Headers, time: Nanos) -> Packet {
        Packet {
            bytes,
            headers,
            cut: 0,
            arrival: None,
            to_us: true,
            local: false,
            longest: 0,
            longest_dont_fragment: false,
            parts: Vec::new(),
            options_changed: false,
            recorded: [None; 2],
            mark: 0,
            time,
            drawn: Vec::new(),
        }
    }

    /// Reads the headers again after the bytes changed. They were readable before, and no rewriting breaks them; if it
    /// did, the old reading stays.
    pub fn reread(&mut self) {
        if let Ok(headers) = Headers::of(&self.bytes) {
            self.headers = headers;
        }
    }

    /// Whether it is IPv4.
    pub fn is_v4(&self) -> bool {
        self.headers.source.is_ipv4()
    }

    /// Transport header and payload, as far as they were captured.
    pub fn transport(&self) -> &[u8] {
        self.headers.transport(&self.bytes)
    }

    /// Length of the transport header and payload on the wire.
    pub fn transport_len(&self) -> usize {
        self.headers.total_len.saturating_sub(self.headers.transport_at)
    }

    /// Whether its end was not captured.
    pub fn is_cut(&self) -> bool {
        self.cut != 0
    }

    /// Its flow.
    pub fn flow(&self) -> FlowKey {
        self.headers.flow(&self.bytes)
    }

    /// The protocol of ICMP in its family.
    pub fn is_icmp(&self) -> bool {
        self.headers.protocol == if self.is_v4() { 1 } else { 58 }
    }

    /// Source and destination.
    pub fn addresses(&self) -> (IpAddr, IpAddr) {
        (self.headers.source, self.headers.destination)
    }
}

/// What a hook did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooked {
    /// Nothing: it goes on.
    Accept,
    /// It goes on, and this is what became of it if nothing else does.
    AcceptAs(crate::verdict::Verdict),
    /// It is gone.
    Done(crate::verdict::Verdict),
}

/// Where a packet meets IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// To the director itself.
    LocalIn,
    /// Routed on.
    Forward,
    /// From the director itself.
    LocalOut,
}
