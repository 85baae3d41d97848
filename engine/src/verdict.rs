//! What became of a frame, in words that an operator knows.

use crate::config::{ServerKey, ServiceKey};
use std::fmt;

/// What the director did with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Sent to a real server.
    Forwarded(Forwarded),
    /// A real server's answer, translated back and sent to the client.
    Returned(Forwarded),
    /// An ICMP error about a connection, sent on to the connection's other end.
    Related(Forwarded),
    /// Given to a real server on the director itself.
    DeliveredToLocalServer(Forwarded),
    /// Routed as any router would; no service concerns it.
    Routed,
    /// Waits for its neighbour's MAC address.
    WaitsForNeighbour(Forwarded),
    /// A fragment that waits for the others of its datagram.
    WaitsForFragments,
    /// The director's own stack answered or took it.
    Local(LocalAnswer),
    /// The director refused it and told the sender.
    Refused(Refusal),
    /// Dropped silently.
    Dropped(DropReason),
}

/// Which service and real server took it: indices into the director's tables, see `Director::service_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Forwarded {
    /// A number of the service that stays the same for the director's life.
    pub service: u32,
    /// A number of the real server that stays the same for the director's life.
    pub server: u32,
    /// This packet opened the connection.
    pub new: bool,
}

/// What the director's own stack did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalAnswer {
    /// Answered an echo request.
    EchoReply,
    /// Answered a TCP segment without connection by RST.
    Reset,
    /// Answered an SCTP packet without association by ABORT, or completed its shutdown.
    Abort,
    /// Answered an ARP request.
    ArpReply,
    /// Learned from ARP or ND.
    NeighbourLearned,
    /// Answered a neighbour solicitation.
    NeighbourAdvertisement,
    /// Answered an ICMP timestamp request.
    TimestampReply,
    /// DPVS: answered a SYN with a cookie.
    SynCookie,
    /// Took it, nothing left.
    Taken,
}

/// Why the director refused a packet and said so by ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No real server can take the connection: port unreachable.
    NoServer,
    /// TTL or hop limit ran out: time exceeded.
    TtlExceeded,
    /// Longer than the way allows: fragmentation needed, or packet too big.
    TooBig,
    /// No route or no answer from the neighbour: host unreachable.
    Unreachable,
    /// Nothing listens on that port of the director: port unreachable.
    PortUnreachable,
    /// The director doesn't speak the protocol: protocol unreachable.
    ProtocolUnreachable,
    /// Malformed IP options: parameter problem.
    ParameterProblem,
    /// nat_icmp_send: a real server's packet without connection.
    NoConnection,
    /// DPVS: an ACK without connection to a service: RST.
    NoConnectionReset,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a frame was dropped silently.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason { $($(#[$doc])* #[doc = $text] $name,)* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The reason in words.
            pub const fn words(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    NotForUs = "the destination MAC is not the director's",
    UnknownVlan = "no interface has this VLAN",
    UnknownEtherType = "neither IP nor ARP",
    LinkTruncated = "the frame is shorter than its link header",
    LongerThanLink = "longer than the link's MTU, so it can't have arrived",
    BadIpHeader = "the IP header is malformed",
    BadIpChecksum = "the IP header checksum is wrong",
    IpTruncated = "the frame is shorter than its IP length",
    TransportTruncated = "the transport header is not whole",
    MartianSource = "the source address can't be (martian)",
    MartianDestination = "the destination address can't be (martian)",
    ReversePath = "rp_filter: the way back leaves by another link",
    SourceRoute = "source routed",
    ForwardingOff = "not addressed to the director, and forwarding is off",
    NoRoute = "no route",
    GroupAddress = "sent to a broadcast or multicast address",
    BadTransportChecksum = "the transport checksum is wrong",
    BadIcmpChecksum = "the ICMP checksum is wrong",
    ServerRemoved = "the connection's real server was removed",
    NoServer = "no real server, and no answer is given",
    DropRate = "drop_packet",
    FragmentOverlap = "fragments overlap",
    FragmentTimeout = "the rest of the datagram never came",
    FragmentRefused = "fragments are not taken",
    NeighbourQueueFull = "too many packets wait for the neighbour",
    NeighbourFailed = "the neighbour does not answer",
    ErrorAboutError = "an ICMP error that could only be answered by another",
    IcmpUnrelated = "an ICMP message that concerns no connection",
    RateLimited = "answers are rate limited",
    TunnelTooSmall = "the tunnel's MTU is too small for any packet",
    NoCallId = "SIP without a Call-ID",
    NoLocalPort = "no local address or port left",
    NoLocalAddress = "the service has no local address",
    AccessList = "an access list refuses the client",
    Defence = "not for a service, and defence is on",
    Unanswered = "nothing takes it, and no answer is due",
    ArpIgnored = "ARP that gets no answer",
    MappedLoopback = "a local real server on 127/8",
    InterfaceDown = "the link is down",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// Names of services and servers, to put a verdict into words.
pub trait Names {
    /// The service of that number.
    fn service(&self, number: u32) -> Option<&ServiceKey>;
    /// The real server of that number.
    fn server(&self, number: u32) -> Option<&ServerKey>;
}

impl Verdict {
    /// A short stable word for machines and counters, such as `forwarded` or `dropped`.
    pub const fn kind(self) -> &'static str {
        match self {
            Verdict::Forwarded(_) => "forwarded",
            Verdict::Returned(_) => "returned",
            Verdict::Related(_) => "related",
            Verdict::DeliveredToLocalServer(_) => "local-server",
            Verdict::Routed => "routed",
            Verdict::WaitsForNeighbour(_) => "waits-for-neighbour",
            Verdict::WaitsForFragments => "waits-for-fragments",
            Verdict::Local(_) => "local",
            Verdict::Refused(_) => "refused",
            Verdict::Dropped(_) => "dropped",
        }
    }

    /// What it means, without names: the text under which verdicts are counted.
    pub const fn words(self) -> &'static str {
        match self {
            Verdict::Forwarded(_) => "sent to a real server",
            Verdict::Returned(_) => "answer sent back to the client",
            Verdict::Related(_) => "ICMP error about a connection, passed on",
            Verdict::DeliveredToLocalServer(_) => "given to a real server on the director itself",
            Verdict::Routed => "routed as any router would",
            Verdict::WaitsForNeighbour(_) => "waits for the neighbour's MAC address",
            Verdict::WaitsForFragments => "a fragment that waits for the others",
            Verdict::Local(answer) => match answer {
                LocalAnswer::EchoReply => "answered: echo reply",
                LocalAnswer::Reset => "answered: RST, no connection",
                LocalAnswer::Abort => "answered: ABORT, no association",
                LocalAnswer::ArpReply => "answered: ARP reply",
                LocalAnswer::NeighbourLearned => "ARP or ND taken in",
                LocalAnswer::NeighbourAdvertisement => "answered: neighbour advertisement",
                LocalAnswer::TimestampReply => "answered: timestamp reply",
                LocalAnswer::SynCookie => "answered: SYN cookie",
                LocalAnswer::Taken => "taken by the director's own stack",
            },
            Verdict::Refused(refusal) => match refusal {
                Refusal::NoServer => "refused: no real server can take it (port unreachable)",
                Refusal::TtlExceeded => "refused: TTL ran out (time exceeded)",
                Refusal::TooBig => "refused: too big (fragmentation needed)",
                Refusal::Unreachable => "refused: no way to the real server (host unreachable)",
                Refusal::PortUnreachable => "refused: nothing listens there (port unreachable)",
                Refusal::ProtocolUnreachable => "refused: protocol unreachable",
                Refusal::ParameterProblem => "refused: malformed IP options (parameter problem)",
                Refusal::NoConnection => "refused: a real server's packet without connection",
                Refusal::NoConnectionReset => "refused: no connection (RST)",
            },
            Verdict::Dropped(reason) => reason.words(),
        }
    }
}
