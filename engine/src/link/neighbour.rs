//! The neighbour table: who has which Ethernet address, and what waits for an answer.
//!
//! The state machine of reference/linux-ipvs.md section 9.3, as seen in reference/linux-findings.md section 9: three requests
//! a second apart, then failure; an entry that has grown old is probed by unicast 5 s after it was used.

use super::interface::Link;
use crate::config::{InterfaceId, MacAddr, TimerWheel};
use crate::output::DrawnField;
use crate::time::Nanos;
use foldhash::HashMap;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

/// A packet that waits for its next hop's Ethernet address.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The IP packet as it will leave.
    pub packet: Vec<u8>,
    /// Bytes of it that the capture did not hold.
    pub cut: u32,
    /// Random fields, their offsets counted from the start of the IP packet.
    pub drawn: Vec<DrawnField>,
    /// What to do when the neighbour never answers.
    pub failure: Failure,
}

/// What to do about a packet whose neighbour never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing.
    Silent,
    /// Nothing on the wire, but it is a tunnel's outer packet, about which IPVS keeps count.
    Tunnel,
    /// Tell the sender that the host is unreachable.
    Report {
        /// Where the packet came from; none for the host's own packets.
        arrival: Option<InterfaceId>,
    },
}

/// A way to a next hop's Ethernet address.
#[derive(Debug)]
pub enum Resolution {
    /// Send it now.
    Send(MacAddr, Waiting),
    /// It waits. The first one that waits causes a request.
    Queued {
        /// Whether a request must be sent now.
        ask: bool,
    },
}

/// What a timer of the table causes.
#[derive(Debug)]
pub enum TimerEvent {
    /// Ask for the address: by broadcast, or the known owner.
    Ask {
        /// When.
        time: Nanos,
        /// Where.
        interface: InterfaceId,
        /// For whom.
        address: IpAddr,
        /// The known owner.
        known: Option<MacAddr>,
    },
    /// Nobody answered.
    Failed {
        /// When.
        time: Nanos,
        /// Where.
        interface: InterfaceId,
        /// Who.
        address: IpAddr,
        /// The packets that waited, oldest first.
        waiting: VecDeque<Waiting>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Incomplete { asked: u32 },
    Reachable,
    Stale,
    Delay,
    Probe { asked: u32 },
    Failed,
    Permanent,
}

#[derive(Clone, Debug)]
struct Entry {
    state: State,
    mac: MacAddr,
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    timer: Option<Nanos>,
    /// When it was last asked for while not confirmed.
    used: Nanos,
    updated: Nanos,
    retrans: Nanos,
    delay: Nanos,
    multicast_probes: u32,
    unicast_probes: u32,
    queue_limit: u64,
}

type Key = (InterfaceId, IpAddr);

/// The table. Its size is bounded as the kernel's is (gc_thresh3).
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Counts changes of what [`Neighbours::known`] answers.
    version: u64,
    entries: HashMap<Key, Entry>,
    timers: BTreeSet<(Nanos, Key)>,
    /// When timers fire; none: in time.
    pub wheel: Option<TimerWheel>,
}

/// The middle of the 15 to 45 s from which the kernel draws how long a confirmation holds.
const REACHABLE: Nanos = Nanos::from_secs(30);
/// net.ipv4.neigh.default.gc_thresh3
const MAX_ENTRIES: usize = 1024;

impl Neighbours {
    /// Sets an entry by hand. One that is not permanent is taken as just confirmed long ago: stale.
    pub fn set(&mut self, interface: InterfaceId, address: IpAddr, mac: MacAddr, permanent: bool) {
        self.version += 1;
        self.remove(interface, address);
        let state = if permanent { State::Permanent } else { State::Stale };
        self.entries.insert((interface, address), Entry { state, mac, ..Entry::new(Nanos(0)) });
    }

    /// Forgets an entry; what waits for it is gone.
    pub fn remove(&mut self, interface: InterfaceId, address: IpAddr) {
        let key = (interface, address);
        self.version += 1;
        if let Some(entry) = self.entries.remove(&key)
            && let Some(timer) = entry.timer
        {
            self.timers.remove(&(timer, key));
        }
    }

    /// Forgets all entries of an interface that went down, permanent ones too.
    pub fn interface_down(&mut self, interface: InterfaceId) {
        let gone: Vec<IpAddr> = self.entries.keys().filter(|(id, _)| *id == interface).map(|(_, address)| *address).collect();
        for address in gone {
            self.remove(interface, address);
        }
    }

    /// A number that changes whenever another answer of [`Neighbours::known`] is possible.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the next packet to an unknown neighbour throws an entry out.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES
    }

    /// The address of a permanent or confirmed entry, for the way that needs no queue.
    pub fn known(&self, interface: InterfaceId, address: IpAddr) -> Option<MacAddr> {
        let entry = self.entries.get(&(interface, address))?;
        matches!(entry.state, State::Permanent | State::Reachable).then_some(entry.mac)
    }

    /// The address that an entry holds, in whatever state.
    pub fn cached(&self, interface: InterfaceId, address: IpAddr) -> Option<MacAddr> {
        let entry = self.entries.get(&(interface, address))?;
        (!matches!(entry.state, State::Incomplete { .. } | State::Failed)).then_some(entry.mac)
    }

    /// Finds the next hop's address for a packet, or keeps the packet until it is known.
    pub fn resolve(&mut self, now: Nanos, link: &Link, key: Key, packet: Waiting) -> Resolution {
        self.make_room();
        let entry = self.entries.entry(key).or_insert_with(|| Entry::new(now));
        match entry.state {
            State::Permanent | State::Reachable => Resolution::Send(entry.mac, packet),
            State::Delay | State::Probe { .. } => {
                entry.used = now;
                Resolution::Send(entry.mac, packet)
            }
            State::Stale => {
                entry.used = now;
                entry.take_settings(link);
                entry.state = State::Delay;
                let (mac, due) = (entry.mac, now + entry.delay);
                self.arm(now, key, Some(due));
                Resolution::Send(mac, packet)
            }
            State::Incomplete { .. } => {
                entry.queue(packet);
                Resolution::Queued { ask: false }
            }
            State::Failed => {
                entry.used = now;
                entry.take_settings(link);
                entry.queue(packet);
                entry.state = State::Incomplete { asked: 1 };
                let due = now + entry.retrans;
                self.arm(now, key, Some(due));
                Resolution::Queued { ask: true }
            }
        }
    }

    /// The newest packet that waits for an address: its source decides who asks.
    pub fn newest_waiting(&self, interface: InterfaceId, address: IpAddr) -> Option<&Waiting> {
        self.entries.get(&(interface, address))?.waiting.back()
    }

    /// Whether there is an entry, in whatever state.
    pub fn has(&self, interface: InterfaceId, address: IpAddr) -> bool {
        self.entries.contains_key(&(interface, address))
    }

    /// Whether there is an entry whose owner did not answer.
    pub fn has_failed(&self, interface: InterfaceId, address: IpAddr) -> bool {
        self.entries.get(&(interface, address)).is_some_and(|entry| entry.state == State::Failed)
    }

    /// Forgets what waits for an answer.
    pub fn purge(&mut self, interface: InterfaceId, address: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&(interface, address)) {
            entry.waiting.clear();
            entry.waiting_bytes = 0;
        }
    }

    /// When an entry last changed.
    pub fn updated(&self, interface: InterfaceId, address: IpAddr) -> Option<Nanos> {
        self.entries.get(&(interface, address)).map(|entry| entry.updated)
    }

    /// Learns an address. `confirmed`: it answers our question, so the neighbour is reachable; else it is only known.
    /// `replace`: another address than the known one is believed. Returns the packets that waited, oldest first.
    pub fn learn(&mut self, now: Nanos, key: Key, mac: MacAddr, confirmed: bool, replace: bool) -> VecDeque<Waiting> {
        self.make_room();
        let entry = self.entries.entry(key).or_insert_with(|| Entry::new(now));
        let valid = !matches!(entry.state, State::Incomplete { .. } | State::Failed);
        if entry.state == State::Permanent || valid && entry.mac != mac && !replace {
            return VecDeque::new();
        }
        if entry.state != State::Reachable || !confirmed || entry.mac != mac {
            self.version += 1;
        }
        if confirmed {
            entry.state = State::Reachable;
        } else if !valid || entry.mac != mac {
            entry.state = State::Stale;
        } else {
            // What is known already does not age an entry.
            return VecDeque::new();
        }
        entry.mac = mac;
        entry.updated = now;
        entry.waiting_bytes = 0;
        let waiting = std::mem::take(&mut entry.waiting);
        let due = confirmed.then(|| now + REACHABLE);
        self.arm(now, key, due);
        waiting
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<Nanos> {
        self.timers.first().map(|(time, _)| *time)
    }

    /// Carries out the first timer that is due at `now`; none when none is, or when it causes nothing.
    pub fn fire(&mut self, now: Nanos) -> Option<TimerEvent> {
        let (time, key) = *self.timers.first().filter(|(time, _)| *time <= now)?;
        let entry = self.entries.get_mut(&key)?;
        self.version += 1;
        let (next, event) = match entry.state {
            State::Reachable if time <= entry.used + entry.delay => {
                entry.state = State::Delay;
                (Some(time + entry.delay), None)
            }
            State::Reachable => {
                entry.state = State::Stale;
                (None, None)
            }
            State::Delay => {
                entry.state = State::Probe { asked: 1 };
                (Some(time + entry.retrans), Some(entry.ask(time, key, true)))
            }
            State::Probe { asked } if asked < entry.unicast_probes => {
                entry.state = State::Probe { asked: asked + 1 };
                (Some(time + entry.retrans), Some(entry.ask(time, key, true)))
            }
            State::Incomplete { asked } if asked < entry.multicast_probes => {
                entry.state = State::Incomplete { asked: asked + 1 };
                (Some(time + entry.retrans), Some(entry.ask(time, key, false)))
            }
            State::Probe { .. } | State::Incomplete { .. } => {
                entry.state = State::Failed;
                entry.updated = time;
                entry.waiting_bytes = 0;
                let (interface, address) = key;
                (None, Some(TimerEvent::Failed { time, interface, address, waiting: std::mem::take(&mut entry.waiting) }))
            }
            State::Stale | State::Failed | State::Permanent => (None, None),
        };
        self.arm(time, key, next);
        event
    }

    fn arm(&mut self, now: Nanos, key: Key, due: Option<Nanos>) {
        let due = due.map(|due| self.wheel.map_or(due, |wheel| wheel.fires(due, due - now)));
        if let Some(entry) = self.entries.get_mut(&key) {
            if let Some(old) = entry.timer.take() {
                self.timers.remove(&(old, key));
            }
            entry.timer = due;
            if let Some(due) = due {
                self.timers.insert((due, key));
            }
        }
    }

    /// When the table is full, throws out the entry that changed longest ago and that nothing waits for.
    fn make_room(&mut self) {
        if self.entries.len() < MAX_ENTRIES {
            return;
        }
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.state != State::Permanent)
            .min_by_key(|(key, entry)| (!entry.waiting.is_empty(), entry.updated.max(entry.used), **key))
            .map(|(key, _)| *key);
        if let Some((interface, address)) = oldest {
            self.remove(interface, address);
        }
    }
}

impl Entry {
    fn new(now: Nanos) -> Entry {
        Entry {
            state: State::Failed,
            mac: MacAddr::ZERO,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            timer: None,
            used: now,
            updated: now,
            retrans: Nanos::from_secs(1),
            delay: Nanos::from_secs(5),
            multicast_probes: 3,
            unicast_probes: 3,
            queue_limit: 212_992,
        }
    }

    fn take_settings(&mut self, link: &Link) {
        // A retransmission time of 0 would fire for ever at one moment.
        self.retrans = Nanos::from_millis(u64::from(link.settings.retrans_time_ms.max(10)));
        self.delay = Nanos::from_secs(u64::from(link.settings.delay_first_probe_time));
        self.multicast_probes = link.settings.mcast_solicit;
        self.unicast_probes = link.settings.ucast_solicit;
        self.queue_limit = u64::from(link.settings.unres_qlen_bytes);
    }

    fn queue(&mut self, packet: Waiting) {
        let bytes = truesize(packet.packet.len());
        while self.waiting_bytes + bytes > self.queue_limit {
            let Some(oldest) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= truesize(oldest.packet.len());
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(packet);
    }

    fn ask(&self, time: Nanos, (interface, address): Key, known: bool) -> TimerEvent {
        TimerEvent::Ask { time, interface, address, known: known.then_some(self.mac) }
    }
}

/// Buffer memory that the kernel counts for a packet: its data with head room and shared info, in a power of two, and the
/// descriptor. 92 packets of 1440 bytes fill the default queue (reference/linux-findings.md section 9).
fn truesize(packet: usize) -> u64 {
    ((packet + 14 + 32 + 320).next_power_of_two().max(512) + 256) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Interface, InterfaceSysctls};
    use arrayvec::ArrayVec;

    const KEY: Key = (InterfaceId(0), IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11)));
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 11]);

    fn link() -> Link {
        let interface = Interface {
            name: "eth0".into(),
            mac: MacAddr::ZERO,
            mtu: 1500,
            addresses: vec![],
            vlan: None,
            loopback: false,
            up: true,
        };
        Link { interface, settings: InterfaceSysctls::default(), tags: ArrayVec::new(), base: InterfaceId(0) }
    }

    fn waiting(len: usize, mark: u8) -> Waiting {
        Waiting { packet: vec![mark; len], cut: 0, drawn: vec![], failure: Failure::Silent }
    }

    #[test]
    fn nobody_answers() {
        let mut table = Neighbours::default();
        assert!(matches!(table.resolve(Nanos(0), &link(), KEY, waiting(60, 1)), Resolution::Queued { ask: true }));
        assert!(matches!(table.resolve(Nanos(5), &link(), KEY, waiting(60, 2)), Resolution::Queued { ask: false }));
        for second in [1, 2] {
            let event = table.fire(Nanos::from_secs(10)).unwrap();
            assert!(matches!(event, TimerEvent::Ask { time, known: None, .. } if time == Nanos::from_secs(second)));
        }
        assert!(!table.has_failed(KEY.0, KEY.1));
        let Some(TimerEvent::Failed { time, waiting: gone, .. }) = table.fire(Nanos::from_secs(10)) else { panic!("no failure") };
        assert!(table.has_failed(KEY.0, KEY.1));
        assert_eq!(time, Nanos::from_secs(3));
        assert_eq!(gone.iter().map(|packet| packet.packet[0]).collect::<Vec<_>>(), [1, 2]);
        assert!(table.next_timer().is_none());
        assert!(matches!(table.resolve(Nanos::from_secs(9), &link(), KEY, waiting(60, 3)), Resolution::Queued { ask: true }));
    }

    #[test]
    fn old_entry_is_probed_after_use() {
        let mut table = Neighbours::default();
        table.learn(Nanos(0), KEY, MAC, true, true);
        let later = Nanos::from_secs(60);
        assert!(table.fire(later).is_none());
        assert!(matches!(table.resolve(later, &link(), KEY, waiting(60, 1)), Resolution::Send(mac, _) if mac == MAC));
        for second in [65, 66, 67] {
            let event = table.fire(Nanos::from_secs(100)).unwrap();
            assert!(matches!(event, TimerEvent::Ask { time, known: Some(mac), .. }
                if time == Nanos::from_secs(second) && mac == MAC));
        }
        assert!(matches!(table.fire(Nanos::from_secs(100)), Some(TimerEvent::Failed { .. })));
        table.learn(Nanos::from_secs(101), KEY, MAC, true, true);
        assert_eq!(table.known(KEY.0, KEY.1), Some(MAC));
    }

    #[test]
    fn queue_holds_92_long_packets_and_drops_the_oldest() {
        let mut table = Neighbours::default();
        for mark in 0..100 {
            table.resolve(Nanos(0), &link(), KEY, waiting(1440, mark));
        }
        let flushed = table.learn(Nanos(1), KEY, MAC, true, true);
        assert_eq!(flushed.len(), 92);
        assert_eq!(flushed[0].packet[0], 8);
    }

    #[test]
    fn permanent_stays() {
        let mut table = Neighbours::default();
        table.set(KEY.0, KEY.1, MAC, true);
        table.learn(Nanos(1), KEY, MacAddr::BROADCAST, true, true);
        assert_eq!(table.known(KEY.0, KEY.1), Some(MAC));
    }

    #[test]
    fn bounded() {
        let mut table = Neighbours::default();
        for number in 0..5000u32 {
            let key = (InterfaceId(0), IpAddr::V4((0x0a00_0000 + number).into()));
            table.learn(Nanos(u64::from(number)), key, MAC, true, true);
        }
        assert!(table.entries.len() <= MAX_ENTRIES && table.timers.len() <= MAX_ENTRIES);
    }
}
