//! Direct routing (`ipvsadm -g`): the packet keeps its addresses and ports and loses one hop; only the frame's destination
//! changes (reference/linux-ipvs.md section 6.3).

/// Turns a client's packet into the one that the real server receives.
pub fn request(packet: &mut [u8]) {
    super::hop(packet);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::Ipv4;

    #[test]
    fn only_ttl_and_checksum_change() {
        let packet = [0x45, 0, 0, 24, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 203, 0, 113, 5, 200, 200, 200, 1, 1, 2, 3, 4];
        let mut sent = packet;
        request(&mut sent);
        assert!(Ipv4::new_checked(&sent[..]).unwrap().checksum_is_right());
        let changed: Vec<usize> = (0..packet.len()).filter(|at| packet[*at] != sent[*at]).collect();
        assert_eq!(changed, [8, 10, 11]);
        assert_eq!(sent[8], 63);
    }
}
