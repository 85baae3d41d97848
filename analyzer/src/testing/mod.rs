//! `lvscheck test`: golden cases, run in parallel, compared with what real systems sent.

pub mod bless;
pub mod case;
pub mod junit;
pub mod run;
pub mod state;
