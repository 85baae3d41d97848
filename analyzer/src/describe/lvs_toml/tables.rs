//! The tables of lvs.toml as they are written.

use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// A string, with where it stands.
pub(super) type Text = Spanned<String>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tables {
    pub(super) profile: Option<Text>,
    pub(super) receive_offload: Option<bool>,
    pub(super) interface: Vec<InterfaceTable>,
    pub(super) vlan: Vec<VlanTable>,
    pub(super) route: Vec<RouteTable>,
    pub(super) neighbour: Vec<NeighbourTable>,
    pub(super) mark: Vec<MarkTable>,
    pub(super) local: Vec<LocalTable>,
    pub(super) service: Vec<ServiceTable>,
    pub(super) at: Vec<AtTable>,
    pub(super) sysctl: BTreeMap<String, Spanned<toml::Value>>,
    pub(super) timeouts: Option<TimeoutTable>,
    pub(super) dpvs: Option<DpvsTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InterfaceTable {
    pub(super) name: String,
    pub(super) mac: Option<Text>,
    pub(super) mtu: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) addresses: Vec<Text>,
    pub(super) up: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VlanTable {
    pub(super) name: String,
    pub(super) parent: Text,
    pub(super) id: Spanned<u32>,
    pub(super) protocol: Option<Text>,
    pub(super) mac: Option<Text>,
    pub(super) mtu: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    pub(super) destination: Text,
    pub(super) gateway: Option<Text>,
    pub(super) interface: Option<Text>,
    pub(super) source: Option<Text>,
    pub(super) mtu: Option<u32>,
    #[serde(default)]
    pub(super) metric: u32,
    pub(super) kind: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NeighbourTable {
    pub(super) address: Text,
    pub(super) mac: Text,
    pub(super) interface: Option<Text>,
    #[serde(default = "yes")]
    pub(super) permanent: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkTable {
    pub(super) mark: Spanned<u32>,
    pub(super) destination: Option<Text>,
    pub(super) protocol: Option<Text>,
    #[serde(default)]
    pub(super) ports: Vec<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalTable {
    pub(super) network: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AtTable {
    pub(super) seconds: Spanned<f64>,
    pub(super) run: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceTable {
    pub(super) tcp: Option<Text>,
    pub(super) udp: Option<Text>,
    pub(super) sctp: Option<Text>,
    pub(super) mark: Option<Spanned<u32>>,
    pub(super) family: Option<Text>,
    pub(super) scheduler: Option<Text>,
    pub(super) persistence: Option<Spanned<toml::Value>>,
    pub(super) netmask: Option<Spanned<toml::Value>>,
    pub(super) flags: Option<Text>,
    #[serde(default)]
    pub(super) one_packet: bool,
    pub(super) persistence_engine: Option<Text>,
    pub(super) method: Option<Text>,
    #[serde(default)]
    pub(super) local_addresses: Vec<Text>,
    #[serde(default)]
    pub(super) syn_proxy: bool,
    pub(super) connection_timeout: Option<u32>,
    pub(super) proxy_protocol: Option<Text>,
    #[serde(default)]
    pub(super) expire_quiescent: bool,
    pub(super) hash_target: Option<Text>,
    #[serde(default)]
    pub(super) server: Vec<ServerTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerTable {
    pub(super) address: Text,
    pub(super) weight: Option<Spanned<u32>>,
    pub(super) method: Option<Text>,
    pub(super) mac: Option<Text>,
    #[serde(default)]
    pub(super) upper_threshold: u32,
    #[serde(default)]
    pub(super) lower_threshold: u32,
    pub(super) tunnel: Option<TunnelTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelTable {
    #[serde(rename = "type")]
    pub(super) kind: Text,
    pub(super) port: Option<u16>,
    pub(super) checksum: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimeoutTable {
    pub(super) tcp: Option<u32>,
    pub(super) tcp_fin: Option<u32>,
    pub(super) udp: Option<u32>,
}

/// dpvs.conf's names; a group's name may stand before a name that is not unique there (`udp_oneway`).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DpvsTable {
    pub(super) uoa_mode: Option<Text>,
    pub(super) uoa_max_trail: Option<u8>,
    pub(super) fast_xmit_close: Option<bool>,
    pub(super) xmit_ttl: Option<bool>,
    pub(super) defence_tcp_drop: Option<bool>,
    pub(super) defence_udp_drop: Option<bool>,
    pub(super) pool_hash_size: Option<u16>,
    pub(super) forwarding: Option<bool>,
    pub(super) unres_queue_length: Option<u16>,
    #[serde(alias = "conn_init_timeout")]
    pub(super) conn_init: Option<u32>,
    pub(super) none: Option<u32>,
    pub(super) established: Option<u32>,
    pub(super) syn_sent: Option<u32>,
    pub(super) syn_recv: Option<u32>,
    pub(super) fin_wait: Option<u32>,
    pub(super) time_wait: Option<u32>,
    pub(super) close: Option<u32>,
    pub(super) close_wait: Option<u32>,
    pub(super) last_ack: Option<u32>,
    pub(super) listen: Option<u32>,
    pub(super) synack: Option<u32>,
    pub(super) last: Option<u32>,
    #[serde(alias = "oneway")]
    pub(super) udp_oneway: Option<u32>,
    #[serde(alias = "normal")]
    pub(super) udp_normal: Option<u32>,
    pub(super) neighbour_timeout: Option<u32>,
    pub(super) synproxy: Option<SynProxyTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SynProxyTable {
    pub(super) mss: Option<u16>,
    pub(super) ttl: Option<u8>,
    pub(super) sack: Option<bool>,
    pub(super) wscale: Option<u8>,
    pub(super) timestamp: Option<bool>,
    pub(super) close_client_window: Option<bool>,
    pub(super) defer_rs_syn: Option<bool>,
    pub(super) rs_syn_max_retry: Option<u8>,
    pub(super) ack_storm_thresh: Option<u8>,
    pub(super) max_ack_saved: Option<u8>,
}
