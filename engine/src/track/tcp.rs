//! TCP states (reference/linux-ipvs.md section 4.1).

/// States in the order of the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the states' usual names")]
#[repr(u8)]
pub enum TcpState {
    None,
    Established,
    SynSent,
    SynRecv,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    SynAck,
}

use TcpState::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI, SynAck as SA, SynRecv as SR,
    SynSent as SS, TimeWait as TW,
};

/// /proc's names, by number.
pub const NAMES: [&str; STATES] = [
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
];

/// Seconds, by number.
pub const TIMEOUTS: [u32; STATES] = [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120];

/// Whether a state counts as active, by number.
pub const ACTIVE: [bool; STATES] = [false, true, true, true, false, false, false, false, false, false, true];

/// Rows: SYN, FIN, ACK, RST. Columns: the current state.
type Transitions = [[TcpState; STATES]; 4];

const STATES: usize = 11;

/// Which of the three tables of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client, when answers are seen.
    Input,
    /// From the real server.
    Output,
    /// From the client, when no answer was ever seen.
    InputOnly,
}

#[rustfmt::skip]
const NORMAL: [Transitions; 3] = [
    [
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
    ],
    [
        [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    ],
    [
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ],
];

/// In force when secure_tcp is 2 or 3.
#[rustfmt::skip]
const SECURE: [Transitions; 3] = [
    [
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
        [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ],
    [
        [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    ],
    [
        [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ],
];

/// The next state by flags and the current one. Of several flags RST counts before SYN, FIN and ACK; a segment with none of them
/// closes.
type Next = [[TcpState; STATES.next_power_of_two()]; 32];

const fn by_flags(transitions: &Transitions) -> Next {
    let mut next = [[CL; STATES.next_power_of_two()]; 32];
    let mut flags = 0;
    while flags < next.len() {
        let row = match flags {
            _ if flags & 0x04 != 0 => Some(3),
            _ if flags & 0x02 != 0 => Some(0),
            _ if flags & 0x01 != 0 => Some(1),
            _ if flags & 0x10 != 0 => Some(2),
            _ => None,
        };
        let mut state = 0;
        while state < STATES {
            if let Some(row) = row {
                next[flags][state] = transitions[row][state];
            }
            state += 1;
        }
        flags += 1;
    }
    next
}

const fn by_side(tables: &[Transitions; 3]) -> [Next; 3] {
    [by_flags(&tables[0]), by_flags(&tables[1]), by_flags(&tables[2])]
}

static NEXT: [[Next; 3]; 2] = [by_side(&NORMAL), by_side(&SECURE)];

/// The next state. A packet in a batch asks for it, so it is looked up and not worked out.
#[inline]
pub fn next(state: u8, flags: u8, side: Side, secure: bool) -> TcpState {
    let next = &NEXT[usize::from(secure)][side as usize];
    let by_state = &next[usize::from(flags) % next.len()];
    by_state[usize::from(state) % by_state.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    fn life(side_flags: &[(Side, u8)]) -> Vec<&'static str> {
        let mut state = 0;
        side_flags
            .iter()
            .map(|(side, flags)| {
                state = next(state, *flags, *side, false) as u8;
                NAMES[usize::from(state)]
            })
            .collect()
    }

    #[test]
    fn direct_routing_sees_half() {
        let only = Side::InputOnly;
        assert_eq!(
            life(&[(only, SYN), (only, ACK), (only, FIN | ACK), (only, ACK)]),
            ["SYN_RECV", "ESTABLISHED", "FIN_WAIT", "FIN_WAIT"]
        );
        assert_eq!(life(&[(only, SYN), (only, RST)]), ["SYN_RECV", "SYN_RECV"]);
        assert_eq!(life(&[(only, SYN), (only, ACK), (only, 0)]), ["SYN_RECV", "ESTABLISHED", "CLOSE"]);
    }

    #[test]
    fn translation_sees_both() {
        let (input, output) = (Side::Input, Side::Output);
        assert_eq!(
            life(&[(input, SYN), (output, SYN | ACK), (input, ACK), (input, FIN | ACK), (output, FIN | ACK), (input, ACK)]),
            ["SYN_RECV", "SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "TIME_WAIT", "TIME_WAIT"]
        );
    }
}
