//! Which real servers connections got in a golden (`--observe`).

use super::check::unpadded;
use crate::capture::link::ETHERNET;
use crate::capture::{CaptureError, Input, Reader};
use crate::compare::observe::{self, ObservedServer, Observer};
use crate::describe;
use lvscheck_engine::Nanos;
use lvscheck_engine::config::{Command, DirectorConfig, Protocol, ServiceKey};
use lvscheck_engine::observe::Observations;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

/// Which real server each connection got in a golden that lies in memory, by the client's side of the connection.
pub(super) fn in_memory<'f>(config: &DirectorConfig, golden: impl Iterator<Item = (Nanos, &'f [u8])>) -> Observations {
    let shown: Result<Observations, Infallible> = observed(config, |see| {
        golden.for_each(|(time, frame)| see(time, frame));
        Ok(())
    });
    shown.unwrap_or_else(|never| match never {})
}

/// The same in one that is read window by window; none if it holds others than Ethernet.
///
/// # Errors
/// It can't be read.
pub(super) fn in_capture(config: &DirectorConfig, golden: &Input) -> Result<Option<Observations>, CaptureError> {
    let mut reader = Reader::of(golden)?;
    let mut records = Vec::new();
    let observations = observed(config, |see| {
        while let Some(window) = reader.next_window(&mut records, usize::MAX)? {
            window.frames().for_each(|frame| see(frame.time, unpadded(frame.bytes, frame.wire_len).0));
        }
        Ok(())
    })?;
    let is_ethernet = reader.interfaces().iter().all(|interface| interface.link_type == ETHERNET);
    Ok(is_ethernet.then_some(observations))
}

/// The services and servers of a configuration, to read a golden by.
struct ByAddress {
    services: Vec<(Protocol, SocketAddr)>,
    roles: describe::Roles,
}

impl observe::Roles for ByAddress {
    fn is_service(&self, protocol: u8, destination: SocketAddr) -> bool {
        self.services.iter().any(|(known, service)| {
            known.0 == protocol
                && service.ip() == destination.ip()
                && (service.port() == destination.port() || service.port() == 0)
        }) || self.roles.of_addresses(destination.ip(), destination.ip()) == describe::Role::Request
    }

    fn is_server(&self, address: IpAddr) -> bool {
        self.roles.is_server(address)
    }
}

/// Which real server each connection got in the golden, by the client's side of the connection. `show` gives the golden's frames.
///
/// # Errors
/// Those of `show`.
fn observed<E>(
    config: &DirectorConfig,
    show: impl FnOnce(&mut dyn FnMut(Nanos, &[u8])) -> Result<(), E>,
) -> Result<Observations, E> {
    let services = config.commands.iter().filter_map(|command| match command {
        Command::AddService { service: ServiceKey::Address { protocol, address, port }, .. } => {
            Some((*protocol, SocketAddr::new(*address, *port)))
        }
        _ => None,
    });
    let roles = ByAddress { services: services.collect(), roles: describe::Roles::new(config) };
    let mut observer = Observer::new(&roles);
    show(&mut |time, frame| observer.see(time, frame))?;
    let mut observations = Observations::default();
    for (flow, servers) in observer.finish() {
        for (time, server) in servers {
            let address = match server {
                ObservedServer::Tunnel(address) => Some(address),
                ObservedServer::Address(address) => Some(address.ip()),
                ObservedServer::Mac(mac) => config
                    .neighbours
                    .iter()
                    .find(|entry| entry.mac.0 == mac && roles.roles.is_server(entry.address))
                    .map(|entry| entry.address),
            };
            if let Some(address) = address {
                observations.add(Protocol(flow.protocol), flow.client, time, address);
            }
        }
    }
    Ok(observations)
}
