//! What a report says about emitted frames beyond their bytes.

use super::cause::Cause;
use super::reply;
use crate::compare::Context;
use crate::compare::observe::Flow;
use lvscheck_engine::Director;
use lvscheck_engine::config::DirectorConfig;
use std::net::{IpAddr, SocketAddr};

/// What is known about emitted frames.
pub(super) struct Known<'a, C> {
    /// Why the frame at a place among them left.
    pub(super) cause: C,
    /// Who has the names of services and real servers.
    pub(super) director: &'a Director,
    /// Who knows the neighbours.
    pub(super) config: &'a DirectorConfig,
}

impl<C: Fn(usize) -> Option<Cause>> Context for Known<'_, C> {
    fn connection(&self, actual: usize) -> Option<Flow> {
        let reply::Flow { protocol, source, destination } = (self.cause)(actual)?.flow?;
        let socket = |(address, port): (IpAddr, u16)| SocketAddr::new(address, port);
        Some(Flow { protocol, client: socket(source), service: Some(socket(destination)) })
    }

    fn verdict(&self, actual: usize) -> Option<String> {
        (self.cause)(actual).map(|cause| cause.words(self.director))
    }

    fn owner(&self, mac: [u8; 6]) -> Option<String> {
        self.config.neighbours.iter().find(|entry| entry.mac.0 == mac).map(|entry| entry.address.to_string())
    }
}
