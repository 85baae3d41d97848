//! `lvscheck diff`: two captures, read side by side.

use super::args::{DiffArgs, Format};
use super::{CommonArgs, print, warn};
use crate::capture::link::AsEthernet;
use crate::capture::{self, CaptureError, Input, Reader};
use crate::compare::ignore::Ignore;
use crate::compare::stretches::{STRETCH, Stretches, is_enough};
use crate::compare::{Frame, Options};
use crate::exit::{Failure, Status};
use crate::replay::{Frames, InputFrame, StoredFrame};
use crate::report::text::comparison_text;
use std::path::Path;

pub(super) fn run(args: &DiffArgs, common: &CommonArgs) -> Result<Status, Failure> {
    let ignore = Ignore::new(&args.ignore).map_err(Failure::usage)?;
    let (mut expected, mut actual) = (Side::open(&args.expected)?, Side::open(&args.actual)?);
    for warning in [&expected, &actual].iter().flat_map(|side| &side.warnings) {
        warn(warning);
    }
    let options = Options {
        ignore,
        expected_label: format!("{} frame", args.expected.display()),
        actual_label: format!("{} frame", args.actual.display()),
        ..Options::default()
    };
    // Names of interfaces are compared only where both captures have them of their own.
    let named = expected.named && actual.named;
    let mut stretches = Stretches::new(options);
    loop {
        for side in [&mut expected, &mut actual] {
            side.read_on()?;
        }
        let all = expected.ended && actual.ended;
        if all || expected.has_enough() || actual.has_enough() {
            let done = stretches.go_on(&expected.frames(named), &actual.frames(named), all, &());
            expected.frames.forget(done.0);
            actual.frames.forget(done.1);
        }
        if all {
            break;
        }
    }
    let comparison = stretches.finish();
    match common.format {
        Format::Text if common.quiet && comparison.conforms() => {}
        Format::Text => print(&comparison_text(&comparison, if common.verbose > 0 { 1000 } else { 20 }))?,
        Format::Json => {
            let document = serde_json::json!({
                "schema": crate::report::json::SCHEMA,
                "command": "diff",
                "conforms": comparison.conforms(),
                "comparison": comparison,
            });
            print(&format!("{document:#}\n"))?;
        }
    }
    Ok(match (comparison.conforms(), comparison.expected + comparison.actual) {
        (_, 0) => {
            warn("nothing to check: neither capture holds a frame");
            Status::NothingToCheck
        }
        (true, _) => Status::Conforms,
        (false, _) => Status::Differs,
    })
}

/// One of the captures, and those of its frames that are not compared yet.
struct Side {
    reader: Reader,
    /// A temporary file that it lies in must stay.
    _input: Input,
    as_ethernet: AsEthernet,
    interfaces: Vec<Option<String>>,
    /// Whether the interfaces' names are the capture's own.
    named: bool,
    warnings: Vec<String>,
    frames: Frames,
    ended: bool,
}

impl Side {
    /// Looks at all of a capture first: interfaces may be described as late as after the last frame.
    fn open(path: &Path) -> Result<Side, CaptureError> {
        let input = Input::new(path)?;
        let mut reader = Reader::of(&input)?;
        let mut records = Vec::new();
        while reader.next_window(&mut records, usize::MAX)?.is_some() {}
        let interfaces = reader.interfaces();
        let named = interfaces.iter().all(|interface| interface.name.is_some());
        let mut as_ethernet = AsEthernet::new(interfaces.iter().map(|interface| interface.link_type).collect());
        let interfaces = interfaces.iter().map(|interface| interface.name.clone()).collect();
        let warnings = reader.damage().map(ToString::to_string).into_iter().collect();
        if !as_ethernet.is_nothing_to_do() {
            let mut reader = Reader::of(&input)?;
            while let Some(window) = reader.next_window(&mut records, usize::MAX)? {
                window.frames().for_each(|frame| as_ethernet.observe(frame.interface, frame.bytes));
            }
        }
        let (reader, frames) = (Reader::of(&input)?, Frames::default());
        Ok(Side { reader, _input: input, as_ethernet, interfaces, named, warnings, frames, ended: false })
    }

    fn has_enough(&self) -> bool {
        is_enough(self.frames.len(), self.frames.total_bytes())
    }

    /// Reads some frames, unless it has enough. Those that can't be made Ethernet are left out.
    fn read_on(&mut self) -> Result<(), CaptureError> {
        if self.ended || self.has_enough() {
            return Ok(());
        }
        let mut records = Vec::new();
        let Some(window) = self.reader.next_window(&mut records, STRETCH)? else {
            self.ended = true;
            return Ok(());
        };
        for frame in window.frames() {
            let capture::Frame { number, time, interface, bytes, wire_len, .. } = frame;
            if let Ok((bytes, wire_len)) = self.as_ethernet.convert(interface, bytes, wire_len) {
                self.frames.push(InputFrame { number, time, interface, bytes: &bytes, wire_len });
            }
        }
        Ok(())
    }

    /// Its frames, whose interfaces have names if they are `named`.
    fn frames(&self, named: bool) -> Vec<Frame<'_>> {
        let frame = |stored: &StoredFrame| Frame {
            number: stored.number,
            time: stored.time,
            interface: self.interfaces.get(stored.interface as usize).and_then(Option::as_deref).filter(|_| named),
            bytes: self.frames.bytes(stored),
            wire_len: stored.wire_len,
            ..Frame::default()
        };
        self.frames.records().iter().map(frame).collect()
    }
}
