//! The director's tables as plain data.

use super::connection::Connection;
use super::director::Director;
use super::local_address::LocalAddress;
use super::port_pool::{PORTS_PER_POOL, PortPools};
use super::service::Service;
use crate::config::ServiceKey;
use crate::listing::{ClientAddressCounts, ConnectionView, LocalAddressView, ServerView, ServiceView};
use crate::time::Nanos;

impl Director {
    /// Services with their real servers; those that were deleted are left out. SNAT services come last.
    pub fn services(&self) -> Vec<ServiceView> {
        let (matches, addresses): (Vec<_>, Vec<_>) =
            self.services.iter().partition(|service| matches!(service.key, ServiceKey::Match(_)));
        let view = |service: &Service| ServiceView {
            number: service.number,
            key: service.key.clone(),
            settings: service.settings.clone(),
            counters: service.counters,
            servers: service.servers.iter().filter_map(|number| self.server_view(service, *number)).collect(),
            local_addresses: service.locals.iter().map(|local| self.local_view(local)).collect(),
        };
        addresses.into_iter().chain(matches.into_iter().rev()).map(view).collect()
    }

    fn server_view(&self, service: &Service, number: u32) -> Option<ServerView> {
        let server = self.services.server(number)?;
        Some(ServerView {
            number,
            key: server.key,
            settings: server.settings,
            active: server.active,
            inactive: server.inactive,
            persistent: self.services.templates(service, number, self.now),
            counters: server.counters,
        })
    }

    fn local_view(&self, local: &LocalAddress) -> LocalAddressView {
        LocalAddressView {
            address: local.address,
            connections: local.connections,
            ports_in_use: self.pools.get(&local.address).map_or(0, PortPools::fullest),
            ports: PORTS_PER_POOL,
            exhausted: local.exhausted,
        }
    }

    /// How the clients' addresses reached the real servers, by the number of the service.
    pub fn client_addresses(&self) -> Vec<(u32, ClientAddressCounts)> {
        self.services.iter().map(|service| (service.number, service.client_addresses)).collect()
    }

    /// The connection table, ordered by protocol, client and service.
    pub fn connections(&self, now: Nanos) -> Vec<ConnectionView> {
        let view = |connection: Connection| ConnectionView {
            protocol: connection.protocol,
            client: connection.client,
            service: connection.service_end,
            destination: connection.real,
            local: (!connection.is_one_way()).then_some(connection.local),
            state: connection.state.name(),
            expires: connection.expires - now,
            persistence_data: None,
        };
        let mut views: Vec<ConnectionView> = self.connections.iter().map(view).collect();
        views.sort_by_key(|view| (view.protocol, view.client, view.service));
        views
    }
}
