//! SYN proxy: DPVS answers SYNs itself, and opens the connection to the real server when the client has proved that it is
//! there (reference/dpvs-fullnat.md section 13).

use super::connection::Connection;
use super::director::Director;
use super::flow::FlowKey;
use super::state::{Direction, State, flag};
use super::table::ConnectionId;
use super::toa;
use super::wire::{Origin, Packet, ipv4_header, ipv6_header, tcp};
use crate::config::{MacAddr, Protocol, SynProxySettings};
use crate::draws::Draw;
use crate::output::{DrawnKind, Output};
use crate::time::Nanos;
use crate::verdict::{DropReason, Forwarded, LocalAnswer, Refusal, Verdict};
use foldhash::HashMap;
use std::net::{IpAddr, SocketAddr};

/// What a cookie can say about the client's MSS.
const MSS_VALUES: [u16; 10] = [64, 256, 512, 536, 1024, 1280, 1440, 1452, 1460, 4312];
/// The MSS of a client that names none (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// How long a cookie is good for.
const COOKIE_LIFE: Nanos = Nanos::from_secs(4 * 60);
/// A client that repeats its SYN within this time gets the same cookie.
const COOKIE_TICK: Nanos = Nanos::from_secs(60);
/// The window of the SYN to the real server.
const OPENING_WINDOW: u16 = 5000;
/// The TTL of packets that the director builds.
const OWN_TTL: u8 = 64;
/// The TTL of answers that turn the client's frame round.
const ANSWER_TTL: u8 = 63;
/// From this many attempts on, old ones are looked for and forgotten.
const MANY_ATTEMPTS: usize = 1 << 16;

const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMP: u8 = 8;
const NO_OPERATION: u8 = 1;

/// What a client offered in its SYN, and the number of the cookie that it got.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    number: u64,
    sequence: u32,
    time: Nanos,
    mss: u16,
    sack: bool,
    timestamp: bool,
    window_scale: Option<u8>,
}

/// The SYNs that were answered by a cookie.
#[derive(Clone, Debug, Default)]
pub(super) struct Cookies {
    attempts: HashMap<(SocketAddr, SocketAddr), Attempt>,
    given: u64,
}

/// A handshake in the client's name: from the client's valid cookie on, for the connection's life.
#[derive(Clone, Debug)]
pub(super) struct ProxiedHandshake {
    attempt: u64,
    cookie: u32,
    /// The real server's first sequence number, when it has answered.
    server_start: Option<u32>,
    /// The SYN to the real server, as the client would have sent it.
    opening: Packet,
    retries: u8,
    /// The client's packets that wait for the real server.
    stored: Vec<Packet>,
    /// The client was told a window of zero.
    window_closed: bool,
    /// Window scale that the director offered to the client.
    client_shift: u8,
    /// Window scale that the real server offered.
    server_shift: u8,
}

impl ProxiedHandshake {
    /// The number of the cookie, and what is added to the real server's sequence numbers; none before it has answered.
    pub(super) fn difference(&self) -> Option<(u64, u32)> {
        self.server_start.map(|start| (self.attempt, self.cookie.wrapping_sub(start)))
    }

    /// Whether the real server has not answered yet.
    pub(super) fn is_pending(&self) -> bool {
        self.server_start.is_none()
    }

    /// A window of the real server, in the scale that the client knows.
    pub(super) fn window_for_client(&self, window: u16) -> u16 {
        let bytes = u64::from(window) << self.server_shift.min(14) >> self.client_shift.min(14);
        bytes.min(u64::from(u16::MAX)) as u16
    }
}

impl Director {
    /// Step 1: a SYN to a service with SYN proxy is turned round as SYN+ACK with a cookie.
    pub(super) fn answer_syn(&mut self, mut packet: Packet, out: &mut Output) -> Verdict {
        let (client, service) = packet.ends();
        let sequence = packet.u32(packet.transport + tcp::SEQUENCE);
        let settings = self.settings.synproxy.clone();
        let options = packet.tcp_options().to_vec();
        let value16 = |at: usize| options.get(at..at + 2).map(|value| u16::from_be_bytes([value[0], value[1]]));
        let offered = toa::value_of(&options, MSS, 4).and_then(value16);
        let attempt = Attempt {
            number: 0,
            sequence,
            time: self.now,
            mss: offered.unwrap_or(DEFAULT_MSS).min(settings.mss),
            sack: settings.sack && toa::value_of(&options, SACK_PERMITTED, 2).is_some(),
            timestamp: settings.timestamp && toa::value_of(&options, TIMESTAMP, 10).is_some(),
            window_scale: toa::value_of(&options, WINDOW_SCALE, 3)
                .filter(|_| settings.wscale.is_some())
                .and_then(|at| options.get(at).copied()),
        };
        let attempt = self.cookies.enter((client, service), attempt);
        let draw = Draw::SynCookie(attempt.number);
        let cookie = self.draws.value(draw) as u32;

        let payload_at = packet.transport + packet.tcp_header_len();
        packet.truncate(payload_at);
        let options_at = packet.transport + tcp::HEADER;
        let stamped = edit_options(&mut packet, &options, &attempt, &settings, options_at);
        if stamped {
            self.stamp(&mut packet, &options, options_at);
        }
        let window =
            if settings.close_client_window && !settings.defer_rs_syn { 0 } else { packet.u16(packet.transport + tcp::WINDOW) };
        self.turn_round(&mut packet, cookie, sequence.wrapping_add(1), flag::SYN | flag::ACK, window, settings.ttl);
        packet.mark(tcp::SEQUENCE, draw, DrawnKind::Value);
        self.emit_back(packet, out);
        Verdict::Local(LocalAnswer::SynCookie)
    }

    /// DPVS's own clock, a draw, and the client's value go into the timestamp option.
    fn stamp(&mut self, packet: &mut Packet, options: &[u8], options_at: usize) {
        let Some(at) = toa::value_of(options, TIMESTAMP, 10) else { return };
        let client_value = options.get(at..at + 4).map(<[u8]>::to_vec).unwrap_or_default();
        let draw = Draw::Timestamp(self.cookies.given);
        packet.put(options_at + at, &(self.draws.value(draw) as u32).to_be_bytes());
        packet.put(options_at + at + 4, &client_value);
        packet.mark(tcp::HEADER + at, draw, DrawnKind::Value);
    }

    /// An ACK without connection to a service: a valid cookie opens the connection, any other is answered by RST+ACK, also
    /// without SYN proxy.
    pub(super) fn answer_ack(&mut self, packet: Packet, out: &mut Output) -> Verdict {
        match self.proven(&packet) {
            Some((service, attempt)) => self.open_for_client(service, attempt, packet, out),
            None => self.reset(packet, out),
        }
    }

    /// RST+ACK: the client's frame turned round, its payload cut off.
    fn reset(&mut self, mut packet: Packet, out: &mut Output) -> Verdict {
        let sequence = packet.u32(packet.transport + tcp::SEQUENCE);
        let acknowledged = packet.u32(packet.transport + tcp::ACKNOWLEDGEMENT);
        let payload = packet.tcp_payload_len();
        packet.truncate(packet.transport + packet.tcp_header_len());
        let next = sequence.wrapping_add(payload as u32);
        // Of the segment's own flags URG, ECE and CWR stay, PSH goes.
        let flags = packet.tcp_flags() & 0xe0 | flag::RST | flag::ACK;
        self.turn_round(&mut packet, acknowledged, next, flags, 0, ANSWER_TTL);
        self.emit_back(packet, out);
        Verdict::Refused(Refusal::NoConnectionReset)
    }

    /// Makes an answer of a segment: ends swapped, TOS 0, identification and DF kept.
    fn turn_round(&self, packet: &mut Packet, sequence: u32, acknowledged: u32, flags: u8, window: u16, ttl: u8) {
        let (client, service) = packet.ends();
        packet.set_ends(service, client);
        let at = packet.transport;
        packet.put(at + tcp::SEQUENCE, &sequence.to_be_bytes());
        packet.put(at + tcp::ACKNOWLEDGEMENT, &acknowledged.to_be_bytes());
        packet.put(at + tcp::FLAGS, &[flags]);
        packet.put(at + tcp::WINDOW, &window.to_be_bytes());
        if packet.is_ipv4() {
            packet.put(1, &[0]);
        } else {
            packet.put(0, &[0x60, packet.u8(1) & 0xf]);
        }
        packet.set_ttl(ttl);
        packet.finish();
    }

    fn emit_back(&mut self, packet: Packet, out: &mut Output) {
        let origin = packet.origin;
        let (to, from): (MacAddr, MacAddr) = (origin.source_mac, origin.destination_mac);
        self.link.emit(&packet, origin.interface, to, from, self.now, out);
    }

    /// Step 2: the connection is made, and its SYN goes to the real server.
    fn open_for_client(&mut self, service: u32, attempt: Attempt, packet: Packet, out: &mut Output) -> Verdict {
        let (client, end) = packet.ends();
        let key = FlowKey { protocol: Protocol::TCP, source: client, destination: end };
        let mut connection = match self.new_connection(service, &key) {
            Ok(connection) => connection,
            Err(reason) => return Verdict::Dropped(reason),
        };
        let verdict = self.begin_handshake(&mut connection, attempt, packet, true, out);
        self.connections.insert(connection);
        verdict
    }

    /// The cookie that an ACK proves, if it proves one. If it would prove another value, that is a doubt.
    fn proven(&mut self, packet: &Packet) -> Option<(u32, Attempt)> {
        let (client, end) = packet.ends();
        let acknowledged = packet.u32(packet.transport + tcp::ACKNOWLEDGEMENT);
        let sequence = packet.u32(packet.transport + tcp::SEQUENCE);
        let service = self.services.at(Protocol::TCP, end).filter(|service| service.settings.dpvs.syn_proxy)?.number;
        let attempt = self.cookies.find((client, end), self.now)?;
        let cookie = self.draws.value(Draw::SynCookie(attempt.number)) as u32;
        if attempt.sequence.wrapping_add(1) != sequence {
            return None;
        }
        if cookie.wrapping_add(1) != acknowledged {
            self.doubt(Draw::SynCookie(attempt.number), u64::from(acknowledged.wrapping_sub(1)));
            return None;
        }
        Some((service, attempt))
    }

    /// A connection that is closed, or nearly, is used again when the client opens a new one with a cookie.
    pub(super) fn reopen(&mut self, connection: &mut Connection, packet: &Packet, out: &mut Output) -> Option<Verdict> {
        const OTHERS: u8 = flag::SYN | flag::FIN | flag::RST;
        let closed = matches!(connection.state, State::Close | State::TimeWait);
        if !closed || connection.protocol != Protocol::TCP || packet.tcp_flags() & (OTHERS | flag::ACK) != flag::ACK {
            return None;
        }
        let (_, attempt) = self.proven(packet)?;
        connection.number = self.created;
        self.created += 1;
        (connection.client_start, connection.inserted) = (None, 0);
        Some(self.begin_handshake(connection, attempt, packet.clone(), true, out))
    }

    fn begin_handshake(
        &mut self,
        connection: &mut Connection,
        attempt: Attempt,
        packet: Packet,
        new: bool,
        out: &mut Output,
    ) -> Verdict {
        let settings = &self.settings.synproxy;
        let opening = opening_syn(&packet, &attempt);
        connection.state = State::SynSent;
        connection.trigger = packet.u32(packet.transport + tcp::ACKNOWLEDGEMENT);
        connection.handshake = Some(Box::new(ProxiedHandshake {
            attempt: attempt.number,
            cookie: self.draws.value(Draw::SynCookie(attempt.number)) as u32,
            server_start: None,
            opening: opening.clone(),
            retries: settings.rs_syn_max_retry,
            stored: vec![packet],
            window_closed: settings.close_client_window && !settings.defer_rs_syn,
            client_shift: attempt.window_scale.and(settings.wscale).unwrap_or(0),
            server_shift: 0,
        }));
        self.count_state(connection);
        self.refresh(connection);
        self.send_opening(connection, opening, new, out)
    }

    fn send_opening(&mut self, connection: &mut Connection, mut opening: Packet, new: bool, out: &mut Output) -> Verdict {
        self.link.leave_identification(&mut opening, &self.draws);
        self.translate_in(connection, opening, new, out)
    }

    /// The real server is silent: the SYN goes out once more. False when it was sent often enough.
    pub(super) fn retry_opening(&mut self, connection: &mut Connection, out: &mut Output) -> bool {
        let Some(handshake) = connection.handshake.as_mut().filter(|handshake| handshake.is_pending()) else { return false };
        if handshake.retries == 0 {
            return false;
        }
        handshake.retries -= 1;
        let opening = handshake.opening.clone();
        self.refresh(connection);
        self.send_opening(connection, opening, false, out);
        true
    }

    /// A packet of a connection whose real server has not answered yet. Some: it ended here.
    pub(super) fn during_handshake(
        &mut self,
        id: ConnectionId,
        connection: &mut Connection,
        direction: Direction,
        packet: &mut Packet,
        out: &mut Output,
    ) -> Option<Verdict> {
        let flags = packet.tcp_flags();
        let forwarded = Forwarded { service: connection.service, server: connection.server, new: false };
        let saved = usize::from(self.settings.synproxy.max_ack_saved);
        let handshake = connection.handshake.as_mut().filter(|handshake| handshake.is_pending())?;
        match direction {
            Direction::In if flags & (flag::SYN | flag::FIN | flag::RST) == 0 => {
                if handshake.stored.len() > saved {
                    return Some(Verdict::Dropped(DropReason::NeighbourQueueFull));
                }
                handshake.stored.push(packet.clone());
                Some(Verdict::WaitsForNeighbour(forwarded))
            }
            Direction::In => None,
            Direction::Out if flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK => {
                self.server_answered(id, connection, packet, out);
                Some(Verdict::Returned(forwarded))
            }
            Direction::Out if flags & flag::RST != 0 => {
                let start = packet.u32(packet.transport + tcp::SEQUENCE);
                handshake.server_start = Some(start);
                packet.put(packet.transport + tcp::SEQUENCE, &start.wrapping_add(1).to_be_bytes());
                None
            }
            Direction::Out => None,
        }
    }

    /// Step 3: the real server's SYN+ACK stays here, and what waited for it leaves.
    fn server_answered(&mut self, id: ConnectionId, connection: &mut Connection, packet: &Packet, out: &mut Output) {
        let Some(handshake) = connection.handshake.as_mut() else { return };
        let start = packet.u32(packet.transport + tcp::SEQUENCE);
        let scale = toa::value_of(packet.tcp_options(), WINDOW_SCALE, 3);
        handshake.server_start = Some(start);
        handshake.server_shift = scale.map_or(0, |at| packet.u8(packet.transport + tcp::HEADER + at));
        let stored = std::mem::take(&mut handshake.stored);
        let tell_window = handshake.window_closed && stored.len() == 1;
        connection.state = State::Established;
        self.count_state(connection);
        self.refresh(connection);
        self.connections.reschedule(id, connection);
        if tell_window {
            let mut update = window_update(packet);
            self.link.leave_identification(&mut update, &self.draws);
            self.translate_out(connection, update, false, out);
        }
        for packet in stored {
            self.translate_in(connection, packet, false, out);
        }
    }
}

impl Cookies {
    /// Enters an attempt; a repeated SYN keeps its number.
    fn enter(&mut self, key: (SocketAddr, SocketAddr), mut attempt: Attempt) -> Attempt {
        let before = self
            .attempts
            .get(&key)
            .filter(|before| before.sequence == attempt.sequence && attempt.time - before.time < COOKIE_TICK);
        attempt.number = match before {
            Some(before) => before.number,
            None => {
                self.given += 1;
                self.given - 1
            }
        };
        if self.attempts.len() >= MANY_ATTEMPTS && self.attempts.len().is_power_of_two() {
            let now = attempt.time;
            self.attempts.retain(|_, attempt| now - attempt.time < COOKIE_LIFE);
        }
        self.attempts.insert(key, attempt);
        attempt
    }

    fn find(&self, key: (SocketAddr, SocketAddr), now: Nanos) -> Option<Attempt> {
        self.attempts.get(&key).copied().filter(|attempt| now - attempt.time < COOKIE_LIFE)
    }
}

/// Edits the options of a SYN in place for the answer: what the director does not offer becomes NOPs. True when the
/// timestamp option stays and has to be filled in.
fn edit_options(packet: &mut Packet, options: &[u8], attempt: &Attempt, settings: &SynProxySettings, options_at: usize) -> bool {
    if let Some(at) = toa::value_of(options, MSS, 4) {
        packet.put(options_at + at, &attempt.mss.to_be_bytes());
    }
    let erase = |packet: &mut Packet, kind: u8, length: usize| {
        if let Some(at) = toa::value_of(options, kind, length) {
            packet.put(options_at + at - 2, &[NO_OPERATION; 10][..length]);
        }
    };
    if !attempt.sack {
        erase(packet, SACK_PERMITTED, 2);
    }
    match (settings.wscale, toa::value_of(options, WINDOW_SCALE, 3)) {
        (Some(own), Some(at)) => packet.put(options_at + at, &[own]),
        _ => erase(packet, WINDOW_SCALE, 3),
    }
    if !attempt.timestamp {
        erase(packet, TIMESTAMP, 10);
    }
    attempt.timestamp
}

/// The SYN that opens the connection to the real server, still with the client's ends and sequence number.
fn opening_syn(acknowledgement: &Packet, attempt: &Attempt) -> Packet {
    let mss = MSS_VALUES.into_iter().rev().find(|value| *value <= attempt.mss).unwrap_or(MSS_VALUES[0]);
    let [high, low] = mss.to_be_bytes();
    let mut options = vec![MSS, 4, high, low];
    // The timestamp is overwritten by FULLNAT at once; only its room is left.
    match (attempt.sack, attempt.timestamp) {
        (true, true) => options.extend([SACK_PERMITTED, 2, TIMESTAMP, 10, 0, 0, 0, 0, 0, 0, 0, 0]),
        (true, false) => options.extend([NO_OPERATION, NO_OPERATION, SACK_PERMITTED, 2]),
        (false, true) => options.extend([NO_OPERATION, NO_OPERATION, TIMESTAMP, 10, 0, 0, 0, 0, 0, 0, 0, 0]),
        (false, false) => {}
    }
    if let Some(scale) = attempt.window_scale {
        options.extend([NO_OPERATION, WINDOW_SCALE, 3, scale]);
    }
    let ends = acknowledgement.ends();
    segment(ends, acknowledgement.origin, (attempt.sequence, 0), flag::SYN, OPENING_WINDOW, &options)
}

/// The ACK that opens the client's window again, still as the real server would send it.
fn window_update(answer: &Packet) -> Packet {
    let at = answer.transport;
    let sequence = answer.u32(at + tcp::SEQUENCE).wrapping_add(1);
    let window = answer.u16(at + tcp::WINDOW);
    let acknowledged = answer.u32(at + tcp::ACKNOWLEDGEMENT);
    segment(answer.ends(), answer.origin, (sequence, acknowledged), flag::ACK, window, &[])
}

/// A segment without payload that the director builds: IPv4 with DF and identification 0. Checksums are left open.
pub(super) fn segment(
    (source, destination): (SocketAddr, SocketAddr),
    origin: Origin,
    (sequence, acknowledged): (u32, u32),
    flags: u8,
    window: u16,
    options: &[u8],
) -> Packet {
    let length = tcp::HEADER + options.len();
    let mut bytes = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_header(Protocol::TCP, from, to, 20 + length, 0, true, OWN_TTL).to_vec(),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_header(Protocol::TCP, from, to, length, 0, OWN_TTL),
        // A packet has one family.
        _ => Vec::new(),
    };
    let transport = bytes.len();
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([((length / 4) << 4) as u8, flags]);
    bytes.extend(window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    Packet::build(bytes, Protocol::TCP, transport, origin)
}
