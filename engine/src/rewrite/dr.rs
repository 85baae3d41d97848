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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_updated_checksum_is_the_one_computed(mut packet in proptest::array::uniform24(any::<u8>()), zero in any::<bool>()) {
            packet[0] = 0x45;
            packet[8] = packet[8].max(1);
            (packet[2], packet[3]) = (0, 24);
            if zero {
                // The other words sum up to all ones: the checksum is 0, which may be written in two ways.
                packet[10..12].fill(0);
                packet[18..20].fill(0);
                let missing = crate::packet::checksum::internet(&packet[..20]);
                packet[18..20].copy_from_slice(&missing.to_be_bytes());
            }
            Ipv4::new_checked(&mut packet[..]).unwrap().fill_checksum();
            for check in [[packet[10], packet[11]], [0xff, 0xff]] {
                let mut updated = packet;
                (updated[10], updated[11]) = (check[0], check[1]);
                if !Ipv4::new_checked(&updated[..]).unwrap().checksum_is_right() {
                    continue;
                }
                let mut computed = updated;
                crate::rewrite::hop(&mut computed);
                crate::rewrite::hop_of_right(&mut updated);
                prop_assert_eq!(computed, updated);
            }
        }
    }

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
