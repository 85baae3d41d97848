//! Most packets are like the one before them: then what they have in common is compared, a few words, instead of being read anew.

use super::lane::{Facts, Header, Port};
use crate::config::InterfaceId;
use crate::director::Arrival;

/// What packets of IPv4 to one service that came in at one place have in common.
#[derive(Clone, Debug)]
pub(super) struct Alike {
    interface: InterfaceId,
    /// What [`Alike::words`] gives.
    words: [u64; 4],
    /// The longest frame that the interface takes, and its MTU.
    pub longest_frame: usize,
    pub mtu: u32,
    /// The place of the service in [`super::lane::Ends`], and what is known of it.
    pub end: u16,
    pub facts: Facts,
}

impl Alike {
    /// Like a packet in lane to a service.
    pub fn to(arrival: &Arrival<'_>, header: &Header, port: &Port, end: u16, facts: &Facts) -> Alike {
        let &Port { longest_frame, mtu, .. } = port;
        Alike { interface: arrival.interface, words: Alike::words(header), longest_frame, mtu, end, facts: *facts }
    }

    /// What is the same in all of them: the Ethernet address that they go to, the type; that they are IPv4 without options and
    /// no fragments; the protocol, the address and the port that they go to.
    #[inline(always)]
    fn words(header: &Header) -> [u64; 4] {
        const PLACES: [(usize, [u8; 8]); 4] = [
            (0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
            (12, [0xff, 0xff, 0xff, 0, 0, 0, 0, 0]),
            // DF may be set or not.
            (20, [0xbf, 0xff, 0, 0xff, 0, 0, 0, 0]),
            (30, [0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff]),
        ];
        let word = |place: usize| {
            let (at, mask) = PLACES[place];
            let word = header[at..].first_chunk().copied().unwrap_or_default();
            u64::from_ne_bytes(word) & u64::from_ne_bytes(mask)
        };
        [word(0), word(1), word(2), word(3)]
    }

    /// Whether a frame is like that, so that all that is left to look at is what differs from packet to packet.
    #[inline(always)]
    pub fn fits(&self, arrival: &Arrival<'_>) -> bool {
        let Some(header) = arrival.frame.first_chunk() else { return false };
        // Written out: of a comparison of arrays the compiler makes one of memory, which waits until all of it is written.
        let ([one, two, three, four], own) = (Alike::words(header), self.words);
        let differences = one ^ own[0] | two ^ own[1] | three ^ own[2] | four ^ own[3];
        self.interface == arrival.interface && differences == 0
    }
}
