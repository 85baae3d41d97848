//! What identifies a frame when its bytes are not equal to another's, and how alike two frames are.

use super::dissect::Dissection;
use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;

/// What tells a frame from others, in parts, so that it is still known when one part changed. Of a tunnelled packet the inner
/// one counts; of an ICMP error the error itself, with the quoted packet as its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    addresses: Option<(IpAddr, IpAddr)>,
    ports: Option<(u16, u16)>,
    protocol: u16,
    ip_id: Option<u32>,
    state: u64,
    payload: u64,
}

/// The stages of alignment: which parts must be equal, the strictest first. Each leaves out what a change may have touched.
pub const STAGES: &[Stage] = &[
    Stage { addresses: true, ports: true, ip_id: true, state: true, payload: true },
    Stage { addresses: true, ports: true, ip_id: false, state: true, payload: true },
    Stage { addresses: true, ports: true, ip_id: true, state: false, payload: true },
    Stage { addresses: false, ports: true, ip_id: true, state: true, payload: true },
    Stage { addresses: false, ports: false, ip_id: true, state: true, payload: true },
    Stage { addresses: true, ports: true, ip_id: true, state: true, payload: false },
];

/// Parts of an identity that must be equal.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    addresses: bool,
    ports: bool,
    ip_id: bool,
    state: bool,
    payload: bool,
}

impl Identity {
    /// The identity of a dissected frame; `None` for what is no IP: its bytes must do.
    pub fn of(frame: &[u8], dissection: &Dissection) -> Option<Identity> {
        let packet = dissection.innermost()?;
        let hashed = |range: std::ops::Range<usize>| hash(frame.get(range).unwrap_or_default());
        Some(Identity {
            addresses: Some((packet.source, packet.destination)),
            ports: packet.ports,
            protocol: u16::from(packet.protocol),
            ip_id: packet.id,
            state: hashed(packet.state.clone()),
            payload: hashed(packet.payload.clone()),
        })
    }

    /// A key that is equal for frames whose parts of that stage are equal.
    pub fn key(&self, stage: &Stage) -> u64 {
        let mut hasher = FixedState::with_seed(0).build_hasher();
        self.protocol.hash(&mut hasher);
        if stage.addresses {
            self.addresses.hash(&mut hasher);
        }
        if stage.ports {
            self.ports.hash(&mut hasher);
        }
        if stage.ip_id {
            self.ip_id.hash(&mut hasher);
        }
        if stage.state {
            self.state.hash(&mut hasher);
        }
        if stage.payload {
            self.payload.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// A hash that is the same in every run.
pub fn hash(bytes: &[u8]) -> u64 {
    FixedState::with_seed(0).hash_one(bytes)
}

/// How alike two frames are: the share of bytes that are equal, at the same distance from the start or, behind a part that was
/// put in or left out, from the end. In thousandths.
pub fn likeness(one: &[u8], other: &[u8]) -> u32 {
    let longest = one.len().max(other.len());
    if longest == 0 {
        return 1000;
    }
    let equal = |pairs: &mut dyn Iterator<Item = (&u8, &u8)>| pairs.filter(|(one, other)| one == other).count();
    let from_start = equal(&mut one.iter().zip(other));
    let best = if one.len() == other.len() {
        from_start
    } else {
        let from_end = equal(&mut one.iter().rev().zip(other.iter().rev()));
        let ahead = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        let shortest = one.len().min(other.len());
        let behind = one[ahead..].iter().rev().zip(other[ahead..].iter().rev()).filter(|(one, other)| one == other).count();
        from_start.max(from_end).max((ahead + behind).min(shortest))
    };
    (best as u64 * 1000 / longest as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inserted_part_leaves_frames_alike() {
        let one: Vec<u8> = (0..100).collect();
        let mut other = one.clone();
        other.splice(40..40, [200; 8]);
        assert_eq!(likeness(&one, &one), 1000);
        assert_eq!(likeness(&one, &other), 100 * 1000 / 108);
        assert_eq!(likeness(&one, &[7; 100]), 10);
        assert_eq!(likeness(&[], &[]), 1000);
    }
}
