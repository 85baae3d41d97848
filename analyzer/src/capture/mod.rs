//! Capture files in and out: the only place that knows their formats.

mod buffer;
mod bulk;
mod compress;
mod error;
mod format;
mod input;
pub mod link;
mod merge;
mod merged;
mod reader;
mod time;
mod window;
mod writer;

pub use bulk::{BulkReader, PlainFile};
pub use error::{CaptureError, Damage, Fault};
pub use format::{CaptureInterface, MAX_RECORD, Record, RecordHead};
pub use input::Input;
pub use merge::{Merge, MergedInterface};
pub use reader::{Frame, OwnedWindow, Reader, Window};
pub use time::Clock;
pub use window::{BulkFrame, BulkWindow};
pub use writer::{Container, PCAP_RECORD_HEAD, Writer, pcap_head, pcap_record, pcap_record_head, pcapng_record};
