//! The table against a plain list, newest first, as each of the kernel's buckets is one.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::ForwardingMethod;
use proptest::prelude::*;
use std::net::Ipv6Addr;

/// The server of entries that are put in without client port.
const STRAYED_SERVER: u8 = 5;

/// A small world, so that keys meet.
#[derive(Clone, Debug)]
enum Step {
    Insert { client: u8, port: u16, vip: u8, server: u8, nat: bool, template: bool, open: bool },
    Remove(usize),
    Detach(usize),
    Attach(usize),
    FillPort(usize, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let insert = (0..2u8, 1..3u16, 0..2u8, 0..2u8, any::<bool>(), 0..8u8);
    prop_oneof![
        6 => insert.prop_map(|(client, port, vip, server, nat, kind)| Step::Insert {
            client, port, vip, server, nat, template: kind == 0, open: kind == 1,
        }),
        2 => (0..40usize).prop_map(Step::Remove),
        1 => (0..40usize).prop_map(Step::Detach),
        1 => (0..40usize).prop_map(Step::Attach),
        1 => (0..40usize, 1..3u16).prop_map(|(which, port)| Step::FillPort(which, port)),
    ]
}

fn address(net: u8, last: u8, wide: bool) -> IpAddr {
    if wide { Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, last.into()).into() } else { [10, net, 0, last].into() }
}

fn entry(key: &ClientKey, server: IpAddr, nat: bool, template: bool, open: bool) -> Connection {
    let mut connection = Connection::unbound(key, 0);
    connection.server_address = server;
    connection.server_port = 80;
    connection.method = if nat { ForwardingMethod::Nat } else { ForwardingMethod::Dr };
    connection.flags.template = template;
    connection.flags.no_client_port = open;
    connection
}

fn flow(client: IpAddr, port: u16, other: IpAddr) -> FlowKey {
    FlowKey { protocol: 6, source: client, destination: other, source_port: port, destination_port: 80 }
}

/// What the kernel's one list would give: the newest entry that fits.
fn newest(naive: &[(ConnectionId, bool)], table: &Table, fits: impl Fn(&Connection) -> bool) -> Option<ConnectionId> {
    let found = naive.iter().rev().find(|(id, detached)| !detached && table.get(*id).is_some_and(|c| fits(&c)));
    found.map(|(id, _)| *id)
}

proptest! {
    #[test]
    fn the_newest_fitting_entry_is_found(steps in prop::collection::vec(step(), 1..120), wide in any::<bool>()) {
        let mut table = Table::default();
        // In order of insertion, with whether it is detached.
        let mut naive: Vec<(ConnectionId, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Insert { client, port, vip, server, nat, template, open } => {
                    let port = if template || open { 0 } else { port };
                    let key = ClientKey {
                        protocol: 6,
                        client: address(1, client, wide),
                        client_port: port,
                        other: address(2, vip, wide),
                        other_port: 80,
                    };
                    // Servers of their own: a strayed entry and one at home are not told apart by age.
                    let server = if open { STRAYED_SERVER } else { server };
                    let connection = entry(&key, address(3, server, wide), nat, template, open && !template);
                    naive.push((table.insert(&connection), false));
                }
                Step::Remove(which) if which < naive.len() => {
                    prop_assert!(table.remove(naive.remove(which).0).is_some());
                }
                Step::Detach(which) if which < naive.len() => {
                    prop_assert_eq!(table.detach(naive[which].0).is_some(), !naive[which].1);
                    naive[which].1 = true;
                }
                Step::Attach(which) if which < naive.len() => {
                    table.attach(naive[which].0);
                    naive[which].1 = false;
                }
                Step::FillPort(which, port) if which < naive.len() => {
                    let (id, detached) = naive[which];
                    let connection = table.get(id).unwrap();
                    let taken = newest(&naive, &table, |c| {
                        (c.client, c.client_port, c.virtual_address) == (connection.client, port, connection.virtual_address)
                    });
                    // The packet side fills a port only for a packet that found no other entry.
                    if connection.flags.no_client_port && !detached && !connection.flags.hidden && taken.is_none() {
                        table.rekey(id, |connection| {
                            connection.client_port = port;
                            connection.flags.no_client_port = false;
                        });
                        let filled = naive.remove(which);
                        naive.push(filled);
                    }
                }
                _ => {}
            }
            for client in 0..2 {
                for port in 0..3 {
                    for last in [0, 1, STRAYED_SERVER] {
                        let client = address(1, client, wide);
                        let vip = address(2, last, wide);
                        let is_its = |c: &Connection| (c.client, c.client_port, c.virtual_address) == (client, port, vip);
                        let exact = newest(&naive, &table, |c| {
                            is_its(c) && !c.flags.template && c.flags.no_client_port == (port == 0)
                        });
                        let open = newest(&naive, &table, |c| {
                            c.flags.no_client_port && (c.client, c.virtual_address) == (client, vip)
                        });
                        prop_assert_eq!(table.lookup_in(&flow(client, port, vip)), exact.or(open));
                        let server = address(3, last, wide);
                        let out = newest(&naive, &table, |c| {
                            c.is_nat() && !c.flags.template
                                && (c.client, c.client_port, c.server_address) == (client, port, server)
                        });
                        if port != 0 {
                            prop_assert_eq!(table.lookup_out(&flow(client, port, server).reversed()), out);
                        } else {
                            let template = newest(&naive, &table, |c| is_its(c) && c.flags.template);
                            prop_assert_eq!(table.lookup_template(Protocol::TCP, client, vip, 80), template);
                        }
                    }
                }
            }
        }
        while let Some((id, _)) = naive.pop() {
            table.remove(id);
        }
        prop_assert!(table.is_empty() && table.is_plain());
    }
}

#[test]
fn an_old_id_names_nothing_new() {
    let mut table = Table::default();
    let key =
        ClientKey { protocol: 6, client: address(1, 1, false), client_port: 1, other: address(2, 1, false), other_port: 80 };
    let old = table.insert(&entry(&key, address(3, 1, false), true, false, false));
    table.remove(old);
    let new = table.insert(&entry(&key, address(3, 1, false), true, false, false));
    assert_ne!(old, new);
    assert!(table.get(old).is_none() && table.get(new).is_some());
}

#[test]
fn an_entry_is_compact() {
    assert!(size_of::<Connection>() <= 128, "{}", size_of::<Connection>());
}

#[test]
fn an_entry_that_was_detached_is_shown_again_when_all_newer_ones_are_gone() {
    let mut table = Table::default();
    let key =
        ClientKey { protocol: 6, client: address(1, 0, false), client_port: 1, other: address(2, 0, false), other_port: 80 };
    let connection = entry(&key, address(3, 0, false), false, false, false);
    let oldest = table.insert(&connection);
    table.detach(oldest);
    let [second, third] = [(); 2].map(|()| table.insert(&connection));
    table.attach(oldest);
    let flow = flow(key.client, 1, key.other);
    assert_eq!(table.lookup_in(&flow), Some(third));
    table.remove(third);
    assert_eq!(table.lookup_in(&flow), Some(second));
    table.remove(second);
    assert_eq!(table.lookup_in(&flow), Some(oldest));
}
