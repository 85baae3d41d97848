//! Random draws as input: what a real director draws at random, the engine asks here.
//!
//! A draw has a key. By default its value is a fixed rule over the key's meaning, so that two runs are equal. A caller that
//! holds a golden capture can give the value instead ([`Draws::learn`]). Draws that only fill a field of one frame need not
//! be given beforehand: the frame lists them ([`crate::output::DrawnField`]), and a comparison may read them off the golden.

use foldhash::HashMap;
use std::net::IpAddr;

/// What is drawn. Only what the reference lists as random has a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Draw {
    /// IP ID of a packet that the director builds with DF clear. The number counts such packets of this run, so that
    /// the fragments of one datagram share a draw.
    Ipv4Id(u64),
    /// UDP source port of a GUE tunnel, one per inner flow.
    GueSourcePort {
        /// Inner source.
        source: IpAddr,
        /// Inner destination.
        destination: IpAddr,
        /// Inner ports, source first.
        ports: (u16, u16),
        /// Inner protocol number.
        protocol: u8,
        /// The inner packet's IPv6 flow label, which the kernel's hash takes in; 0 for IPv4.
        flow_label: u32,
    },
    /// Flow label of an IPv6 packet that the director builds; by the number of such packets.
    FlowLabel(u64),
    /// Identification of an IPv6 packet that the director fragments; by the number of such packets.
    Ipv6FragmentId(u64),
    /// The clock in an IP timestamp option or an ICMP timestamp reply; by number.
    Timestamp(u64),
    /// Any 8-byte payload clock or random payload of a packet that a tool on the director sends (ping); by number.
    Payload(u64),
    /// DPVS: the TCP sequence offset of a connection; by the number of the connection.
    SequenceOffset(u64),
    /// DPVS: whether the local address of this connection advances by two (5 % under rr and wrr): 0 or 1.
    DoubleStep(u64),
    /// DPVS: SYN cookie of a SYN-proxied connection attempt; by number.
    SynCookie(u64),
    /// DPVS: up to a second added to a connection's timer, in nanoseconds; by the number of the connection (upper bits)
    /// and how often its timer was started before (lower 20 bits).
    TimerJitter(u64),
    /// Linux's `twos` scheduler: a number below the total weight plus one; by number.
    Twos(u64),
}

impl Draw {
    /// The number among draws of its kind, if only one packet shows it, or the fragments of one, which leave together.
    pub fn of_packet(&self) -> Option<u64> {
        match *self {
            Draw::Ipv4Id(number)
            | Draw::FlowLabel(number)
            | Draw::Ipv6FragmentId(number)
            | Draw::Timestamp(number)
            | Draw::Payload(number) => Some(number),
            _ => None,
        }
    }
}

/// A draw on which it hung what a director did: with the alternative value it would have done something else. Such draws
/// can't be read off a field; whoever has a golden tries them (see [`crate::settle`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Which draw.
    pub draw: Draw,
    /// The value that changes what happens.
    pub alternative: u64,
}

/// The values of draws.
#[derive(Clone, Debug, Default)]
pub struct Draws {
    learned: HashMap<Draw, u64>,
}

impl Draws {
    /// The value of a draw: the learned one, else the fixed rule's.
    #[inline]
    pub fn value(&self, draw: Draw) -> u64 {
        if !self.learned.is_empty()
            && let Some(value) = self.given(draw)
        {
            return value;
        }
        match draw {
            Draw::Ipv4Id(number) | Draw::FlowLabel(number) => number & 0xffff,
            Draw::Ipv6FragmentId(number) => number & 0xffff_ffff,
            // A port of the default range, spread over the flows.
            Draw::GueSourcePort { ports, .. } => 32768 + (u64::from(ports.0) * 31 + u64::from(ports.1)) % (60999 - 32768),
            Draw::SequenceOffset(_) | Draw::DoubleStep(_) | Draw::TimerJitter(_) => 0,
            Draw::Timestamp(_) | Draw::Payload(_) => 0,
            Draw::SynCookie(number) => number.wrapping_mul(0x9e37_79b9) & 0xffff_ffff,
            Draw::Twos(number) => number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
        }
    }

    /// Gives a draw its value, as a golden capture shows it.
    pub fn learn(&mut self, draw: Draw, value: u64) {
        self.learned.insert(draw, value);
    }

    /// The value that was given for a draw; none when it still follows the fixed rule.
    pub fn given(&self, draw: Draw) -> Option<u64> {
        self.learned.get(&draw).copied()
    }

    /// How many values were given.
    pub fn learned(&self) -> usize {
        self.learned.len()
    }
}
