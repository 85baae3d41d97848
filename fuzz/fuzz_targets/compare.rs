//! Two lists of frames of strangers: comparing and rendering never panics, and what is equal conforms.
#![no_main]

use lvscheck::compare::{self, Frame, Options, report};

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

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let (one, other) = (frames(one), frames(other));
    let comparison = compare::compare(&one, &other, &Options::default(), &());
    let _ = report::render(&comparison, 100, &report::Styles::default());
    assert!(compare::compare(&one, &one, &Options::default(), &()).conforms());
});
