//! Black and white lists (reference/dpvs-fullnat.md section 16).

use crate::config::{AddressList, Protocol, ServiceKey};
use foldhash::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// The lists of all services; they stand by themselves and outlive a service.
#[derive(Clone, Debug, Default)]
pub(super) struct AccessLists {
    black: Lists,
    white: Lists,
}

/// Clients by service.
type Lists = HashMap<(Protocol, SocketAddr), HashSet<IpAddr>>;

impl AccessLists {
    /// `ipvsadm -U`, `-O`
    pub(super) fn add(&mut self, list: AddressList, service: &ServiceKey, client: IpAddr) {
        if let Some(key) = key_of(service) {
            self.list(list).entry(key).or_default().insert(client);
        }
    }

    /// `ipvsadm -V`, `-Y`
    pub(super) fn remove(&mut self, list: AddressList, service: &ServiceKey, client: IpAddr) {
        let Some(key) = key_of(service) else { return };
        let lists = self.list(list);
        if let Some(clients) = lists.get_mut(&key) {
            clients.remove(&client);
            if clients.is_empty() {
                lists.remove(&key);
            }
        }
    }

    /// Whether a packet to `service` may pass: its client is not on the black list, and on the white one if there is one.
    pub(super) fn admits(&self, protocol: Protocol, service: SocketAddr, client: IpAddr) -> bool {
        let key = (protocol, service);
        self.black.get(&key).is_none_or(|clients| !clients.contains(&client))
            && self.white.get(&key).is_none_or(|clients| clients.contains(&client))
    }

    /// Whether no client is on any of them.
    pub(super) fn is_empty(&self) -> bool {
        self.black.is_empty() && self.white.is_empty()
    }

    fn list(&mut self, list: AddressList) -> &mut Lists {
        match list {
            AddressList::Black => &mut self.black,
            AddressList::White => &mut self.white,
        }
    }
}

fn key_of(service: &ServiceKey) -> Option<(Protocol, SocketAddr)> {
    match service {
        ServiceKey::Address { protocol, address, port } => Some((*protocol, SocketAddr::new(*address, *port))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn black_refuses_some_white_refuses_all_others() {
        let end: SocketAddr = "200.200.200.1:80".parse().unwrap();
        let service = ServiceKey::Address { protocol: Protocol::TCP, address: end.ip(), port: end.port() };
        let (one, other) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
        let mut lists = AccessLists::default();
        lists.add(AddressList::Black, &service, one);
        assert!(!lists.admits(Protocol::TCP, end, one) && lists.admits(Protocol::TCP, end, other));
        assert!(lists.admits(Protocol::UDP, end, one));
        lists.remove(AddressList::Black, &service, one);
        lists.add(AddressList::White, &service, one);
        assert!(lists.admits(Protocol::TCP, end, one) && !lists.admits(Protocol::TCP, end, other));
        lists.remove(AddressList::White, &service, one);
        assert!(lists.admits(Protocol::TCP, end, other));
    }
}
