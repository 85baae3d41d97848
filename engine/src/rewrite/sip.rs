//! The Call-ID of SIP over UDP (reference/linux-ipvs.md section 7.5; RFC 3261).

/// The longest Call-ID that the persistence engine keeps.
const MAX_LEN: usize = 255;

/// The Call-ID of a message; none when there is none, or when it is longer than the persistence engine keeps. The header's
/// compact form `i` serves too. The value must end at the end of a line.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    // The first line is the request or status line.
    let mut lines = message.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')).skip(1);
    lines.find_map(|line| {
        let name_len = line.iter().position(|byte| *byte == b':')?;
        let name = line[..name_len].trim_ascii();
        if !name.eq_ignore_ascii_case(b"Call-ID") && !name.eq_ignore_ascii_case(b"i") {
            return None;
        }
        let (last, value) = line[name_len + 1..].split_last()?;
        let ended = matches!(last, b'\r' | b'\n');
        Some(value.trim_ascii()).filter(|value| ended && !value.is_empty() && value.len() <= MAX_LEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found() {
        let message = b"INVITE sip:x@example.org SIP/2.0\r\nVia: SIP/2.0/UDP a:5060\r\nCall-ID: call1@example.org\r\n\r\n";
        assert_eq!(call_id(message), Some(&b"call1@example.org"[..]));
        assert_eq!(call_id(b"OPTIONS sip:x SIP/2.0\r\ni: short\n\r\n"), Some(&b"short"[..]));
    }

    #[test]
    fn not_found() {
        assert_eq!(call_id(b"OPTIONS sip:x SIP/2.0\r\n\r\n"), None);
        assert_eq!(call_id(b"OPTIONS sip:x SIP/2.0\r\nCall-ID: cut"), None);
        assert_eq!(call_id(b"Call-ID: in the first line\r\n"), None);
        assert_eq!(call_id(&[b"X\r\nCall-ID: ".as_slice(), &[b'a'; 256], b"\r\n"].concat()), None);
    }
}
