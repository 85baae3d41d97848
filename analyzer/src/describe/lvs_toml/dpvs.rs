//! `[dpvs]`: what dpvs.conf says.

use super::LvsToml;
use super::tables::DpvsTable;
use crate::describe::builder::Builder;
use crate::describe::problem::Problem;
use lvscheck_engine::config::UoaMode;

impl LvsToml<'_> {
    pub(super) fn dpvs(&self, builder: &mut Builder, table: &DpvsTable) -> Result<(), Problem> {
        fn put<T: Copy>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        let dpvs = &mut builder.config.dpvs;
        if let Some(mode) = &table.uoa_mode {
            dpvs.uoa_mode = match mode.get_ref().as_str() {
                "opp" => UoaMode::Opp,
                "ipo" => UoaMode::Ipo,
                _ => return Err(self.unknown(mode, "uoa_mode", &["opp", "ipo"])),
            };
        }
        put(&mut dpvs.uoa_max_trail, table.uoa_max_trail);
        put(&mut dpvs.fast_xmit_close, table.fast_xmit_close);
        put(&mut dpvs.xmit_ttl, table.xmit_ttl);
        put(&mut dpvs.defence_tcp_drop, table.defence_tcp_drop);
        put(&mut dpvs.defence_udp_drop, table.defence_udp_drop);
        put(&mut dpvs.pool_hash_size, table.pool_hash_size);
        put(&mut dpvs.forwarding, table.forwarding);
        put(&mut dpvs.unres_queue_length, table.unres_queue_length);
        let timeouts = &mut dpvs.timeouts;
        put(&mut timeouts.conn_init, table.conn_init);
        put(&mut timeouts.none, table.none);
        put(&mut timeouts.established, table.established);
        put(&mut timeouts.syn_sent, table.syn_sent);
        put(&mut timeouts.syn_recv, table.syn_recv);
        put(&mut timeouts.fin_wait, table.fin_wait);
        put(&mut timeouts.time_wait, table.time_wait);
        put(&mut timeouts.close, table.close);
        put(&mut timeouts.close_wait, table.close_wait);
        put(&mut timeouts.last_ack, table.last_ack);
        put(&mut timeouts.listen, table.listen);
        put(&mut timeouts.synack, table.synack);
        put(&mut timeouts.last, table.last);
        put(&mut timeouts.udp_oneway, table.udp_oneway);
        put(&mut timeouts.udp_normal, table.udp_normal);
        put(&mut timeouts.neighbour, table.neighbour_timeout);
        if let Some(table) = &table.synproxy {
            let synproxy = &mut dpvs.synproxy;
            put(&mut synproxy.mss, table.mss);
            put(&mut synproxy.ttl, table.ttl);
            put(&mut synproxy.sack, table.sack);
            put(&mut synproxy.wscale, table.wscale.map(Some));
            put(&mut synproxy.timestamp, table.timestamp);
            put(&mut synproxy.close_client_window, table.close_client_window);
            put(&mut synproxy.defer_rs_syn, table.defer_rs_syn);
            put(&mut synproxy.rs_syn_max_retry, table.rs_syn_max_retry);
            put(&mut synproxy.ack_storm_thresh, table.ack_storm_thresh);
            put(&mut synproxy.max_ack_saved, table.max_ack_saved);
        }
        Ok(())
    }
}
