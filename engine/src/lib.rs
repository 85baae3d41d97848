//! The forwarding engine of lvscheck: an LVS director as a pure function over packet streams.
//!
//! `(state, time, interface, frame) -> (state, frames out, verdict)`. Nothing here opens a file, reads a clock or the
//! environment, prints, or draws a random number: the same input always gives the same bytes. What a real system draws at
//! random is asked of [`draws::Draws`].
//!
//! Data flows one way: [`packet`] reads headers, `classify` says what a frame is, [`track`] follows connections,
//! [`schedule`] chooses real servers, `rewrite` makes the frames that leave.
#![forbid(unsafe_code)]

pub mod batch;
pub mod config;
pub mod director;
pub mod dpvs;
pub mod draws;
pub mod link;
pub mod linux;
pub mod listing;
pub mod observe;
pub mod output;
pub mod packet;
pub mod profile;
pub mod rewrite;
pub mod schedule;
pub mod settle;
pub mod time;
pub mod track;
pub mod verdict;

pub use config::DirectorConfig;
pub use director::{Arrival, Director};
pub use draws::Draws;
pub use output::{EmittedFrame, Output};
pub use time::Nanos;
pub use verdict::Verdict;
