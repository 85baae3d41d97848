//! The local addresses of a service and the order in which connections get them (reference/dpvs-fullnat.md section 3).

use std::net::IpAddr;

/// A service's local addresses, in the order in which they were added, with the cursor of the last one taken.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalAddresses {
    list: Vec<LocalAddress>,
    /// The address used last; none before the first use, and when the last one of the list was deleted under the cursor.
    cursor: Option<usize>,
}

/// One local address of a service.
#[derive(Clone, Debug)]
pub(super) struct LocalAddress {
    /// The address.
    pub(super) address: IpAddr,
    /// Connections of this service that use it.
    pub(super) connections: u64,
    /// Connections that found no free port at it.
    pub(super) exhausted: u64,
}

/// How many addresses are tried for one connection.
pub(super) const MAXIMUM_ATTEMPTS: usize = 16;

impl LocalAddresses {
    /// All of them.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &LocalAddress> {
        self.list.iter()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Appends one; false if the service has it already.
    pub(super) fn add(&mut self, address: IpAddr) -> bool {
        if self.list.iter().any(|local| local.address == address) {
            return false;
        }
        self.list.push(LocalAddress { address, connections: 0, exhausted: 0 });
        true
    }

    /// Removes one; false if the service does not have it. A cursor that stands on it moves to the next element, so one
    /// more step is taken before use.
    pub(super) fn remove(&mut self, address: IpAddr) -> bool {
        let Some(index) = self.list.iter().position(|local| local.address == address) else { return false };
        self.list.remove(index);
        self.cursor = match self.cursor {
            Some(cursor) if cursor > index => Some(cursor - 1),
            Some(cursor) if cursor == self.list.len() => None,
            cursor => cursor,
        };
        true
    }

    /// Moves the cursor by `steps` and returns the address there.
    pub(super) fn advance(&mut self, steps: u32) -> Option<&mut LocalAddress> {
        for _ in 0..steps {
            self.cursor = Some(self.cursor.map_or(0, |cursor| cursor + 1)).filter(|next| *next < self.list.len()).or(Some(0));
        }
        self.list.get_mut(self.cursor?)
    }

    /// The entry of that address.
    pub(super) fn get_mut(&mut self, address: IpAddr) -> Option<&mut LocalAddress> {
        self.list.iter_mut().find(|local| local.address == address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn take(locals: &mut LocalAddresses, count: usize) -> Vec<IpAddr> {
        (0..count).map(|_| locals.advance(1).unwrap().address).collect()
    }

    /// recordings/dpvs-1.10/fnat-3lips-wlc: three addresses, one is removed, one is added.
    #[test]
    fn addresses_come_in_turn() {
        let mut locals = LocalAddresses::default();
        for last in [100, 101, 102] {
            assert!(locals.add(address(last)));
        }
        assert_eq!(take(&mut locals, 7), [100, 101, 102, 100, 101, 102, 100].map(address));
        assert!(locals.remove(address(101)));
        assert_eq!(take(&mut locals, 4), [102, 100, 102, 100].map(address));
        assert!(locals.add(address(103)));
        assert_eq!(take(&mut locals, 5), [102, 103, 100, 102, 103].map(address));
    }

    #[test]
    fn deleting_under_the_cursor_steps_over_the_next() {
        let mut locals = LocalAddresses::default();
        for last in [1, 2, 3] {
            locals.add(address(last));
        }
        assert_eq!(take(&mut locals, 1), [address(1)]);
        locals.remove(address(1));
        assert_eq!(take(&mut locals, 2), [3, 2].map(address));
        locals.advance(1);
        locals.remove(address(3));
        assert_eq!(take(&mut locals, 1), [address(2)]);
        locals.remove(address(2));
        assert!(locals.advance(1).is_none());
    }
}
