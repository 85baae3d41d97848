//! TCP (RFC 9293).

use super::{HeaderError, be16, be32, put16, require};

/// Length of the header without options.
pub const HEADER_LEN: usize = 20;
/// Where the checksum stands.
pub const CHECKSUM_AT: usize = 16;

/// Bits of the flags byte.
pub mod flags {
    #![expect(missing_docs, reason = "the names are the flags'")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}

/// A segment's header. The data offset may lie; nothing here trusts it.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Tcp<T> {
    /// Checks that the fixed header is whole.
    ///
    /// # Errors
    /// Fewer than 20 bytes.
    pub fn new_checked(bytes: T) -> Result<Tcp<T>, HeaderError> {
        require(bytes.as_ref(), "TCP", HEADER_LEN)?;
        Ok(Tcp { bytes })
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

    /// Sequence number.
    pub fn sequence(&self) -> u32 {
        be32(self.all(), 4)
    }

    /// Acknowledgement number.
    pub fn acknowledgement(&self) -> u32 {
        be32(self.all(), 8)
    }

    /// Length of the header as the data offset says, in bytes: 0 to 60.
    pub fn header_len(&self) -> usize {
        usize::from(self.all()[12] >> 4) * 4
    }

    /// The flags byte; see [`flags`].
    pub fn flags(&self) -> u8 {
        self.all()[13]
    }

    /// Whether any of these flags is set.
    pub fn has(&self, bits: u8) -> bool {
        self.flags() & bits != 0
    }

    /// Window.
    pub fn window(&self) -> u16 {
        be16(self.all(), 14)
    }

    /// Checksum.
    pub fn checksum(&self) -> u16 {
        be16(self.all(), CHECKSUM_AT)
    }

    /// The options' bytes; empty when the data offset lies.
    pub fn options(&self) -> &[u8] {
        self.all().get(HEADER_LEN..self.header_len()).unwrap_or(&[])
    }

    /// The payload; empty when the data offset lies.
    pub fn payload(&self) -> &[u8] {
        if self.header_len() < HEADER_LEN { &[] } else { self.all().get(self.header_len()..).unwrap_or(&[]) }
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Tcp<T> {
    /// Sets the source port.
    pub fn set_source_port(&mut self, port: u16) {
        put16(self.bytes.as_mut(), 0, port);
    }

    /// Sets the destination port.
    pub fn set_destination_port(&mut self, port: u16) {
        put16(self.bytes.as_mut(), 2, port);
    }

    /// Sets the sequence number.
    pub fn set_sequence(&mut self, number: u32) {
        self.bytes.as_mut()[4..8].copy_from_slice(&number.to_be_bytes());
    }

    /// Sets the acknowledgement number.
    pub fn set_acknowledgement(&mut self, number: u32) {
        self.bytes.as_mut()[8..12].copy_from_slice(&number.to_be_bytes());
    }

    /// Sets the flags byte.
    pub fn set_flags(&mut self, flags: u8) {
        self.bytes.as_mut()[13] = flags;
    }

    /// Sets the window.
    pub fn set_window(&mut self, window: u16) {
        put16(self.bytes.as_mut(), 14, window);
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, check: u16) {
        put16(self.bytes.as_mut(), CHECKSUM_AT, check);
    }
}

/// The fields of a header without options and urgent pointer; the checksum is 0 until it is filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFields {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// See [`flags`].
    pub flags: u8,
    /// Window.
    pub window: u16,
}

impl TcpFields {
    /// The header's bytes, for that many bytes of options (a multiple of 4) to follow.
    pub fn header(&self, options_len: usize) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        put16(&mut header, 0, self.source_port);
        put16(&mut header, 2, self.destination_port);
        header[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        header[8..12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        header[12] = (((HEADER_LEN + options_len) / 4) as u8) << 4;
        header[13] = self.flags;
        put16(&mut header, 14, self.window);
        header
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fields_survive() {
        let fields = TcpFields {
            source_port: 40000,
            destination_port: 80,
            sequence: 0x0102_0304,
            acknowledgement: 0x0506_0708,
            flags: flags::SYN | flags::ACK,
            window: 512,
        };
        let mut bytes = fields.header(4).to_vec();
        bytes.extend_from_slice(&[2, 4, 5, 0xb4, b'x']);
        let view = Tcp::new_checked(&bytes[..]).unwrap();
        assert_eq!((view.source_port(), view.destination_port(), view.sequence()), (40000, 80, 0x0102_0304));
        assert_eq!((view.acknowledgement(), view.window(), view.flags()), (0x0506_0708, 512, 0x12));
        assert_eq!((view.options(), view.payload()), (&[2, 4, 5, 0xb4][..], &b"x"[..]));
        assert!(Tcp::new_checked(&bytes[..19]).is_err());
    }

    #[test]
    fn lying_data_offset() {
        for words in 0..16u8 {
            let mut bytes = TcpFields::default().header(0);
            bytes[12] = words << 4;
            let view = Tcp::new_checked(&bytes[..]).unwrap();
            assert!(view.options().is_empty() && view.payload().is_empty(), "{words}");
        }
    }
}
