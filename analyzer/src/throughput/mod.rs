//! `lvscheck throughput`: how fast captures are replayed, by stage, against line rates.

pub mod html;
pub mod json;
mod measure;
mod run;
pub mod text;

pub use measure::{AROUND_A_FRAME, LINE_RATES, RFC_2544_SIZES, Run, Series, Spread, Stage};
pub use run::{Measurement, Task, measure};
