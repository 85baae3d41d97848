//! IPv4 options as the receive path treats them (reference/linux-ipvs.md section 6.10, reference/linux-findings.md
//! section 5; RFC 791).

use crate::output::DrawnField;
use crate::packet::ipv4::{HEADER_LEN, option, walk_options};
use std::net::Ipv4Addr;

/// An option that can't be: where, counted from the start of the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionProblem {
    /// What the ICMP error's pointer says.
    pub pointer: u8,
}

/// What the receive path found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes were filled in.
    pub changed: bool,
    /// There is a source route.
    pub source_route: bool,
    /// Where a time was filled in, counted from the start of the options.
    pub clock_at: Option<usize>,
    /// Where the host's address was filled in, in a record route and in a timestamp.
    pub own_at: [Option<usize>; 2],
}

/// Checks the options and fills in what a receiver fills in: its address in a record route, address and time in a
/// timestamp. `own` is the address to fill in, `clock` the milliseconds since midnight.
///
/// # Errors
/// The first malformed option.
pub fn take(options: &mut [u8], own: Ipv4Addr, clock: u32, is_local: impl Fn(Ipv4Addr) -> bool) -> Result<Taken, OptionProblem> {
    let mut taken = Taken::default();
    let mut seen = [false; 256];
    let found: Vec<_> = walk_options(options).collect();
    for result in found {
        let problem = |at: usize| OptionProblem { pointer: (20 + at) as u8 };
        let (kind, at, len) = match result {
            Ok(found) => (found.kind, found.at, found.len),
            Err(at) => return Err(problem(at)),
        };
        let single =
            matches!(kind, option::RECORD_ROUTE | option::TIMESTAMP | option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE);
        if single && std::mem::replace(&mut seen[usize::from(kind)], true) {
            return Err(problem(at));
        }
        let body = &mut options[at..at + len];
        match kind {
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
                if len < 3 {
                    return Err(problem(at + 1));
                }
                if body[2] < 4 {
                    return Err(problem(at + 2));
                }
                if taken.source_route {
                    return Err(problem(at));
                }
                taken.source_route = true;
            }
            option::RECORD_ROUTE => {
                if len < 3 {
                    return Err(problem(at + 1));
                }
                let pointer = usize::from(body[2]);
                if pointer < 4 {
                    return Err(problem(at + 2));
                }
                if pointer <= len {
                    if pointer + 3 > len {
                        return Err(problem(at + 2));
                    }
                    body[pointer - 1..pointer + 3].copy_from_slice(&own.octets());
                    body[2] += 4;
                    taken.changed = true;
                    taken.own_at[0] = Some(at + pointer - 1);
                }
            }
            option::TIMESTAMP => {
                if let Some(clock_at) = take_timestamp(body, own, clock, &is_local).map_err(|offset| problem(at + offset))? {
                    taken.changed = true;
                    taken.clock_at = clock_at.map(|offset| at + offset).or(taken.clock_at);
                    let with_own = options[at + 3] & 0x0f == 1;
                    taken.own_at[1] = taken.clock_at.filter(|_| with_own && clock_at.is_some()).map(|clock_at| clock_at - 4);
                }
            }
            option::ROUTER_ALERT if len < 4 => return Err(problem(at + 1)),
            _ => {}
        }
    }
    Ok(taken)
}

/// Options that go back in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// The options, whole words.
    pub options: Vec<u8>,
    /// Where a time was filled in, counted from their start.
    pub clock_at: Option<usize>,
    /// The timestamp option: where it stood and where it stands, counted from the start of all options, and its length.
    stamp: Option<(usize, usize, usize)>,
}

impl Echo {
    /// The times that the packet had got on arrival, where they stand in the answer.
    pub fn echoed<'a>(&self, drawn: &'a [DrawnField]) -> impl Iterator<Item = DrawnField> + use<'a> {
        let (from, to, len) = self.stamp.unwrap_or_default();
        let from = HEADER_LEN + from;
        let inside = move |field: &&DrawnField| (from..from + len).contains(&usize::from(field.offset));
        drawn.iter().filter(inside).map(move |field| {
            let offset = usize::from(field.offset) - from + HEADER_LEN + to;
            DrawnField { offset: offset as u16, ..*field }
        })
    }
}

/// The options of a packet that go back in an answer to it: record route and timestamps with one more entry of the host that
/// answers, if there is room; no source routes, which are refused on arrival.
pub fn echo(options: &[u8], own: Ipv4Addr, clock: u32) -> Echo {
    let mut echo = Echo::default();
    for found in walk_options(options).map_while(Result::ok) {
        let start = echo.options.len();
        match found.kind {
            option::RECORD_ROUTE | option::TIMESTAMP | option::CIPSO => {
                echo.options.extend_from_slice(&options[found.at..found.at + found.len]);
            }
            _ => continue,
        }
        if found.kind == option::TIMESTAMP {
            echo.stamp = Some((found.at, start, found.len));
        }
        let entry = &mut echo.options[start..];
        let pointer = entry.get(2).map_or(0, |pointer| usize::from(*pointer));
        let flag = entry.get(3).map_or(0, |flags| flags & 0x0f);
        let (address_len, clock_len) = match (found.kind, flag) {
            (option::RECORD_ROUTE, _) => (4, 0),
            (option::TIMESTAMP, 0) => (0, 4),
            (option::TIMESTAMP, 1) => (4, 4),
            _ => continue,
        };
        let Some(slot) = pointer.checked_sub(1).and_then(|at| entry.get_mut(at..at + address_len + clock_len)) else { continue };
        let (address, time) = slot.split_at_mut(address_len);
        address.copy_from_slice(&own.octets()[..address_len]);
        time.copy_from_slice(&clock.to_be_bytes()[..clock_len]);
        entry[2] += (address_len + clock_len) as u8;
        if clock_len != 0 {
            echo.clock_at = Some(start + pointer - 1 + address_len);
        }
    }
    echo.options.resize(echo.options.len().next_multiple_of(4), option::END);
    echo
}

/// Some: bytes were filled in, and where a time stands, if one does. The error is an offset in the option.
fn take_timestamp(
    body: &mut [u8],
    own: Ipv4Addr,
    clock: u32,
    is_local: &impl Fn(Ipv4Addr) -> bool,
) -> Result<Option<Option<usize>>, usize> {
    let len = body.len();
    if len < 4 {
        return Err(1);
    }
    let pointer = usize::from(body[2]);
    if pointer < 5 {
        return Err(2);
    }
    if pointer > len {
        // Full: the overflow counter, in the upper four bits of the flags byte, counts on.
        if body[3] >> 4 == 15 {
            return Err(3);
        }
        body[3] += 0x10;
        return Ok(Some(None));
    }
    if pointer + 3 > len {
        return Err(2);
    }
    let at = pointer - 1;
    let clock_at = match body[3] & 0x0f {
        0 => {
            body[2] += 4;
            at
        }
        1 => {
            if pointer + 7 > len {
                return Err(2);
            }
            body[at..at + 4].copy_from_slice(&own.octets());
            body[2] += 8;
            at + 4
        }
        3 => {
            if pointer + 7 > len {
                return Err(2);
            }
            let asked = Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
            if !is_local(asked) {
                return Ok(None);
            }
            body[2] += 8;
            at + 4
        }
        _ => return Err(3),
    };
    body[clock_at..clock_at + 4].copy_from_slice(&clock.to_be_bytes());
    Ok(Some(Some(clock_at)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(200, 200, 200, 1);

    #[test]
    fn record_route() {
        let mut options = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let taken = take(&mut options, OWN, 0, |_| false).unwrap();
        assert_eq!((taken.changed, taken.own_at), (true, [Some(3), None]));
        assert_eq!(options, [7, 11, 8, 200, 200, 200, 1, 0, 0, 0, 0, 0]);
        let mut full = [7, 7, 8, 9, 9, 9, 9, 0];
        assert!(!take(&mut full, OWN, 0, |_| false).unwrap().changed);
    }

    #[test]
    fn timestamps() {
        let mut options = [68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let taken = take(&mut options, OWN, 0x0102_0304, |_| false).unwrap();
        assert_eq!((taken.clock_at, options), (Some(8), [68, 12, 13, 1, 200, 200, 200, 1, 1, 2, 3, 4]));
        let mut full = [68, 8, 9, 0, 0, 0, 0, 0];
        take(&mut full, OWN, 0, |_| false).unwrap();
        assert_eq!(full[3], 0x10);
    }

    #[test]
    fn an_answer_adds_its_own_entry() {
        assert_eq!(echo(&[7, 11, 8, 9, 9, 9, 9, 0, 0, 0, 0, 0], OWN, 0).options, [7, 11, 12, 9, 9, 9, 9, 200, 200, 200, 1, 0]);
        assert_eq!(echo(&[7, 7, 8, 9, 9, 9, 9, 0], OWN, 0).options, [7, 7, 8, 9, 9, 9, 9, 0], "full");
        let stamped = echo(&[0x94, 4, 0, 0, 68, 12, 9, 0, 1, 2, 3, 4, 0, 0, 0, 0], OWN, 0x0506_0708);
        assert_eq!((&stamped.options[..], stamped.clock_at), (&[68, 12, 13, 0, 1, 2, 3, 4, 5, 6, 7, 8][..], Some(8)));
        let drawn = DrawnField::value(crate::draws::Draw::Timestamp(0), 28, 4).summed_at(10);
        assert_eq!(stamped.echoed(&[drawn]).collect::<Vec<_>>(), [DrawnField { offset: 24, ..drawn }]);
    }

    #[test]
    fn problems_point_at_the_byte() {
        assert_eq!(take(&mut [7, 7, 1, 0], OWN, 0, |_| false), Err(OptionProblem { pointer: 20 }));
        assert_eq!(take(&mut [7, 7, 1, 0, 0, 0, 0, 0], OWN, 0, |_| false), Err(OptionProblem { pointer: 22 }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut options in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = echo(&options, OWN, 0);
            let _ = take(&mut options, OWN, 0, |_| true);
        }
    }
}
