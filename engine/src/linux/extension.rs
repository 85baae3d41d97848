//! IPv6 extension headers as the host itself reads them: the hop-by-hop options of every packet, all other headers of what is
//! delivered to it (RFC 8200 section 4). Hooks look past all of them and see none of this.

use super::packet::Packet;
use super::{Director, Output};
use crate::packet::icmp;
use crate::packet::ipv6::{self, next_header};
use crate::verdict::{DropReason, Refusal, Verdict};

/// What is wrong with options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OptionFault {
    /// They are malformed, or one says that its packet is to be discarded.
    Silent,
    /// One that nobody knows wants its sender told: where it starts.
    Told { pointer: usize },
}

/// So many options a header; padding is none (net.ipv6.max_hbh_opts_number, max_dst_opts_number).
const MAX_OPTIONS: usize = 8;
/// More padding than aligns a header is refused.
const MAX_PADDING: usize = 7;
/// The router alert option (RFC 2711), of hop-by-hop headers.
const ROUTER_ALERT: u8 = 5;

impl Director {
    /// The hop-by-hop header of a packet that arrived, if it has one.
    pub(super) fn take_hop_by_hop(&mut self, out: &mut Output, packet: &Packet) -> Result<(), Verdict> {
        if packet.bytes.get(6) != Some(&next_header::HOP_BY_HOP) {
            return Ok(());
        }
        let len = header_len(&packet.bytes, ipv6::HEADER_LEN);
        let Some(end) = len.map(|len| ipv6::HEADER_LEN + len) else {
            return Err(Verdict::Dropped(DropReason::BadIpHeader));
        };
        self.take_options_v6(out, packet, ipv6::HEADER_LEN + 2, end, true)
    }

    /// The other extension headers of a packet for the host itself. `Err`: it goes no further.
    pub(super) fn take_extensions(&mut self, out: &mut Output, packet: &Packet) -> Result<(), Verdict> {
        let bytes = &packet.bytes;
        let malformed = Err(Verdict::Dropped(DropReason::BadIpHeader));
        let mut number_at = 6;
        let mut at = ipv6::HEADER_LEN;
        loop {
            let Some(&number) = bytes.get(number_at) else { return malformed };
            let first = number_at == 6;
            match number {
                next_header::HOP_BY_HOP if first => {}
                next_header::HOP_BY_HOP | next_header::AUTHENTICATION => {
                    return Err(self.unknown_header(out, packet, number_at));
                }
                next_header::ROUTING | next_header::DESTINATION_OPTIONS => {}
                next_header::FRAGMENT => return Ok(()),
                _ => return Ok(()),
            }
            let Some(len) = header_len(bytes, at) else { return malformed };
            match number {
                next_header::DESTINATION_OPTIONS => self.take_options_v6(out, packet, at + 2, at + len, false)?,
                next_header::ROUTING => self.take_routing(out, packet, at)?,
                _ => {}
            }
            number_at = at;
            at += len;
        }
    }

    /// A routing header: those of mobile nodes and of segment routing, which the host takes no part in, end here silently. Of
    /// the others, one that has nothing left to do is passed over, and a source route is refused.
    fn take_routing(&mut self, out: &mut Output, packet: &Packet, at: usize) -> Result<(), Verdict> {
        const MOBILE: u8 = 2;
        const RPL: u8 = 3;
        const SEGMENT: u8 = 4;
        if !packet.to_us {
            return Err(Verdict::Dropped(DropReason::GroupAddress));
        }
        match packet.bytes.get(at + 2..at + 4) {
            Some([MOBILE | RPL | SEGMENT, _]) | None => Err(Verdict::Dropped(DropReason::SourceRoute)),
            Some([_, 0]) => Ok(()),
            Some(_) => {
                self.send_error_v6(out, packet, icmp::v6::PARAMETER_PROBLEM, 0, (at + 2) as u32);
                Err(Verdict::Refused(Refusal::ParameterProblem))
            }
        }
    }

    fn take_options_v6(
        &mut self,
        out: &mut Output,
        packet: &Packet,
        start: usize,
        end: usize,
        hop_by_hop: bool,
    ) -> Result<(), Verdict> {
        let group = !packet.to_us || packet.headers.destination.is_multicast();
        match check_options(&packet.bytes[..end], start, hop_by_hop, group) {
            Ok(()) => Ok(()),
            Err(OptionFault::Silent) => Err(Verdict::Dropped(DropReason::BadIpHeader)),
            Err(OptionFault::Told { pointer }) => {
                self.send_error_v6(out, packet, icmp::v6::PARAMETER_PROBLEM, 2, pointer as u32);
                Err(Verdict::Refused(Refusal::ParameterProblem))
            }
        }
    }
}

/// Length of the options or routing header at that place, if it is whole.
fn header_len(packet: &[u8], at: usize) -> Option<usize> {
    let len = 8 + usize::from(*packet.get(at + 1)?) * 8;
    (at + len <= packet.len()).then_some(len)
}

/// Reads options from `at` to the end of `packet`. The upper two bits of an unknown option say what to do about it (RFC 8200
/// section 4.2); `group`: the packet went to a group, whose members don't all complain.
fn check_options(packet: &[u8], mut at: usize, hop_by_hop: bool, group: bool) -> Result<(), OptionFault> {
    let (mut padding, mut count) = (0, 0);
    while let Some(options) = packet.get(at..).filter(|options| !options.is_empty()) {
        let len = match *options {
            [0, ..] => 1,
            [_, len, ..] => usize::from(len) + 2,
            _ => return Err(OptionFault::Silent),
        };
        let Some(option) = options.get(..len) else { return Err(OptionFault::Silent) };
        match *option {
            [0] | [1, ..] => {
                padding += len;
                if padding > MAX_PADDING || option.iter().skip(2).any(|byte| *byte != 0) {
                    return Err(OptionFault::Silent);
                }
            }
            _ => {
                padding = 0;
                count += 1;
                let known = hop_by_hop && option[0] == ROUTER_ALERT;
                if count > MAX_OPTIONS || known && len != 4 {
                    return Err(OptionFault::Silent);
                }
                match option[0] >> 6 {
                    0 => {}
                    1 => return Err(OptionFault::Silent),
                    3 if group => return Err(OptionFault::Silent),
                    _ => return Err(OptionFault::Told { pointer: at }),
                }
            }
        }
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(options: &[u8]) -> Result<(), OptionFault> {
        check_options(options, 0, true, false)
    }

    #[test]
    fn padding_aligns_and_is_zero() {
        assert_eq!(check(&[0; 7]), Ok(()));
        assert_eq!(check(&[0; 8]), Err(OptionFault::Silent));
        assert_eq!(check(&[1, 4, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check(&[1, 4, 0, 0, 9, 0]), Err(OptionFault::Silent));
        assert_eq!(check(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(OptionFault::Silent));
        assert_eq!(check(&[1, 5, 0, 0]), Err(OptionFault::Silent), "longer than the header");
    }

    #[test]
    fn unknown_options_say_what_to_do() {
        assert_eq!(check(&[0x1e, 0]), Ok(()));
        assert_eq!(check(&[0x5e, 0]), Err(OptionFault::Silent));
        assert_eq!(check(&[1, 0, 0x9e, 0]), Err(OptionFault::Told { pointer: 2 }));
        assert_eq!(check(&[0xde, 0]), Err(OptionFault::Told { pointer: 0 }));
        assert_eq!(check_options(&[0xde, 0], 0, false, true), Err(OptionFault::Silent), "from a group");
        assert_eq!(check_options(&[0x9e, 0], 0, false, true), Err(OptionFault::Told { pointer: 0 }));
        assert_eq!(check(&[0x1e, 0].repeat(9)), Err(OptionFault::Silent), "too many");
    }

    #[test]
    fn router_alert() {
        assert_eq!(check(&[5, 2, 0, 0]), Ok(()));
        assert_eq!(check(&[5, 1, 0]), Err(OptionFault::Silent));
        assert_eq!(check_options(&[5, 1, 0], 0, false, false), Ok(()), "no option of a destination");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = check(&bytes);
        }
    }
}
