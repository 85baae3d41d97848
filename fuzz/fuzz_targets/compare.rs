//! Two lists of frames of strangers: comparing and rendering never panics, and what is equal conforms, also in stretches.
#![no_main]

use lvscheck::compare::stretches::Stretches;
use lvscheck::compare::{self, Comparison, Frame, Options, report};

fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some((len, after)) = bytes.split_first() {
        let (frame, next) = after.split_at(usize::from(*len).min(after.len()));
        bytes = next;
        let number = frames.len() as u64 + 1;
        frames.push(Frame { number, bytes: frame, wire_len: frame.len() as u32, ..Frame::default() });
    }
    frames
}

/// What is compared while it comes in four parts.
fn in_stretches(one: &[Frame<'_>], other: &[Frame<'_>]) -> Comparison {
    let mut stretches = Stretches::new(Options::default());
    let mut from = (0, 0);
    for part in 1..=4 {
        let to = (one.len() * part / 4, other.len() * part / 4);
        let done = stretches.go_on(&one[from.0..to.0], &other[from.1..to.1], part == 4, &());
        from = (from.0 + done.0, from.1 + done.1);
    }
    stretches.finish()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let (one, other) = (frames(one), frames(other));
    let comparison = compare::compare(&one, &other, &Options::default(), &());
    let _ = report::render(&comparison, 100, &report::Styles::default());
    let found = in_stretches(&one, &other);
    assert_eq!((found.expected, found.actual), (comparison.expected, comparison.actual));
    assert!(found.conforms() || !comparison.conforms());
    assert!(compare::compare(&one, &one, &Options::default(), &()).conforms());
});
