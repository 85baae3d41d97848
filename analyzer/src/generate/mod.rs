//! `lvscheck generate`: client traffic to order, as a capture file.
//!
//! The traffic is a pure function of its arguments and a seed: each packet can be made alone, so the work is spread over
//! threads and the file is the same for any number of them. With `--director` a description of a director that serves the
//! traffic is written too, so that `lvscheck replay FILE -c DIR` works at once.

mod director;
mod frame;
mod mix;
mod order;

pub use director::Method;
pub use frame::{FamilyName, ProtocolName};
pub use mix::{Mix, MixError};
pub use order::Turns;

use frame::{CLIENT_PORTS, LONGEST, Payload, Recipe};
use lvscheck_engine::config::{Family, MacAddr, Network, SchedulerKind};
use order::Order;
use rayon::prelude::*;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

/// What to generate.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// Capture file to write (nanosecond pcap); `-` is standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How many connections (flows)
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "new_share")]
    pub flows: u64,
    /// How many packets in all [default: 10 a flow]
    #[arg(long, value_name = "N", conflicts_with = "packets_per_flow")]
    pub packets: Option<u64>,
    /// How many packets each flow sends
    #[arg(long, value_name = "N")]
    pub packets_per_flow: Option<u64>,
    /// Share of the packets that open a connection, above 0 up to 1, in place of --flows; needs --packets
    #[arg(long, value_name = "SHARE", requires = "packets")]
    pub new_share: Option<f64>,
    /// Frame sizes on the wire with FCS, as RFC 2544 counts them: `64`, weighted `64:7,594:4,1518:1`, or `imix`, which is
    /// those three. Packets whose headers need more are longer; SYNs and the like carry nothing
    #[arg(long, value_name = "SIZES", default_value = "64", value_parser = sizes)]
    pub size: Mix<u32>,
    /// Protocols of the flows, weighted: `tcp`, `tcp:8,udp:2`, `sctp`
    #[arg(long, value_name = "MIX", default_value = "tcp", value_parser = str::parse::<Mix<ProtocolName>>)]
    pub protocol: Mix<ProtocolName>,
    /// Address families of the flows, weighted: `ipv4`, `ipv4:9,ipv6:1`
    #[arg(long, value_name = "MIX", default_value = "ipv4", value_parser = str::parse::<Mix<FamilyName>>)]
    pub family: Mix<FamilyName>,
    #[allow(rustdoc::broken_intra_doc_links, reason = "an IPv6 address in brackets is no link")]
    /// Virtual service that flows go to, may be repeated [default: 200.200.200.1:80 and [2001:db8:200::1]:80]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub vip: Vec<SocketAddr>,
    /// Network that clients are in, may be repeated [default: 198.51.100.0/24 and 2001:db8:c11e::/112]
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    pub clients: Vec<Network>,
    /// Packets a second, for the time stamps
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub rate: u64,
    /// Time stamp of the first packet, in seconds since 1970
    #[arg(long, value_name = "SECONDS", default_value_t = 1_700_000_000)]
    pub start: u32,
    /// How many flows live at the same time; the next ones start when these have sent all [default: all]
    #[arg(long, value_name = "N")]
    pub concurrent: Option<u64>,
    /// How flows that live at the same time take turns
    #[arg(long, value_enum, default_value_t)]
    pub order: Turns,
    /// No FIN, no SHUTDOWN: connections stay open
    #[arg(long)]
    pub leave_open: bool,
    /// Another seed gives other ports, sequence numbers and draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Ethernet address of the director's client side
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:01:00")]
    pub director_mac: MacAddr,
    /// Ethernet address of the router in front of the director
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:fe")]
    pub router_mac: MacAddr,
    /// No router: clients are on the director's link
    #[arg(long)]
    pub on_link: bool,
    /// Write the description of a director that serves this traffic into this folder
    #[arg(long, value_name = "DIR")]
    pub director: Option<PathBuf>,
    /// Forwarding method of that director
    #[arg(long, value_enum, default_value_t, requires = "director")]
    pub mode: Method,
    /// How many real servers that director has for each service
    #[arg(long, value_name = "N", default_value_t = 4, requires = "director", value_parser = clap::value_parser!(u16).range(1..=200))]
    pub servers: u16,
    /// Scheduler of that director
    #[arg(long, value_name = "NAME", default_value = "rr", requires = "director", value_parser = scheduler)]
    pub scheduler: SchedulerKind,
}

impl GenerateArgs {
    /// The arguments as if only the file were given.
    pub fn new(file: &Path) -> GenerateArgs {
        GenerateArgs {
            file: file.to_owned(),
            flows: 1000,
            packets: None,
            packets_per_flow: None,
            new_share: None,
            size: Mix::only(64),
            protocol: Mix::only(ProtocolName(lvscheck_engine::config::Protocol::TCP)),
            family: Mix::only(FamilyName(Family::Ipv4)),
            vip: Vec::new(),
            clients: Vec::new(),
            rate: 1_000_000,
            start: 1_700_000_000,
            concurrent: None,
            order: Turns::RoundRobin,
            leave_open: false,
            seed: 1,
            director_mac: MacAddr([2, 0, 0, 0, 1, 0]),
            router_mac: MacAddr([2, 0, 0, 0, 0, 0xfe]),
            on_link: false,
            director: None,
            mode: Method::Dr,
            servers: 4,
            scheduler: SchedulerKind::Rr,
        }
    }
}

/// An order that can't be carried out.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The arguments contradict each other or ask for too much.
    #[error("{0}")]
    Impossible(String),
    /// A file can't be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Connections.
    pub flows: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes of the capture file.
    pub bytes: u64,
}

/// Length of the pcap file header.
const FILE_HEADER: usize = 24;
/// Packets that one thread makes at a time.
const CHUNK: u64 = 16_384;

fn sizes(text: &str) -> Result<Mix<u32>, MixError> {
    let mix: Mix<u32> = if text == "imix" { "64:7,594:4,1518:1" } else { text }.parse()?;
    let wrong = mix.values().find(|size| !(64..=LONGEST + 4).contains(size));
    if let Some(size) = wrong {
        let reason = format!("a frame size is from 64 to {} bytes with FCS", LONGEST + 4);
        return Err(MixError { text: size.to_string(), reason });
    }
    Ok(mix)
}

fn network(text: &str) -> Result<Network, String> {
    let error = || format!("`{text}` is no network; expected such as 198.51.100.0/24");
    let (address, len) = text.split_once('/').ok_or_else(error)?;
    let address: IpAddr = address.parse().map_err(|_| error())?;
    let len: u8 = len.parse().map_err(|_| error())?;
    if len > if address.is_ipv4() { 32 } else { 128 } {
        return Err(error());
    }
    Ok(Network::new(address, len))
}

fn scheduler(text: &str) -> Result<SchedulerKind, String> {
    SchedulerKind::by_name(text).ok_or_else(|| format!("`{text}` is no scheduler"))
}

/// Traffic that can be made: the arguments, checked and completed.
#[derive(Clone, Debug)]
pub struct Plan {
    recipe: Recipe,
    order: Order,
    flows: u64,
    packets: u64,
    start: u32,
    rate: u64,
}

impl Plan {
    /// Checks and completes the arguments.
    ///
    /// # Errors
    /// Arguments that contradict each other, or more flows than the clients' addresses and ports allow.
    pub fn new(args: &GenerateArgs) -> Result<Plan, GenerateError> {
        let impossible = |text: String| Err(GenerateError::Impossible(text));
        let (flows, packets) = match (args.new_share, args.packets) {
            (Some(share), Some(packets)) if share > 0.0 && share <= 1.0 => {
                (((packets as f64 * share).round() as u64).max(1), packets)
            }
            (Some(_), _) => return impossible("--new-share is above 0 and at most 1".to_owned()),
            (None, Some(packets)) => (args.flows, packets),
            (None, None) => (args.flows, args.flows.saturating_mul(args.packets_per_flow.unwrap_or(10))),
        };
        if flows == 0 || packets < flows {
            return impossible(format!("{packets} packets can't open {flows} flows: each flow has at least one packet"));
        }
        if args.rate == 0 || args.rate > 1_000_000_000 {
            return impossible("--rate is from 1 to 1000000000 packets a second".to_owned());
        }
        if args.concurrent == Some(0) {
            return impossible("--concurrent is at least 1".to_owned());
        }
        let mut services = args.vip.clone();
        if services.is_empty() {
            services.push(SocketAddr::new(Ipv4Addr::new(200, 200, 200, 1).into(), 80));
            services.push(SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 1).into(), 80));
        }
        let mut clients = args.clients.clone();
        if clients.is_empty() {
            clients.push(Network::new(Ipv4Addr::new(198, 51, 100, 0).into(), 24));
            clients.push(Network::new(Ipv6Addr::new(0x2001, 0xdb8, 0xc11e, 0, 0, 0, 0, 0).into(), 112));
        }
        for family in args.family.values() {
            let word = if family.0 == Family::Ipv4 { "IPv4" } else { "IPv6" };
            if !services.iter().any(|service| Family::from(service.ip()) == family.0) {
                return impossible(format!("{word} flows need an {word} --vip"));
            }
            let hosts: u64 = clients
                .iter()
                .filter(|network| Family::from(network.address) == family.0)
                .map(|network| frame::hosts_of(*network))
                .sum();
            if hosts.saturating_mul(CLIENT_PORTS) < flows {
                return impossible(format!(
                    "{hosts} {word} clients with {CLIENT_PORTS} ports each are too few for {flows} flows; add --clients NETWORK"
                ));
            }
        }
        let recipe = Recipe {
            seed: args.seed,
            sizes: args.size.clone(),
            families: args.family.clone(),
            protocols: args.protocol.clone(),
            services,
            clients,
            director_mac: args.director_mac,
            router_mac: (!args.on_link).then_some(args.router_mac),
            leave_open: args.leave_open,
            payload: Payload::new(args.seed),
        };
        let order = Order::new(flows, packets, args.concurrent.unwrap_or(flows), args.order, args.seed);
        Ok(Plan { recipe, order, flows, packets, start: args.start, rate: args.rate })
    }

    /// How many packets there are.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How many connections there are.
    pub fn flows(&self) -> u64 {
        self.flows
    }

    /// Appends the header of a little-endian nanosecond pcap file of Ethernet frames.
    pub fn file_header(&self, out: &mut Vec<u8>) {
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Appends the pcap records of the packets of these numbers, from 0.
    pub fn records(&self, range: Range<u64>, out: &mut Vec<u8>) {
        for (number, place) in range.clone().zip(self.order.places(range)) {
            let elapsed = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
            let seconds = u64::from(self.start) + (elapsed / 1_000_000_000) as u64;
            let record = out.len();
            out.extend_from_slice(&(seconds as u32).to_le_bytes());
            out.extend_from_slice(&((elapsed % 1_000_000_000) as u32).to_le_bytes());
            out.extend_from_slice(&[0; 8]);
            self.recipe.frame(place, out);
            let len = ((out.len() - record - 16) as u32).to_le_bytes();
            out[record + 8..record + 12].copy_from_slice(&len);
            out[record + 12..record + 16].copy_from_slice(&len);
        }
    }

    /// Writes the whole capture file; packets are made in parallel while earlier ones are written.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut (dyn Write + Send)) -> io::Result<u64> {
        let threads = rayon::current_num_threads() as u64;
        let batch = CHUNK * threads * 2;
        let mut header = Vec::with_capacity(FILE_HEADER);
        self.file_header(&mut header);
        out.write_all(&header)?;
        let (full, ready) = sync_channel::<Vec<Vec<u8>>>(1);
        let (empty, used) = sync_channel::<Vec<Vec<u8>>>(3);
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || -> io::Result<u64> {
                let mut bytes = FILE_HEADER as u64;
                for chunks in ready {
                    for chunk in &chunks {
                        out.write_all(chunk)?;
                        bytes += chunk.len() as u64;
                    }
                    let _maker_is_done = empty.send(chunks);
                }
                Ok(bytes)
            });
            let mut spare = vec![Vec::new(), Vec::new()];
            for start in (0..self.packets).step_by(batch as usize) {
                let end = (start + batch).min(self.packets);
                let mut chunks: Vec<Vec<u8>> = spare.pop().or_else(|| used.recv().ok()).unwrap_or_default();
                chunks.resize_with((end - start).div_ceil(CHUNK) as usize, Vec::new);
                chunks.par_iter_mut().enumerate().for_each(|(number, chunk)| {
                    chunk.clear();
                    let first = start + number as u64 * CHUNK;
                    self.records(first..(first + CHUNK).min(end), chunk);
                });
                if full.send(chunks).is_err() {
                    break; // The writer failed; its error is returned below.
                }
            }
            drop(full);
            writer.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")))
        })
    }
}

/// Generates what the arguments ask for: the capture and, if wanted, the director's description.
///
/// # Errors
/// What can't be generated or written. The capture has a temporary name until it is whole.
pub fn run(args: &GenerateArgs) -> Result<Generated, GenerateError> {
    let plan = Plan::new(args)?;
    if let Some(folder) = &args.director {
        director::write(args, &plan.recipe, folder)?;
    }
    let failed = |source| GenerateError::Write { path: args.file.clone(), source };
    let bytes = if args.file == Path::new("-") {
        let mut out = io::stdout();
        let bytes = plan.write(&mut out).map_err(failed)?;
        out.flush().map_err(failed)?;
        bytes
    } else {
        let folder = args.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        let bytes = plan.write(file.as_file_mut()).map_err(failed)?;
        // A temporary file is private; a capture gets the usual permissions.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let _ = file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644));
        }
        file.persist(&args.file).map_err(|error| failed(error.error))?;
        bytes
    };
    Ok(Generated { flows: plan.flows, packets: plan.packets, bytes })
}

/// Describes the director that serves such traffic, without any traffic: the arguments' folder is not looked at.
///
/// # Errors
/// What can't be generated or written.
pub fn describe(args: &GenerateArgs, folder: &Path) -> Result<(), GenerateError> {
    director::write(args, &Plan::new(args)?.recipe, folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pnet_packet::ip::IpNextHeaderProtocols;
    use pnet_packet::{Packet, ethernet, ipv4, ipv6, tcp, udp};
    use std::collections::HashSet;

    fn capture(change: impl FnOnce(&mut GenerateArgs)) -> (Plan, Vec<u8>) {
        let mut args = GenerateArgs::new(Path::new("-"));
        change(&mut args);
        let plan = Plan::new(&args).unwrap();
        let mut bytes = Vec::new();
        plan.write(&mut bytes).unwrap();
        (plan, bytes)
    }

    fn frames(capture: &[u8]) -> Vec<&[u8]> {
        let mut rest = &capture[FILE_HEADER..];
        let mut frames = Vec::new();
        while let Some((header, after)) = rest.split_at_checked(16) {
            let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
            frames.push(&after[..len]);
            rest = &after[len..];
        }
        frames
    }

    #[test]
    fn every_checksum_is_right_by_a_second_opinion() {
        let (plan, bytes) = capture(|args| {
            args.flows = 500;
            args.packets = Some(5_003);
            args.size = sizes("imix").unwrap();
            args.protocol = "tcp:2,udp:2,sctp:1".parse().unwrap();
            args.family = "ipv4,ipv6".parse().unwrap();
            args.order = Turns::Random;
        });
        let frames = frames(&bytes);
        assert_eq!(frames.len() as u64, plan.packets());
        let mut kinds = HashSet::new();
        for frame in frames {
            assert!(frame.len() >= 60 && frame.len() <= 1514, "{}", frame.len());
            let ethernet = ethernet::EthernetPacket::new(frame).unwrap();
            let (protocol, transport, ends) = if ethernet.get_ethertype() == ethernet::EtherTypes::Ipv4 {
                let ip = ipv4::Ipv4Packet::new(ethernet.payload()).unwrap();
                assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
                let transport = ip.packet()[20..usize::from(ip.get_total_length())].to_vec();
                (ip.get_next_level_protocol(), transport, Ok((ip.get_source(), ip.get_destination())))
            } else {
                let ip = ipv6::Ipv6Packet::new(ethernet.payload()).unwrap();
                let transport = ip.packet()[40..40 + usize::from(ip.get_payload_length())].to_vec();
                (ip.get_next_header(), transport, Err((ip.get_source(), ip.get_destination())))
            };
            kinds.insert((protocol, ends.is_ok()));
            match protocol {
                IpNextHeaderProtocols::Tcp => {
                    let segment = tcp::TcpPacket::new(&transport).unwrap();
                    let right = match ends {
                        Ok((from, to)) => tcp::ipv4_checksum(&segment, &from, &to),
                        Err((from, to)) => tcp::ipv6_checksum(&segment, &from, &to),
                    };
                    assert_eq!(segment.get_checksum(), right);
                }
                IpNextHeaderProtocols::Udp => {
                    let datagram = udp::UdpPacket::new(&transport).unwrap();
                    let right = match ends {
                        Ok((from, to)) => udp::ipv4_checksum(&datagram, &from, &to),
                        Err((from, to)) => udp::ipv6_checksum(&datagram, &from, &to),
                    };
                    assert_eq!(datagram.get_checksum(), right);
                }
                _ => {
                    let mut zeroed = transport.clone();
                    zeroed[8..12].fill(0);
                    assert_eq!(transport[8..12], crc32c::crc32c(&zeroed).to_le_bytes());
                }
            }
        }
        assert_eq!(kinds.len(), 6);
    }

    #[test]
    fn a_tcp_client_opens_acknowledges_sends_and_closes() {
        let (_, bytes) = capture(|args| {
            args.flows = 1;
            args.packets_per_flow = Some(5);
            args.size = sizes("64,128").unwrap();
        });
        let mut next = None;
        let mut flags = Vec::new();
        for frame in frames(&bytes) {
            let ip = ipv4::Ipv4Packet::new(&frame[14..]).unwrap();
            let segment = tcp::TcpPacket::new(&frame[34..14 + usize::from(ip.get_total_length())]).unwrap();
            flags.push(segment.get_flags());
            if let Some(next) = next {
                assert_eq!(segment.get_sequence(), next, "sequence numbers leave no gap");
            }
            let syn = u32::from(segment.get_flags() & 2 != 0);
            next = Some(segment.get_sequence().wrapping_add(segment.payload().len() as u32 + syn));
        }
        assert_eq!(flags, [0x02, 0x18, 0x18, 0x18, 0x19]);
    }

    #[test]
    fn flows_differ_and_the_seed_decides() {
        let flows = 70_000;
        let (_, bytes) = capture(|args| {
            args.flows = flows;
            args.packets_per_flow = Some(1);
            args.clients = vec![network("192.0.2.0/30").unwrap()];
        });
        let ends: HashSet<&[u8]> = frames(&bytes).into_iter().map(|frame| &frame[26..38]).collect();
        assert_eq!(ends.len() as u64, flows);
        let again = capture(|args| {
            args.flows = flows;
            args.packets_per_flow = Some(1);
            args.clients = vec![network("192.0.2.0/30").unwrap()];
        });
        assert!(bytes == again.1);
        let other = capture(|args| {
            args.flows = flows;
            args.packets_per_flow = Some(1);
            args.clients = vec![network("192.0.2.0/30").unwrap()];
            args.seed = 2;
        });
        assert!(bytes != other.1);
    }

    #[test]
    fn the_bytes_do_not_depend_on_the_threads() {
        let make = || {
            capture(|args| {
                args.flows = 9_000;
                args.packets = Some(100_001);
                args.size = sizes("imix").unwrap();
            })
            .1
        };
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(make);
        let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(make);
        assert!(one == three);
    }

    #[test]
    fn impossible_orders_are_refused() {
        let refused = |change: fn(&mut GenerateArgs)| {
            let mut args = GenerateArgs::new(Path::new("-"));
            change(&mut args);
            assert!(Plan::new(&args).is_err());
        };
        refused(|args| args.packets = Some(10));
        refused(|args| args.flows = 0);
        refused(|args| args.rate = 0);
        refused(|args| args.concurrent = Some(0));
        refused(|args| args.flows = 1 << 40);
        refused(|args| (args.new_share, args.packets) = (Some(1.5), Some(10)));
        refused(|args| (args.vip, args.family) = (vec!["192.0.2.1:80".parse().unwrap()], "ipv6".parse().unwrap()));
        assert!(sizes("63").is_err() && sizes("9019").is_err() && network("1.2.3.4/33").is_err());
    }
}
