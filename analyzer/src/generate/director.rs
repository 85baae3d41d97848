//! The description of a director that serves generated traffic: a setup script, the commands as a person types them. FULLNAT
//! is DPVS's, which speaks another dialect.

use super::frame::Recipe;
use super::{GenerateArgs, GenerateError};
use lvscheck_engine::config::{Family, MacAddr, Protocol};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Forwarding method of the described director.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Method {
    #[default]
    Dr,
    Nat,
    Fullnat,
    Tunnel,
}

/// Local addresses that FULLNAT has room for behind the real servers'.
const MOST_LOCAL_ADDRESSES: u16 = 43;

/// How many local addresses it takes for so many connections at once. DPVS has 16 pools of 64,511 ports at each local address,
/// which neighbouring real servers share in turn (reference/dpvs-fullnat.md section 4); where addresses and servers take turns
/// not all pairs meet. A quarter is to spare.
fn local_addresses(flows: u64, servers: u16) -> u16 {
    const PORTS: u64 = 48_000;
    const POOLS: u16 = 16;
    let divisor = |mut one: u16, mut other: u16| {
        while other > 0 {
            (one, other) = (other, one % other);
        }
        one.max(1)
    };
    let pairs = |addresses: u16| u64::from(addresses) * u64::from(servers / divisor(servers, addresses));
    let crowded = u64::from(servers.div_ceil(POOLS));
    let enough = (1..=MOST_LOCAL_ADDRESSES).find(|addresses| pairs(*addresses) * PORTS / crowded >= flows);
    enough.or((1..=MOST_LOCAL_ADDRESSES).max_by_key(|addresses| pairs(*addresses))).unwrap_or(1)
}

/// The real server of that number, from 0, on the director's second link.
fn server_address(family: Family, number: u16) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 11)) + u32::from(number)).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x11 + number).into(),
    }
}

/// The local address of that number, from 0, on the same link.
fn local_address(family: Family, number: u16) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 211)) + u32::from(number)).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 1, 0x11 + number).into(),
    }
}

/// The MTU of the director's links: Ethernet's, or what the longest frames need, with the header of a tunnel.
fn mtu(args: &GenerateArgs) -> u32 {
    const ETHERNET_AND_FCS: u32 = 18;
    const IPV6_HEADER: u32 = 40;
    match args.size.values().max().unwrap_or(0).saturating_sub(ETHERNET_AND_FCS) {
        ..=1500 => 1500,
        longest if args.mode == Method::Tunnel => longest + IPV6_HEADER,
        longest => longest,
    }
}

/// Writes `setup.sh` into the folder, which is made if it isn't there.
pub(super) fn write(args: &GenerateArgs, recipe: &Recipe, folder: &Path) -> Result<(), GenerateError> {
    let path = folder.join("setup.sh");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, script(args, recipe)))
        .map_err(|source| GenerateError::Write { path, source })
}

fn script(args: &GenerateArgs, recipe: &Recipe) -> String {
    let names = Names::of(args.mode);
    let Names { ip, client_side, server_side } = names;
    let mut lines = vec![format!(
        "# A director for traffic of `lvscheck generate`: {client_side} towards the clients, {server_side} towards the servers"
    )];
    let families: Vec<Family> =
        [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| args.family.values().any(|name| name.0 == *family)).collect();
    for (name, mac) in [(client_side, args.director_mac), (server_side, MacAddr([2, 0, 0, 0, 2, 0]))] {
        lines.push(format!("ip link set {name} address {mac} mtu {} up", mtu(args)));
    }
    if args.mode != Method::Fullnat {
        lines.push("sysctl -w net.ipv4.ip_forward=1".to_owned());
        if families.contains(&Family::Ipv6) {
            lines.push("sysctl -w net.ipv6.conf.all.forwarding=1".to_owned());
        }
    }
    for family in &families {
        links(args, recipe, *family, &names, &mut lines);
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for service in services(recipe, &families) {
        if !addresses.contains(&service.ip()) {
            addresses.push(service.ip());
            lines.push(format!("{ip} addr add {}/{} dev {client_side}", service.ip(), if service.is_ipv4() { 32 } else { 128 }));
        }
    }
    for service in services(recipe, &families) {
        for protocol in args.protocol.values() {
            let option = match protocol.0 {
                Protocol::TCP => "-t",
                Protocol::UDP => "-u",
                _ => "--sctp-service",
            };
            lines.push(format!("ipvsadm -A {option} {service} -s {}", args.scheduler.name()));
            let family = Family::from(service.ip());
            for number in 0..args.servers {
                let server = SocketAddr::new(server_address(family, number), service.port());
                let method = match args.mode {
                    Method::Dr => "-g",
                    Method::Nat => "-m",
                    Method::Fullnat => "-b",
                    Method::Tunnel => "-i",
                };
                lines.push(format!("ipvsadm -a {option} {service} -r {server} {method} -w 1"));
            }
            if args.mode == Method::Fullnat {
                for address in (0..local_addresses(args.flows, args.servers)).map(|number| local_address(family, number)) {
                    lines.push(format!("ipvsadm --add-laddr -z {address} {option} {service} -F {server_side}"));
                }
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What a director calls things.
struct Names {
    ip: &'static str,
    client_side: &'static str,
    server_side: &'static str,
}

impl Names {
    fn of(mode: Method) -> Names {
        match mode {
            Method::Fullnat => Names { ip: "dpip", client_side: "dpdk0", server_side: "dpdk1" },
            _ => Names { ip: "ip", client_side: "eth0", server_side: "eth1" },
        }
    }
}

/// The services of the families in use.
fn services(recipe: &Recipe, families: &[Family]) -> impl Iterator<Item = SocketAddr> {
    recipe.services.iter().copied().filter(|service| families.contains(&Family::from(service.ip())))
}

/// Addresses, routes and neighbours of one family.
fn links(args: &GenerateArgs, recipe: &Recipe, family: Family, names: &Names, lines: &mut Vec<String>) {
    let Names { ip, client_side, server_side } = names;
    let option = if family == Family::Ipv4 { "" } else { "-6 " };
    let (own, router, servers) = match family {
        Family::Ipv4 => ("192.0.2.1/24", "192.0.2.254", "10.0.0.1/24"),
        Family::Ipv6 => ("2001:db8:1::1/64", "2001:db8:1::fe", "fd00:10::1/64"),
    };
    lines.push(format!("{ip} addr add {own} dev {client_side}"));
    lines.push(format!("{ip} addr add {servers} dev {server_side}"));
    if args.on_link {
        for network in recipe.clients.iter().filter(|network| Family::from(network.address) == family) {
            lines.push(format!("{ip} {option}route add {}/{} dev {client_side}", network.address, network.prefix_len));
        }
    } else {
        lines.push(format!("{ip} {option}route add default via {router} dev {client_side}"));
        lines.push(format!("{ip} {option}neigh add {router} lladdr {} dev {client_side}", args.router_mac));
    }
    for number in 0..args.servers {
        let mut line = format!("{ip} {option}neigh add {} ", server_address(family, number));
        let last = if family == Family::Ipv4 { 0x0a } else { 0x06 };
        let _never_fails = write!(line, "lladdr 02:00:00:00:{last:02x}:{:02x} dev {server_side}", 11 + number);
        lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Plan;
    use super::*;

    #[test]
    fn the_script_names_every_service_and_server() {
        let mut args = GenerateArgs::new(Path::new("-"));
        args.protocol = "tcp,udp".parse().unwrap();
        args.family = "ipv4,ipv6".parse().unwrap();
        args.mode = Method::Nat;
        let plan = Plan::new(&args).unwrap();
        let script = script(&args, &plan.recipe);
        assert_eq!(script.matches("ipvsadm -A").count(), 4);
        assert_eq!(script.matches(" -m -w 1").count(), 16);
        for line in [
            "ipvsadm -a -u [2001:db8:200::1]:80 -r [fd00:10::14]:80 -m -w 1",
            "ip neigh add 10.0.0.14 lladdr 02:00:00:00:0a:0e dev eth1",
            "ip addr add 200.200.200.1/32 dev eth0",
        ] {
            assert!(script.lines().any(|found| found == line), "{line}\n{script}");
        }
    }

    #[test]
    fn fullnat_has_ports_for_every_flow() {
        // Where four servers and as many addresses take turns, only four pairs meet.
        let addresses = [1, 192_000, 192_001, 1_000_000, 10_000_000].map(|flows| local_addresses(flows, 4));
        assert_eq!(addresses, [1, 1, 3, 7, 43]);
    }

    #[test]
    fn the_script_describes_a_director() {
        let modes = [(Method::Dr, false), (Method::Nat, true), (Method::Fullnat, false), (Method::Tunnel, false)];
        for (mode, on_link) in modes {
            let folder = tempfile::tempdir().unwrap();
            let mut args = GenerateArgs::new(&folder.path().join("traffic.pcap"));
            args.protocol = "tcp,udp,sctp".parse().unwrap();
            args.family = "ipv4,ipv6".parse().unwrap();
            args.director = Some(folder.path().to_owned());
            (args.mode, args.on_link) = (mode, on_link);
            super::super::run(&args).unwrap();
            let description = crate::describe::load(folder.path()).unwrap();
            // That it is DPVS is seen by its commands.
            let fullnat = usize::from(mode == Method::Fullnat);
            assert_eq!((description.assumed.len(), description.warnings.len()), (fullnat, 0), "{description:?}");
            let config = description.config;
            let client_side = config.interface(Names::of(mode).client_side).unwrap();
            assert_eq!(config.interfaces[usize::from(client_side.0)].mac, args.director_mac);
            assert_eq!(config.commands.len(), 6 * (1 + 4 + fullnat), "{:?}", config.commands);
            assert_eq!(config.neighbours.len(), if on_link { 8 } else { 10 });
        }
    }
}
