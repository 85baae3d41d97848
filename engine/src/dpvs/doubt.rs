//! On which draws it hung what a frame met: the double step of a local address, and whether a connection whose time was
//! just over still lived (each timer runs up to a second longer than its timeout).

use super::connection::Connection;
use super::director::Director;
use super::flow::FlowKey;
use super::state::Direction;
use crate::draws::{Doubt, Draw};
use crate::time::Nanos;
use std::collections::VecDeque;

/// The longest jitter of a timer.
const LONGEST_JITTER: Nanos = Nanos::from_secs(1);

/// Doubts of the last call, and the connections that might still live.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubts {
    last: Vec<Doubt>,
    expired: VecDeque<Expired>,
}

/// A connection that expired lately.
#[derive(Clone, Debug)]
pub(super) struct Expired {
    /// The keys of its packets.
    pub(super) keys: [FlowKey; 2],
    /// Its service.
    pub(super) service: u32,
    at: Nanos,
    jitter: Draw,
}

impl Director {
    /// From now on doubts are noted.
    pub fn note_doubts(&mut self) {
        self.doubts.get_or_insert_default();
    }

    /// The draws on which it hung what the last call did.
    pub fn doubts(&self) -> &[Doubt] {
        self.doubts.as_ref().map_or(&[], |doubts| &doubts.last)
    }

    /// A new call begins.
    pub(super) fn forget_doubts(&mut self) {
        if let Some(doubts) = &mut self.doubts {
            doubts.last.clear();
        }
    }

    /// What happens now hangs on a draw that nobody gave.
    pub(super) fn doubt(&mut self, draw: Draw, alternative: u64) {
        if let Some(doubts) = &mut self.doubts
            && self.draws.given(draw).is_none()
        {
            doubts.last.push(Doubt { draw, alternative });
        }
    }

    /// A connection expired.
    pub(super) fn note_expired(&mut self, connection: &Connection) {
        let Some(doubts) = &mut self.doubts else { return };
        let jitter = connection.jitter();
        let at = connection.expires - Nanos(self.draws.value(jitter));
        let keys = [connection.key(Direction::In), connection.key(Direction::Out)];
        doubts.expired.push_back(Expired { keys, service: connection.service, at, jitter });
    }

    /// What happens now hangs on whether connections that expired lately, of those that `concerned` names, still live.
    pub(super) fn doubt_expired(&mut self, concerned: impl Fn(&Expired) -> bool) {
        let now = self.now;
        let Some(doubts) = &mut self.doubts else { return };
        while doubts.expired.front().is_some_and(|oldest| oldest.at + LONGEST_JITTER + LONGEST_JITTER < now) {
            doubts.expired.pop_front();
        }
        let lately = |expired: &&Expired| concerned(expired) && now - expired.at < LONGEST_JITTER;
        let found: Vec<(Draw, Nanos)> =
            doubts.expired.iter().filter(lately).map(|expired| (expired.jitter, now - expired.at)).collect();
        for (draw, needed) in found {
            self.doubt(draw, needed.0 + 1);
        }
    }
}
