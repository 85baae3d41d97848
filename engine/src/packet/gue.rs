//! Generic UDP encapsulation as IPVS writes and reads it: version 0, data, no flags.

/// Length of the header without optional fields.
pub const HEADER_LEN: usize = 4;

/// The header in front of a packet of that protocol (4 or 41). Linux never adds the remote checksum option to a packet that
/// came from a wire (reference/linux-findings.md section 3).
pub const fn header(protocol: u8) -> [u8; HEADER_LEN] {
    [0, protocol, 0, 0]
}

/// Length and inner protocol of a header of version 0 that carries data; none for any other.
pub fn parse(bytes: &[u8]) -> Option<(usize, u8)> {
    let &[first, protocol, _, _, ..] = bytes else { return None };
    // Two bits version, one bit control, five bits length of the optional fields in words.
    (first >> 5 == 0).then(|| (HEADER_LEN + usize::from(first & 0x1f) * 4, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        assert_eq!(parse(&header(41)), Some((4, 41)));
        assert_eq!(parse(&[0x02, 4, 0, 1]), Some((12, 4)));
        assert_eq!(parse(&[0x20, 4, 0, 0]), None);
        assert_eq!(parse(&[0, 4]), None);
    }
}
