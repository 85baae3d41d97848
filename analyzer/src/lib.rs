//! Everything of lvscheck that touches the world: capture files, descriptions of directors, comparison with goldens,
//! diagnosis and reports. The forwarding itself is [`lvscheck_engine`]'s.

#![forbid(unsafe_code)]

pub mod capture;
pub mod command;
pub mod compare;
pub mod describe;
pub mod exit;
pub mod generate;
pub mod replay;
pub mod report;
pub mod testing;
pub mod throughput;
