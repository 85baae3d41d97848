//! Fields of frames, by Wireshark's display filter names, and how their values are written.
//!
//! Where Wireshark has no field for a part of a header, the name follows its pattern (`gue.*`, `frame`).

use std::fmt;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// How the value of a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A number.
    Decimal,
    /// A number in hexadecimal, all digits of its width.
    Hex,
    /// A number that counts units of this many bytes.
    Units(u64),
    /// A MAC address.
    Mac,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// Bytes in hexadecimal.
    Bytes,
}

macro_rules! names {
    ($($name:ident $text:literal $format:expr;)*) => {
        /// What a field is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Name { $(#[doc = $text] $name,)* }

        impl Name {
            /// Every field that is known.
            pub const ALL: &'static [Name] = &[$(Name::$name,)*];

            /// Its name in display filters.
            pub const fn text(self) -> &'static str {
                match self { $(Name::$name => $text,)* }
            }

            /// How its value is written.
            pub const fn format(self) -> Format {
                match self { $(Name::$name => $format,)* }
            }
        }
    };
}

names! {
    FrameLength "frame.len" Format::Decimal;
    FrameInterface "frame.interface_name" Format::Bytes;
    FrameBytes "frame" Format::Bytes;
    EthDestination "eth.dst" Format::Mac;
    EthSource "eth.src" Format::Mac;
    EthType "eth.type" Format::Hex;
    EthLength "eth.len" Format::Decimal;
    EthPadding "eth.padding" Format::Bytes;
    EthTrailer "eth.trailer" Format::Bytes;
    VlanPriority "vlan.priority" Format::Decimal;
    VlanDei "vlan.dei" Format::Decimal;
    VlanId "vlan.id" Format::Decimal;
    VlanType "vlan.etype" Format::Hex;
    ProviderPriority "ieee8021ad.priority" Format::Decimal;
    ProviderDei "ieee8021ad.dei" Format::Decimal;
    ProviderId "ieee8021ad.id" Format::Decimal;
    ArpHardwareType "arp.hw.type" Format::Decimal;
    ArpProtocolType "arp.proto.type" Format::Hex;
    ArpHardwareSize "arp.hw.size" Format::Decimal;
    ArpProtocolSize "arp.proto.size" Format::Decimal;
    ArpOpcode "arp.opcode" Format::Decimal;
    ArpSourceMac "arp.src.hw_mac" Format::Mac;
    ArpSourceIpv4 "arp.src.proto_ipv4" Format::Ipv4;
    ArpTargetMac "arp.dst.hw_mac" Format::Mac;
    ArpTargetIpv4 "arp.dst.proto_ipv4" Format::Ipv4;
    IpVersion "ip.version" Format::Decimal;
    IpHeaderLength "ip.hdr_len" Format::Units(4);
    IpDscp "ip.dsfield.dscp" Format::Decimal;
    IpEcn "ip.dsfield.ecn" Format::Decimal;
    IpLength "ip.len" Format::Decimal;
    IpId "ip.id" Format::Hex;
    IpReservedFlag "ip.flags.rb" Format::Decimal;
    IpDontFragment "ip.flags.df" Format::Decimal;
    IpMoreFragments "ip.flags.mf" Format::Decimal;
    IpFragmentOffset "ip.frag_offset" Format::Decimal;
    IpTtl "ip.ttl" Format::Decimal;
    IpProtocol "ip.proto" Format::Decimal;
    IpChecksum "ip.checksum" Format::Hex;
    IpSource "ip.src" Format::Ipv4;
    IpDestination "ip.dst" Format::Ipv4;
    IpOptionType "ip.opt.type" Format::Decimal;
    IpOptionLength "ip.opt.len" Format::Decimal;
    IpOptionPointer "ip.opt.ptr" Format::Decimal;
    IpOptionData "ip.opt" Format::Bytes;
    IpOptionPadding "ip.opt.padding" Format::Bytes;
    Ipv6Version "ipv6.version" Format::Decimal;
    Ipv6Dscp "ipv6.tclass.dscp" Format::Decimal;
    Ipv6Ecn "ipv6.tclass.ecn" Format::Decimal;
    Ipv6Flow "ipv6.flow" Format::Hex;
    Ipv6PayloadLength "ipv6.plen" Format::Decimal;
    Ipv6Next "ipv6.nxt" Format::Decimal;
    Ipv6HopLimit "ipv6.hlim" Format::Decimal;
    Ipv6Source "ipv6.src" Format::Ipv6;
    Ipv6Destination "ipv6.dst" Format::Ipv6;
    Ipv6HopOptionsNext "ipv6.hopopts.nxt" Format::Decimal;
    Ipv6HopOptionsLength "ipv6.hopopts.len" Format::Decimal;
    Ipv6DestinationOptionsNext "ipv6.dstopts.nxt" Format::Decimal;
    Ipv6DestinationOptionsLength "ipv6.dstopts.len" Format::Decimal;
    Ipv6Options "ipv6.opt" Format::Bytes;
    Ipv6RoutingNext "ipv6.routing.nxt" Format::Decimal;
    Ipv6RoutingLength "ipv6.routing.len" Format::Decimal;
    Ipv6RoutingType "ipv6.routing.type" Format::Decimal;
    Ipv6RoutingLeft "ipv6.routing.segleft" Format::Decimal;
    Ipv6RoutingData "ipv6.routing.unknown_data" Format::Bytes;
    Ipv6FragmentNext "ipv6.fraghdr.nxt" Format::Decimal;
    Ipv6FragmentReserved "ipv6.fraghdr.reserved_octet" Format::Hex;
    Ipv6FragmentOffset "ipv6.fraghdr.offset" Format::Units(8);
    Ipv6FragmentReservedBits "ipv6.fraghdr.reserved_bits" Format::Decimal;
    Ipv6FragmentMore "ipv6.fraghdr.more" Format::Decimal;
    Ipv6FragmentId "ipv6.fraghdr.ident" Format::Hex;
    TcpSourcePort "tcp.srcport" Format::Decimal;
    TcpDestinationPort "tcp.dstport" Format::Decimal;
    TcpSequence "tcp.seq_raw" Format::Decimal;
    TcpAcknowledgment "tcp.ack_raw" Format::Decimal;
    TcpHeaderLength "tcp.hdr_len" Format::Units(4);
    TcpReserved "tcp.flags.res" Format::Decimal;
    TcpAccurateEcn "tcp.flags.ae" Format::Decimal;
    TcpCwr "tcp.flags.cwr" Format::Decimal;
    TcpEce "tcp.flags.ece" Format::Decimal;
    TcpUrg "tcp.flags.urg" Format::Decimal;
    TcpAck "tcp.flags.ack" Format::Decimal;
    TcpPush "tcp.flags.push" Format::Decimal;
    TcpReset "tcp.flags.reset" Format::Decimal;
    TcpSyn "tcp.flags.syn" Format::Decimal;
    TcpFin "tcp.flags.fin" Format::Decimal;
    TcpWindow "tcp.window_size_value" Format::Decimal;
    TcpChecksum "tcp.checksum" Format::Hex;
    TcpUrgentPointer "tcp.urgent_pointer" Format::Decimal;
    TcpOptionKind "tcp.option_kind" Format::Decimal;
    TcpOptionLength "tcp.option_len" Format::Decimal;
    TcpOptionNop "tcp.options.nop" Format::Bytes;
    TcpOptionEnd "tcp.options.eol" Format::Bytes;
    TcpOptionMss "tcp.options.mss_val" Format::Decimal;
    TcpOptionWindowScale "tcp.options.wscale.shift" Format::Decimal;
    TcpOptionSackLeft "tcp.options.sack_le" Format::Decimal;
    TcpOptionSackRight "tcp.options.sack_re" Format::Decimal;
    TcpOptionTimestampValue "tcp.options.timestamp.tsval" Format::Decimal;
    TcpOptionTimestampEcho "tcp.options.timestamp.tsecr" Format::Decimal;
    TcpOptionUnknown "tcp.options.unknown.payload" Format::Bytes;
    TcpPayload "tcp.payload" Format::Bytes;
    UdpSourcePort "udp.srcport" Format::Decimal;
    UdpDestinationPort "udp.dstport" Format::Decimal;
    UdpLength "udp.length" Format::Decimal;
    UdpChecksum "udp.checksum" Format::Hex;
    UdpPayload "udp.payload" Format::Bytes;
    SctpSourcePort "sctp.srcport" Format::Decimal;
    SctpDestinationPort "sctp.dstport" Format::Decimal;
    SctpVerificationTag "sctp.verification_tag" Format::Hex;
    SctpChecksum "sctp.checksum" Format::Hex;
    SctpChunkType "sctp.chunk_type" Format::Decimal;
    SctpChunkFlags "sctp.chunk_flags" Format::Hex;
    SctpChunkLength "sctp.chunk_length" Format::Decimal;
    IcmpType "icmp.type" Format::Decimal;
    IcmpCode "icmp.code" Format::Decimal;
    IcmpChecksum "icmp.checksum" Format::Hex;
    IcmpIdentifier "icmp.ident" Format::Decimal;
    IcmpSequence "icmp.seq" Format::Decimal;
    IcmpUnused "icmp.unused" Format::Bytes;
    IcmpLength "icmp.length" Format::Units(4);
    IcmpMtu "icmp.mtu" Format::Decimal;
    IcmpPointer "icmp.pointer" Format::Decimal;
    IcmpGateway "icmp.redir_gw" Format::Ipv4;
    IcmpOriginate "icmp.originate_timestamp" Format::Decimal;
    IcmpReceive "icmp.receive_timestamp" Format::Decimal;
    IcmpTransmit "icmp.transmit_timestamp" Format::Decimal;
    Icmpv6Type "icmpv6.type" Format::Decimal;
    Icmpv6Code "icmpv6.code" Format::Decimal;
    Icmpv6Checksum "icmpv6.checksum" Format::Hex;
    Icmpv6Identifier "icmpv6.echo.identifier" Format::Decimal;
    Icmpv6Sequence "icmpv6.echo.sequence_number" Format::Decimal;
    Icmpv6Reserved "icmpv6.reserved" Format::Bytes;
    Icmpv6Mtu "icmpv6.mtu" Format::Decimal;
    Icmpv6Pointer "icmpv6.pointer" Format::Decimal;
    Icmpv6SolicitationTarget "icmpv6.nd.ns.target_address" Format::Ipv6;
    Icmpv6AdvertisementRouter "icmpv6.nd.na.flag.r" Format::Decimal;
    Icmpv6AdvertisementSolicited "icmpv6.nd.na.flag.s" Format::Decimal;
    Icmpv6AdvertisementOverride "icmpv6.nd.na.flag.o" Format::Decimal;
    Icmpv6AdvertisementReserved "icmpv6.nd.na.flag.rsv" Format::Decimal;
    Icmpv6AdvertisementTarget "icmpv6.nd.na.target_address" Format::Ipv6;
    Icmpv6RedirectTarget "icmpv6.nd.rd.target_address" Format::Ipv6;
    Icmpv6RedirectDestination "icmpv6.rd.na.destination_address" Format::Ipv6;
    Icmpv6OptionType "icmpv6.opt.type" Format::Decimal;
    Icmpv6OptionLength "icmpv6.opt.length" Format::Decimal;
    Icmpv6OptionMac "icmpv6.opt.linkaddr" Format::Mac;
    Icmpv6Option "icmpv6.opt" Format::Bytes;
    GreChecksumFlag "gre.flags.checksum" Format::Decimal;
    GreRoutingFlag "gre.flags.routing" Format::Decimal;
    GreKeyFlag "gre.flags.key" Format::Decimal;
    GreSequenceFlag "gre.flags.sequence_number" Format::Decimal;
    GreReservedFlags "gre.flags.reserved" Format::Hex;
    GreVersion "gre.flags.version" Format::Decimal;
    GreProtocol "gre.proto" Format::Hex;
    GreChecksum "gre.checksum" Format::Hex;
    GreOffset "gre.offset" Format::Decimal;
    GreKey "gre.key" Format::Hex;
    GreSequence "gre.sequence_number" Format::Decimal;
    GueVersion "gue.version" Format::Decimal;
    GueControl "gue.control" Format::Decimal;
    GueHeaderLength "gue.hdr_len" Format::Units(4);
    GueProtocol "gue.proto" Format::Decimal;
    GueFlags "gue.flags" Format::Hex;
    GueExtension "gue.extension" Format::Bytes;
    Data "data" Format::Bytes;
}

impl Name {
    /// The protocol it belongs to: what stands before the first dot.
    pub fn protocol(self) -> &'static str {
        self.text().split('.').next().unwrap_or_default()
    }

    /// Whether it is a checksum, which follows from other fields.
    pub fn is_checksum(self) -> bool {
        self.text().ends_with(".checksum") && !matches!(self, Name::GreChecksumFlag)
    }

    /// Whether it holds a payload of no fixed length, of which a difference shows a slice.
    pub fn is_bulk(self) -> bool {
        matches!(self.format(), Format::Bytes)
    }
}

/// Where in a frame with several headers of a kind a field stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In the frame's own headers.
    #[default]
    Outer,
    /// In the packet that a tunnel carries.
    Inner,
    /// In the packet that an ICMP error quotes.
    Quoted,
    /// In the packet inside a tunnel that an ICMP error quotes.
    QuotedInner,
}

impl Place {
    /// The word to put before a field's name.
    pub const fn word(self) -> &'static str {
        match self {
            Place::Outer => "",
            Place::Inner => "inner ",
            Place::Quoted => "quoted ",
            Place::QuotedInner => "quoted inner ",
        }
    }

    /// Where the packet inside a tunnel header at this place stands.
    pub const fn inside(self) -> Place {
        match self {
            Place::Outer | Place::Inner => Place::Inner,
            Place::Quoted | Place::QuotedInner => Place::QuotedInner,
        }
    }
}

/// A field of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is.
    pub name: Name,
    /// In which packet.
    pub place: Place,
    /// Which header of its protocol in the frame, counted from 1, as Wireshark counts layers (`ip.ttl#2`).
    pub layer: u8,
    /// Its first byte in the frame.
    pub start: u32,
    /// How many bytes it touches.
    pub len: u32,
    /// Which bits of these bytes, read as one big-endian number, it takes; 0: all. Only fields of up to 8 bytes have one.
    pub mask: u64,
}

impl Field {
    /// Its bytes in the frame; empty if they lie outside.
    pub fn bytes<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        frame.get(start..start + self.len as usize).unwrap_or_default()
    }

    /// Its value as a number; `None` for fields of more than 8 bytes.
    pub fn number(&self, frame: &[u8]) -> Option<u64> {
        let bytes = self.bytes(frame);
        if bytes.len() > 8 {
            return None;
        }
        let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Some(if self.mask == 0 { number } else { (number & self.mask) >> self.mask.trailing_zeros() })
    }

    /// Whether it has the same value in both frames.
    pub fn same(&self, frame: &[u8], other: &Field, other_frame: &[u8]) -> bool {
        if self.mask == 0 && other.mask == 0 {
            self.bytes(frame) == other.bytes(other_frame)
        } else {
            self.number(frame) == other.number(other_frame)
        }
    }

    /// Its name with the packet it stands in, such as `inner ip.ttl`.
    pub fn label(&self) -> String {
        format!("{}{}", self.place.word(), self.name.text())
    }

    /// Its value, written as its format says.
    pub fn value(&self, frame: &[u8]) -> String {
        let bytes = self.bytes(frame);
        match (self.name.format(), self.number(frame)) {
            (Format::Decimal, Some(number)) => number.to_string(),
            (Format::Units(unit), Some(number)) => (number * unit).to_string(),
            (Format::Hex, Some(number)) => {
                let bits = if self.mask == 0 { self.len * 8 } else { self.mask.count_ones() };
                format!("0x{number:0width$x}", width = bits.div_ceil(4) as usize)
            }
            (Format::Mac, _) => mac(bytes),
            (Format::Ipv4, _) => match <[u8; 4]>::try_from(bytes) {
                Ok(octets) => Ipv4Addr::from(octets).to_string(),
                Err(_) => hex(bytes),
            },
            (Format::Ipv6, _) => match <[u8; 16]>::try_from(bytes) {
                Ok(octets) => Ipv6Addr::from(octets).to_string(),
                Err(_) => hex(bytes),
            },
            _ => hex(bytes),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}

/// Bytes as a MAC address is written, whatever their number.
pub fn mac(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (position, byte) in bytes.iter().enumerate() {
        let colon = if position == 0 { "" } else { ":" };
        // Writing to a String can't fail.
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

/// Bytes in hexadecimal, at most 16 of them.
pub fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 16;
    let mut text = String::with_capacity(SHOWN * 2 + 20);
    for byte in bytes.iter().take(SHOWN) {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > SHOWN {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: Name, start: u32, len: u32, mask: u64) -> Field {
        Field { name, place: Place::Outer, layer: 1, start, len, mask }
    }

    #[test]
    fn values_are_written_as_wireshark_writes_them() {
        let frame = [0x02, 0, 0, 0, 0, 0x0b, 10, 0, 0, 12, 0x45, 0x40, 0x05, 0x60, 0x01, 0x23, 0x45];
        assert_eq!(field(Name::EthDestination, 0, 6, 0).value(&frame), "02:00:00:00:00:0b");
        assert_eq!(field(Name::IpDestination, 6, 4, 0).value(&frame), "10.0.0.12");
        assert_eq!(field(Name::IpHeaderLength, 10, 1, 0x0f).value(&frame), "20");
        assert_eq!(field(Name::IpDontFragment, 11, 1, 0x40).value(&frame), "1");
        assert_eq!(field(Name::IpFragmentOffset, 11, 2, 0x1fff).value(&frame), "5");
        assert_eq!(field(Name::Ipv6Flow, 13, 4, 0xf_ffff).value(&frame), "0x12345");
        assert_eq!(field(Name::Data, 0, 17, 0).value(&frame), "02000000000b0a00000c454005600123… (17 bytes)");
        assert_eq!(field(Name::IpDestination, 15, 4, 0).value(&frame), "", "a field outside the frame has no bytes");
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Name::ALL.iter().map(|name| name.text()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
