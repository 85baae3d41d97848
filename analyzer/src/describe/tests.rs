//! The messages that people see, and descriptions as a whole.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn error(name: &str, text: &str) -> String {
    read_text(name, text).unwrap_err().to_string()
}

fn warnings(name: &str, text: &str) -> String {
    let description = read_text(name, text).unwrap();
    description.warnings.iter().map(|warning| format!("{warning}\n")).collect()
}

/// Each message of a list of wrong texts, one after the other.
fn messages(name: &str, texts: &[&str]) -> String {
    texts.iter().map(|text| error(name, text) + "\n").collect()
}

#[test]
fn messages_about_rules() {
    insta::assert_snapshot!(messages(
        "ipvsadm.rules",
        &[
            "-A -t 200.200.200.1:80 -s wlcc",
            "-A -t 200.200.200.1:80 -s conhash",
            "-A -t www.example.com:http -s rr",
            "-A -t 200.200.200.1 -s rr",
            "-A -t 200.200.200.1:80 -s rr -s wrr",
            "-A -t 200.200.200.1:80 -s rr -z 10.0.0.1",
            "-A -t 200.200.200.1:80 --shceduler rr",
            "-A -t 200.200.200.1:80 -M 255.255.255.0",
            "-A -t 200.200.200.1:80 -p 300 -M 255.0.255.0",
            "-A -t 200.200.200.1:80 -s rr -b sh-port",
            "-A -t 200.200.200.1:80 -o",
            "-t 200.200.200.1:80",
            "-A -t 200.200.200.1:80\n-a -t 200.200.200.1:80",
            "-A -t 200.200.200.1:80\n-a -t 200.200.200.1:81 -r 10.0.0.11",
            "-A -t 200.200.200.1:80\n-a -t 200.200.200.1:80 -r [2001:db8::1]:80 -g",
            "-A -t 200.200.200.1:80\n-a -t 200.200.200.1:80 -r 10.0.0.11 -i --tun-type gue",
            "-A -t 200.200.200.1:80\n-a -t 200.200.200.1:80 -r 10.0.0.11 -m -w -5",
            "-A -t 200.200.200.1:80\n-A -t 200.200.200.1:80",
            "-A -6 -f 1",
        ],
    ));
}

#[test]
fn messages_about_scripts() {
    insta::assert_snapshot!(messages(
        "setup.sh",
        &[
            "for i in 1 2 3; do ipvsadm -C; done",
            "ipvadm -C",
            "ip addr add 10.0.0.1/33 dev eth0",
            "ip addr add 10.0.0.1/24",
            "ip adr add 10.0.0.1/24 dev eth0",
            "ip route add 10.0.0.0/24",
            "ip route add default nexthop via 10.0.0.1",
            "ip neigh add 10.0.0.11 lladdr 02:00:00:00:0b dev eth0",
            "sysctl -w net.ipv4.vs.conn_reuse_mode = 1",
            "sysctl -w net.ipv4.vs.conn_reuse_mode=yes",
            "echo hello",
            "ping 10.0.0.1",
            "ip addr add 'unclosed",
            "ip addr add 10.0.0.1/24 dev eth0\nipvsadm -A -t 200.200.200.1:80\nipvsadm -a -t 200.200.200.1:80 -r 172.16.0.1 -g",
        ],
    ));
}

#[test]
fn messages_about_lvs_toml() {
    insta::assert_snapshot!(messages(
        "lvs.toml",
        &[
            "profil = \"linux\"",
            "profile = \"linux-5.1\"",
            "[[interface]]\nname = \"eth0\"\nmac = \"02:00\"",
            "[[at]]\nseconds = 0.36\nrun = \"ipvsadm -e -t 200.200.200.1:80 -r 10.0.0.12:80 -q -w 5\"",
            "[[at]]\nseconds = -1.0\nrun = \"ipvsadm -C\"",
            "[[service]]\ntcp = \"200.200.200.1:80\"\n[[service.server]]\naddress = \"10.0.0.11:8080\"",
            "[[service]]\ntcp = \"200.200.200.1:80\"\nmethod = \"fullnat\"\n[[service.server]]\naddress = \"10.0.0.11:8080\"",
            "[[service]]\ntcp = \"200.200.200.1:80\"\nscheduler = \"wr\"",
            "[dpvs]\nuoa_mode = \"ip\"",
            "[[vlan]]\nname = \"eth0.1\"\nparent = \"eth1\"\nid = 1",
            "[[mark]]\nmark = 1\nports = [70000]",
        ],
    ));
}

#[test]
fn messages_about_keepalived_conf() {
    insta::assert_snapshot!(messages(
        "keepalived.conf",
        &[
            "virtual_server 200.200.200.1 80 {\n  real_server 10.0.0.11 80 {\n}\n",
            "virtual_server 200.200.200.1 80 {\n}\n}\n",
            "virtual_server 200.200.200.1 80 {\n  lb_kind DIRECT\n}\n",
            "virtual_server group wbe {\n}\nvirtual_server_group web {\n}\n",
            "virtual_server 200.200.200.300 80 {\n}\n",
        ],
    ));
}

#[test]
fn warnings_say_what_is_done_instead() {
    insta::assert_snapshot!(warnings(
        "ipvsadm.rules",
        "-A -t 200.200.200.1:80\n-a -t 200.200.200.1:80 -r 10.0.0.11:8080 -g\n-a -t 200.200.200.1:80 -r 10.0.0.12:8080 -i\n-t 200.200.200.1:81 -A",
    ));
}

#[test]
fn a_script_of_dpvs_is_recognised() {
    let text = "dpip addr add 200.200.200.1/24 dev dpdk0\nipvsadm -A -t 200.200.200.1:80 -s wlc\n\
                ipvsadm -a -t 200.200.200.1:80 -r 10.0.0.11:8080 -b\nipvsadm --add-laddr -z 10.0.0.100 -t 200.200.200.1:80 -F dpdk0\n";
    let description = read_text("setup.sh", text).unwrap();
    assert_eq!(description.config.profile, Profile::DPVS_1_10);
    assert!(description.config.commands.iter().any(|command| matches!(
        command,
        Command::AddServer { settings, .. } if settings.method == ForwardingMethod::FullNat
    )));
}

#[test]
fn lvs_toml_describes_a_whole_director() {
    let text = r#"
        [[interface]]
        name = "eth0"
        mac = "02:00:00:00:01:00"
        mtu = 1500
        addresses = ["200.200.200.1/24", "10.0.0.1/24"]
        [[route]]
        destination = "default"
        gateway = "200.200.200.254"
        [[service]]
        tcp = "200.200.200.1:80"
        scheduler = "sh"
        flags = "sh-port"
        persistence = 60
        netmask = 24
        [[service.server]]
        address = "10.0.0.11:80"
        weight = 3
        mac = "02:00:00:00:02:0b"
        [[service.server]]
        address = "10.0.0.12"
        tunnel = { type = "gue", port = 6080, checksum = "csum" }
        [sysctl]
        "net.ipv4.vs.conn_reuse_mode" = 0
    "#;
    let config = read_text("lvs.toml", text).unwrap().config;
    assert_eq!(
        print_rules(&config),
        "-A -t 200.200.200.1:80 -s sh -p 60 -M 255.255.255.0 -b sh-port\n-a -t 200.200.200.1:80 -r 10.0.0.11:80 -g -w 3\n\
         -a -t 200.200.200.1:80 -r 10.0.0.12:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n"
    );
    assert_eq!((config.neighbours.len(), config.routes.len(), config.sysctls.vs.conn_reuse_mode), (1, 1, 0));
}

#[test]
fn changes_of_one_line_run_in_order() {
    let text = "[[interface]]\nname = \"eth0\"\nmac = \"02:00:00:00:01:00\"\nmtu = 1500\n[[at]]\nseconds = 2.04\nrun = \"ip link set eth0 down; ip link set eth0 up\"\n\
                [[at]]\nseconds = 2.05\nrun = \"echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify\"";
    let config = read_text("lvs.toml", text).unwrap().config;
    let kinds: Vec<String> = config.changes.iter().map(|change| format!("{} {:?}", change.after, change.command)).collect();
    assert_eq!(
        kinds,
        [
            "2.040000000 SetLink { interface: InterfaceId(0), up: false }",
            "2.040000000 SetLink { interface: InterfaceId(0), up: true }",
            "2.050000000 Sysctl { name: \"net.ipv4.conf.eth0.arp_notify\", value: \"1\" }",
        ]
    );
}

#[test]
fn marks_come_from_nft_and_iptables() {
    let text = "nft add table ip mangle\nnft add rule ip mangle prerouting ip daddr 200.200.200.1 tcp dport { 80, 443 } meta mark set 1\n\
                iptables -t mangle -A PREROUTING -d 200.200.200.1/32 -p udp --dport 53 -j MARK --set-mark 0x2\n";
    let marks = read_text("setup.sh", text).unwrap().config.marks;
    assert_eq!(marks.iter().map(|rule| (rule.mark, rule.ports.clone())).collect::<Vec<_>>(), [(1, vec![80, 443]), (2, vec![53])]);
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in "\\PC{0,200}|([a-z\\[\\]{}=\"#;:/.0-9 -]{0,20}\n){0,10}", name in prop::sample::select(vec!["setup.sh", "lvs.toml", "keepalived.conf", "rules"])) {
        let _ = read_text(name, &text);
    }

    #[test]
    fn no_command_makes_the_script_reader_panic(
        text in "((ip|dpip|sysctl|echo|nft|iptables|ping|arping|ipvsadm)( (addr|route|neigh|link|add|del|set|dev|via|eth0|10\\.0\\.0\\.1/24|lladdr|mtu|-w|-c|1|>|[-a-z0-9.:/=]{1,8})){0,8}(;|\n)){0,5}"
    ) {
        let _ = read_text("setup.sh", &text);
    }
}
