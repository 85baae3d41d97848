//! Capture files in and out: the only place that knows their formats.

mod bulk;
mod compress;
mod error;
mod format;
pub mod link;
mod reader;
mod time;
mod writer;

pub use bulk::{BulkReader, BulkWindow};
pub use error::{CaptureError, Damage};
pub use format::{CaptureInterface, MAX_RECORD, Record};
pub use reader::{Reader, Window};
pub use time::Clock;
pub use writer::{Writer, pcap_head, pcap_record};
