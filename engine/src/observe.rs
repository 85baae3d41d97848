//! Real servers as they were observed in a capture, to be taken instead of scheduling: for balancers whose scheduler is not
//! known.

use crate::config::Protocol;
use crate::time::Nanos;
use foldhash::HashMap;
use std::net::{IpAddr, SocketAddr};

/// For each client's side of a connection, its real servers in order of time.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    by_client: HashMap<(Protocol, SocketAddr), Vec<(Nanos, IpAddr)>>,
}

impl Observations {
    /// From that time on, the client's connection was seen to go to that real server.
    pub fn add(&mut self, protocol: Protocol, client: SocketAddr, time: Nanos, server: IpAddr) {
        let servers = self.by_client.entry((protocol, client)).or_default();
        let place = servers.partition_point(|(known, _)| *known <= time);
        servers.insert(place, (time, server));
    }

    /// The real server of a connection that opens at that time: the first one seen from then on, for a forwarded frame is
    /// not seen before it came, else the last one.
    pub fn server(&self, protocol: Protocol, client: SocketAddr, now: Nanos) -> Option<IpAddr> {
        let servers = self.by_client.get(&(protocol, client))?;
        let next = servers.partition_point(|(time, _)| *time < now);
        servers.get(next).or(servers.last()).map(|(_, server)| *server)
    }

    /// Whether nothing was observed.
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_the_moment() {
        let client = SocketAddr::from(([203, 0, 113, 5], 40000));
        let (a, b) = (IpAddr::from([10, 0, 0, 11]), IpAddr::from([10, 0, 0, 12]));
        let mut observations = Observations::default();
        observations.add(Protocol::TCP, client, Nanos(20), b);
        observations.add(Protocol::TCP, client, Nanos(10), a);
        assert_eq!(observations.server(Protocol::TCP, client, Nanos(9)), Some(a));
        assert_eq!(observations.server(Protocol::TCP, client, Nanos(11)), Some(b));
        assert_eq!(observations.server(Protocol::TCP, client, Nanos(30)), Some(b));
        assert_eq!(observations.server(Protocol::UDP, client, Nanos(9)), None);
    }
}
