//! The PROXY protocol, versions 1 and 2: the client's address in front of the payload (reference/dpvs-fullnat.md
//! section 9, haproxy's proxy-protocol.txt).

use crate::config::{Protocol, ProxyProtocol};
use arrayvec::ArrayVec;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// The first 12 bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest version 1 line, with its CRLF.
const LONGEST_LINE: usize = 107;

/// A header's bytes.
pub(super) type Header = ArrayVec<u8, LONGEST_LINE>;

/// What is done to the first payload of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It stays as the client sent it.
    None,
    /// `strip` bytes at its beginning give way to the header.
    Insert {
        /// Bytes of the client's own header.
        strip: usize,
        /// What stands in their place.
        header: Header,
    },
}

/// Decides it from the service's setting, the payload, and the two ends of the client's side.
pub(super) fn change(
    setting: ProxyProtocol,
    protocol: Protocol,
    payload: &[u8],
    client: SocketAddr,
    service: SocketAddr,
) -> Change {
    let (version, insecure) = match setting {
        ProxyProtocol::Disable => return Change::None,
        ProxyProtocol::V1 => (Version::One, false),
        ProxyProtocol::V2 => (Version::Two, false),
        ProxyProtocol::V1Insecure => (Version::One, true),
        ProxyProtocol::V2Insecure => (Version::Two, true),
    };
    if version == Version::One && protocol != Protocol::TCP {
        return Change::None;
    }
    match read(payload) {
        Found::Nothing => Change::Insert { strip: 0, header: write(version, protocol, client, service) },
        Found::Unsupported => Change::None,
        Found::Header { version: found, .. } if insecure && found == version => Change::None,
        Found::Header { length, source, destination, .. } if insecure => {
            Change::Insert { strip: length, header: write(version, protocol, source, destination) }
        }
        Found::Header { length, .. } => Change::Insert { strip: length, header: write(version, protocol, client, service) },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// It begins like a header, but says nothing that can be used.
    Unsupported,
    Header {
        version: Version,
        length: usize,
        source: SocketAddr,
        destination: SocketAddr,
    },
}

fn read(payload: &[u8]) -> Found {
    if payload.starts_with(&SIGNATURE) {
        return read_binary(payload).unwrap_or(Found::Unsupported);
    }
    if payload.starts_with(b"PROXY ") {
        return read_line(payload).unwrap_or(Found::Unsupported);
    }
    Found::Nothing
}

fn read_binary(payload: &[u8]) -> Option<Found> {
    let [command, family, high, low] = *payload.get(12..16)? else { return None };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    let block = payload.get(16..length)?;
    if command != 0x21 {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*block.get(at)?, *block.get(at + 1)?]));
    let (source, destination) = match family >> 4 {
        1 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(block.get(at..at + 4)?).ok()?));
            (SocketAddr::new(address(0)?, port(8)?), SocketAddr::new(address(4)?, port(10)?))
        }
        2 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(block.get(at..at + 16)?).ok()?));
            (SocketAddr::new(address(0)?, port(32)?), SocketAddr::new(address(16)?, port(34)?))
        }
        _ => return None,
    };
    Some(Found::Header { version: Version::Two, length, source, destination })
}

fn read_line(payload: &[u8]) -> Option<Found> {
    let end = payload.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(payload.get(..end)?).ok()?.strip_suffix('\r')?;
    let mut words = line.split(' ').skip(1);
    let ipv4 = match words.next()? {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let mut address = || words.next()?.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == ipv4);
    let (source, destination) = (address()?, address()?);
    let mut port = || words.next()?.parse::<u16>().ok();
    let (source, destination) = (SocketAddr::new(source, port()?), SocketAddr::new(destination, port()?));
    words.next().is_none().then_some(Found::Header { version: Version::One, length: end + 1, source, destination })
}

fn write(version: Version, protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Header {
    let mut header = Header::new();
    match version {
        Version::One => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            // Two IPv6 addresses, two ports and the words are at most 104 bytes long, so the line always fits.
            let _ = write!(header, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
        }
        Version::Two => {
            let transport = if protocol == Protocol::UDP { 2 } else { 1 };
            let mut put = |bytes: &[u8]| header.extend(bytes.iter().copied());
            put(&SIGNATURE);
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    put(&[0x21, 0x10 | transport, 0, 12]);
                    put(&from.octets());
                    put(&to.octets());
                }
                (from, to) => {
                    put(&[0x21, 0x20 | transport, 0, 36]);
                    put(&as_ipv6(from));
                    put(&as_ipv6(to));
                }
            }
            put(&source.port().to_be_bytes());
            put(&destination.port().to_be_bytes());
        }
    }
    header
}

fn as_ipv6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn ends() -> (SocketAddr, SocketAddr) {
        ("200.200.200.2:40000".parse().unwrap(), "200.200.200.1:80".parse().unwrap())
    }

    fn inserted(setting: ProxyProtocol, protocol: Protocol, payload: &[u8]) -> (usize, Vec<u8>) {
        let (client, service) = ends();
        match change(setting, protocol, payload, client, service) {
            Change::None => (0, Vec::new()),
            Change::Insert { strip, header } => (strip, header.to_vec()),
        }
    }

    const LINE: &[u8] = b"PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222\r\nDATA";
    const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x04\x57\x08\xaeDATA";

    /// recordings/dpvs-1.10/proxy-v1, proxy-v2 and their insecure forms.
    #[test]
    fn headers_as_recorded() {
        let own_line = b"PROXY TCP4 200.200.200.2 200.200.200.1 40000 80\r\n".to_vec();
        let own_binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc8\xc8\xc8\x02\xc8\xc8\xc8\x01\x9c\x40\0\x50".to_vec();
        assert_eq!(inserted(ProxyProtocol::V1, Protocol::TCP, b"hello"), (0, own_line.clone()));
        assert_eq!(inserted(ProxyProtocol::V1, Protocol::TCP, LINE), (38, own_line.clone()));
        assert_eq!(inserted(ProxyProtocol::V1, Protocol::TCP, BINARY), (28, own_line));
        assert_eq!(inserted(ProxyProtocol::V2, Protocol::TCP, LINE), (38, own_binary.clone()));
        assert_eq!(inserted(ProxyProtocol::V1Insecure, Protocol::TCP, LINE), (0, Vec::new()));
        assert_eq!(inserted(ProxyProtocol::V1Insecure, Protocol::TCP, BINARY), (28, LINE[..38].to_vec()));
        assert_eq!(inserted(ProxyProtocol::V2Insecure, Protocol::TCP, LINE), (38, BINARY[..28].to_vec()));
        let mut datagram = own_binary;
        datagram[13] = 0x12;
        assert_eq!(inserted(ProxyProtocol::V2Insecure, Protocol::UDP, b"dgram"), (0, datagram));
        assert_eq!(inserted(ProxyProtocol::V1, Protocol::UDP, b"dgram"), (0, Vec::new()));
    }

    #[test]
    fn unknown_is_left_alone() {
        assert_eq!(read(b"PROXY UNKNOWN\r\nhello"), Found::Unsupported);
        assert_eq!(read(b"PROXY TCP4 1.2.3.4 5.6.7.8 1111\r\n"), Found::Unsupported);
        assert_eq!(read(b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n"), Found::Unsupported);
        assert_eq!(read(b"GET / HTTP/1.0"), Found::Nothing);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(six in any::<bool>(), a in any::<u128>(), b in any::<u128>(), ports in any::<(u16, u16)>()) {
            let address = |bits: u128| if six { IpAddr::from(bits.to_be_bytes()) } else { IpAddr::from((bits as u32).to_be_bytes()) };
            let (source, destination) = (SocketAddr::new(address(a), ports.0), SocketAddr::new(address(b), ports.1));
            for version in [Version::One, Version::Two] {
                let header = write(version, Protocol::TCP, source, destination);
                let length = header.len();
                prop_assert_eq!(read(&header), Found::Header { version, length, source, destination });
            }
        }

        #[test]
        fn no_payload_panics(mut payload in proptest::collection::vec(any::<u8>(), 0..80), signed in any::<bool>()) {
            if signed {
                payload.splice(0..0, SIGNATURE);
            }
            read(&payload);
            payload.splice(0..0, *b"PROXY ");
            read(&payload);
        }
    }
}
