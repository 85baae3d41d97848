//! Inference from a capture: no frames make it panic.
#![no_main]

use lvscheck::describe::{InferOptions, Inference};

libfuzzer_sys::fuzz_target!(|frames: Vec<Vec<u8>>| {
    let mut inference = Inference::new(InferOptions::default());
    for frame in &frames {
        inference.observe(frame, frame.len() as u32);
    }
    let _ = inference.finish();
});
