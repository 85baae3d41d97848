//! keepalived.conf: virtual servers and their real servers (reference/linux-ipvs.md section 11.7). Checks are not run: every
//! real server is taken as alive. What is not about LVS is skipped; unknown keys of a virtual server are warned about.

mod syntax;
mod virtual_server;

use super::builder::Builder;
use super::iproute::default_scope;
use super::problem::Problem;
use super::words::parse_prefix;
use lvscheck_engine::config::Address;
use std::collections::HashMap;
use syntax::{Node, parse};
use virtual_server::virtual_server;

/// Whether a text looks like keepalived.conf.
pub fn is_keepalived(text: &str) -> bool {
    const BLOCKS: &[&str] = &["virtual_server", "virtual_server_group", "global_defs", "vrrp_instance", "local_address_group"];
    text.lines().filter_map(|line| line.split_whitespace().next()).any(|word| BLOCKS.contains(&word))
}

/// Reads a keepalived.conf.
///
/// # Errors
/// Braces that don't match, and values that keepalived would refuse.
pub fn read(builder: &mut Builder, file: &str, text: &str) -> Result<(), Problem> {
    let nodes = parse(builder, file, text)?;
    let mut groups: HashMap<&str, &Node<'_>> = HashMap::new();
    let mut local_groups: HashMap<&str, &Node<'_>> = HashMap::new();
    for node in &nodes {
        if let Some(name) = node.value() {
            match node.key() {
                "virtual_server_group" => drop(groups.insert(&name.text, node)),
                "local_address_group" => drop(local_groups.insert(&name.text, node)),
                _ => {}
            }
        }
    }
    let mut any = false;
    for node in &nodes {
        match node.key() {
            "virtual_server" => {
                any = true;
                virtual_server(builder, node, &groups, &local_groups)?;
            }
            "vrrp_instance" => vrrp(builder, node),
            "include" => {
                builder.warnings.push(node.problem("included files are not read").help("put their text in place of this line"));
            }
            _ => {}
        }
    }
    if any {
        builder.assumed.push("every real server passes keepalived's checks".to_owned());
    }
    Ok(())
}

/// The virtual addresses of a VRRP instance, where its interface is described.
fn vrrp(builder: &mut Builder, node: &Node<'_>) {
    let default = node.children().iter().find(|child| child.key() == "interface").and_then(Node::value);
    let lists = node.children().iter().filter(|child| matches!(child.key(), "virtual_ipaddress" | "virtual_ipaddress_excluded"));
    for entry in lists.flat_map(Node::children) {
        let Ok((address, prefix_len)) = parse_prefix(entry.key()) else { continue };
        let dev = entry.words.iter().position(|word| word.text == "dev").and_then(|at| entry.words.get(at + 1)).or(default);
        if let Some(id) = dev.and_then(|name| builder.config.interface(&name.text)) {
            let scope = default_scope(address);
            builder.add_address(id, Address { address, prefix_len, scope, secondary: false, sapool: false });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::describe::print::print_rules;

    fn rules(text: &str) -> (String, Builder) {
        let mut builder = Builder::default();
        read(&mut builder, "keepalived.conf", text).unwrap();
        (print_rules(&builder.config), builder)
    }

    #[test]
    fn defaults_are_keepaliveds() {
        let (rules, builder) = rules(
            "! comment\nglobal_defs { router_id x }\nvrrp_instance V { interface eth0\n virtual_ipaddress { 1.2.3.4 } }\n\
             virtual_server 200.200.200.1 80\n{\n  delay_loop 6\n  persistence_timeout\n  real_server 10.0.0.11 8080 {\n TCP_CHECK {\n connect_timeout 3\n }\n }\n\
             real_server 10.0.0.12 8080 { weight 3 }\n}\n",
        );
        assert_eq!(
            rules,
            "-A -t 200.200.200.1:80 -s wlc -p 360\n-a -t 200.200.200.1:80 -r 10.0.0.11:8080 -m -w 1\n\
             -a -t 200.200.200.1:80 -r 10.0.0.12:8080 -m -w 3\n"
        );
        assert!(builder.warnings.is_empty(), "{:?}", builder.warnings);
    }

    #[test]
    fn groups_ranges_and_parameters() {
        let (rules, _) = rules(
            "$PORT=443\nvirtual_server_group web { 200.200.200.1-2 $PORT\n fwmark 7 inet6 }\n\
             virtual_server group web { lvs_sched rr\n lvs_method TUN type gue port 6080 csum\n real_server 2001:db8::11 ${PORT} { } }\n",
        );
        assert_eq!(
            rules,
            "-A -t 200.200.200.1:443 -s rr\n-a -t 200.200.200.1:443 -r [2001:db8::11]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n\
             -A -t 200.200.200.2:443 -s rr\n-a -t 200.200.200.2:443 -r [2001:db8::11]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n\
             -A -f 7 -6 -s rr\n-a -f 7 -6 -r [2001:db8::11]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n"
        );
    }

    #[test]
    fn unknown_keys_are_warned_about() {
        let (_, builder) = rules("virtual_server 1.2.3.4 80 { lb_alog rr }");
        let warning = builder.warnings.first().unwrap();
        assert_eq!(warning.help.as_deref(), Some("did you mean `lb_algo`?"));
    }
}
