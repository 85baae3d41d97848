//! UDP (RFC 768).

use super::{HeaderError, be16, put16, require};

/// Length of the header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum stands.
pub const CHECKSUM_AT: usize = 6;

/// A datagram's header. Its length field may lie; nothing here trusts it.
#[derive(Clone, Copy, Debug)]
pub struct Udp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Udp<T> {
    /// Checks that the header is whole.
    ///
    /// # Errors
    /// Fewer than 8 bytes.
    pub fn new_checked(bytes: T) -> Result<Udp<T>, HeaderError> {
        require(bytes.as_ref(), "UDP", HEADER_LEN)?;
        Ok(Udp { bytes })
    }

    fn all(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        be16(self.all(), 0)
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        be16(self.all(), 2)
    }

    /// Length of header and payload as the header says.
    pub fn length(&self) -> usize {
        usize::from(be16(self.all(), 4))
    }

    /// Checksum; 0: none.
    pub fn checksum(&self) -> u16 {
        be16(self.all(), CHECKSUM_AT)
    }

    /// What follows the header, whatever the length field says.
    pub fn payload(&self) -> &[u8] {
        &self.all()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Sets the source port.
    pub fn set_source_port(&mut self, port: u16) {
        put16(self.bytes.as_mut(), 0, port);
    }

    /// Sets the destination port.
    pub fn set_destination_port(&mut self, port: u16) {
        put16(self.bytes.as_mut(), 2, port);
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, check: u16) {
        put16(self.bytes.as_mut(), CHECKSUM_AT, check);
    }
}

/// A header's bytes with checksum 0; `length` counts header and payload.
pub fn header(source_port: u16, destination_port: u16, length: u16) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    put16(&mut header, 0, source_port);
    put16(&mut header, 2, destination_port);
    put16(&mut header, 4, length);
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fields_survive() {
        let mut bytes = header(40000, 53, 9).to_vec();
        bytes.push(b'x');
        let view = Udp::new_checked(&bytes[..]).unwrap();
        assert_eq!((view.source_port(), view.destination_port(), view.length()), (40000, 53, 9));
        assert_eq!((view.checksum(), view.payload()), (0, &b"x"[..]));
        assert!(Udp::new_checked(&bytes[..7]).is_err());
    }
}
