//! Frames of strangers: no sequence of frames makes a director panic, and every frame that it emits has an Ethernet header.
//! The first byte chooses the director, the rest is frames: a length byte, a time step, the bytes.
#![no_main]

use lvscheck_engine::config::InterfaceId;
use lvscheck_engine::{Arrival, Director, DirectorConfig, Draws, Nanos, Output};
use std::sync::OnceLock;

const NODE: &str = r#"
[[interface]]
name = "eth0"
mac = "02:00:00:00:01:00"
mtu = 1500
addresses = ["200.200.200.1/24", "2001:db8:200::1/64"]
[[interface]]
name = "eth1"
mac = "02:00:00:00:01:01"
mtu = 1400
addresses = ["10.0.0.1/24", "2001:db8:10::1/64"]
"#;

fn rules(method: &str) -> String {
    format!(
        "-A -t 200.200.200.1:80 -s wrr\n-a -t 200.200.200.1:80 -r 10.0.0.11:80 {method} -w 2\n\
         -a -t 200.200.200.1:80 -r 10.0.0.12:80 {method}\n-A -u 200.200.200.1:53 -s rr -p 50\n\
         -a -u 200.200.200.1:53 -r 10.0.0.11:53 {method}\n-A -t [2001:db8:200::1]:80 -s wlc\n\
         -a -t [2001:db8:200::1]:80 -r [2001:db8:10::11]:80 {method}\n"
    )
}

fn directors() -> &'static Vec<DirectorConfig> {
    static DIRECTORS: OnceLock<Vec<DirectorConfig>> = OnceLock::new();
    DIRECTORS.get_or_init(|| {
        let methods = ["-g", "-m", "-i", "-i --tun-type gue --tun-port 6080 --tun-csum", "-i --tun-type gre"];
        let linux = methods.iter().map(|method| {
            let files = [("lvs.toml", NODE), ("ipvsadm.rules", &rules(method))];
            lvscheck::describe::read_snapshot(&files).map(|description| description.config)
        });
        let dpvs = format!("profile = \"dpvs-1.10\"\n{NODE}");
        let setup = "ipvsadm -A -t 200.200.200.1:80 -s wlc\nipvsadm -a -t 200.200.200.1:80 -r 10.0.0.11:80 -b\n\
                     ipvsadm --add-laddr -z 10.0.0.100 -t 200.200.200.1:80 -F eth1\n\
                     ipvsadm -A -u 200.200.200.1:53 -s rr\nipvsadm -a -u 200.200.200.1:53 -r 10.0.0.11:53 -b\n\
                     ipvsadm --add-laddr -z 10.0.0.100 -u 200.200.200.1:53 -F eth1\n";
        let files = [("lvs.toml", dpvs.as_str()), ("setup.sh", setup)];
        let dpvs = std::iter::once(lvscheck::describe::read_snapshot(&files).map(|description| description.config));
        linux.chain(dpvs).collect::<Result<_, _>>().expect("the target's own directors can be read")
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let directors = directors();
    let Ok(mut director) = Director::new(&directors[usize::from(*choice) % directors.len()], Draws::default()) else { return };
    let mut out = Output::default();
    let mut time = Nanos(1_700_000_000_000_000_000);
    while let [len, step, after @ ..] = rest {
        let (frame, next) = after.split_at(usize::from(*len).min(after.len()));
        rest = next;
        time = time + Nanos(u64::from(*step).pow(3) * 100_000);
        let arrival = Arrival { time, interface: InterfaceId(u16::from(step & 1)), frame, wire_len: frame.len() as u32 };
        director.receive(arrival, &mut out);
        assert!(out.frames().all(|frame| frame.bytes.len() >= 14));
        out.clear();
    }
    director.advance(time + Nanos::from_secs(1000), &mut out);
    let _ = (director.services(), director.connections(time));
});
