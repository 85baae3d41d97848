//! IPv4 options as the receive path treats them (reference/linux-ipvs.md section 6.10, reference/linux-findings.md
//! section 5; RFC 791).

use crate::packet::ipv4::{option, walk_options};
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
                }
            }
            option::TIMESTAMP => {
                if let Some(clock_at) = take_timestamp(body, own, clock, &is_local).map_err(|offset| problem(at + offset))? {
                    taken.changed = true;
                    taken.clock_at = clock_at.map(|offset| at + offset).or(taken.clock_at);
                }
            }
            option::ROUTER_ALERT if len < 4 => return Err(problem(at + 1)),
            _ => {}
        }
    }
    Ok(taken)
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
        assert!(taken.changed);
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
    fn problems_point_at_the_byte() {
        assert_eq!(take(&mut [7, 7, 1, 0], OWN, 0, |_| false), Err(OptionProblem { pointer: 20 }));
        assert_eq!(take(&mut [7, 7, 1, 0, 0, 0, 0, 0], OWN, 0, |_| false), Err(OptionProblem { pointer: 22 }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut options in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = take(&mut options, OWN, 0, |_| true);
        }
    }
}
