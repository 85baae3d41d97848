//! Setup scripts: no text makes the reader panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = lvscheck::describe::read_text("setup.sh", text);
});
