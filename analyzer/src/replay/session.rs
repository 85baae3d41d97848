//! One director at work on the frames of a capture, one at a time: the serial way of small captures and tests, and of large ones
//! whose packets must be taken in turn.

use super::bystander::Bystanders;
use super::outcome::{Emitted, Roles, Verdicts};
use super::place::{Place, Places};
use super::reply::{self, Replies, Undo};
use lvscheck_engine::config::{Command, ForwardingMethod, InterfaceId};
use lvscheck_engine::director::ConfigError;
use lvscheck_engine::observe::Observations;
use lvscheck_engine::profile::System;
use lvscheck_engine::verdict::{Forwarded, Verdict};
use lvscheck_engine::{Arrival, Director, DirectorConfig, Draws, Nanos, Output, output::EmittedFrame};
use std::collections::HashSet;

/// A frame of a capture, as Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct InputFrame<'a> {
    /// Its number in the capture, from 1.
    pub number: u64,
    /// When it was captured.
    pub time: Nanos,
    /// The capture's interface.
    pub interface: u32,
    /// The Ethernet frame.
    pub bytes: &'a [u8],
    /// Its length on the wire.
    pub wire_len: u32,
}

/// What takes the frames that a session produces.
pub trait Sink {
    /// A frame left the director. `cause` is the number of the frame that caused it; none for timers and commands.
    fn emitted(&mut self, frame: EmittedFrame<'_>, cause: Option<u64>, verdict: Option<Verdict>);

    /// An answer that the client saw, and what the director made of the real server's frame behind it.
    fn reply(&mut self, captured: InputFrame<'_>, emitted: EmittedFrame<'_>);

    /// The capture shows that the director sent this frame.
    fn sent(&mut self, frame: InputFrame<'_>);
}

/// A director at work.
pub struct Session {
    director: Director,
    output: Output,
    places: Places,
    replies: Option<Replies>,
    undo: Undo,
    /// The capture's link type does not tell the MAC addresses of both ends.
    made_up_macs: bool,
    bystanders: Bystanders,
    /// Clients' sides of connections of services without an address, so that answers can be told from strangers' frames.
    direct: HashSet<reply::Flow>,
    /// Counts by verdict.
    pub verdicts: Verdicts,
    /// Counts of frames that were no input.
    pub roles: Roles,
    /// Counts of what left.
    pub emitted: Emitted,
    last: Nanos,
}

impl Session {
    /// A director at rest. `turn_replies`: answers seen at the client are turned back and sent through the director, because
    /// the capture holds no frame of the real servers' side. `made_up_macs`: its link type does not tell the MAC addresses of
    /// both ends.
    ///
    /// # Errors
    /// The configuration can't work.
    pub fn new(
        config: &DirectorConfig,
        places: Places,
        draws: Draws,
        turn_replies: bool,
        made_up_macs: bool,
    ) -> Result<Session, ConfigError> {
        Ok(Session::around(Director::new(config, draws)?, config, places, turn_replies, made_up_macs))
    }

    /// The same with a director of that configuration.
    pub fn around(
        director: Director,
        config: &DirectorConfig,
        places: Places,
        turn_replies: bool,
        made_up_macs: bool,
    ) -> Session {
        let linux = config.profile.system == System::Linux;
        Session {
            director,
            output: Output::default(),
            places,
            replies: turn_replies.then(Replies::default),
            made_up_macs,
            bystanders: Bystanders::new(config),
            undo: Undo { ttl: u8::from(linux), mss: !linux },
            direct: HashSet::new(),
            verdicts: Verdicts::default(),
            roles: Roles::default(),
            emitted: Emitted::default(),
            last: Nanos(0),
        }
    }

    /// The director.
    pub fn director(&self) -> &Director {
        &self.director
    }

    /// The director, to keep.
    pub fn into_director(self) -> Director {
        self.director
    }

    /// Takes real servers as they were observed, instead of scheduling.
    pub fn observe(&mut self, observations: Observations) {
        self.director.observe(observations);
    }

    /// From now on the director notes on which draws it hangs what it does.
    pub fn note_doubts(&mut self) {
        self.director.note_doubts();
    }

    /// Takes the next frame of the capture.
    pub fn step(&mut self, frame: InputFrame<'_>, sink: &mut impl Sink) {
        // A capture whose clock steps back must not turn the director's clock back.
        self.last = self.last.max(frame.time);
        match self.places.of(frame.interface, frame.bytes) {
            Place::Arrived(interface) => self.arrive(frame, interface, sink),
            Place::Sent(_) => self.sent(frame, sink),
            Place::Elsewhere => {
                // A capture without the MAC addresses of both ends, at the client: its flow says that it is an answer.
                if self.made_up_macs && self.turn_back(frame, sink) {
                    return;
                }
                let is_answer = self.is_answer(frame.bytes);
                self.bystanders.count(&mut self.roles, false, is_answer);
            }
        }
    }

    fn arrive(&mut self, frame: InputFrame<'_>, interface: InterfaceId, sink: &mut impl Sink) {
        let verdict = self.receive(frame, interface);
        self.verdicts.count(verdict);
        let flow_of_request = match verdict {
            Verdict::Forwarded(Forwarded { .. }) => reply::flow(frame.bytes),
            _ => None,
        };
        for emitted in self.output.frames() {
            count(&mut self.emitted, emitted);
            if flow_of_request.is_some()
                && let Some(replies) = &mut self.replies
            {
                replies.learn(frame.bytes, emitted.bytes);
            }
            sink.emitted(emitted, (!emitted.late && emitted.time == self.last).then_some(frame.number), Some(verdict));
        }
        if let Some(flow) = flow_of_request.filter(|_| self.bystanders.serves_marks()) {
            self.direct.insert(flow);
        }
    }

    /// Whether a frame that is no input answers a client.
    fn is_answer(&self, frame: &[u8]) -> bool {
        let known = || reply::flow(frame).is_some_and(|flow| self.direct.contains(&flow.reversed()));
        self.bystanders.is_answer(frame) || known()
    }

    /// Sends the real server's frame behind an answer through the director; false when its request was not seen.
    fn turn_back(&mut self, frame: InputFrame<'_>, sink: &mut impl Sink) -> bool {
        let turned = self.replies.as_ref().and_then(|replies| replies.turn_back(frame.bytes, self.undo));
        let Some(server_frame) = turned else { return false };
        let Place::Arrived(interface) = self.places.of(u32::MAX, &server_frame) else { return false };
        self.roles.replies += 1;
        let arriving = InputFrame { bytes: &server_frame, wire_len: server_frame.len() as u32, ..frame };
        let verdict = self.receive(arriving, interface);
        self.verdicts.count(verdict);
        let mut seen = frame.bytes.to_vec();
        for emitted in self.output.frames() {
            count(&mut self.emitted, emitted);
            if self.made_up_macs && seen.len() >= 12 && emitted.bytes.len() >= 12 {
                // The capture does not tell them, so they can't be compared.
                seen[..12].copy_from_slice(&emitted.bytes[..12]);
            }
            if emitted.late {
                sink.emitted(emitted, None, None);
            } else {
                sink.reply(InputFrame { bytes: &seen, ..frame }, emitted);
            }
        }
        true
    }

    /// A frame that the director itself sent: an observation, or an answer to turn back.
    fn sent(&mut self, frame: InputFrame<'_>, sink: &mut impl Sink) {
        if self.turn_back(frame, sink) {
            return;
        }
        if self.replies.is_some() && reply::flow(frame.bytes).is_some() {
            self.roles.unmatched_replies += 1;
        } else {
            let is_answer = self.is_answer(frame.bytes);
            self.bystanders.count(&mut self.roles, true, is_answer);
        }
        sink.sent(frame);
    }

    fn receive(&mut self, frame: InputFrame<'_>, interface: InterfaceId) -> Verdict {
        self.output.clear();
        let arrival = Arrival { time: self.last, interface, frame: frame.bytes, wire_len: frame.wire_len };
        self.director.receive(arrival, &mut self.output)
    }

    /// Lets time pass up to `now`.
    pub fn advance(&mut self, now: Nanos, sink: &mut impl Sink) {
        self.last = self.last.max(now);
        self.output.clear();
        self.director.advance(self.last, &mut self.output);
        for emitted in self.output.frames() {
            count(&mut self.emitted, emitted);
            sink.emitted(emitted, None, None);
        }
    }
}

/// Whether any real server is reached by a method whose answers pass the director.
pub fn answers_pass_director(config: &DirectorConfig) -> bool {
    config.commands.iter().any(|command| match command {
        Command::AddServer { settings, .. } => matches!(settings.method, ForwardingMethod::Nat | ForwardingMethod::FullNat),
        _ => false,
    })
}

pub(super) fn count(totals: &mut Emitted, frame: EmittedFrame<'_>) {
    totals.frames += 1;
    totals.bytes += frame.bytes.len() as u64;
    let mut at = 12;
    while matches!(frame.bytes.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8])) {
        at += 4;
    }
    match frame.bytes.get(at..at + 2) {
        Some([0x08, 0x06]) => totals.link += 1,
        Some([0x08, 0x00]) if frame.bytes.get(at + 11) == Some(&1) => {
            let header = usize::from(frame.bytes[at + 2] & 0x0f) * 4;
            if matches!(frame.bytes.get(at + 2 + header), Some(3 | 4 | 5 | 11 | 12)) {
                totals.icmp_errors += 1;
            }
        }
        Some([0x86, 0xdd]) if frame.bytes.get(at + 8) == Some(&58) => match frame.bytes.get(at + 42) {
            Some(133..=137) => totals.link += 1,
            Some(0..=127) => totals.icmp_errors += 1,
            _ => {}
        },
        _ => {}
    }
}
