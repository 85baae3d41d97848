//! What a described director can't do (design section 5): found before any frame is replayed, at the line that says it.

use super::builder::Builder;
use super::problem::{Place, Problem};
use lvscheck_engine::config::{Command, ForwardingMethod, Network, RouteKind, ServerKey, ServiceKey};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Checks the set-up commands.
///
/// # Errors
/// A service or real server that is added twice, a real server of an unknown service, a real server under direct routing
/// that is on no link of the director.
pub fn check(builder: &mut Builder) -> Result<(), Problem> {
    let mut services: HashMap<ServiceKey, HashSet<ServerKey>> = HashMap::new();
    let mut with_local: HashSet<ServiceKey> = HashSet::new();
    let mut full_nat: Vec<(ServiceKey, Option<Place>)> = Vec::new();
    let at = |problem: Problem, place: Option<&Option<Place>>| match place.cloned().flatten() {
        Some(place) => problem.at(place),
        None => problem,
    };
    for (index, command) in builder.config.commands.iter().enumerate() {
        let place = builder.places.get(index);
        let unknown = |service: &ServiceKey| {
            at(Problem::new(format!("no service {service} is defined before this line")), place).help("add it first with -A")
        };
        match command {
            Command::AddService { service, .. } if services.insert(service.clone(), HashSet::new()).is_some() => {
                return Err(
                    at(Problem::new(format!("the service {service} is added a second time")), place).help("use -E to change it")
                );
            }
            Command::DeleteService { service } => {
                services.remove(service);
            }
            Command::Clear => services.clear(),
            Command::AddServer { service, server, settings } => {
                let Some(servers) = services.get_mut(service) else { return Err(unknown(service)) };
                if !servers.insert(*server) {
                    let message = format!("the real server {server} of {service} is added a second time");
                    return Err(at(Problem::new(message), place).help("use -e to change it"));
                }
                if settings.method == ForwardingMethod::Dr
                    && let Some(problem) = off_link(builder, server.address)
                {
                    return Err(at(problem, place));
                }
                if settings.method == ForwardingMethod::FullNat {
                    full_nat.push((service.clone(), place.cloned().flatten()));
                }
            }
            Command::EditServer { service, server, .. } => match services.get(service) {
                None => return Err(unknown(service)),
                Some(servers) if !servers.contains(server) => {
                    let message = format!("{service} has no real server {server}");
                    return Err(at(Problem::new(message), place).help("add it first with -a"));
                }
                Some(_) => {}
            },
            Command::DeleteServer { service, server } => {
                if let Some(servers) = services.get_mut(service) {
                    servers.remove(server);
                }
            }
            Command::AddLocalAddress { service, .. } => {
                with_local.insert(service.clone());
            }
            _ => {}
        }
    }
    let mut told = HashSet::new();
    for (service, place) in full_nat {
        if !with_local.contains(&service) && told.insert(service.clone()) {
            let problem = Problem::new(format!(
                "{service} has a real server under FULLNAT and no local address: no connection can be made"
            ));
            let problem = problem.help("add one: ipvsadm --add-laddr -z LIP -t VIP:PORT -F INTERFACE");
            builder.warnings.push(match place {
                Some(place) => problem.at(place),
                None => problem,
            });
        }
    }
    Ok(())
}

/// Direct routing sends to the real server's MAC, so the real server must be on a link; the director itself counts.
fn off_link(builder: &Builder, address: IpAddr) -> Option<Problem> {
    let config = &builder.config;
    let described = config.interfaces.iter().any(|interface| !interface.loopback && !interface.addresses.is_empty());
    if !described {
        return None;
    }
    let by_address = config.interfaces.iter().flat_map(|interface| &interface.addresses);
    let by_address =
        by_address.map(|known| Network::new(known.address, known.prefix_len)).any(|network| network.contains(address));
    let by_route = config.routes.iter().any(|route| {
        route.kind == RouteKind::Unicast
            && route.gateway.is_none()
            && route.interface.is_some()
            && route.destination.contains(address)
    });
    let local = config.local_networks.iter().any(|local| local.network.contains(address));
    let neighbour = config.neighbours.iter().any(|neighbour| neighbour.address == address);
    if by_address || by_route || local || neighbour {
        return None;
    }
    Some(
        Problem::new(format!(
            "the real server {address} is on no link of the director, and direct routing (-g) changes MAC addresses only"
        ))
        .help("put it into a network of one of the director's interfaces, or use a tunnel (-i), -m or FULLNAT"),
    )
}
