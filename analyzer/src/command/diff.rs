//! `lvscheck diff`.

use super::args::{DiffArgs, Format};
use super::{CommonArgs, print, warn};
use crate::capture::Input;
use crate::compare::ignore::Ignore;
use crate::compare::{self, Frame, Options};
use crate::exit::{Failure, Status};
use crate::replay::{Loaded, load};
use crate::report::text::comparison_text;

pub(super) fn run(args: &DiffArgs, common: &CommonArgs) -> Result<Status, Failure> {
    let ignore = Ignore::new(&args.ignore).map_err(Failure::usage)?;
    let expected = load(&[Input::new(&args.expected)?])?;
    let actual = load(&[Input::new(&args.actual)?])?;
    for warning in expected.warnings.iter().chain(&actual.warnings) {
        warn(warning);
    }
    let options = Options {
        ignore,
        expected_label: format!("{} frame", args.expected.display()),
        actual_label: format!("{} frame", args.actual.display()),
        ..Options::default()
    };
    // Names of interfaces are compared only where both captures have them of their own.
    let named = [&expected, &actual].iter().all(|loaded| loaded.named);
    let comparison = compare::compare(&frames(&expected, named), &frames(&actual, named), &options, &());
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

fn frames(loaded: &Loaded, named: bool) -> Vec<Frame<'_>> {
    loaded
        .frames
        .records()
        .iter()
        .map(|frame| Frame {
            number: frame.number,
            time: frame.time,
            interface: loaded.interfaces.get(frame.interface as usize).and_then(Option::as_deref).filter(|_| named),
            bytes: loaded.frames.bytes(frame),
            wire_len: frame.wire_len,
            drawn: &[],
            late: false,
        })
        .collect()
}
