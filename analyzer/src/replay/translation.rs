//! How FULLNAT shows connections to their real servers: by which local address, and with which TCP option of address.

use super::reply;
use lvscheck_engine::config::{Command, DirectorConfig, ForwardingMethod};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// The kind of DPVS's TCP option of address (reference/dpvs-fullnat.md section 7).
pub const TOA: u8 = 254;

/// How FULLNAT shows a connection to its real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The client.
    pub client: SocketAddr,
    /// The virtual service.
    pub service: SocketAddr,
    /// The local address and port.
    pub local: SocketAddr,
    /// The real server.
    pub server: SocketAddr,
    /// The first TCP option of address (TOA) that the real server gets, as its bytes.
    pub toa: Option<Vec<u8>>,
}

/// The translations that a replay shows, in order of their first packet.
#[derive(Debug, Default)]
pub struct Translations {
    list: Vec<Translation>,
    places: HashMap<(SocketAddr, SocketAddr, SocketAddr), usize>,
    /// How many are listed.
    most: usize,
    /// How many TCP connections have shown no TOA so far.
    waiting: usize,
}

impl Translations {
    /// The first `most` of a director; none of one without FULLNAT.
    pub fn new(config: &DirectorConfig, most: usize) -> Translations {
        let full = config.commands.iter().any(
            |command| matches!(command, Command::AddServer { settings, .. } if settings.method == ForwardingMethod::FullNat),
        );
        Translations { most: if full { most } else { 0 }, ..Translations::default() }
    }

    /// Whether more packets could tell more.
    pub fn wants_more(&self) -> bool {
        self.list.len() < self.most || self.waiting > 0
    }

    /// How many connections more there is room for.
    pub fn room(&self) -> usize {
        self.most - self.list.len().min(self.most)
    }

    /// A client's packet was forwarded as the second frame.
    pub fn note(&mut self, captured: &[u8], emitted: &[u8]) {
        if !self.wants_more() {
            return;
        }
        let (Some(client), Some(server)) = (reply::flow(captured), reply::flow(emitted)) else { return };
        let socket = |(address, port): (IpAddr, u16)| SocketAddr::new(address, port);
        let (client, service, local) = (socket(client.source), socket(client.destination), socket(server.source));
        let place = match self.places.get(&(client, service, local)) {
            Some(place) => *place,
            None if self.list.len() < self.most => {
                self.places.insert((client, service, local), self.list.len());
                self.waiting += usize::from(server.protocol == 6);
                self.list.push(Translation { client, service, local, server: socket(server.destination), toa: None });
                self.list.len() - 1
            }
            None => return,
        };
        let entry = &mut self.list[place];
        if entry.toa.is_none()
            && let Some(option) = reply::tcp_option(emitted, TOA)
        {
            entry.toa = Some(option.to_vec());
            self.waiting -= 1;
        }
    }

    /// All that were noted.
    pub fn into_list(self) -> Vec<Translation> {
        self.list
    }
}
