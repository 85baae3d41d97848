//! FTP control connections under NAT: the commands that open data connections, and the shift of sequence numbers that a
//! longer or shorter answer leaves behind (reference/linux-ipvs.md section 7.6; RFC 959, RFC 2428).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

/// What a client's segment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// `PASV`: the next answer names the server's data port.
    Passive,
    /// `EPSV`: likewise, without address.
    ExtendedPassive,
    /// `PORT` or `EPRT`: the server is to connect to this.
    Active(SocketAddr),
}

/// What a client's segment asks for, if anything that matters.
pub fn client_command(payload: &[u8], ipv6: bool) -> Option<ClientCommand> {
    if !ipv6 && find_line(payload, b"PASV\r\n") {
        return Some(ClientCommand::Passive);
    }
    if find_epsv(payload) {
        return Some(ClientCommand::ExtendedPassive);
    }
    if !ipv6 && let Some(rest) = strip_prefix(payload, b"PORT ") {
        return Some(ClientCommand::Active(address_and_port(rest)?.0));
    }
    let rest = strip_prefix(payload, b"EPRT ")?;
    let delimiter = *rest.first()?;
    let mut parts = rest[1..].split(|byte| *byte == delimiter);
    let family = parts.next()?;
    let address: IpAddr = text(parts.next()?)?.parse().ok()?;
    let port: u16 = text(parts.next()?)?.parse().ok()?;
    parts.next()?;
    let fits = matches!((family, address), (b"1", IpAddr::V4(_)) | (b"2", IpAddr::V6(_)));
    (fits && port != 0).then(|| ClientCommand::Active(SocketAddr::new(address, port)))
}

/// A server's answer that names a data port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAnswer {
    /// Where the server listens; no address in the extended form.
    pub address: Option<Ipv4Addr>,
    /// Its port.
    pub port: u16,
    /// The bytes of the payload that name it.
    pub place: Range<usize>,
}

/// The answer to `PASV`: `227 ` and six numbers, parentheses or not.
pub fn passive_answer(payload: &[u8]) -> Option<ServerAnswer> {
    let rest = strip_prefix(payload, b"227 ")?;
    let start = payload.len() - rest.len();
    let offset = match rest.iter().position(|byte| *byte == b'(') {
        Some(at) => at + 1,
        None => rest.iter().position(u8::is_ascii_digit)?,
    };
    let (address, len) = address_and_port(&rest[offset..])?;
    let IpAddr::V4(v4) = address.ip() else { return None };
    let at = start + offset;
    Some(ServerAnswer { address: Some(v4), port: address.port(), place: at..at + len })
}

/// The answer to `EPSV`: `229 ` and `(|||port|)`, whatever the delimiter.
pub fn extended_passive_answer(payload: &[u8]) -> Option<ServerAnswer> {
    let rest = strip_prefix(payload, b"229 ")?;
    let open = rest.iter().position(|byte| *byte == b'(')?;
    let inside = &rest[open + 1..];
    let delimiter = *inside.first()?;
    if inside.get(1) != Some(&delimiter) || inside.get(2) != Some(&delimiter) {
        return None;
    }
    let len = inside[3..].iter().position(|byte| *byte == delimiter)?;
    let port = text(&inside[3..3 + len])?.parse().ok().filter(|port| *port != 0)?;
    let at = payload.len() - inside.len();
    Some(ServerAnswer { address: None, port, place: at..at + len + 4 })
}

/// The six numbers of `PASV`'s answer.
pub fn passive_text(address: Ipv4Addr, port: u16) -> String {
    let [a, b, c, d] = address.octets();
    format!("{a},{b},{c},{d},{},{}", port >> 8, port & 0xff)
}

/// The text of `EPSV`'s answer.
pub fn extended_passive_text(port: u16) -> String {
    format!("|||{port}|")
}

/// `a,b,c,d,p,q` at the start of the bytes, and its length.
fn address_and_port(bytes: &[u8]) -> Option<(SocketAddr, usize)> {
    let mut numbers = [0u8; 6];
    let mut at = 0;
    for (index, number) in numbers.iter_mut().enumerate() {
        if index > 0 {
            if bytes.get(at) != Some(&b',') {
                return None;
            }
            at += 1;
        }
        let len = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        *number = text(&bytes[at..at + len])?.parse().ok()?;
        at += len;
    }
    let [a, b, c, d, high, low] = numbers;
    Some((SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))), at))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn strip_prefix<'a>(bytes: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let head = bytes.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &bytes[prefix.len()..])
}

fn find_line(bytes: &[u8], line: &[u8]) -> bool {
    bytes.windows(line.len()).any(|window| window.eq_ignore_ascii_case(line))
}

/// `EPSV`, perhaps with a protocol number, before a carriage return.
fn find_epsv(bytes: &[u8]) -> bool {
    bytes.windows(4).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(b"EPSV")).any(|(at, _)| {
        match &bytes[at + 4..] {
            [b'\r', ..] => true,
            [b' ', rest @ ..] => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                rest.get(digits) == Some(&b'\r')
            }
            _ => false,
        }
    })
}

/// How far sequence numbers of one direction are shifted, as the kernel's conntrack keeps it: an answer was replaced by one
/// of another length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceShift {
    /// Where the latest change was made, in the sender's numbers.
    position: u32,
    before: i32,
    after: i32,
}

impl SequenceShift {
    /// Whether anything is shifted.
    pub fn is_none(&self) -> bool {
        self.before == 0 && self.after == 0
    }

    /// A segment that starts at `sequence` was made longer by `change`.
    pub fn changed(&mut self, sequence: u32, change: i32) {
        let forward = self.before == self.after || is_before(self.position, sequence);
        if forward {
            self.position = sequence;
            self.before = self.after;
            self.after += change;
        }
    }

    /// The number that leaves for a number of the sender.
    pub fn sequence(&self, number: u32) -> u32 {
        let shift = if is_before(self.position, number) { self.after } else { self.before };
        number.wrapping_add_signed(shift)
    }

    /// The sender's number for an acknowledgement of what left.
    pub fn acknowledgement(&self, number: u32) -> u32 {
        let shift = if is_before(self.position, number.wrapping_sub(self.before as u32)) { self.after } else { self.before };
        number.wrapping_add_signed(shift.wrapping_neg())
    }
}

/// Whether `a` comes before `b` in sequence space.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands() {
        assert_eq!(client_command(b"pasv\r\n", false), Some(ClientCommand::Passive));
        assert_eq!(client_command(b"PASV\r\n", true), None);
        assert_eq!(client_command(b"EPSV 1\r\n", false), Some(ClientCommand::ExtendedPassive));
        let active = |text: &str| Some(ClientCommand::Active(text.parse().unwrap()));
        assert_eq!(client_command(b"PORT 198,51,100,4,195,80\r\n", false), active("198.51.100.4:50000"));
        assert_eq!(client_command(b"EPRT |2|2001:db8::5|5282|\r\n", true), active("[2001:db8::5]:5282"));
        assert_eq!(client_command(b"PORT 198,51,100,4,195,256\r\n", false), None);
        assert_eq!(client_command(b"PORT 1,2", false), None);
    }

    #[test]
    fn answers() {
        let payload = b"227 Entering Passive Mode (10,0,0,11,200,10)\r\n";
        let answer = passive_answer(payload).unwrap();
        assert_eq!((answer.address, answer.port), (Some(Ipv4Addr::new(10, 0, 0, 11)), 51210));
        assert_eq!(&payload[answer.place], b"10,0,0,11,200,10");
        assert!(passive_answer(b"227 none\r\n").is_none());
        let payload = b"229 Entering Extended Passive Mode (|||6446|)\r\n";
        let answer = extended_passive_answer(payload).unwrap();
        assert_eq!((answer.port, &payload[answer.place]), (6446, &b"|||6446|"[..]));
        assert_eq!(passive_text(Ipv4Addr::new(200, 200, 200, 1), 51210), "200,200,200,1,200,10");
    }

    #[test]
    fn shift_begins_behind_the_change() {
        let mut shift = SequenceShift::default();
        shift.changed(1000, 4);
        assert_eq!((shift.sequence(1000), shift.sequence(1046)), (1000, 1050));
        assert_eq!((shift.acknowledgement(1000), shift.acknowledgement(1050)), (1000, 1046));
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..64), prefix in 0usize..5) {
            let mut bytes = [&b""[..], b"227 ", b"229 (", b"PORT ", b"EPRT "][prefix].to_vec();
            bytes.extend_from_slice(&payload);
            let _ = (client_command(&bytes, false), passive_answer(&bytes), extended_passive_answer(&bytes));
        }
    }
}
