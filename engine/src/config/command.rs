//! What an operator can type on a director, as data.

use super::link::{Address, InterfaceId, MacAddr, Route};
use super::service::{AddressList, ServerKey, ServerSettings, ServiceKey, ServiceSettings, TimeoutSettings};
use crate::time::Nanos;
use std::net::IpAddr;

/// A command that changes a director or makes it send something.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "fields are named as ipvsadm(8), ip(8) and dpip name them")]
pub enum Command {
    /// `ipvsadm -A`
    AddService { service: ServiceKey, settings: ServiceSettings },
    /// `ipvsadm -E`
    EditService { service: ServiceKey, settings: ServiceSettings },
    /// `ipvsadm -D`
    DeleteService { service: ServiceKey },
    /// `ipvsadm -a`
    AddServer { service: ServiceKey, server: ServerKey, settings: ServerSettings },
    /// `ipvsadm -e`
    EditServer { service: ServiceKey, server: ServerKey, settings: ServerSettings },
    /// `ipvsadm -d`
    DeleteServer { service: ServiceKey, server: ServerKey },
    /// `ipvsadm -C`
    Clear,
    /// `ipvsadm -Z`, of one service or all
    Zero { service: Option<ServiceKey> },
    /// `ipvsadm --set`
    SetTimeouts(TimeoutSettings),
    /// `ip addr add`, `dpip addr add`
    AddAddress { interface: InterfaceId, address: Address },
    /// `ip addr del`, `dpip addr del`
    DeleteAddress { interface: InterfaceId, address: IpAddr },
    /// `ip link set IF up|down`
    SetLink { interface: InterfaceId, up: bool },
    /// `ip link set IF mtu N`
    SetMtu { interface: InterfaceId, mtu: u32 },
    /// `ip route add|replace`, `dpip route add`
    AddRoute(Route),
    /// `ip route del`
    DeleteRoute(Route),
    /// `ip neigh add|replace`, `dpip neigh add`
    AddNeighbour { address: IpAddr, mac: MacAddr, interface: InterfaceId },
    /// `ip neigh del`
    DeleteNeighbour { address: IpAddr, interface: InterfaceId },
    /// `sysctl -w`, or a write to /proc/sys: the name with dots
    Sysctl { name: String, value: String },
    /// `ping -c COUNT [-I SOURCE] DESTINATION`
    Ping { source: Option<IpAddr>, destination: IpAddr, count: u32 },
    /// `arping -c COUNT -A|-U -I INTERFACE ADDRESS`
    Arping { kind: ArpAnnouncement, interface: InterfaceId, address: IpAddr, count: u32 },
    /// DPVS `ipvsadm --add-laddr -z LIP`
    AddLocalAddress { service: ServiceKey, address: IpAddr, interface: InterfaceId },
    /// DPVS `ipvsadm -Q -z LIP`
    DeleteLocalAddress { service: ServiceKey, address: IpAddr, interface: InterfaceId },
    /// DPVS `ipvsadm -U -k CIP`, `-O -2 CIP`
    AddToList { list: AddressList, service: ServiceKey, client: IpAddr },
    /// DPVS `ipvsadm -V -k CIP`, `-Y -2 CIP`
    RemoveFromList { list: AddressList, service: ServiceKey, client: IpAddr },
}

/// The two kinds of unsolicited ARP that arping(8) sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpAnnouncement {
    /// `-A`: a reply.
    Reply,
    /// `-U`: a request.
    Request,
}

/// A command at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledCommand {
    /// How long after the capture's first frame.
    pub after: Nanos,
    /// What is done then.
    pub command: Command,
}
