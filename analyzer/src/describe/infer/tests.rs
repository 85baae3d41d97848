//! Directors inferred from small captures.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::describe::{arguments, print_rules, read_text};
use lvscheck_engine::config::InterfaceId;
use lvscheck_engine::packet::ethernet::ether_type;
use lvscheck_engine::packet::ethernet::{self, Tag};
use std::net::Ipv4Addr;

const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);

/// A TCP segment of `len` bytes of payload between two IPv4 endpoints.
fn segment(macs: (MacAddr, MacAddr), tags: &[Tag], ends: [(&str, u16); 2], flags: u8, len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet::write(&mut frame, macs.1, macs.0, tags, ether_type::IPV4);
    let total = (40 + len) as u16;
    let [source, destination] = ends.map(|(address, _)| address.parse::<Ipv4Addr>().unwrap().octets());
    frame.extend_from_slice(&[0x45, 0, total.to_be_bytes()[0], total.to_be_bytes()[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&destination);
    frame.extend_from_slice(&ends[0].1.to_be_bytes());
    frame.extend_from_slice(&ends[1].1.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    frame.resize(frame.len() + len, 0);
    frame
}

fn infer(options: InferOptions, frames: &[Vec<u8>]) -> Result<Description, DescribeError> {
    let mut inference = Inference::new(options);
    for frame in frames {
        inference.observe(frame, frame.len() as u32);
    }
    inference.finish()
}

fn request(client: &str, port: u16, flags: u8) -> Vec<u8> {
    segment((CLIENT, DIRECTOR), &[], [(client, port), ("200.200.200.1", 80)], flags, 0)
}

#[test]
fn syns_make_services_and_their_mac_the_director() {
    let frames = [request("1.2.3.4", 1000, 2), request("1.2.3.4", 1001, 2), request("1.2.3.4", 1000, 16)];
    let description = infer(InferOptions::default(), &frames).unwrap();
    assert_eq!(
        print_rules(&description.config),
        "-A -t 200.200.200.1:80 -s wlc\n-a -t 200.200.200.1:80 -r 198.51.100.11:80 -g -w 1\n\
         -a -t 200.200.200.1:80 -r 198.51.100.12:80 -g -w 1\n-a -t 200.200.200.1:80 -r 198.51.100.13:80 -g -w 1\n"
    );
    assert_eq!(description.config.interfaces[0].mac, DIRECTOR);
    let client = description.config.neighbours.iter().find(|entry| entry.address.to_string() == "1.2.3.4").unwrap();
    assert_eq!((client.mac, client.interface), (CLIENT, InterfaceId(0)));
    insta::assert_snapshot!(description.assumed.join("\n"));
}

#[test]
fn several_clients_behind_one_mac_are_behind_a_router() {
    let description = infer(InferOptions::default(), &[request("1.2.3.4", 1000, 2), request("1.2.3.5", 1000, 2)]).unwrap();
    let default = description.config.routes.iter().find(|route| route.destination.prefix_len == 0).unwrap();
    let gateway = default.gateway.unwrap();
    assert_eq!(description.config.neighbours.iter().find(|entry| entry.address == gateway).unwrap().mac, CLIENT);
}

#[test]
fn without_a_start_the_lower_port_is_the_server() {
    let reply = segment((DIRECTOR, CLIENT), &[], [("200.200.200.1", 80), ("1.2.3.4", 1000)], 16, 100);
    let description = infer(InferOptions::default(), &[reply]).unwrap();
    assert!(print_rules(&description.config).starts_with("-A -t 200.200.200.1:80 "));
    assert_eq!(description.config.interfaces[0].mac, DIRECTOR);
}

#[test]
fn tags_make_vlan_interfaces() {
    let tags = [Tag { protocol: 0x88a8, control: 10 }, Tag { protocol: 0x8100, control: 100 }];
    let frame = segment((CLIENT, DIRECTOR), &tags, [("1.2.3.4", 1000), ("200.200.200.1", 80)], 2, 0);
    let config = infer(InferOptions::default(), &[frame]).unwrap().config;
    let names: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(names, ["eth0", "eth0.10", "eth0.10.100", "eth1"]);
    assert_eq!(config.interfaces[2].vlan.unwrap().parent, InterfaceId(1));
    assert!(config.interfaces[0].addresses.is_empty() && config.interfaces[2].addresses.len() == 1);
}

#[test]
fn superframes_are_taken_as_received() {
    let frames =
        [request("1.2.3.4", 1000, 2), segment((CLIENT, DIRECTOR), &[], [("1.2.3.4", 1000), ("200.200.200.1", 80)], 16, 9000)];
    let config = infer(InferOptions::default(), &frames).unwrap().config;
    assert!(config.receive_offload);
    assert_eq!(config.interfaces[0].mtu, 1500);
}

#[test]
fn what_the_director_forwards_is_no_request() {
    let server = MacAddr([2, 0, 0, 0, 2, 0x0b]);
    let forwarded = segment((DIRECTOR, server), &[], [("1.2.3.4", 1000), ("200.200.200.1", 80)], 2, 0);
    let description = infer(InferOptions::default(), &[request("1.2.3.4", 1000, 2), forwarded]).unwrap();
    assert!(description.assumed[0].ends_with("destination of 1 SYN"), "{:?}", description.assumed);
    assert_eq!(description.config.interfaces[0].mac, DIRECTOR);
}

#[test]
fn told_services_and_servers_are_taken() {
    let options = InferOptions {
        services: vec![arguments::parse_vip("200.200.200.1:80").unwrap()],
        servers: vec![arguments::parse_server("10.0.0.11:8080,weight=3,mac=02:00:00:00:00:0b").unwrap()],
        method: Some(ForwardingMethod::Nat),
        ..InferOptions::default()
    };
    let description = infer(options.clone(), &[request("1.2.3.4", 1000, 16)]).unwrap();
    assert_eq!(
        print_rules(&description.config),
        "-A -t 200.200.200.1:80 -s wlc\n-a -t 200.200.200.1:80 -r 10.0.0.11:8080 -m -w 3\n"
    );
    assert!(description.config.neighbours.iter().any(|entry| entry.mac == MacAddr([2, 0, 0, 0, 0, 0x0b])));
    let dr = InferOptions { method: Some(ForwardingMethod::Dr), ..options.clone() };
    insta::assert_snapshot!(infer(dr, &[request("1.2.3.4", 1000, 2)]).unwrap_err().to_string());
    let full = InferOptions { method: Some(ForwardingMethod::FullNat), ..options };
    insta::assert_snapshot!(infer(full, &[request("1.2.3.4", 1000, 2)]).unwrap_err().to_string());
}

#[test]
fn rules_without_links_get_links() {
    let base =
        read_text("ipvsadm.rules", "-A -t 200.200.200.1:80 -s rr\n-a -t 200.200.200.1:80 -r 200.200.200.11:80 -g -w 1").unwrap();
    let description = infer(InferOptions { base, ..InferOptions::default() }, &[request("1.2.3.4", 1000, 2)]).unwrap();
    let server = description.config.neighbours.iter().find(|entry| entry.address.to_string() == "200.200.200.11").unwrap();
    // In the virtual address's network: the same link.
    assert_eq!(server.interface, InterfaceId(0));
}

#[test]
fn nothing_to_serve_is_an_error() {
    insta::assert_snapshot!(infer(InferOptions::default(), &[vec![0; 60]]).unwrap_err().to_string());
}

proptest::proptest! {
    #[test]
    fn no_frames_make_it_panic(frames in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80), 0..20)) {
        let _ = infer(InferOptions::default(), &frames);
    }
}
