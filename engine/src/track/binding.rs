//! Bindings: what all connections of a service to one of its servers have in common, kept once instead of in each of them.

use crate::config::{ForwardingMethod, Protocol};
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::net::IpAddr;

/// What connections of the same service to the same server share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Transport protocol; any for templates of mark services.
    pub protocol: Protocol,
    /// How packets reach the server.
    pub method: ForwardingMethod,
    /// Virtual port, host order.
    pub virtual_port: u16,
    /// Real server's port, host order.
    pub server_port: u16,
    /// The service's number; its own for life, even when the service goes.
    pub service: u32,
    /// The real server's number; none for bypass.
    pub server: Option<u32>,
    /// Virtual address; the mark in templates of mark services.
    pub virtual_address: IpAddr,
    /// Real server's address.
    pub server_address: IpAddr,
}

/// All bindings, by number.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    list: Vec<Binding>,
    numbers: HashMap<Binding, u32, FixedState>,
    /// Numbers of forgotten bindings.
    free: Vec<u32>,
    /// How often bindings were forgotten: their numbers may name others since.
    forgotten: u32,
    /// How many may be known before those without connections are looked for.
    enough: usize,
}

/// So many bindings are never too many.
const ENOUGH: usize = 1 << 16;

impl Bindings {
    /// The number of a binding.
    pub fn number(&mut self, binding: Binding) -> u32 {
        if let Some(number) = self.numbers.get(&binding) {
            return *number;
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.list[number as usize] = binding;
                number
            }
            None => {
                self.list.push(binding);
                self.list.len() as u32 - 1
            }
        };
        self.numbers.insert(binding, number);
        number
    }

    /// The binding of that number, which a connection has.
    #[inline]
    pub fn get(&self, number: u32) -> &Binding {
        &self.list[number as usize]
    }

    /// All bindings in order of number, forgotten ones too; and how often any were forgotten.
    pub fn all(&self) -> (&[Binding], u32) {
        (&self.list, self.forgotten)
    }

    /// Whether it is time to look for bindings without connections. With services of port 0 or a mark every port that a client
    /// asks for makes one.
    pub fn are_too_many(&self) -> bool {
        self.numbers.len() >= self.enough.max(ENOUGH)
    }

    /// Forgets all but the bindings of these numbers.
    pub fn keep(&mut self, used: impl Iterator<Item = u32>) {
        let mut keep = vec![false; self.list.len()];
        for number in used {
            keep[number as usize] = true;
        }
        let free = &mut self.free;
        self.numbers.retain(|_, number| {
            let kept = keep[*number as usize];
            if !kept {
                free.push(*number);
            }
            kept
        });
        // The order in which numbers are used again must not depend on the map's.
        self.free.sort_unstable();
        self.forgotten += 1;
        self.enough = 2 * self.numbers.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(virtual_port: u16) -> Binding {
        Binding {
            protocol: Protocol::TCP,
            method: ForwardingMethod::Dr,
            virtual_port,
            server_port: 80,
            service: 0,
            server: Some(0),
            virtual_address: [200, 200, 200, 1].into(),
            server_address: [10, 0, 0, 11].into(),
        }
    }

    #[test]
    fn equal_bindings_have_one_number_and_unused_ones_are_forgotten() {
        let mut bindings = Bindings::default();
        for port in 0..1000 {
            assert_eq!(bindings.number(binding(port)), u32::from(port));
            assert_eq!(bindings.number(binding(port / 2)), u32::from(port / 2));
        }
        bindings.keep([3, 7].into_iter());
        assert_eq!((*bindings.get(3), *bindings.get(7)), (binding(3), binding(7)));
        assert_eq!(bindings.number(binding(7)), 7);
        for port in 2000..2998 {
            assert!(bindings.number(binding(port)) < 1000);
        }
        assert_eq!(bindings.number(binding(3000)), 1000);
        assert_eq!(bindings.all().1, 1);
    }
}
