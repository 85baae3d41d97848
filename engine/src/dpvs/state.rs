//! States of a connection, what moves them, and how long they last (reference/dpvs-fullnat.md section 12).

use crate::config::{DpvsTimeouts, Protocol};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// From the client to the real server.
    In,
    /// From the real server to the client.
    Out,
}

/// A connection's state. The first eleven are those of the TCP table, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    None,
    Established,
    SynSent,
    SynReceived,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    SynAck,
    UdpNone,
    UdpOneway,
    UdpNormal,
    IcmpNormal,
    SctpInit,
    SctpEstablished,
    SctpClosing,
    SctpClosed,
}

use State::{Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI};
use State::{SynAck as SA, SynReceived as SR, SynSent as SS, TimeWait as TW};

const TCP_STATES: [State; 11] = [State::None, ES, SS, SR, FW, TW, CL, CW, LA, LI, SA];

// What stands in a row is found by the state's number.
const _: () = {
    let mut number = 0;
    while number < TCP_STATES.len() {
        assert!(TCP_STATES[number] as usize == number);
        number += 1;
    }
};

/// A row of the table: the next state of each of [`TCP_STATES`].
type Row = [State; 11];

const IN_SYN: Row = [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR];
const IN_FIN: Row = [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW];
const IN_ACK: Row = [CL, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES];
const IN_RST: Row = [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR];
const OUT_SYN: Row = [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR];
const OUT_FIN: Row = [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW];
const OUT_ACK: Row = [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES];
const OUT_RST: Row = [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL];
/// Direct routing and tunnel, where answers pass by unseen.
const ONE_WAY_FIN: Row = [CL, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW];
const ONE_WAY_RST: Row = [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL];

/// TCP's flag bits.
pub(super) mod flag {
    pub(in crate::dpvs) const FIN: u8 = 0x01;
    pub(in crate::dpvs) const SYN: u8 = 0x02;
    pub(in crate::dpvs) const RST: u8 = 0x04;
    pub(in crate::dpvs) const PSH: u8 = 0x08;
    pub(in crate::dpvs) const ACK: u8 = 0x10;
}

impl State {
    /// The state of a connection before its first packet.
    pub(super) fn initial(protocol: Protocol) -> State {
        match protocol {
            Protocol::UDP => State::UdpNone,
            Protocol::ICMP | Protocol::ICMPV6 => State::IcmpNormal,
            _ => State::None,
        }
    }

    /// The state after a TCP segment with these flags. RST counts first, then SYN, FIN, ACK; a segment with none of them
    /// closes. `one_way`: direct routing or tunnel.
    #[inline]
    pub(super) fn after_segment(self, direction: Direction, flags: u8, one_way: bool) -> State {
        let has = |bit: u8| flags & bit != 0;
        let row = match direction {
            Direction::In if has(flag::RST) => {
                if one_way {
                    &ONE_WAY_RST
                } else {
                    &IN_RST
                }
            }
            Direction::In if has(flag::SYN) => &IN_SYN,
            Direction::In if has(flag::FIN) => {
                if one_way {
                    &ONE_WAY_FIN
                } else {
                    &IN_FIN
                }
            }
            Direction::In if has(flag::ACK) => &IN_ACK,
            Direction::Out if has(flag::RST) => &OUT_RST,
            Direction::Out if has(flag::SYN) => &OUT_SYN,
            Direction::Out if has(flag::FIN) => &OUT_FIN,
            Direction::Out if has(flag::ACK) => &OUT_ACK,
            _ => return State::Close,
        };
        row.get(self as usize).copied().unwrap_or(State::Close)
    }

    /// The state after a client's packet; `flags` are those of TCP.
    #[inline]
    pub(super) fn after_request(self, protocol: Protocol, flags: u8) -> State {
        match protocol {
            Protocol::TCP => self.after_segment(Direction::In, flags, false),
            _ => self.after_datagram(Direction::In),
        }
    }

    /// The state after a datagram.
    pub(super) fn after_datagram(self, direction: Direction) -> State {
        match (direction, self) {
            (Direction::Out, _) | (_, State::UdpNormal) => State::UdpNormal,
            _ => State::UdpOneway,
        }
    }

    /// The state after an SCTP packet that begins with this chunk type (RFC 9260 section 3.2).
    pub(super) fn after_chunk(self, chunk: u8) -> State {
        match chunk {
            1 | 2 | 10 => State::SctpInit,
            11 => State::SctpEstablished,
            6 | 14 => State::SctpClosed,
            7 | 8 => State::SctpClosing,
            _ if self == State::None => State::SctpInit,
            _ => self,
        }
    }

    /// Whether `ipvsadm -Ln` counts it as active.
    #[inline]
    pub(super) fn is_active(self) -> bool {
        matches!(self, State::Established | State::SctpEstablished)
    }

    /// How many seconds it lasts. A service's `--conn-timeout` stands for the established states and all of UDP.
    #[inline]
    pub(super) fn seconds(self, timeouts: &DpvsTimeouts, of_service: Option<u32>) -> u32 {
        match self {
            State::None => timeouts.none,
            State::Established => of_service.unwrap_or(timeouts.established),
            State::SynSent => timeouts.syn_sent,
            State::SynReceived => timeouts.syn_recv,
            State::FinWait => timeouts.fin_wait,
            State::TimeWait => timeouts.time_wait,
            State::Close => timeouts.close,
            State::CloseWait => timeouts.close_wait,
            State::LastAck => timeouts.last_ack,
            State::Listen => timeouts.listen,
            State::SynAck => timeouts.synack,
            State::UdpNone | State::UdpOneway => of_service.unwrap_or(timeouts.udp_oneway),
            State::UdpNormal => of_service.unwrap_or(timeouts.udp_normal),
            State::IcmpNormal => 300,
            State::SctpEstablished => of_service.unwrap_or(900),
            State::SctpInit | State::SctpClosing | State::SctpClosed => 61,
        }
    }

    /// Its name in `ipvsadm -lnc`.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::None => "TCP_NONE",
            State::Established => "TCP_EST",
            State::SynSent => "SYN_SENT",
            State::SynReceived => "SYN_RECV",
            State::FinWait => "FIN_WAIT",
            State::TimeWait => "TIME_WAIT",
            State::Close => "TCP_CLOSE",
            State::CloseWait => "CLOSE_WAIT",
            State::LastAck => "LAST_ACK",
            State::Listen => "TCP_LISTEN",
            State::SynAck => "SYN_ACK",
            State::UdpNone => "UDP_NONE",
            State::UdpOneway => "ONE_WAY",
            State::UdpNormal => "UDP_NORM",
            State::IcmpNormal => "ICMP_NORMAL",
            State::SctpInit => "SCTP_INIT",
            State::SctpEstablished => "SCTP_EST",
            State::SctpClosing => "SCTP_CLOSING",
            State::SctpClosed => "SCTP_CLOSED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_whole_connection() {
        let segments = [
            (Direction::In, flag::SYN, SR),
            (Direction::Out, flag::SYN | flag::ACK, SR),
            (Direction::In, flag::ACK, ES),
            (Direction::Out, flag::ACK | flag::PSH, ES),
            (Direction::In, flag::FIN | flag::ACK, CW),
            (Direction::Out, flag::FIN | flag::ACK, TW),
            (Direction::In, flag::ACK, TW),
        ];
        let mut state = State::initial(Protocol::TCP);
        for (direction, flags, expected) in segments {
            state = state.after_segment(direction, flags, false);
            assert_eq!(state, expected);
        }
        assert_eq!(state.seconds(&DpvsTimeouts::default(), Some(5)), 7);
        assert_eq!(State::Established.seconds(&DpvsTimeouts::default(), Some(5)), 5);
    }

    /// recordings/dpvs-1.10/fnat-tcp-basic: a RST of the client leaves SYN_RECV as it is.
    #[test]
    fn reset_in_syn_received() {
        assert_eq!(State::SynReceived.after_segment(Direction::In, flag::RST, false), State::SynReceived);
        assert_eq!(State::SynReceived.after_segment(Direction::Out, flag::RST | flag::ACK, false), State::Close);
        assert_eq!(State::Established.after_segment(Direction::In, flag::PSH, false), State::Close);
    }

    proptest! {
        #[test]
        fn tcp_stays_in_its_table(flags in any::<u8>(), index in 0usize..11, out in any::<bool>(), one_way in any::<bool>()) {
            let direction = if out { Direction::Out } else { Direction::In };
            let next = TCP_STATES[index].after_segment(direction, flags, one_way);
            prop_assert!(TCP_STATES.contains(&next));
        }
    }
}
