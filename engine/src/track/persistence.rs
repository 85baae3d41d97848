//! Persistence: templates that keep a client on its server (reference/linux-ipvs.md sections 3.5 and 7.5).

use super::Ipvs;
use super::connection::{Connection, ConnectionId, Flags};
use super::open::{FTP, Opening, Unscheduled};
use crate::config::{PersistenceEngine, Protocol, ServiceKey};
use crate::draws::Draws;
use crate::packet::FlowKey;
use crate::time::Nanos;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a SIP template is found by, besides its flag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SipKey {
    call_id: Vec<u8>,
    protocol: Protocol,
    client: IpAddr,
    virtual_address: IpAddr,
    virtual_port: u16,
}

impl SipKey {
    /// The key under which a template is found.
    pub(super) fn of(template: &Connection, call_id: Vec<u8>) -> SipKey {
        SipKey {
            call_id,
            protocol: template.protocol,
            client: template.client,
            virtual_address: template.virtual_address,
            virtual_port: template.virtual_port,
        }
    }
}

/// A template's key.
struct TemplateKey {
    protocol: Protocol,
    client: IpAddr,
    virtual_address: IpAddr,
    virtual_port: u16,
    /// Whether the template carries the server's port.
    with_server_port: bool,
}

fn mark_as_address(mark: u32, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(mark).into(),
        IpAddr::V6(_) => Ipv6Addr::from(u128::from(mark) << 96).into(),
    }
}

impl Ipvs {
    /// A connection through a template, which is made when there is none.
    pub(super) fn open_persistent(
        &mut self,
        service: u32,
        opening: Opening<'_>,
        draws: &Draws,
    ) -> Result<ConnectionId, Unscheduled> {
        let flow = opening.flow;
        let entry = &self.services.all[service as usize];
        // Checked by the caller: the service is persistent.
        let Some(persistence) = entry.settings.persistence else { return Err(Unscheduled::NoServer) };
        let one_packet = entry.settings.one_packet && flow.protocol == Protocol::UDP.0;
        let call_id = match entry.settings.persistence_engine {
            Some(PersistenceEngine::Sip) => Some(opening.call_id.ok_or(Unscheduled::NoCallId)?.to_vec()),
            None => None,
        };
        let own_port = flow.destination_port == entry.port();
        let key = TemplateKey {
            client: persistence.client_network(flow.source).address,
            protocol: Protocol(flow.protocol),
            virtual_address: flow.destination,
            virtual_port: if own_port && entry.port() != FTP { flow.destination_port } else { 0 },
            with_server_port: own_port && entry.port() != FTP,
        };
        let key = match &entry.key {
            ServiceKey::Mark { mark, .. } if !own_port => {
                TemplateKey { protocol: Protocol::ANY, virtual_address: mark_as_address(*mark, flow.destination), ..key }
            }
            _ => key,
        };
        let template = match self.valid_template(&key, call_id.as_deref(), None) {
            Some(template) => template,
            None => {
                let server = self.choose(service, &opening, draws).ok_or(Unscheduled::NoServer)?;
                self.add_template(service, server, &key, call_id, persistence.timeout)
            }
        };
        let Some(server) = self.table.get(template).and_then(|template| template.server) else {
            return Err(Unscheduled::NoServer);
        };
        let port = self.services.servers[server as usize].key.port;
        let server_port = if own_port && port != 0 { port } else { flow.destination_port };
        let id = self.connect(service, server, &flow, server_port, one_packet, Some(template));
        // Once for every connection made through it, not for each packet.
        self.touch(template, opening.now);
        Ok(id)
    }

    /// A datagram of a NAT server that belongs to no connection opens one towards its client, when the service reads SIP
    /// (section 7.4). None: the datagram goes on as any other.
    pub fn open_from_server(&mut self, answer: &FlowKey, call_id: Option<&[u8]>, now: Nanos) -> Option<ConnectionId> {
        let protocol = Protocol(answer.protocol);
        let server = self.services.real_service(protocol, answer.source, answer.source_port)?;
        let service = self.services.servers[server as usize].service;
        let entry = &self.services.all[service as usize];
        let ServiceKey::Address { address, port, .. } = entry.key else { return None };
        let reads = entry.settings.persistence_engine == Some(PersistenceEngine::Sip) && protocol == Protocol::UDP;
        if !reads || port == 0 || answer.source_port == 0 {
            return None;
        }
        let one_packet = entry.settings.one_packet;
        let template = match entry.settings.persistence {
            Some(persistence) => {
                let key = TemplateKey {
                    client: persistence.client_network(answer.destination).address,
                    protocol,
                    virtual_address: address,
                    virtual_port: port,
                    with_server_port: true,
                };
                let call_id = call_id?;
                Some(self.valid_template(&key, Some(call_id), Some(server)).unwrap_or_else(|| {
                    let timeout = persistence.timeout;
                    self.add_template(service, server, &key, Some(call_id.to_vec()), timeout)
                }))
            }
            None => None,
        };
        let flow = FlowKey {
            protocol: answer.protocol,
            source: answer.destination,
            source_port: answer.destination_port,
            destination: address,
            destination_port: port,
        };
        let id = self.connect(service, server, &flow, answer.source_port, one_packet, template);
        if let Some(template) = template {
            self.touch(template, now);
        }
        Some(id)
    }

    fn sip_key(key: &TemplateKey, call_id: &[u8]) -> SipKey {
        SipKey {
            call_id: call_id.to_vec(),
            protocol: key.protocol,
            client: key.client,
            virtual_address: key.virtual_address,
            virtual_port: key.virtual_port,
        }
    }

    /// The template, unless its server is gone, or quiesced with expire_quiescent_template, or another one than `of`: such a
    /// template is never found again.
    fn valid_template(&mut self, key: &TemplateKey, call_id: Option<&[u8]>, of: Option<u32>) -> Option<ConnectionId> {
        let id = match call_id {
            Some(call_id) => self.sip_templates.get(&Ipvs::sip_key(key, call_id)).copied(),
            None => self.table.lookup_template(key.protocol, key.client, key.virtual_address, key.virtual_port),
        }?;
        let valid = self.table.get(id)?.server.is_some_and(|number| {
            let server = &self.services.servers[number as usize];
            let quiesced = self.sysctls.vs.expire_quiescent_template && server.settings.weight == 0;
            server.available && !quiesced && of.is_none_or(|of| of == number)
        });
        if valid {
            return Some(id);
        }
        self.table.rekey(id, |template| {
            template.client_port = 0;
            template.virtual_port = 0xffff;
            template.server_port = 0xffff;
        });
        if let Some(call_id) = call_id {
            self.sip_templates.remove(&Ipvs::sip_key(key, call_id));
        }
        None
    }

    fn add_template(
        &mut self,
        service: u32,
        server: u32,
        key: &TemplateKey,
        call_id: Option<Vec<u8>>,
        timeout: u32,
    ) -> ConnectionId {
        let entry = &self.services.servers[server as usize];
        let template = Connection {
            protocol: key.protocol,
            state: 0,
            flags: Flags { template: true, by_data: call_id.is_some(), ..Flags::default() },
            client_port: 0,
            virtual_port: key.virtual_port,
            server_port: if key.with_server_port { entry.key.port } else { 0 },
            client: key.client,
            virtual_address: key.virtual_address,
            server_address: entry.key.address,
            method: entry.settings.method,
            service,
            server: Some(server),
            control: None,
            timeout,
            expires: Nanos::NEVER,
        };
        let id = self.insert(&template);
        if let Some(call_id) = call_id {
            self.sip_templates.insert(Ipvs::sip_key(key, &call_id), id);
            self.persistence_data.insert(id, call_id);
        }
        id
    }
}
