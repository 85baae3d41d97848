//! What a director is: plain data, filled by whoever reads rules, snapshots or a command line.
//!
//! Every description (design section 5) ends in one [`DirectorConfig`]. Services and real servers are not listed as a
//! finished table but as the [`Command`]s that make it, in order: the order matters (a new server goes to the head of its
//! service's list), and changes while traffic runs are the same commands at a later time.

mod command;
mod dpvs;
mod link;
mod service;
mod sysctl;
mod wheel;

pub use command::{ArpAnnouncement, Command, ScheduledCommand};
pub use dpvs::{DpvsSettings, DpvsTimeouts, SynProxySettings, UoaMode};
pub use link::{
    Address, AddressScope, Interface, InterfaceId, LocalNetwork, MacAddr, MacAddrError, MarkRule, NeighbourEntry, Network, Route,
    RouteKind, VlanProtocol, VlanTag,
};
pub use service::{
    AddressList, DpvsServiceSettings, Family, ForwardingMethod, HashTarget, MatchRule, Persistence, PersistenceEngine, Protocol,
    ProxyProtocol, SchedulerFlags, SchedulerKind, ServerKey, ServerSettings, ServiceKey, ServiceSettings, TimeoutSettings,
    Tunnel, TunnelChecksum, TunnelKind,
};
pub use sysctl::{InterfaceSysctls, SysctlError, Sysctls, VsSysctls};
pub use wheel::TimerWheel;

use crate::profile::Profile;
use crate::time::Nanos;

/// A whole director.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DirectorConfig {
    /// Which system it is: all that differs between kernels and DPVS, as data.
    pub profile: Profile,
    /// Links, in the order of the system; [`InterfaceId`] indexes this list.
    pub interfaces: Vec<Interface>,
    /// Routes of both families. Those that addresses imply (local, on-link) are listed too when the source lists them;
    /// the engine adds the missing ones.
    pub routes: Vec<Route>,
    /// Networks delivered locally, as `ip route add local NETWORK dev lo`.
    pub local_networks: Vec<LocalNetwork>,
    /// Known neighbours.
    pub neighbours: Vec<NeighbourEntry>,
    /// Firewall marks. Every rule that fits sets the mark, as MARK in iptables and `meta mark set` in nftables do, so that the
    /// last one counts.
    pub marks: Vec<MarkRule>,
    /// Kernel settings.
    pub sysctls: Sysctls,
    /// Services, real servers and whatever else is set up before the first frame, in order.
    pub commands: Vec<Command>,
    /// Changes while traffic runs, in order of time.
    pub changes: Vec<ScheduledCommand>,
    /// Settings of dpvs.conf; only read under a DPVS profile.
    pub dpvs: DpvsSettings,
    /// Frames longer than the link's MTU arrive, as captures with segmentation offload hold them. False: such a frame
    /// cannot have arrived over the link and is dropped, as a real link would.
    pub receive_offload: bool,
    /// When counters are summed up the first time, after the first frame; they are again and again
    /// ([`DirectorConfig::COUNTERS_PERIOD`]). What is cleared are sums: what passed since the last one is left. None: all of it is
    /// cleared (reference/linux-ipvs.md section 8.1).
    pub counters_summed: Option<Nanos>,
    /// When the timers of connections fire; none: exactly in time.
    pub timer_wheel: Option<TimerWheel>,
}

impl DirectorConfig {
    /// How often a kernel sums its counters up: every two seconds, which its timer wheel makes 504 ticks of 250 a second.
    pub const COUNTERS_PERIOD: Nanos = Nanos::from_millis(2_016);

    /// The interface of that name.
    pub fn interface(&self, name: &str) -> Option<InterfaceId> {
        self.interfaces.iter().position(|interface| interface.name == name).map(|index| InterfaceId(index as u16))
    }
}
