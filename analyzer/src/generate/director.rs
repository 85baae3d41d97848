//! The description of a director that serves generated traffic: a setup script, the commands as a person types them.

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
    Tunnel,
}

/// The real server of that number, from 0, on the director's second link.
fn server_address(family: Family, number: u16) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 11)) + u32::from(number)).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x11 + number).into(),
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
    let mut lines =
        vec!["# A director for traffic of `lvscheck generate`: eth0 towards the clients, eth1 towards the servers".to_owned()];
    let families: Vec<Family> =
        [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| args.family.values().any(|name| name.0 == *family)).collect();
    for (name, mac) in [("eth0", args.director_mac), ("eth1", MacAddr([2, 0, 0, 0, 2, 0]))] {
        lines.push(format!("ip link set {name} address {mac} mtu 1500 up"));
    }
    lines.push("sysctl -w net.ipv4.ip_forward=1".to_owned());
    if families.contains(&Family::Ipv6) {
        lines.push("sysctl -w net.ipv6.conf.all.forwarding=1".to_owned());
    }
    for family in &families {
        links(args, recipe, *family, &mut lines);
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for service in services(recipe, &families) {
        if !addresses.contains(&service.ip()) {
            addresses.push(service.ip());
            lines.push(format!("ip addr add {}/{} dev eth0", service.ip(), if service.is_ipv4() { 32 } else { 128 }));
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
            for number in 0..args.servers {
                let server = SocketAddr::new(server_address(Family::from(service.ip()), number), service.port());
                let method = match args.mode {
                    Method::Dr => "-g",
                    Method::Nat => "-m",
                    Method::Tunnel => "-i",
                };
                lines.push(format!("ipvsadm -a {option} {service} -r {server} {method} -w 1"));
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The services of the families in use.
fn services(recipe: &Recipe, families: &[Family]) -> impl Iterator<Item = SocketAddr> {
    recipe.services.iter().copied().filter(|service| families.contains(&Family::from(service.ip())))
}

/// Addresses, routes and neighbours of one family.
fn links(args: &GenerateArgs, recipe: &Recipe, family: Family, lines: &mut Vec<String>) {
    let option = if family == Family::Ipv4 { "" } else { "-6 " };
    let (own, router, server_side) = match family {
        Family::Ipv4 => ("192.0.2.1/24", "192.0.2.254", "10.0.0.1/24"),
        Family::Ipv6 => ("2001:db8:1::1/64", "2001:db8:1::fe", "fd00:10::1/64"),
    };
    lines.push(format!("ip addr add {own} dev eth0"));
    lines.push(format!("ip addr add {server_side} dev eth1"));
    if args.on_link {
        for network in recipe.clients.iter().filter(|network| Family::from(network.address) == family) {
            lines.push(format!("ip {option}route add {}/{} dev eth0", network.address, network.prefix_len));
        }
    } else {
        lines.push(format!("ip {option}route add default via {router} dev eth0"));
        lines.push(format!("ip {option}neigh add {router} lladdr {} dev eth0", args.router_mac));
    }
    for number in 0..args.servers {
        let mut line = format!("ip {option}neigh add {} ", server_address(family, number));
        let last = if family == Family::Ipv4 { 0x0a } else { 0x06 };
        let _never_fails = write!(line, "lladdr 02:00:00:00:{last:02x}:{:02x} dev eth1", 11 + number);
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
    fn the_script_describes_a_director() {
        for (mode, on_link) in [(Method::Dr, false), (Method::Nat, true), (Method::Tunnel, false)] {
            let folder = tempfile::tempdir().unwrap();
            let mut args = GenerateArgs::new(&folder.path().join("traffic.pcap"));
            args.protocol = "tcp,udp,sctp".parse().unwrap();
            args.family = "ipv4,ipv6".parse().unwrap();
            args.director = Some(folder.path().to_owned());
            (args.mode, args.on_link) = (mode, on_link);
            super::super::run(&args).unwrap();
            let description = crate::describe::load(folder.path()).unwrap();
            assert_eq!((description.assumed.len(), description.warnings.len()), (0, 0), "{description:?}");
            let config = description.config;
            let eth0 = config.interface("eth0").unwrap();
            assert_eq!(config.interfaces[usize::from(eth0.0)].mac, args.director_mac);
            assert_eq!(config.commands.len(), 6 * (1 + 4), "{:?}", config.commands);
            assert_eq!(config.neighbours.len(), if on_link { 8 } else { 10 });
        }
    }
}
