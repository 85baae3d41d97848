//! The DPVS director (iqiyi/dpvs 1.10): FULLNAT above all, and DPVS's own forms of direct routing, NAT, tunnel and SNAT.
//!
//! It is serial and complete in itself: DPVS shares its names with Linux's IPVS, but its tables, timers, schedulers and
//! link layer are its own. Rules are those of reference/dpvs-fullnat.md and of the recordings; where both differ, the
//! recordings win. Like the whole engine it draws nothing at random and never panics on a frame.
//!
//! A frame's way: `receive` takes it in and finds its connection, `translate` or `tunnel` rewrites it, `link` sends
//! it. `table`, `service` and `port_pool` are the tables.

mod access;
mod connection;
mod director;
mod doubt;
mod entry;
mod expiry;
mod flow;
pub(crate) mod follow;
mod icmp;
mod link;
mod local_address;
mod nat64;
mod neighbour;
mod opening;
mod places;
mod port_pool;
mod proxy_protocol;
mod receive;
#[cfg(test)]
mod scenarios;
mod schedule;
mod service;
mod shared;
mod state;
mod syn_proxy;
mod table;
mod toa;
mod translate;
mod tunnel;
mod uoa;
mod views;
mod wire;

pub use director::Director;
pub(crate) use flow::Flow;
pub(crate) use table::ConnectionId;
pub(crate) use toa::{erase_timestamp, is_forged};
