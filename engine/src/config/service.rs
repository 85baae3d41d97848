//! Virtual services and real servers, as ipvsadm(8) names and sets them.

use super::link::Network;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

/// A transport protocol by its IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Any protocol: what templates of mark services are keyed by.
    pub const ANY: Protocol = Protocol(0);
    /// ICMP for IPv4.
    pub const ICMP: Protocol = Protocol(1);
    /// IPv4 in IP.
    pub const IPIP: Protocol = Protocol(4);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// IPv6 in IP.
    pub const IPV6: Protocol = Protocol(41);
    /// GRE.
    pub const GRE: Protocol = Protocol(47);
    /// ESP.
    pub const ESP: Protocol = Protocol(50);
    /// AH.
    pub const AH: Protocol = Protocol(51);
    /// ICMPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ANY => f.pad("IP"),
            Protocol::ICMP => f.pad("ICMP"),
            Protocol::TCP => f.pad("TCP"),
            Protocol::UDP => f.pad("UDP"),
            Protocol::GRE => f.pad("GRE"),
            Protocol::ESP => f.pad("ESP"),
            Protocol::AH => f.pad("AH"),
            Protocol::ICMPV6 => f.pad("ICMPv6"),
            Protocol::SCTP => f.pad("SCTP"),
            Protocol(other) => f.pad(&format!("IP_{other}")),
        }
    }
}

/// What identifies a virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// `-t`, `-u`, `--sctp-service`: protocol, address and port; port 0 is any port.
    Address {
        /// Transport protocol.
        protocol: Protocol,
        /// The virtual IP address.
        address: IpAddr,
        /// The virtual port, host order.
        port: u16,
    },
    /// `-f`: a firewall mark.
    Mark {
        /// The mark.
        mark: u32,
        /// `-6` makes it IPv6.
        family: Family,
    },
    /// DPVS `-H`: packets that match (SNAT).
    Match(MatchRule),
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceKey::Address { protocol, address, port } => write!(f, "{protocol} {}", SocketAddr::new(*address, *port)),
            ServiceKey::Mark { mark, family: Family::Ipv4 } => write!(f, "FWM {mark}"),
            ServiceKey::Mark { mark, family: Family::Ipv6 } => write!(f, "FWM {mark} IPv6"),
            ServiceKey::Match(rule) => write!(f, "MATCH {rule}"),
        }
    }
}

/// DPVS's match of a SNAT service: `proto=tcp,src-range=A-B,dst-range=A-B,iif=IF,oif=IF`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatchRule {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Inclusive range of source addresses and ports.
    pub source: Option<(SocketAddr, SocketAddr)>,
    /// Inclusive range of destination addresses and ports.
    pub destination: Option<(SocketAddr, SocketAddr)>,
    /// Arrival interface, by name.
    pub input_interface: Option<String>,
    /// Exit interface, by name.
    pub output_interface: Option<String>,
}

impl fmt::Display for MatchRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protocol.to_string().to_lowercase())?;
        if let Some((low, high)) = self.source {
            write!(f, ",from={}-{}:{}-{}", low.ip(), high.ip(), low.port(), high.port())?;
        }
        if let Some((low, high)) = self.destination {
            write!(f, ",to={}-{}:{}-{}", low.ip(), high.ip(), low.port(), high.port())?;
        }
        if let Some(name) = &self.input_interface {
            write!(f, ",iif={name}")?;
        }
        if let Some(name) = &self.output_interface {
            write!(f, ",oif={name}")?;
        }
        Ok(())
    }
}

/// Schedulers, by the names that ipvsadm knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the documentation; schedule/ has a file for each")]
pub enum SchedulerKind {
    Rr,
    Wrr,
    Lc,
    #[default]
    Wlc,
    Lblc,
    Lblcr,
    Dh,
    Sh,
    Sed,
    Nq,
    Fo,
    Ovf,
    Mh,
    Twos,
    /// DPVS only.
    Conhash,
    /// A service that never schedules.
    None,
}

impl SchedulerKind {
    /// Every scheduler with its name.
    pub const NAMES: [(&'static str, SchedulerKind); 16] = [
        ("rr", SchedulerKind::Rr),
        ("wrr", SchedulerKind::Wrr),
        ("lc", SchedulerKind::Lc),
        ("wlc", SchedulerKind::Wlc),
        ("lblc", SchedulerKind::Lblc),
        ("lblcr", SchedulerKind::Lblcr),
        ("dh", SchedulerKind::Dh),
        ("sh", SchedulerKind::Sh),
        ("sed", SchedulerKind::Sed),
        ("nq", SchedulerKind::Nq),
        ("fo", SchedulerKind::Fo),
        ("ovf", SchedulerKind::Ovf),
        ("mh", SchedulerKind::Mh),
        ("twos", SchedulerKind::Twos),
        ("conhash", SchedulerKind::Conhash),
        ("none", SchedulerKind::None),
    ];

    /// The scheduler of that name.
    pub fn by_name(name: &str) -> Option<SchedulerKind> {
        SchedulerKind::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        SchedulerKind::NAMES.iter().find(|(_, kind)| *kind == self).map_or("none", |(name, _)| name)
    }
}

/// `-b`: three bits whose meaning is the scheduler's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchedulerFlags {
    /// flag-1: sh-fallback, mh-fallback.
    pub fallback: bool,
    /// flag-2: sh-port, mh-port.
    pub port: bool,
    /// flag-3: unused by every scheduler.
    pub third: bool,
}

/// `-p` and `-M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a template lives after its last use, in seconds.
    pub timeout: u32,
    /// How many leading bits of the client's address count (32 or 128: all). IPv4 masks are contiguous in practice; a
    /// mask with holes is refused by the parser.
    pub prefix_len: u8,
}

/// `--pe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistenceEngine {
    /// By the Call-ID of SIP over UDP.
    Sip,
}

/// All settings of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSettings {
    /// `-s`.
    pub scheduler: SchedulerKind,
    /// `-b`.
    pub flags: SchedulerFlags,
    /// `-p`.
    pub persistence: Option<Persistence>,
    /// `--pe`.
    pub persistence_engine: Option<PersistenceEngine>,
    /// `-o`: one-packet scheduling.
    pub one_packet: bool,
    /// What only DPVS has.
    pub dpvs: DpvsServiceSettings,
}

/// Settings that only DPVS's ipvsadm knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DpvsServiceSettings {
    /// `-j enable`.
    pub syn_proxy: bool,
    /// `--conn-timeout`, in seconds.
    pub connection_timeout: Option<u32>,
    /// `--proxy-protocol`.
    pub proxy_protocol: ProxyProtocol,
    /// `--expire-quiescent`.
    pub expire_quiescent: bool,
    /// `--hash-target`, for conhash.
    pub hash_target: HashTarget,
}

/// `--proxy-protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the option's values")]
pub enum ProxyProtocol {
    #[default]
    Disable,
    V1,
    V2,
    V1Insecure,
    V2Insecure,
}

/// `--hash-target`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashTarget {
    /// The source address.
    #[default]
    SourceIp,
    /// The QUIC connection ID.
    QuicId,
}

/// DPVS's black and white lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressList {
    /// `-U`: these clients are refused.
    Black,
    /// `-O`: only these clients are served.
    White,
}

/// What identifies a real server within its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey {
    /// The real server's address.
    pub address: IpAddr,
    /// Its port, host order, as ipvsadm stores it (the service's port under DR and tunnel).
    pub port: u16,
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Settings of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `-g`, `-m`, `-i`; DPVS's `-b` and `-J`.
    pub method: ForwardingMethod,
    /// `-w`.
    pub weight: u32,
    /// `-x`: no new connection at this many; 0: no limit.
    pub upper_threshold: u32,
    /// `-y`: new ones again below this many; 0: three quarters of the upper.
    pub lower_threshold: u32,
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardingMethod {
    /// `-m`: masquerading, network address translation.
    Nat,
    /// `-g`: direct routing.
    Dr,
    /// `-i`: a tunnel.
    Tunnel(Tunnel),
    /// DPVS `-b`.
    FullNat,
    /// DPVS `-J`.
    Snat,
}

impl ForwardingMethod {
    /// The word in `ipvsadm -Ln`.
    pub fn word(self) -> &'static str {
        match self {
            ForwardingMethod::Nat => "Masq",
            ForwardingMethod::Dr => "Route",
            ForwardingMethod::Tunnel(_) => "Tunnel",
            ForwardingMethod::FullNat => "FullNat",
            ForwardingMethod::Snat => "SNAT",
        }
    }
}

/// `--tun-type`, `--tun-port`, `--tun-csum`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Which encapsulation.
    pub kind: TunnelKind,
    /// Its checksum option.
    pub checksum: TunnelChecksum,
}

/// Encapsulations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP (RFC 2003), and its IPv6 relatives.
    #[default]
    Ipip,
    /// Generic UDP encapsulation to this port.
    Gue {
        /// UDP destination port, host order.
        port: u16,
    },
    /// GRE (RFC 2784).
    Gre,
}

/// `--tun-nocsum`, `--tun-csum`, `--tun-remcsum`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelChecksum {
    /// No checksum.
    #[default]
    None,
    /// With checksum.
    Checksum,
    /// Remote checksum offload.
    RemoteChecksum,
}

/// `ipvsadm --set TCP TCPFIN UDP`, in seconds; none keeps the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// ESTABLISHED.
    pub tcp: Option<u32>,
    /// FIN_WAIT.
    pub tcp_fin: Option<u32>,
    /// UDP.
    pub udp: Option<u32>,
}

impl Persistence {
    /// The network of clients that share a template.
    pub fn client_network(&self, client: IpAddr) -> Network {
        Network::new(client, self.prefix_len)
    }
}
